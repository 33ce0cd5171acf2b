"""A hostile agent, in a cleanroom and in the SDK's plain container for comparison.

Every attack of `attacks.py` must fail in the cleanroom, and most succeed in the plain
container, which shows that they work. With ATTACK_TABLE set, the outcome is written
there as a table.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import attacks
import httpx
import psutil
import pytest
from attacks import ATTACKS, Attack
from conftest import (
    EXAMPLE,
    LOCAL_PRICES,
    Cleanroom,
    clean_environment,
    image_built,
    load_example,
    missing,
    open_cleanroom,
    output_of,
    plain_workspace,
    sealed_tag,
    wait_until,
)
from pydantic import SecretStr
from runs import Run
from scripted_llm import Request, ScriptedLLM


MODEL = "gpt-4o-mini"
# What became of each attack: in words in the plain container, and whether it succeeded in
# ours.
Outcomes = dict[str, tuple[str, bool]]
PYTHON = "/agent-server/.venv/bin/python"  # the agent server's own


def docker(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the engine's client, which may fail."""
    return subprocess.run(
        ["docker", *command], capture_output=True, text=True, timeout=60
    )


def compiled(container: str, source: str) -> str:
    """Have the agent compile a program, and return its path."""
    path = f"/tmp/compiled-{secrets.token_hex(4)}"
    build = f"gcc -static -O1 -w -o {path} -xc - <<'EOF'\n{source}\nEOF"
    output_of("docker", "exec", "--user=agent", container, "bash", "-c", build)
    return path


def run_detached(container: str, user: str, command: str) -> None:
    """Run a command as the agent, past the agent server, and without waiting for it."""
    bound = ["/usr/bin/setpriv", "--no-new-privs", "/bin/bash", "-c", command]
    output_of("docker", "exec", "--detach", f"--user={user}", container, *bound)


def pipes_processes(container: str) -> set[str]:
    """Return the ids and names of a container's first process and of its pipe."""
    lines = docker("top", container, "-o", "pid,uid,comm").stdout.splitlines()[1:]
    return {line for line in lines if line.split()[1] == "10001"}


def seconds_to_end(container: str) -> float:
    """Wait for a container to end, and return how long that took; or end it after 40."""
    begun = time.monotonic()
    while docker("inspect", container).returncode == 0:
        time.sleep(0.2)
        if time.monotonic() > begun + 40:
            docker("kill", container)
    return time.monotonic() - begun


@contextlib.contextmanager
def conversation(workspace: Any, llm: Any) -> Iterator[Any]:
    """Have a conversation that has come to its end."""
    example = load_example()
    talk = example.Conversation(
        agent=example.get_default_agent(llm, cli_mode=True),
        workspace=workspace,
        delete_on_close=False,
        visualizer=None,
    )
    with contextlib.closing(talk):
        talk.send_message("Look around.")
        talk.run(timeout=60)
        yield talk


# ## What is outside of the containers

# Looks at all processes of a container every few milliseconds, until its input ends.
WATCH = r"""
import json, os, select, sys
first, seen, others, rounds = sys.argv[1], set(), set(), 0
space = os.stat(f"/proc/{first}/ns/pid").st_ino
files = os.stat(f"/proc/{first}/root").st_dev
print("watching", flush=True)
while not select.select([sys.stdin], [], [], 0.004)[0]:
    rounds += 1
    now = set(filter(str.isdigit, os.listdir("/proc")))
    others &= now
    for pid in now - others:
        try:
            if os.stat(f"/proc/{pid}/ns/pid").st_ino != space:
                others.add(pid)
                continue
            # In this order: who is seen after the program runs it, or a later one.
            inside = os.stat(f"/proc/{pid}/exe").st_dev == files
            program = os.readlink(f"/proc/{pid}/exe")
            lines = open(f"/proc/{pid}/status").read().splitlines()
        except OSError:
            continue  # it has ended
        # The engine's own, about to become what `docker exec` names.
        if not inside and "runc" in program:
            continue
        status = dict(line.split(":", 1) for line in lines)
        users = tuple(map(int, status["Uid"].split()))
        seen.add((os.path.basename(program), users, status["NoNewPrivs"].strip() == "1"))
print(json.dumps([rounds, list(seen)]))
"""


