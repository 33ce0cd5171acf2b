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
import resource
import secrets
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
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from attacks import (
    ATTACKS,
    CLIMB,
    FLOOD,
    FORK_BOMB,
    HOLD,
    HOLDER,
    IMPERSONATE,
    KIT,
    PLANT,
    TRAPS,
    Attack,
)
from conftest import (
    EXAMPLE,
    LOCAL_PRICES,
    Cleanroom,
    Run,
    clean_environment,
    image_built,
    load_example,
    missing,
    open_cleanroom,
    output_of,
    plain_workspace,
    sealed_tag,
)
from pydantic import SecretStr
from scripted_llm import Request, Response, ScriptedLLM, json_response


MODEL = "gpt-4o-mini"
PYTHON = "/agent-server/.venv/bin/python"  # the agent server's own
# What the test puts into both containers while they are attacked: what an image may
# bring along.
BRING = f"""set -e; cp -a /workspace/executable /root/reference; echo {{flag}} >/root/flag
install -m 4755 /bin/bash /usr/local/bin/rootsh
install /bin/cat /usr/local/bin/rootcat
{PYTHON} -c 'import os; os.setxattr("/usr/local/bin/rootcat", "security.capability",
    b"\\1\\0\\0\\2\\2" + bytes(15))'"""
RESTORE = """cd /workspace; rm -rf loot NOTES.md /tmp/kit/clone
cp -a /root/reference /root/again; mv -f /root/again executable
install -d -o {user} -g {user} loot"""
TAKE_AWAY = """cd /workspace; rm -rf loot NOTES.md /tmp/kit
rm -f /usr/local/bin/rootsh /usr/local/bin/rootcat /root/flag /root/reference"""
DUMP = "dump() { od -An -v -tx1 -N64 \"$@\" | tr -d ' \\n'; }"
LOOK = "cd /workspace; chmod u+r executable; ln -s ../executable loot/x.png"
LOOT = [
    ("terminal", {"command": LOOK}),
    ("file_editor", {"command": "view", "path": "/workspace/executable"}),
    ("file_editor", {"command": "view", "path": "/workspace/loot/x.png"}),
]


