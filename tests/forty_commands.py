"""Forty commands such as agents give that rebuild cmatrix: what published runs are made of."""

SOURCE = r"""
#include <ncurses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void usage(void) {
    puts(" Usage: cmatrix -[abBcfhlsmVxk] [-u delay] [-C color] [-t tty] [-M message]");
    puts(" -a: Asynchronous scroll");
    puts(" -V: Print version information and exit");
}

int main(int argc, char **argv) {
    int option, delay = 4;
    while ((option = getopt(argc, argv, "abBcfhlLnrosmxkVM:u:C:t:")) != -1) {
        switch (option) {
        case 'V': puts(" CMatrix version 2.0"); return 0;
        case 'u': delay = atoi(optarg); break;
        case 'h': case '?': usage(); return 0;
        }
    }
    if (!getenv("TERM")) {
        fprintf(stderr, "Error opening terminal: unknown.\n");
        return 1;
    }
    initscr();
    for (int n = 0; n < 100; n++) {
        mvaddch(rand() % LINES, rand() % COLS, 'a' + n % 26);
        refresh();
        napms(delay * 10);
    }
    endwin();
    return 0;
}
"""
COMPILE = '#!/bin/sh\nset -e\ncd "$(dirname "$0")"\ngcc -O2 -o executable src/cmatrix.c -lncurses\n'
LOOK = "env -u TERM -u LANG -u LC_ALL timeout 5 ./reference"
COMMANDS = [
    "ls -la /workspace && git log --oneline | head",
    "cat README.md docs/*.md",
    "file executable; ls -l executable; git status --short",
    "env -u TERM -u LANG -u LC_ALL timeout 5 ./executable -h </dev/null 2>&1 | cat",
    'env -u TERM timeout 5 ./executable -V </dev/null; echo "exit: $?"',
    'env -u TERM timeout 5 ./executable </dev/null; echo "exit: $?"',
    '( for o in a b B c f l s m x k n o r L; do echo "== -$o"\n'
    "env -u TERM timeout 2 ./executable -$o </dev/null 2>&1 | head -n 3\ndone )",
    "( for c in green red blue white yellow cyan magenta black nope; do\n"
    "TERM=xterm timeout 0.3 ./executable -C $c </dev/null >/tmp/$c.out 2>&1\n"
    'echo "$c $? $(wc -c </tmp/$c.out)"\ndone )',
    "TERM=xterm timeout 2 ./executable </dev/null >/tmp/flood 2>&1; wc -c /tmp/flood",
    "head -c 300 /tmp/flood | od -c | head -n 20",
    "timeout 1 yes >/tmp/yes 2>&1; ls -l /tmp/yes; rm /tmp/yes",
    "seq 1 200000",
    "tmux -L mine new-session -d -x 80 -y 24 './executable -u 9'",
    "sleep 1; tmux -L mine capture-pane -p | head -n 24",
    "tmux -L mine send-keys q; sleep 0.5; tmux -L mine ls",
    "mkdir -p src tests && mv executable reference && ls",
    f"cat > src/cmatrix.c <<'EOF'\n{SOURCE}EOF",
    f"cat > compile.sh <<'EOF'\n{COMPILE}EOF",
    "chmod +x compile.sh && ./compile.sh && ls -l executable",
    "printf 'executable\\nreference\\n*.o\\n' > .gitignore && cat .gitignore",
    "./executable -V; diff <(./executable -V) <(./reference -V) && echo same",
    f"diff <(./executable -h 2>&1) <({LOOK} -h 2>&1) | head -n 20",
    "cat > tests/compare.sh <<'EOF'\n#!/bin/bash\nfor o in -V -h -z; do\n"
    "  a=$(timeout 5 ./executable $o 2>&1 </dev/null); b=$(timeout 5 ./reference $o 2>&1 </dev/null)\n"
    '  [ "$a" = "$b" ] && echo "ok $o" || echo "differs $o"\ndone\nEOF',
    "bash tests/compare.sh",
    "python3 - <<'EOF'\nimport re\ntext = open('src/cmatrix.c').read()\n"
    "print(len(text), len(re.findall('case', text)))\nEOF",
    "sed -i 's/version 2.0/version 2.0 (compiled)/' src/cmatrix.c && ./compile.sh && ./executable -V",
    "git diff --stat; git status --short",
    "git add -A && git commit -q -m 'Rebuild' && git log --oneline",
    "( export TERM=xterm\ntimeout 2 ./executable </dev/null >/tmp/mine 2>&1\necho $?\nwc -c /tmp/mine )",
    "grep -rn 'case' src | head",
    "python3 -c 'print(\"x\" * 41000)'",
    "for n in $(seq 30); do echo line $n; sleep 0.02; done",
    "( ./executable -u 0 & sleep 0.3; kill $!; wait ) >/dev/null 2>&1; echo back",
    "false; echo $?",
    "nonsense --flag",
    "cd /tmp && pwd && cd /workspace && pwd",
    "gcc -Wall -Wextra -fsyntax-only src/cmatrix.c",
    "rm -rf /tmp/check && git clone -q . /tmp/check && cd /tmp/check && ./compile.sh && ls; cd /workspace",
    "rm -f executable && ./compile.sh && test -x executable && echo built",
    "git status --short && git rev-parse HEAD && echo done",
]