class Process(NamedTuple):
    """A process in a container, as it was seen from outside."""

    program: str
    users: tuple[int, ...]  # real, effective, saved, and that of the file system
    no_new_privs: bool


class Watch:
    """What runs in a container, from now on until it is stopped."""

    def __init__(self, command: list[str]):
        self.rounds = 0
        self.process = subprocess.Popen(command, text=True, stdin=-1, stdout=-1)
        assert self.process.stdout
        assert self.process.stdout.readline() == "watching\n"

    def stop(self) -> set[Process]:
        """Return all that was seen."""
        self.rounds, seen = json.loads(self.process.communicate(timeout=30)[0])
        return {Process(name, tuple(users), bound) for name, users, bound in seen}


class Listener:
    """Notes what reaches a TCP and a UDP port of this host, and a unix socket."""

    def __init__(self, address: str):
        self.address, self.abstract = address, f"attacks-{secrets.token_hex(8)}"
        self.seen = list[bytes]()
        tcp, self.udp = socket.create_server((address, 0)), socket.socket(type=2)
        self.port = tcp.getsockname()[1]
        self.udp.bind((address, self.port))
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(f"\0{self.abstract}")
        unix.listen()
        self.accepting = [tcp, unix]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        """Note the first words of whoever comes."""
        waiting = [*self.accepting, self.udp]
        while True:
            for one in select.select(waiting, [], [])[0]:
                if one in self.accepting:
                    waiting.append(one.accept()[0])
                    continue
                with contextlib.suppress(OSError):
                    self.seen.append(one.recv(4096))
                if one is not self.udp:
                    waiting.remove(one)
                    one.close()

    def settle(self) -> None:
        """Wait until all that has come so far is noted."""
        mark = secrets.token_bytes(16)
        with socket.create_connection((self.address, self.port)) as own:
            own.sendall(mark)
        wait_until(lambda: mark in self.seen, 30)


class Outside:
    """This host, at which attacks are aimed, and root, who is in no container."""

    def __init__(self, helper: str, address: str):
        self.helper, self.listener = helper, Listener(address)

    def first_process(self, container: str) -> str:
        """Return the id that the container's first process has on the engine's host."""
        inspect = ["docker", "inspect", "--format={{.State.Pid}}", container]
        return output_of(*inspect).strip()

    def enter(self, container: str, namespace: str, *command: str) -> str:
        """Return what a command prints that shares nothing else with a container."""
        target = f"--target={self.first_process(container)}"
        enter = ["docker", "exec", self.helper, "nsenter", target, f"--{namespace}"]
        return output_of(*enter, "--", *command)

    def watch(self, container: str) -> Watch:
        """Begin to watch what runs in a container."""
        python = ["docker", "exec", "--interactive", self.helper, PYTHON, "-Ic"]
        return Watch([*python, WATCH, self.first_process(container)])


@pytest.fixture(scope="module")
def outside(plain_image: str) -> Iterator[Outside]:
    """What is outside of the containers, reached by way of the default bridge."""
    found = output_of("docker", "network", "inspect", "bridge")
    address = json.loads(found)[0]["IPAM"]["Config"][0].get("Gateway", "")
    try:
        socket.create_server((address, 0)).close()
    except OSError:
        missing(f"the default bridge's gateway {address} is not this machine's")
    options = ["--detach", "--rm", "--privileged", "--pid=host", "--network=none"]
    options += ["--user=root", "--entrypoint=/bin/sleep"]
    helper = output_of("docker", "run", *options, plain_image, "infinity").strip()
    yield Outside(helper, address)
    output_of("docker", "kill", helper)


# ## The attacks

# What root puts into both containers while they are attacked: what an image may bring
# along.
BRING = f"""set -e; cp -a /workspace/executable /root/reference; echo {{flag}} >/root/flag
install -m 4755 /bin/bash /usr/local/bin/rootsh
install /bin/cat /usr/local/bin/rootcat
{PYTHON} -c 'import os; os.setxattr("/usr/local/bin/rootcat", "security.capability",
    b"\\1\\0\\0\\2\\2" + bytes(15))'"""