def docker(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the engine's client, which may fail."""
    return subprocess.run(
        ["docker", *command], capture_output=True, text=True, timeout=60
    )


def as_agent(container: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the agent, past the agent server, and without waiting for it."""
    bound = ["/usr/bin/setpriv", "--no-new-privs", "/bin/bash", "-c", command]
    return docker("exec", "--detach", "--user=agent", container, *bound)


def compiled(workspace: Any, source: str) -> str:
    """Have the agent compile a program, and return its path."""
    path = f"/tmp/compiled-{secrets.token_hex(4)}"
    build = f"gcc -static -O1 -w -o {path} -xc - <<'EOF'\n{source}\nEOF"
    done = workspace.execute_command(build)
    assert done.exit_code == 0, done.stderr
    return path


# What happens in a container, seen from outside.

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
        status = dict(line.split(":", 1) for line in lines)
        users = tuple(map(int, status["Uid"].split()))
        seen.add((inside, program, users, int(status["NoNewPrivs"])))
print(json.dumps([rounds, list(seen)]))
"""


@dataclass(frozen=True)
class Process:
    """A process in a container, as it was seen from outside."""

    # Whether its program is a file of the container's.
    inside: bool
    program: str
    users: tuple[int, ...]  # real, effective, saved, and that of the file system
    no_new_privs: bool

    @property
    def engines(self) -> bool:
        """Whether it is the engine's own, about to become what `docker exec` names."""
        return not self.inside and "runc" in self.program


class Watch:
    """What runs in a container, from now on until it is stopped."""

    def __init__(self, command: list[str]):
        self.rounds, self.seen = 0, set[Process]()
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, **pipes)
        assert self._process.stdout
        assert self._process.stdout.readline() == "watching\n"

    def stop(self) -> set[Process]:
        """Return all that was seen, but for the engine's own processes."""
        if self._process.returncode is None:
            self.rounds, seen = json.loads(self._process.communicate(timeout=30)[0])
            self.seen = {Process(i, p, tuple(u), bool(n)) for i, p, u, n in seen}
        return {process for process in self.seen if not process.engines}


class Outside:
    """Root beside the containers: sees and changes them, and is in none of them."""

    def __init__(self, image: str):
        options = ["--detach", "--rm", "--privileged", "--pid=host", "--network=none"]
        options += ["--user=root", "--entrypoint=/bin/sleep"]
        self.helper = output_of("docker", "run", *options, image, "infinity").strip()

    def first_process(self, container: str) -> str:
        """Return the id that the container's first process has on the engine's host."""
        return output_of(
            "docker", "inspect", "--format={{.State.Pid}}", container
        ).strip()

    def enter(self, container: str, namespace: str, *command: str) -> str:
        """Return what a command prints that shares nothing else with a container."""
        target = f"--target={self.first_process(container)}"
        enter = ["docker", "exec", self.helper, "nsenter", target, f"--{namespace}"]
        return output_of(*enter, "--", *command)

    def change(self, container: str, command: str) -> str:
        """Return what a command of root's prints that has the container's files."""
        return self.enter(container, "mount", "sh", "-c", command)

    def watch(self, container: str) -> Watch:
        """Begin to watch what runs in a container."""
        python = ["docker", "exec", "--interactive", self.helper, PYTHON, "-Ic"]
        return Watch([*python, WATCH, self.first_process(container)])


def pipes_processes(container: str) -> set[str]:
    """Return the ids and names of a container's first process and of its pipe."""
    lines = docker("top", container, "-o", "pid,uid,comm").stdout.splitlines()[1:]
    return {line for line in lines if line.split()[1] == "10001"}


def pipes_client(container: str) -> psutil.Process:
    """Return the engine's client that is the pipe."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if {container, "/cleanroom/pipe"} <= set(process.cmdline()):
                if process.name() == "docker":
                    return process
    raise LookupError("there is no pipe")


def seconds_to_end(container: str) -> float:
    """Wait for a container to end, and return how long that took; or end it after 40."""
    begun = time.monotonic()
    while docker("inspect", container).returncode == 0:
        time.sleep(0.2)
        if time.monotonic() > begun + 40:
            docker("kill", container)
    return time.monotonic() - begun


def memory() -> int:
    """Return the bytes of memory of this process and of those below it."""
    ours = psutil.Process()
    total = 0
    for process in [ours, *ours.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


class Listener:
    """Notes what reaches a TCP and a UDP port of this host, and a unix socket."""

    def __init__(self, address: str):
        self.address = address
        self.seen = list[bytes]()
        self.abstract = f"attacks-{secrets.token_hex(8)}"
        tcp, udp = (
            socket.create_server((address, 0)),
            socket.socket(type=socket.SOCK_DGRAM),
        )
        self.port = tcp.getsockname()[1]
        udp.bind((address, self.port))
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(f"\0{self.abstract}")
        unix.listen()
        self.sockets = [tcp, udp, unix]
        for one, work in ((tcp, self.accept), (udp, self.receive), (unix, self.accept)):
            threading.Thread(target=work, args=(one,), daemon=True).start()

    def accept(self, listener: socket.socket):
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                threading.Thread(target=self.read, args=(near,), daemon=True).start()

    def read(self, near: socket.socket):
        near.settimeout(3)
        with near, contextlib.suppress(OSError):
            self.seen.append(near.recv(4096))

    def receive(self, listener: socket.socket):
        with contextlib.suppress(OSError):
            while True:
                self.seen.append(listener.recv(4096))

    def close(self):
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Box:
    """A container under attack; a method for each way to succeed, true if it did."""

    patience = 0.3  # what was sent may still be on its way to the listener

    def __init__(
        self,
        workspace: Any,
        outside: Outside,
        llm: ScriptedLLM,
        endpoint: str,
        key: str,
        listener: Listener,
        host_file: Path,
    ):
        self.workspace, self.outside, self.llm = workspace, outside, llm
        self.endpoint, self.real_key = endpoint, key
        self.listener, self.host_file = listener, host_file
        self.container = f"{workspace._container_id}"
        self.user = workspace.execute_command("id -un").stdout.strip()
        self.secret = secrets.token_hex(16)
        # What the last attack printed, its nonce, and what was saved after it.
        self.output = self.nonce = self.said = self.mark = ""
        self.members: dict[str, tuple[tarfile.TarInfo, bytes]] | None = None

    def root(self, command: str) -> str:
        """Return what a command of root's prints, who is not in the container."""
        return self.outside.change(self.container, command)

    def bring_kit(self, credential: str) -> None:
        """Give the agent what its attacks in Python share."""
        kit = f"mkdir -p /tmp/kit; cat >/tmp/kit/kit.py <<'KIT'\n{KIT}\nKIT\n"
        self.shell(f"{kit}echo -n {credential} >/tmp/kit/credential")

    def settle(self, llm: Any, credential: str, exits: contextlib.ExitStack) -> None:
        """Have a conversation, so that the agent server knows what it would; the kit."""
        self.root(BRING.format(flag=self.secret))
        self.reference = base64.b64decode(self.root("base64 /root/reference"))
        assert self.reference[:4] == b"\x7fELF"
        self.root(RESTORE.format(user=self.user))
        self.llm.script[:] = LOOT
        example = load_example()
        conversation = example.Conversation(
            agent=example.get_default_agent(llm, cli_mode=True),
            workspace=self.workspace,
            delete_on_close=False,
            visualizer=None,
        )
        exits.callback(conversation.close)
        conversation.send_message("Look at the binary.")
        conversation.run(timeout=60)
        events = (event.model_dump_json() for event in conversation.state.events)
        requests = (f"{request.raw!r}" for request in self.llm.requests)
        self.transcript = "".join([*events, *requests])
        self.llm.respond = self.respond
        exits.callback(setattr, self.llm, "respond", None)
        self.bring_kit(credential)

    def respond(self, request: Request) -> Response | None:
        """Answer as a provider that gives the key away."""
        asked = re.search(rb"echo (200|401)", request.raw)
        if not asked:
            return None
        headers = f"{request.headers}"
        said = {"role": "assistant", "content": headers}
        whole = {"id": "x", "object": "chat.completion", "created": 1, "model": MODEL}
        whole["choices"] = [{"index": 0, "message": said, "finish_reason": "stop"}]
        whole["error" if asked[1] == b"401" else "note"] = {"message": headers}
        reply = json_response(whole, int(asked[1]))
        reply.headers["x-request-id"] = f"{request.headers['Authorization']}"
        return reply

    def script(self, code: str, python: bool, ports: str = "4999 8000") -> str:
        """Return what is run for an attack: bounded, and nothing outlives it."""
        variables = {
            "TARGET": self.listener.address,
            "PORT": f"{self.listener.port}",
            "ABSTRACT": self.listener.abstract,
            "LLM": self.endpoint,
            "PROVIDER": self.llm.base_url,
            "PORTS": ports,
            "NONCE": self.nonce,
            "HOST_FILE": f"{self.host_file}",
            "PYTHON": PYTHON,
            "PYTHONPATH": "/tmp/kit",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if python:
            code = f"$PYTHON - <<'PY'\nfrom kit import *\n{code}\nPY"
        exports = [f"export {name}={shlex.quote(v)}" for name, v in variables.items()]
        lines = [*exports, DUMP, "cd /workspace", code]
        return "\n".join(["timeout -k 1 25 bash 2>&1 <<'ATTACK'", *lines, "ATTACK\n"])

    def shell(self, code: str, python: bool = False) -> None:
        """Run a command, or Python, where the agent's tools run."""
        done = self.workspace.execute_command(
            self.script(code, python), cwd="/workspace", timeout=40
        )
        self.output = done.stdout + done.stderr

    def attempt(self, attack: Attack) -> bool:
        """Carry out an attack and tell whether it succeeded."""
        self.nonce = secrets.token_hex(12)
        if attack.group in ("binary", "submission"):
            self.root(RESTORE.format(user=self.user))
        self.shell(attack.code, attack.python)
        if attack.group == "submission":
            self.members = None
            self.said = ""
            self.submit()
        if attack.check:
            self.mark = self.root(attack.check + "; true")
        return getattr(self, attack.wins)()

    def attempt_as_the_pipes_user(self, attack: Attack) -> bool:
        """Carry out an attack as the user who is attacked: the control."""
        self.nonce = secrets.token_hex(12)
        # The pipe has its ports, whoever asks for them.
        script = self.script(attack.code, attack.python, ports="5999 6999")
        run = ["exec", "--user=openhands", self.container, "bash", "-c", script]
        self.output = docker(*run).stdout
        return getattr(self, attack.wins)()

    def submit(self):
        """Save the submission, and note its members and what was printed."""
        raise NotImplementedError

    # How attacks succeed.

    def contact(self) -> bool:
        deadline = time.monotonic() + self.patience
        while not (found := self.nonce.encode() in b"".join(self.listener.seen)):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return found

    def replied(self) -> bool:
        return f"reply {self.nonce}" in self.output

    def flag(self) -> bool:
        return self.secret in self.output

    def marked(self) -> bool:
        return self.nonce in self.mark

    def session(self) -> bool:
        return self.workspace.api_key in self.output

    def binary(self) -> bool:
        return self.reference[:64].hex() in self.output

    def viewed(self) -> bool:
        return base64.b64encode(self.reference[:48]).decode() in self.transcript

    def key(self) -> bool:
        return self.real_key in self.output

    def calls(self) -> list[Request]:
        """Return the attack's calls that have reached the provider."""
        return [
            call
            for call in list(self.llm.requests)
            if self.nonce in call.path or self.nonce.encode() in call.raw
        ]

    def upstream(self) -> bool:
        return bool(self.calls())

    def foreign(self) -> bool:
        own = MODEL, f"Bearer {self.real_key}"
        return any(
            (call.body["model"], call.headers["Authorization"]) != own
            for call in self.calls()
        )

    def strayed(self) -> bool:
        links = [one for one, _ in (self.members or {}).values() if one.issym()]
        paths = [Path("/workspace", one.name).parent / one.linkname for one in links]
        return any(
            not os.path.normpath(path).startswith("/workspace/") for path in paths
        )

    def special(self) -> bool:
        kept = [one for one, _ in (self.members or {}).values()]
        usual = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
        return any(one.type not in usual for one in kept)

    def smuggled(self) -> bool:
        contents = [content for _, content in (self.members or {}).values()]
        return any(self.reference[:64] in content for content in contents)

    def garbled(self) -> bool:
        return bool(re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", self.said))

    def disclosed(self) -> bool:
        return self.host_file.read_text() in self.said

    def printed(self) -> bool:
        return "ELF" in self.said or self.members is None

    def lost(self) -> bool:
        return self.members is None or "./README.md" not in self.members

    def lost_in_time(self) -> bool:
        for _ in range(6):  # it is a race
            if self.lost():
                break
            self.members = None
            self.submit()
        return self.lost()


def members_of(archive: tarfile.TarFile) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """Return an archive's members with what is in them."""
    return {
        member.name: (member, file.read() if member.isreg() and file else b"")
        for member in archive
        for file in [archive.extractfile(member) if member.isreg() else None]
    }


class Ours(Box):
    """The cleanroom."""

    def submit(self):
        printed = io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            try:
                with contextlib.redirect_stdout(printed):
                    path = load_example().save_submission(self.workspace, Path(folder))
                    load_example().print_submission(path)
            except Exception as error:
                self.output += f"save_submission() ends with {error!r}"
                return
            self.said = printed.getvalue()
            with tarfile.open(path) as archive:
                self.members = members_of(archive)


class Plain(Box):
    """The SDK's own container, on the default bridge, with the key inside."""

    patience = 5

    def submit(self):
        source = f"{self.container}:/workspace/."
        done = subprocess.run(
            ["docker", "cp", source, "-"], capture_output=True, timeout=60
        )
        with (
            contextlib.suppress(tarfile.TarError),
            tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive,
        ):
            self.members = members_of(archive)
        folder = self.host_file.parent / secrets.token_hex(8)
        docker("cp", source, f"{folder}")
        # No `with`: that it cannot be read is what one of the attacks is after.
        try:
            self.said = (folder / "NOTES.md").read_text(errors="replace")
        except FileNotFoundError:
            self.said = ""
        except OSError:
            self.members = None


@pytest.fixture(scope="module")
def outside(plain_image: str) -> Iterator[Outside]:
    """Root beside the containers."""
    outside = Outside(plain_image)
    yield outside
    output_of("docker", "kill", outside.helper)


@pytest.fixture(scope="module")
def gateway(docker: None) -> str:
    """The default bridge's address on this host."""
    found = output_of("docker", "network", "inspect", "bridge")
    address = json.loads(found)[0]["IPAM"]["Config"][0].get("Gateway", "")
    try:
        socket.create_server((address, 0)).close()
    except OSError:
        missing(f"the default bridge's gateway {address} is not this machine's")
    return address


@pytest.fixture(scope="module")
def listener(gateway: str) -> Iterator[Listener]:
    """Where attacks on the network are aimed."""
    with contextlib.closing(Listener(gateway)) as listener:
        yield listener


@pytest.fixture(scope="module")
def host_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the host's that no submission may lead to."""
    path = tmp_path_factory.mktemp("host") / "file"
    path.write_text(f"of the host's: {secrets.token_hex(16)}")
    return path


@pytest.fixture(scope="module")
def watch(cleanroom: Cleanroom, outside: Outside) -> Iterator[Watch]:
    """What runs in the cleanroom while it is attacked."""
    watch = outside.watch(cleanroom.container)
    yield watch
    watch.stop()


def box_of(room: Cleanroom, outside: Outside, listener: Listener, file: Path) -> Ours:
    """Return a cleanroom as a box, which has no conversation yet."""
    endpoint = load_example().BOX_URL
    return Ours(room.workspace, outside, room.llm, endpoint, room.key, listener, file)


@pytest.fixture(scope="module")
def ours(
    cleanroom: Cleanroom,
    watch: Watch,
    outside: Outside,
    listener: Listener,
    host_file: Path,
) -> Iterator[Box]:
    """The cleanroom, ready for attacks, and watched."""
    box = box_of(cleanroom, outside, listener, host_file)
    with contextlib.ExitStack() as exits:
        exits.callback(
            lambda: box.root(f"{RESTORE.format(user=box.user)}\n{TAKE_AWAY}")
        )
        box.settle(cleanroom.relay.llm_for_the_box, "none", exits)
        yield box


@pytest.fixture(scope="module")
def plain(
    plain_image: str,
    outside: Outside,
    gateway: str,
    listener: Listener,
    host_file: Path,
) -> Iterator[Box]:
    """The SDK's container as the SDK starts it, ready for the same attacks."""
    key = f"sk-test-{secrets.token_hex(16)}"
    with contextlib.ExitStack() as exits:
        # It cannot reach this host's loopback.
        llm = exits.enter_context(ScriptedLLM(address=gateway))
        workspace = exits.enter_context(plain_workspace(plain_image))
        url = llm.base_url
        box = Plain(workspace, outside, llm, url, key, listener, host_file)
        of_the_agent = load_example().LLM(
            usage_id="agent",
            model=f"openai/{MODEL}",
            api_key=SecretStr(key),
            base_url=url,
        )
        box.settle(of_the_agent, key, exits)
        # It takes ten seconds to stop of itself, and its client five to notice.
        exits.callback(docker, "kill", box.container)
        yield box


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, tuple[str, bool]]]:
    """What became of each attack: in words in the plain container, and whether it
    succeeded in ours.
    """
    outcomes = dict[str, tuple[str, bool]]()
    yield outcomes
    lines = ["| attack | plain SDK container | ours |", "| --- | --- | --- |"]
    for name, (plain, won) in outcomes.items():
        lines.append(f"| {name} | {plain} | {'**succeeded**' if won else 'failed'} |")
    if table := os.environ.get("ATTACK_TABLE"):
        Path(table).write_text("\n".join(lines) + "\n")


def test_an_honest_call_passes(ours: Box):
    ours.nonce = secrets.token_hex(12)
    ours.shell("llm(body())", python=True)
    assert ours.upstream()
    assert not ours.foreign()
    assert "200 " in ours.output


def test_the_whole_pipe_is_found(ours: Box):
    ours.shell("print(list(pipe_ends().values()))", python=True)
    for command in ("tini", "sleep", "/cleanroom/pipe", "sshd"):
        assert command in ours.output


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_attack(
    attack: Attack, ours: Box, plain: Box, outcomes: dict[str, tuple[str, bool]]
):
    with ThreadPoolExecutor(1) as pool:
        control = None if attack.void else pool.submit(plain.attempt, attack)
        won_here, output = ours.attempt(attack), ours.output
    works = control.result() if control else False
    there = "succeeded" if works else f"not applicable: {attack.void or attack.refused}"
    outcomes[attack.name] = there, won_here
    assert not won_here, f"succeeded in the cleanroom: {output[:2000]}"
    if attack.group == "pipe":
        works = ours.attempt_as_the_pipes_user(attack)
        assert works, f"does not work as the pipe's own user: {ours.output[:2000]}"
    reason = attack.void or attack.refused
    assert works or reason, f"does not work where nothing stops it: {plain.output}"


def test_no_process_of_roots_is_seen_during_the_attacks_or_after(
    cleanroom: Cleanroom, ours: Box, watch: Watch, outside: Outside
):
    time.sleep(2)
    seen = watch.stop()
    assert watch.rounds > 100
    assert {"bash", "python3.13", "tini"} <= {Path(one.program).name for one in seen}
    assert not [process for process in seen if 0 in process.users]
    control = outside.watch(cleanroom.container)
    docker("exec", "--user=root", cleanroom.container, "/bin/sleep", "0.5")
    assert [one for one in control.stop() if one.users == (0, 0, 0, 0)]


def test_no_process_of_the_agents_can_gain_privileges(
    cleanroom: Cleanroom, ours: Box, watch: Watch, outside: Outside
):
    agent = int(cleanroom.shell("id -u").stdout)
    seen = {process for process in watch.stop() if agent in process.users}
    programs = {Path(process.program).name for process in seen}
    # The server, what execute_command starts, and the terminal of the agent's tools.
    assert {"python3.13", "bash", "tmux"} <= programs
    assert not [process for process in seen if not process.no_new_privs]
    control = outside.watch(cleanroom.container)
    docker("exec", "--user=agent", cleanroom.container, "/bin/sleep", "0.5")
    seen = {process for process in control.stop() if agent in process.users}
    assert [process for process in seen if not process.no_new_privs]


def test_the_agent_server_serves_only_who_has_the_sessions_key(cleanroom: Cleanroom):
    url = f"{cleanroom.workspace.host}/api/conversations/search"
    key = f"{cleanroom.workspace.api_key}"
    assert httpx.get(url, headers={"X-Session-API-Key": key}).status_code == 200
    assert httpx.get(url, headers={"X-Session-API-Key": "None"}).status_code == 401
    assert httpx.get(url).status_code == 401


def test_other_users_of_this_host_do_not_see_the_sessions_key(cleanroom: Cleanroom):
    key = f"{cleanroom.workspace.api_key}"
    seen = [f"{one.info['cmdline']}" for one in psutil.process_iter(["cmdline"])]
    assert [line for line in seen if cleanroom.container in line]
    assert not [line for line in seen if key in line]
    assert key not in output_of("docker", "inspect", cleanroom.container)


# ## A cleanroom that may come to harm: first what the audit says, then the worst attacks


@pytest.fixture(scope="module")
def holder(fragile: Box) -> str:
    """A program in the fragile cleanroom that holds memory, compiled by the agent."""
    return compiled(fragile.workspace, HOLDER)


@pytest.fixture(scope="module")
def fragile(
    task_image: str,
    outside: Outside,
    listener: Listener,
    host_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Box]:
    """A cleanroom that may come to harm."""
    with (
        ScriptedLLM() as llm,
        open_cleanroom(llm, tmp_path_factory.mktemp("fragile")) as room,
    ):
        box = box_of(room, outside, listener, host_file)
        box.bring_kit("none")
        yield box


def objections(workspace: Any) -> str:
    """Return what the audit objects to, if anything."""
    example = load_example()
    try:
        example.audit(workspace)
    except example.CleanroomError as error:
        assert error.status == 3
        return f"{error}"
    return ""


def test_the_audit_says_yes_in_a_cleanroom(
    fragile: Box, holder: str, capsys: pytest.CaptureFixture[str]
):
    begun = time.monotonic()
    assert not objections(fragile.workspace)
    with capsys.disabled():
        print(f"\nThe audit took {time.monotonic() - begun:.2f} s.")


READING, RIGHTS = "no way to read", "no file gives privileges"
OTHERS = "no process of another user runs what the agent can write"
BINARY, SETUID = "/workspace/executable", "/usr/bin/more_rights"
BINARY_BACK = f"chown root:root {BINARY}; chmod 0111 {BINARY}"
SESSION = "/usr/lib/openssh/sshd-session"
# What root changes, how it is changed back, and the claim that then does not hold.
CHANGES = {
    "a binary that can be read": (f"chmod 0555 {BINARY}", BINARY_BACK, READING),
    "a binary of the agent's": (f"chown agent {BINARY}", BINARY_BACK, READING),
    "no binary": (f"mv {BINARY} /root", f"mv /root/executable {BINARY}", "can be run"),
    "a setuid program": (f"install -m 4755 /bin/sh {SETUID}", f"rm {SETUID}", RIGHTS),
    "a setgid program": (f"install -m 2755 /bin/sh {SETUID}", f"rm {SETUID}", RIGHTS),
    "a first process that the agent can write": (
        *("chmod o+w /usr/bin/tini", "chmod o-w /usr/bin/tini"),
        OTHERS,
    ),
    "a program of the pipe's that the agent can write": (
        *(f"chmod o+w {SESSION}", f"chmod o-w {SESSION}"),
        OTHERS,
    ),
    "a script of the pipe's that is the agent's": (
        *("chown agent /cleanroom/pipe", "chown root /cleanroom/pipe"),
        OTHERS,
    ),
    "a folder of the pipe's that the agent can write": (
        *("chmod 1777 /usr/lib/openssh", "chmod 755 /usr/lib/openssh"),
        OTHERS,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_audit_objects_to(change: str, fragile: Box):
    do, undo, claim = CHANGES[change]
    fragile.root(do)
    try:
        assert claim in objections(fragile.workspace)
    finally:
        fragile.root(f"{undo}")


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
    fragile.root(f"{BINARY_BACK}")
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


def test_the_servers_output_does_not_fill_this_hosts_memory(fragile: Box):
    fragile.nonce = secrets.token_hex(12)
    before, most = memory(), 0
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(fragile.shell, FLOOD, python=True)
        while not flood.done():
            most = max(most, memory())
            time.sleep(0.05)
    assert fragile.replied(), fragile.output
    assert most - before < 50 << 20
    assert fragile.workspace.execute_command("echo alive").stdout.strip() == "alive"


# Connects to agent servers as a conversation would, as the SDK is or as a script sets it.
VISIT = """
import importlib.util, sys, time
if sys.argv[1]:
    spec = importlib.util.spec_from_file_location("example", sys.argv[1])
    sys.modules["example"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
from openhands.sdk.conversation.impl.remote_conversation import WebSocketCallbackClient
client = WebSocketCallbackClient(sys.argv[2], "0" * 32, print, "key")
client.start()
time.sleep(2)
client.stop()
"""


def visit(script: str, box: Box) -> subprocess.Popen[bytes]:
    """Begin to visit a container's server."""
    command = [sys.executable, "-c", VISIT, script, box.workspace.host]
    env = clean_environment(LOG_LEVEL="ERROR", **LOCAL_PRICES)
    env.pop("WEBSOCKETS_MAX_REDIRECTS", None)  # the script sets it for itself
    return subprocess.Popen(command, env=env)


def test_an_agent_that_takes_its_servers_place_leads_the_script_nowhere(
    fragile: Box, plain: Box, outcomes: dict[str, tuple[str, bool]]
):
    for box in (fragile, plain):
        box.nonce = secrets.token_hex(12)
        box.shell(IMPERSONATE, python=True)
        assert box.replied(), box.output
        # What httpx makes of it is seen here, as it is the same everywhere.
        answer = httpx.get(f"{box.workspace.host}/health")
        assert answer.headers["location"].endswith(box.nonce)
        assert not box.contact()
    with visit(f"{EXAMPLE}", fragile) as by_script, visit("", plain) as by_sdk:
        pass
    assert by_script.returncode == by_sdk.returncode == 0
    name = "host: redirects by an agent that has taken its server's place"
    outcomes[name] = "succeeded" if plain.contact() else "", fragile.contact()
    assert outcomes[name] == ("succeeded", False)


def fill_memory(box: Box, holder: str, score: int) -> None:
    """Fill the container's memory, and wait for the kernel to have made room."""
    limit = f"--memory={400 << 20}", f"--memory-swap={400 << 20}"
    output_of("docker", "update", *limit, box.container)
    # As the agent's shells have it, of which this is none.
    inherited = "echo 1000 >/proc/self/oom_score_adj"
    as_agent(box.container, f"{inherited}; {holder} {score}")
    time.sleep(4)


def saved_after(box: Box) -> set[str]:
    """Save the work, and return the names of what was saved."""
    box.members = None
    box.submit()
    return set(box.members or {})


def test_an_agent_that_fills_the_memory_loses_neither_the_pipe_nor_its_work(
    fragile: Box, holder: str, outcomes: dict[str, tuple[str, bool]]
):
    fragile.root("echo kept >/workspace/kept")
    before = pipes_processes(fragile.container)
    fill_memory(fragile, holder, 1000)
    after = pipes_processes(fragile.container)
    lost = before != after or "./kept" not in saved_after(fragile)
    outcomes["end: filling the memory"] = "not applicable: it has no limit", lost
    # The kernel did have to make room: the largest is the agent server.
    assert "agent server has ended" in fragile.workspace.cause_of_end()
    assert not lost, f"{before} has become {after}"


def test_an_agent_that_kills_all_its_processes_loses_no_work(
    fragile: Box, plain: Box, outcomes: dict[str, tuple[str, bool]]
):
    before = pipes_processes(fragile.container)
    as_agent(fragile.container, "kill -9 -1")
    docker("exec", plain.container, "sh", "-c", "kill -9 -1")
    time.sleep(2)
    lost = before != pipes_processes(fragile.container)
    lost = lost or "./kept" not in saved_after(fragile)
    plain.members = {}
    with contextlib.suppress(tarfile.TarError):
        plain.submit()
    outcomes["end: killing all processes"] = "succeeded" if plain.lost() else "", lost
    assert outcomes["end: killing all processes"] == ("succeeded", False)


def test_an_agent_that_fills_the_memory_as_a_process_of_no_weight_is_told_of_at_once(
    fragile: Box, holder: str, capsys: pytest.CaptureFixture[str]
):
    # Whoever writes 0 as their own score weighs as little as the pipe. Where the engine
    # cannot make the pipe weigh less, the container ends, and the work with it.
    before = pipes_processes(fragile.container)
    fill_memory(fragile, holder, 0)
    survives = before == pipes_processes(fragile.container)
    with capsys.disabled():
        print(f"\nSuch a process {'spares' if survives else 'ends'} the pipe.")
    if survives:
        assert "./kept" in saved_after(fragile)
    else:
        assert "ended" in fragile.workspace.cause_of_end()


# ## An image full of traps


@dataclass
class Planted:
    """A trapped container: what its audit said, and what planted things told."""

    log: Path
    climbed: str = ""
    audited: list[str] = field(default_factory=list[str])
    processes: set[Process] = field(default_factory=set[Process])
    agent: int = 0
    process_count: int = 0  # at the end
    seconds_to_end: float = 0

    def runs(self) -> set[tuple[str, int, int, int, int, str]]:
        """Return kind, user, effective user, effective group, no_new_privs, name."""
        lines = [line.split(maxsplit=5) for line in self.log.read_text().splitlines()]
        return {(a, int(b), int(c), int(d), int(e), f) for a, b, c, d, e, f in lines}


# What the agent runs besides.
WORK = "bash -c id; env sleep 1; git status; python3 -V"
MOST_PROCESSES = 200


def process_count(container: str) -> int:
    """Return how many processes and threads a container has, as its limit counts."""
    return int(docker("stats", "--no-stream", "--format={{.PIDs}}", container).stdout)


def a_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that every user of a container can write to."""
    folder = tmp_path_factory.mktemp("planted")
    folder.chmod(0o777)
    log = folder / "log"
    log.touch()
    log.chmod(0o666)
    return log


@pytest.fixture(scope="module")
def trapped(
    task_image: str, outside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Planted]:
    """A cleanroom made of a trapped image, in which the agent has planted all it can."""
    example = load_example()
    planted = Planted(a_log(tmp_path_factory))
    with (
        image_built(f"FROM {task_image}\n{TRAPS}") as image,
        ScriptedLLM([("terminal", {"command": WORK})]) as llm,
        open_cleanroom(
            llm,
            tmp_path_factory.mktemp("trapped"),
            image,
            volumes=[f"{planted.log.parent}:/planted"],
        ) as room,
    ):
        planted.agent = int(room.shell("id -u").stdout)
        planted.audited.append(objections(room.workspace))
        watch = outside.watch(room.container)
        done = room.shell(PLANT)
        assert done.exit_code == 0, done.stderr
        planted.climbed = room.shell(CLIMB).stdout
        bomb = compiled(room.workspace, FORK_BOMB)
        # All that the host does during a run, and a few times what health checks take.
        planted.audited.append(objections(room.workspace))
        conversation = example.Conversation(
            agent=example.get_default_agent(room.relay.llm_for_the_box, cli_mode=True),
            workspace=room.workspace,
            visualizer=None,
        )
        conversation.send_message("Look around.")
        conversation.run(timeout=60)
        conversation.close()
        example.save_submission(room.workspace, tmp_path_factory.mktemp("saved"))
        time.sleep(3)
        planted.processes = watch.stop()
        # The end, while nobody can start a process.
        limit = f"--pids-limit={MOST_PROCESSES}"
        output_of("docker", "update", limit, room.container)
        as_agent(room.container, bomb)
        time.sleep(2)
        planted.process_count = process_count(room.container)
        pipes_client(room.container).kill()
        planted.seconds_to_end = seconds_to_end(room.container)
        yield planted


@pytest.fixture(scope="module")
def trapped_plain(
    plain_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Planted]:
    """The SDK's plain container with the same traps, in which the same is planted."""
    planted = Planted(a_log(tmp_path_factory))
    # The SDK's layer keeps all of it, so that it may as well come after.
    with image_built(f"FROM {plain_image}\n{TRAPS}\nUSER openhands\n") as image:
        volumes = [f"{planted.log.parent}:/planted"]
        with plain_workspace(image, volumes=volumes) as workspace:
            done = workspace.execute_command(PLANT)
            assert done.exit_code == 0, done.stderr
            workspace.execute_command(WORK)
            planted.climbed = workspace.execute_command(CLIMB).stdout
            time.sleep(3)
            docker("kill", f"{workspace._container_id}")
        yield planted


def test_traps_of_a_plain_container_do_catch_processes_with_privileges(
    trapped_plain: Planted,
):
    runs = trapped_plain.runs()
    with_privileges = {(kind, name) for kind, *_, bound, name in runs if not bound}
    assert {("program", "check"), ("program", "of_shell_start")} <= with_privileges
    assert {("program", "bash"), ("library", "bash")} & with_privileges
    effective = {(user, group) for _, _, user, group, _, _ in runs}
    assert 0 in {user for user, _ in effective}
    assert {group for user, group in effective if user} >= {0}
    assert "flag" in trapped_plain.climbed


def test_nothing_that_the_agent_plants_is_run_by_another_user_or_with_privileges(
    trapped: Planted,
):
    runs = trapped.runs()
    assert {("program", "planted")} <= {(kind, name) for kind, *_, name in runs}
    agent = trapped.agent
    others = [run for run in runs if run[1:5] != (agent, agent, agent, 1)]
    assert not others
    assert "flag" not in trapped.climbed


def test_a_trapped_image_gives_a_cleanroom(trapped: Planted):
    assert trapped.audited == ["", ""]
    assert not [process for process in trapped.processes if 0 in process.users]


def test_the_container_ends_soon_after_the_pipe_though_nobody_can_fork(
    trapped: Planted,
):
    assert trapped.process_count >= MOST_PROCESSES
    assert trapped.seconds_to_end < 20


# ## Whole runs of the script


@dataclass
class Ended:
    """How a run of the script has ended."""

    done: subprocess.CompletedProcess[str]
    calls: int  # of the LLM
    seconds: float  # until its container was gone


# What the agents tell HOLD, so that they hold on to the pipe, in a run each.
MANY, ONE, SOME = "2000", "1 kill", "50"


@pytest.fixture(scope="module")
def runs(
    task_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Ended]]:
    """How the script ends: with agents that hold on to the pipe, where the script is
    killed meanwhile for SOME; and with an image whose seal does not hold.
    """

    def attempt(told: str, image: str) -> Ended:
        hold = f"cd /workspace; (setsid {PYTHON} -c {shlex.quote(HOLD)} {told} &)"
        wait = "timeout 20 sh -c 'until [ -e held-* ]; do sleep 0.1; done'; sleep 3"
        steps = [("terminal", {"command": f"{hold} >/dev/null 2>&1; {wait}"})]
        settings = {"PROGRAMBENCH_TASK_IMAGE": image, "PROGRAMBENCH_TIME_LIMIT": "60"}
        settings |= {"LLM_MODEL": f"openai/{MODEL}", "LLM_API_KEY": "sk-x"}
        containers = set[str]()

        def respond(_: Request) -> None:
            containers.update(run.containers())
            if told == SOME and len(llm.requests) == 2 and run.process:
                run.process.kill()

        run = Run(tmp_path_factory.mktemp("run"))
        with ScriptedLLM(steps, respond) as llm:
            done = run(timeout=240, LLM_BASE_URL=llm.base_url, **settings)
        seconds = sum(seconds_to_end(container) for container in containers)
        return Ended(done, len(llm.requests), seconds)

    breaks = "chmod 0555 /workspace/executable && chmod o+w /usr/bin/tini"
    breaks += " && install -m 4755 /bin/bash /usr/bin/more_rights"
    label = f"LABEL of-the-tests={secrets.token_hex()}"
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        image_built(f"FROM {task_image}\n{label}") as broken,
        tempfile.TemporaryDirectory() as folder,
    ):
        # The seal would mend it: it is broken on top of the image that is there, where
        # the script finds that as its own.
        sealed = f"FROM {sealed_tag(task_image)}\nUSER root\nRUN {breaks}\n"
        Path(folder, "Dockerfile").write_text(f"{sealed}USER openhands\n")
        output_of("docker", "build", "-q", f"--tag={sealed_tag(broken)}", folder)
        images = dict.fromkeys((MANY, ONE, SOME), task_image) | {"broken": broken}
        # What most shells begin with.
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
        try:
            with ThreadPoolExecutor(len(images)) as pool:
                ended = pool.map(attempt, images, images.values())
                yield dict(zip(images, ended, strict=True))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def saved(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the names in the submission that a run says it has saved."""
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    found = re.search(r"^SUBMISSION: (/.+)$", done.stdout, re.MULTILINE)
    assert found, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    with tarfile.open(found[1]) as archive:
        return set(archive.getnames())


def test_a_cleanroom_that_does_not_hold_is_refused_before_any_llm_call(
    runs: dict[str, Ended],
):
    done = runs["broken"].done
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 3, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert len(errors) == 1
    for claim in ("no way to read", "no file gives", "no process of another user"):
        assert claim in errors[0]
        assert re.search(f"^ *NO  .*{claim}", done.stdout, re.MULTILINE)
    assert runs["broken"].calls == 0


def test_an_agent_that_opens_2000_connections_loses_no_work(runs: dict[str, Ended]):
    done = runs[MANY].done
    names = saved(done)
    assert "./kept" in names
    # The pipe may break of it: then the run ends, as ever with the work saved.
    assert "./held-2000" in names or "The run ended early: " in done.stderr


def test_an_agent_that_kills_its_server_and_holds_on_to_the_pipe_loses_no_work(
    runs: dict[str, Ended],
):
    done = runs[ONE].done
    assert {"./kept", "./held-1"} <= saved(done)
    assert "The run ended early: " in done.stderr
    assert done.returncode == 1


def test_an_agent_that_holds_on_to_the_pipe_of_a_script_that_is_killed_is_ended(
    runs: dict[str, Ended],
):
    assert runs[SOME].done.returncode == -signal.SIGKILL
    assert 5 < runs[SOME].seconds < 25


def test_what_the_agent_writes_to_its_servers_output_moves_no_cursor(
    runs: dict[str, Ended],
):
    done = runs[ONE].done
    assert "the agent's own" in done.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", done.stderr)


def test_no_attack_was_left_out(
    outcomes: dict[str, tuple[str, bool]], capsys: pytest.CaptureFixture[str]
):
    if len(outcomes) < len(ATTACKS):
        pytest.skip("only some of the attacks were asked for")
    there = [name for name, (plain, _) in outcomes.items() if plain == "succeeded"]
    here = [name for name, (_, won) in outcomes.items() if won]
    with capsys.disabled():
        print(
            f"\n{len(outcomes)} attacks: {len(here)} succeeded in ours, {len(there)}"
            " in the plain container."
        )
    assert not here
    assert len(there) >= 40