BRING_KIT = f"mkdir -p /tmp/kit; cat >/tmp/kit/kit.py <<'KIT'{attacks.KIT}KIT"
RESTORE = """cd /workspace; rm -rf loot NOTES.md
cp -a /root/reference /root/again; mv -f /root/again executable
install -d -o {user} -g {user} loot"""
TAKE_AWAY = """cd /workspace; rm -rf loot NOTES.md /tmp/kit
rm -f /usr/local/bin/rootsh /usr/local/bin/rootcat /root/flag /root/reference"""
NOTHING = io.BytesIO()
DUMP = "dump() { od -An -v -tx1 -N64 \"$@\" | tr -d ' \\n'; }"
LOOT = [
    ("terminal", {"command": "chmod u+r executable; ln -s ../executable loot/x.png"}),
    ("file_editor", {"command": "view", "path": "/workspace/executable"}),
    ("file_editor", {"command": "view", "path": "/workspace/loot/x.png"}),
]


class Box:
    """A container under attack: a cleanroom, or the SDK's plain container."""

    def __init__(self, workspace: Any, outside: Outside, llm: ScriptedLLM, key: str):
        self.workspace, self.outside, self.llm = workspace, outside, llm
        self.real_key = key
        self.plain = not isinstance(workspace, load_example().Cleanroom)
        self.container = f"{workspace._container_id}"
        self.user = workspace.execute_command("id -un").stdout.strip()
        self.secret = secrets.token_hex(16)  # in a file of root's
        self.reference = b""  # the binary
        # What the agent has seen in a conversation, and what the provider has.
        self.transcript = ""
        # The last attack's nonce, what it printed, and how the files that were then
        # submitted begin.
        self.nonce, self.output = "", ""
        self.submitted = dict[str, bytes]()
        credential = key if self.plain else "none"
        self.root(f"{BRING_KIT}\necho -n {credential} >/tmp/kit/credential")

    def root(self, command: str) -> str:
        """Return what a command of root's prints, who is not in the container."""
        return self.outside.enter(self.container, "mount", "sh", "-c", command)

    def restore(self) -> None:
        """Have the binary as it was, and an empty folder for what is looted."""
        self.root(RESTORE.format(user=self.user))

    @contextlib.contextmanager
    def prepared(self, llm: Any) -> Iterator[Box]:
        """Have what an image may bring along, and a server that knows what it would
        after a conversation, in which its editor is told to read the binary.
        """
        self.root(BRING.format(flag=self.secret))
        self.reference = base64.b64decode(self.root("base64 /root/reference"))
        assert self.reference[:4] == b"\x7fELF"
        self.restore()
        self.llm.script[:] = LOOT
        with conversation(self.workspace, llm) as talk:
            events = (event.model_dump_json() for event in talk.state.events)
            requests = (f"{request.raw!r}" for request in self.llm.requests)
            self.transcript = "".join([*events, *requests])
            yield self

    def script(self, code: str, python: bool, ports: str = "") -> str:
        """Return what is run for an attack."""
        listener = self.outside.listener
        variables = {
            "TARGET": listener.address,
            "PORT": f"{listener.port}",
            "ABSTRACT": listener.abstract,
            "LLM": self.llm.base_url if self.plain else load_example().BOX_URL,
            "PROVIDER": self.llm.base_url,
            "PORTS": ports,
            "NONCE": self.nonce,
            "PYTHON": PYTHON,
            "PYTHONPATH": "/tmp/kit",
        }
        if python:
            code = f"$PYTHON - <<'PY'\nfrom kit import *\n{code}\nPY"
        exports = [f"export {name}={shlex.quote(v)}" for name, v in variables.items()]
        return "\n".join([*exports, DUMP, "cd /workspace", code])

    def run(self, code: str, python: bool = False, as_pipes_user: bool = False) -> None:
        """Run a command, or Python, where the agent's tools run; it ends in time, with
        all that it starts. What is aimed at the pipe has its control as the pipe's user.
        """
        # The pipe has its ports, whoever asks for them.
        ports = "5999 6999" if as_pipes_user else "4999 8000"
        script = self.script(code, python, ports)
        script = f"timeout -k 1 25 bash 2>&1 <<'ATTACK'\n{script}\nATTACK\n"
        if as_pipes_user:
            user = ["--user=openhands", self.container]
            self.output = docker("exec", *user, "bash", "-c", script).stdout
        else:
            done = self.workspace.execute_command(script, cwd="/workspace", timeout=40)
            self.output = done.stdout + done.stderr

    def attempt(self, attack: Attack, as_pipes_user: bool = False) -> bool:
        """Carry out an attack and tell whether it succeeded."""
        self.nonce = secrets.token_hex(12)
        if attack.group in ("binary", "submission"):
            self.restore()
        self.run(attack.code, attack.python, as_pipes_user)
        if attack.group == "submission":
            self.submit()
        return self.won(attack.effect)

    def submit(self) -> None:
        """Save the submission, as the script does or as an SDK user can, and note how
        each file begins.
        """
        self.submitted = {}
        copy = ["docker", "cp", f"{self.container}:/workspace/.", "-"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "submission.tar.gz")
            if self.plain:
                path.write_bytes(subprocess.run(copy, stdout=-1, timeout=60).stdout)
            else:
                load_example().save_submission(self.workspace, path.parent)
            with contextlib.suppress(OSError, tarfile.TarError):
                with tarfile.open(path) as archive:
                    self.submitted = {
                        member.name: (archive.extractfile(member) or NOTHING).read(64)
                        for member in archive
                        if member.isreg()
                    }

    def won(self, effect: str) -> bool:
        """Tell whether the last attack had an effect: a text that it printed, or what
        the method of that name looks for.
        """
        printed = {
            "replied": f"reply {self.nonce}",
            "flag": self.secret,
            "session": f"{self.workspace.api_key}",
            "key": self.real_key,
            "binary": self.reference[:64].hex(),
        }
        if effect in printed:
            return printed[effect] in self.output
        return getattr(self, effect)()

    def contact(self) -> bool:
        # What was sent may still be on its way to the listener.
        for _ in range(100 if self.plain else 1):
            self.outside.listener.settle()
            if self.nonce.encode() in b"".join(self.outside.listener.seen):
                return True
            time.sleep(0.05)
        return False

    def viewed(self) -> bool:
        return base64.b64encode(self.reference[:48]).decode() in self.transcript

    def upstream(self) -> bool:
        return any(
            self.nonce in call.path or self.nonce.encode() in call.raw
            for call in list(self.llm.requests)
        )

    def smuggled(self) -> bool:
        return self.reference[:64] in self.submitted.values()

    def lost_in_time(self) -> bool:
        for _ in range(6):  # it is a race
            if "./README.md" not in self.submitted:
                break
            self.submit()
        return "./README.md" not in self.submitted


@pytest.fixture(scope="module")
def watch(cleanroom: Cleanroom, outside: Outside) -> Iterator[Watch]:
    """What runs in the cleanroom while it is attacked."""
    watch = outside.watch(cleanroom.container)
    yield watch
    with watch.process:
        watch.process.kill()


@pytest.fixture(scope="module")
def ours(cleanroom: Cleanroom, watch: Watch, outside: Outside) -> Iterator[Box]:
    """The cleanroom, ready for attacks, and watched."""
    box = Box(cleanroom.workspace, outside, cleanroom.llm, cleanroom.key)
    with box.prepared(cleanroom.relay.llm_for_the_box):
        yield box
    box.restore()
    box.root(TAKE_AWAY)


@pytest.fixture(scope="module")
def plain(plain_image: str, outside: Outside) -> Iterator[Box]:
    """The SDK's container as the SDK starts it, ready for the same attacks: on the
    default bridge, with the key inside.
    """
    key = f"sk-test-{secrets.token_hex(16)}"
    # It cannot reach this host's loopback.
    with (
        ScriptedLLM(address=outside.listener.address) as llm,
        plain_workspace(plain_image) as workspace,
    ):
        settings = {"model": f"openai/{MODEL}", "base_url": llm.base_url}
        its_llm = load_example().LLM(
            usage_id="agent", api_key=SecretStr(key), **settings
        )
        with Box(workspace, outside, llm, key).prepared(its_llm) as box:
            yield box
            # It takes ten seconds to stop of itself, and its client five to notice.
            docker("kill", box.container)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Outcomes]:
    """What became of each attack, for the table."""
    outcomes = Outcomes()
    yield outcomes
    lines = ["| attack | plain SDK container | ours |", "| --- | --- | --- |"]
    for name, (plain, won) in outcomes.items():
        lines.append(f"| {name} | {plain} | {'**succeeded**' if won else 'failed'} |")
    if table := os.environ.get("ATTACK_TABLE"):
        Path(table).write_text("\n".join(lines) + "\n")


def test_an_honest_call_passes(ours: Box):
    ours.nonce = secrets.token_hex(12)
    ours.run("ask_llm()", python=True)
    assert ours.output.strip() == "200"
    assert ours.upstream()


def test_the_whole_pipe_is_found(ours: Box):
    find = "print([said(pid, 'cmdline') for pid in processes('openhands')])"
    ours.run(find, python=True)
    for command in ("tini", "sleep", "/cleanroom/pipe", "sshd"):
        assert command in ours.output


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_attack(attack: Attack, ours: Box, plain: Box, outcomes: Outcomes):
    with ThreadPoolExecutor(1) as pool:
        control = None if attack.void else pool.submit(plain.attempt, attack)
        won_here, output = ours.attempt(attack), ours.output
    works = control.result() if control else False
    reason = attack.void or attack.refused
    there = "succeeded" if works else f"not applicable: {reason}"
    outcomes[attack.name] = there, won_here
    assert not won_here, f"succeeded in the cleanroom: {output[:2000]}"
    if attack.group == "pipe":
        works = ours.attempt(attack, as_pipes_user=True)
        assert works, f"does not work as the pipe's own user: {ours.output[:2000]}"
    assert works or reason, f"does not work where nothing stops it: {plain.output}"


def test_no_process_during_the_attacks_or_after_is_roots_or_can_gain_privileges(
    cleanroom: Cleanroom, ours: Box, watch: Watch, outside: Outside
):
    time.sleep(2)
    seen = watch.stop()
    assert watch.rounds > 100
    assert not [process for process in seen if 0 in process.users]
    agent = int(cleanroom.shell("id -u").stdout)
    agents = {process for process in seen if agent in process.users}
    # The server, what execute_command starts, and the terminal of the agent's tools.
    assert {"python3.13", "bash", "tmux"} <= {process.program for process in agents}
    assert "tini" in {process.program for process in seen - agents}
    assert not [process for process in agents if not process.no_new_privs]
    control = outside.watch(cleanroom.container)
    for user in ("root", "agent"):
        docker("exec", f"--user={user}", cleanroom.container, "/bin/sleep", "0.5")
    seen = control.stop()
    assert [process for process in seen if process.users == (0, 0, 0, 0)]
    agents = {process for process in seen if agent in process.users}
    assert [process for process in agents if not process.no_new_privs]


def test_other_users_of_this_host_do_not_see_the_sessions_key(cleanroom: Cleanroom):
    key = f"{cleanroom.workspace.api_key}"
    seen = [f"{one.info['cmdline']}" for one in psutil.process_iter(["cmdline"])]
    assert [line for line in seen if cleanroom.container in line]
    assert not [line for line in seen if key in line]
    assert key not in output_of("docker", "inspect", cleanroom.container)


# ## A cleanroom that may come to harm: first what the audit says, then the worst attacks


@pytest.fixture(scope="module")
def fragile(
    task_image: str, outside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """A cleanroom that may come to harm."""
    with (
        ScriptedLLM() as llm,
        open_cleanroom(llm, tmp_path_factory.mktemp("fragile")) as room,
    ):
        yield Box(room.workspace, outside, llm, room.key)


def objections(workspace: Any) -> str:
    """Return what the audit objects to, if anything."""
    example = load_example()
    try:
        example.audit(workspace)
    except example.CleanroomError as error:
        assert error.status == 3
        return f"{error}"
    return ""


BINARY, MORE_RIGHTS = "/workspace/executable", "/usr/bin/more_rights"
BINARY_BACK = f"chown root:root {BINARY}; chmod 0111 {BINARY}"
READING, RIGHTS = "no way to read", "no file gives privileges"
OTHERS = "no process of another user runs what the agent can write"
SSH, SESSION = "/usr/lib/openssh", "/usr/lib/openssh/sshd-session"
# What root changes, how it is changed back, and the claim that then does not hold.
CHANGES = [
    (f"chmod 0555 {BINARY}", BINARY_BACK, READING),
    (f"chown agent {BINARY}", BINARY_BACK, READING),
    (f"mv {BINARY} /root", f"mv /root/executable {BINARY}", "can be run"),
    (
        f"mv {BINARY} /root; cp /bin/true {BINARY}",
        f"mv /root/executable {BINARY}",
        "no way to trace",
    ),
    (f"install -m 4755 /bin/sh {MORE_RIGHTS}", f"rm {MORE_RIGHTS}", RIGHTS),
    (f"install -m 2755 /bin/sh {MORE_RIGHTS}", f"rm {MORE_RIGHTS}", RIGHTS),
    ("chmod o+w /usr/bin/tini", "chmod o-w /usr/bin/tini", OTHERS),
    ("chown agent /cleanroom/pipe", "chown root /cleanroom/pipe", OTHERS),
    (f"chmod o+w {SESSION}", f"chmod o-w {SESSION}", OTHERS),
    (f"chmod 1777 {SSH}", f"chmod 755 {SSH}", OTHERS),
]


@pytest.mark.parametrize(("do", "undo", "claim"), CHANGES, ids=[c[0] for c in CHANGES])
def test_the_audit_objects_to(do: str, undo: str, claim: str, fragile: Box):
    fragile.root(do)
    try:
        assert claim in objections(fragile.workspace)
    finally:
        fragile.root(undo)


def test_the_audit_objects_to_a_process_of_roots(fragile: Box):
    command = ["docker", "exec", "-i", "--user=root", fragile.container, "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        time.sleep(1)
        found = objections(fragile.workspace)
        process.communicate()
    assert "no process of root's" in found
    assert not objections(fragile.workspace)


def test_the_audit_objects_to_a_shell_with_roots_rights_and_a_key(fragile: Box):
    def as_root(command: str, **_: Any) -> SimpleNamespace:
        rights = ["--privileged", "--user=root", "--env=LLM_API_KEY=x"]
        done = docker("exec", *rights, fragile.container, "bash", "-c", command)
        return SimpleNamespace(stdout=done.stdout, stderr=done.stderr)

    found = objections(SimpleNamespace(execute_command=as_root, base_image="it"))
    fragile.root(BINARY_BACK)
    for words in ("not root", "no key", "to read", "to link", "to trace", "of root's"):
        assert words in found


def test_the_audit_objects_to_an_interface_that_is_up(fragile: Box):
    # Internal: on another, the engine would publish the port that the pipe has taken.
    network = f"attacks-{secrets.token_hex(8)}"
    output_of("docker", "network", "create", "--internal", network)
    take_down = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, "
    take_down += "struct.pack('16sh14x', b'eth0', 0))"
    try:
        output_of("docker", "network", "disconnect", "none", fragile.container)
        output_of("docker", "network", "connect", network, fragile.container)
        assert "nothing is up but loopback" in objections(fragile.workspace)
        # Where the kernel has tunnels, every container has interfaces that are down.
        fragile.outside.enter(fragile.container, "net", PYTHON, "-c", take_down)
        assert not objections(fragile.workspace)
    finally:
        docker("network", "disconnect", "--force", network, fragile.container)
        output_of("docker", "network", "rm", network)


def memory() -> int:
    """Return the bytes of memory of this process and of those below it."""
    ours = psutil.Process()
    total = 0
    for process in [ours, *ours.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def test_the_servers_output_does_not_fill_this_hosts_memory(fragile: Box):
    fragile.nonce = secrets.token_hex(12)
    before, most = memory(), 0
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(fragile.run, attacks.FLOOD, python=True)
        while not flood.done():
            most = max(most, memory())
            time.sleep(0.05)
    assert fragile.won("replied"), fragile.output
    assert most - before < 50 << 20
    assert fragile.workspace.execute_command("echo alive").stdout.strip() == "alive"


# Connects to an agent server as a conversation would: as the SDK is, or, with a second
# argument, as that script sets it.
VISIT = """
import runpy, sys, time
for script in sys.argv[2:]:
    runpy.run_path(script, run_name="example")
from openhands.sdk.conversation.impl.remote_conversation import WebSocketCallbackClient
client = WebSocketCallbackClient(sys.argv[1], "0" * 32, print, "key")
client.start()
time.sleep(2)
client.stop()
"""


def visit(box: Box, *script: str) -> None:
    """Visit a container's server."""
    env = clean_environment(LOG_LEVEL="ERROR", **LOCAL_PRICES)
    env.pop("WEBSOCKETS_MAX_REDIRECTS", None)  # the script sets it for itself
    command = [sys.executable, "-c", VISIT, box.workspace.host, *script]
    subprocess.run(command, env=env, check=True, timeout=60)


def leads_elsewhere(box: Box) -> bool:
    """Tell whether who answers at a container's server's place redirects."""
    try:
        answer = httpx.get(f"{box.workspace.host}/health")
    except httpx.TransportError:  # while the one gives way to the other
        return False
    return answer.headers.get("location", "").endswith(box.nonce)


def test_an_agent_that_takes_its_servers_place_leads_the_script_nowhere(
    fragile: Box, plain: Box, outcomes: Outcomes
):
    for box in (fragile, plain):
        box.nonce = secrets.token_hex(12)
        script = box.script(attacks.IMPERSONATE, python=True)
        run_detached(box.container, box.user, script)
    for box in (fragile, plain):
        # What httpx makes of it is seen here, as it is the same everywhere.
        wait_until(lambda: leads_elsewhere(box), 60)
    # Nothing has ended: its server is there still.
    assert not fragile.workspace.cause_of_end()
    visit(fragile, f"{EXAMPLE}")
    visit(plain)
    name = "host: redirects by an agent that has taken its server's place"
    outcomes[name] = "succeeded" if plain.contact() else "", fragile.contact()
    assert outcomes[name] == ("succeeded", False)


def fill_memory(box: Box, holder: str, score: int) -> bool:
    """Fill the container's memory, and tell whether the kernel, which then makes room,
    spares the pipe.
    """
    before = pipes_processes(box.container)
    limit = f"--memory={400 << 20}", f"--memory-swap={400 << 20}"
    output_of("docker", "update", *limit, box.container)
    # As the agent's shells have it, of which this is none.
    inherited = "echo 1000 >/proc/self/oom_score_adj"
    run_detached(box.container, box.user, f"{inherited}; {holder} {score}")
    time.sleep(4)
    return pipes_processes(box.container) == before


def test_an_agent_that_fills_the_memory_loses_no_work_or_is_told_of_at_once(
    fragile: Box, outcomes: Outcomes
):
    holder = compiled(fragile.container, attacks.HOLDER)
    spared = fill_memory(fragile, holder, 1000)
    fragile.submit()
    lost = not spared or "./README.md" not in fragile.submitted
    outcomes["end: filling the memory"] = "not applicable: it has no limit", lost
    assert not lost
    # The kernel did have to make room: the largest is the agent server.
    assert "agent server has ended" in fragile.workspace.cause_of_end()
    # Whoever writes 0 as their own score weighs as little as the pipe. Where the engine
    # cannot make the pipe weigh less, the container ends, and the work with it.
    if fill_memory(fragile, holder, 0):
        fragile.submit()
        assert "./README.md" in fragile.submitted
    else:
        assert "ended" in fragile.workspace.cause_of_end()


# ## An image full of traps

# What the agent runs besides.
WORK = "bash -c id; env sleep 1; git status; python3 -V"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that every user of a container can write to, where what is planted tells
    who runs it.
    """
    log = tmp_path / "planted" / "log"
    log.parent.mkdir()
    log.parent.chmod(0o777)
    log.touch()
    log.chmod(0o666)
    return log


def told(log: Path) -> set[tuple[str, ...]]:
    """Return kind, user, effective user, effective group, no_new_privs, name."""
    return {tuple(line.split(maxsplit=5)) for line in log.read_text().splitlines()}


def plant_and_climb(workspace: Any) -> str:
    """Plant all that the agent can, and return what its ways to more rights print."""
    done = workspace.execute_command(attacks.PLANT)
    assert done.exit_code == 0, done.stderr
    workspace.execute_command(WORK)
    return workspace.execute_command(attacks.CLIMB).stdout


def test_traps_of_a_plain_container_do_catch_processes_with_privileges(
    plain_image: str, log: Path
):
    # The SDK's layer keeps all of it, so that it may as well come after.
    with image_built(f"FROM {plain_image}\n{attacks.TRAPS}\nUSER openhands\n") as image:
        with plain_workspace(image, volumes=[f"{log.parent}:/planted"]) as workspace:
            climbed = plant_and_climb(workspace)
            time.sleep(3)
            docker("kill", f"{workspace._container_id}")
    runs = told(log)
    with_privileges = {(kind, name) for kind, *_, bound, name in runs if bound == "0"}
    assert {("program", "check"), ("program", "of_shell_start")} <= with_privileges
    assert {("program", "bash"), ("library", "bash")} & with_privileges
    effective = {(user, group) for _, _, user, group, _, _ in runs}
    assert "0" in {user for user, _ in effective}
    assert "0" in {group for user, group in effective if user != "0"}
    assert "flag" in climbed


def seconds_to_end_in_a_fork_bomb(room: Cleanroom, bomb: str) -> float:
    """Return how soon the container ends after the pipe, while nobody can fork."""
    output_of("docker", "update", "--pids-limit=200", room.container)
    run_detached(room.container, "agent", bomb)
    time.sleep(2)
    count = docker("stats", "--no-stream", "--format={{.PIDs}}", room.container)
    assert int(count.stdout) >= 200
    psutil.Process(room.workspace._pipe._process.pid).kill()
    return seconds_to_end(room.container)


def test_traps_of_a_cleanroom_catch_no_other_user_and_no_process_with_privileges(
    task_image: str, outside: Outside, log: Path, tmp_path: Path
):
    with (
        image_built(f"FROM {task_image}\n{attacks.TRAPS}") as image,
        ScriptedLLM([("terminal", {"command": WORK})]) as llm,
        open_cleanroom(
            llm, tmp_path, image, volumes=[f"{log.parent}:/planted"]
        ) as room,
    ):
        agent = room.shell("id -u").stdout.strip()
        assert not objections(room.workspace)
        watch = outside.watch(room.container)
        climbed = plant_and_climb(room.workspace)
        bomb = compiled(room.container, attacks.FORK_BOMB)
        # All that the host does during a run, and a few times what health checks take.
        assert not objections(room.workspace)
        with conversation(room.workspace, room.relay.llm_for_the_box):
            load_example().save_submission(room.workspace, tmp_path)
        time.sleep(3)
        seen = watch.stop()
        assert seconds_to_end_in_a_fork_bomb(room, bomb) < 20
    runs = told(log)
    assert ("program", "planted") in {(kind, name) for kind, *_, name in runs}
    assert not [run for run in runs if run[1:5] != (agent, agent, agent, "1")]
    assert "flag" not in climbed
    assert not [process for process in seen if 0 in process.users]


# ## Whole runs of the script

BREAK = """chmod 0555 /workspace/executable
chmod o+w /usr/bin/tini
install -m 4755 /bin/bash /usr/bin/more_rights"""


def test_a_cleanroom_that_does_not_hold_is_refused_before_any_llm_call(
    task_image: str, run_example: Run, tmp_path: Path
):
    # The seal would mend it: it is broken on top of the image that is there, where the
    # script finds that as its own.
    sealed = f"FROM {sealed_tag(task_image)}\nUSER root\nRUN <<EOF\n{BREAK}\nEOF\n"
    (tmp_path / "Dockerfile").write_text(f"{sealed}USER openhands\n")
    label = f"LABEL of-the-tests={secrets.token_hex()}"
    with image_built(f"FROM {task_image}\n{label}") as image, ScriptedLLM() as llm:
        output_of("docker", "build", "-q", f"--tag={sealed_tag(image)}", f"{tmp_path}")
        done = run_example(PROGRAMBENCH_TASK_IMAGE=image, **llm.settings)
    assert done.returncode == 3, done.stderr[-2000:]
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    for claim in ("no way to read", "no file gives", "no process of another user"):
        assert claim in error
        assert re.search(f"^NO  .*{claim}", done.stdout, re.MULTILINE)
    assert not llm.requests


def test_an_agent_that_holds_on_to_the_pipe_of_a_script_that_is_killed_is_ended(
    task_image: str, run_example: Run
):
    hold = shlex.join(["setsid", "bash", "-c", attacks.HOLD])
    wait = "until [ -e /workspace/held ]; do sleep 0.1; done"
    command = f"({hold} >/dev/null 2>&1 &); {wait}"
    containers = set[str]()

    def respond(_: Request) -> None:
        containers.update(run_example.containers())
        if len(llm.requests) == 2 and run_example.process:
            run_example.process.kill()

    with ScriptedLLM([("terminal", {"command": command})], respond) as llm:
        done = run_example(**llm.settings)
    assert done.returncode == -signal.SIGKILL
    (container,) = containers
    assert 5 < seconds_to_end(container) < 25
