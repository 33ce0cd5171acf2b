"""The pipe: real SSH into real containers that have no network, and real sockets at both ends."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import inspect
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from conftest import Cleanroom, load_example, output_of

MEGABYTE = 1 << 20

# ## What talks through the pipe
#
# Each of these runs in this process or, by its source, on the container's Python. The first line
# that a client sends names the function that serves it.


def read_all(near: socket.socket) -> bytes:
    """Read to the end."""
    data = bytearray()
    while chunk := near.recv(1 << 18):
        data += chunk
    return bytes(data)


def echo(near: socket.socket) -> None:
    """Send back all that comes, as it comes."""
    while data := near.recv(1 << 16):
        near.sendall(data)


def flood(near: socket.socket) -> None:
    """Send without end."""
    while True:
        near.sendall(bytes(MEGABYTE))


def listen_first(near: socket.socket) -> None:
    """Answer once the client has said all."""
    said = read_all(near)
    time.sleep(0.2)
    near.sendall(said[::-1] * 1000)


def speak_first(near: socket.socket) -> None:
    """Say all, listen on, and tell the next `heard` how much came."""
    near.sendall(b"bye")
    near.shutdown(socket.SHUT_WR)
    counts.append(len(read_all(near)))


def heard(near: socket.socket) -> None:
    """Say what the last `speak_first` heard after its own end."""
    near.sendall(f"{counts.pop() if counts else ''}".encode())


counts, held = list[int](), list[socket.socket]()


def hold(near: socket.socket) -> None:
    """Keep a connection on which nothing is said."""
    held.append(near)
    near.recv(1)


def cut_in_chunks(near: socket.socket) -> None:
    """Send an HTTP answer that lacks its last chunk."""
    near.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")


def cut_below_its_length(near: socket.socket) -> None:
    """Send an HTTP answer that is shorter than it says."""
    near.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")


def whole(near: socket.socket) -> None:
    """Send an HTTP answer that is complete."""
    near.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull")


def websocket(near: socket.socket) -> None:
    """Send back every message."""
    from websockets.server import ServerProtocol
    from websockets.sync.server import ServerConnection

    connection = ServerConnection(near, ServerProtocol(max_size=None))
    connection.handshake()
    for message in connection:
        connection.send(message)


def die(near: socket.socket) -> None:
    """End as a killed server ends: only ever in the container."""
    os._exit(9)


def serve(listener: socket.socket) -> None:
    """Serve each connection in a thread of its own, until the listener is shut down."""

    def answer(near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            while (head := near.recv(99, socket.MSG_PEEK)) and b"\n" not in head:
                time.sleep(0.01)
            if match := re.match(rb"GET /(\w+)", head):
                if match[1] != b"websocket":
                    while not near.recv(1 << 16).endswith(b"\r\n\r\n"):
                        pass
                globals()[match[1].decode()](near)
            elif head:
                name = near.recv(head.index(b"\n") + 1).decode().strip()
                globals()[name](near)

    with contextlib.suppress(OSError):
        while near := listener.accept()[0]:
            threading.Thread(target=answer, args=(near,), daemon=True).start()


def call(port: int, server: str) -> socket.socket:
    """Connect to a server, with a timeout that no good case reaches."""
    near = socket.create_connection(("127.0.0.1", port), timeout=30)
    near.sendall(f"{server}\n".encode())
    return near


def send_and_receive(port: int, size: int) -> bool:
    """Tell whether so many bytes come back as they went, while they go."""
    data = random.Random(size).randbytes(size)
    with call(port, "echo") as near:
        sending = threading.Thread(
            target=lambda: (near.sendall(data), near.shutdown(socket.SHUT_WR)), daemon=True
        )
        sending.start()
        received = read_all(near)
        sending.join()
    return received == data


def talk_at_once(port: int, connections: int) -> int:
    """Return how many of so many connections, all open at once, get their own bytes back."""
    all_open = threading.Barrier(connections)

    def talk(number: int) -> bool:
        data = random.Random(number).randbytes(200_000)
        with call(port, "echo") as near:
            near.sendall(data[:1])
            first = near.recv(1)
            all_open.wait(60)
            threading.Thread(
                target=lambda: (near.sendall(data[1:]), near.shutdown(socket.SHUT_WR)), daemon=True
            ).start()
            return first + read_all(near) == data

    with ThreadPoolExecutor(connections) as threads:
        return sum(threads.map(talk, range(connections)))


def wait_beside_a_slow_reader(port: int, seconds: float) -> float:
    """Return the longest that an echo took beside a connection that is flooded and never read."""
    slowest, end = 0.0, time.monotonic() + seconds
    with call(port, "flood"), call(port, "echo") as fast:
        while time.monotonic() < end:
            start, missing = time.monotonic(), 1000
            fast.sendall(b"x" * missing)
            while missing:
                missing -= len(fast.recv(missing))
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.005)
    return slowest


def say_all_then_listen(port: int) -> str:
    """Return the answer to what was said and ended."""
    with call(port, "listen_first") as near:
        near.sendall(b"abc")
        near.shutdown(socket.SHUT_WR)
        return read_all(near).decode()


def listen_then_say_all(port: int) -> list[str]:
    """Return what a server said before it ended, and how much it heard after that."""
    with call(port, "speak_first") as near:
        said = read_all(near).decode()
        time.sleep(0.2)
        near.sendall(b"x" * MEGABYTE)
        near.shutdown(socket.SHUT_WR)
        for _ in range(100):
            with call(port, "heard") as other:
                if count := read_all(other).decode():
                    return [said, count]
            time.sleep(0.1)
    return [said]


def fetch(port: int, path: str) -> str:
    """Return the body of an HTTP answer, or the name of what is wrong with it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except (http.client.HTTPException, OSError) as error:
        return type(error).__name__
    finally:
        connection.close()


def come_and_go(port: int, connections: int) -> int:
    """Open connections and end each in one of three ways; return how many worked."""
    worked = 0
    for number in range(connections):
        with call(port, "echo") as near:
            near.sendall(b"x")
            worked += near.recv(1) == b"x"
            if number % 3 == 0:  # a reset
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif number % 3 == 1:
                near.shutdown(socket.SHUT_WR)
                read_all(near)
    return worked


EITHER_END = """from __future__ import annotations
import contextlib, http.client, json, os, random, re, socket, struct, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
MEGABYTE, counts, held = 1 << 20, [], []
""" + "\n".join(
    inspect.getsource(function)
    for function in list(globals().values())
    if inspect.isfunction(function) and function.__module__ == __name__
)
SERVER = """
time.sleep({delay})
serve(socket.create_server(("127.0.0.1", int(sys.argv[1].partition("=")[2])), backlog=256))
"""

# ## Containers with a pipe


@pytest.fixture(scope="module")
def example() -> Any:
    """The example; only that its pipe runs a server of ours in place of the agent server."""
    module = load_example()
    module.SERVER = re.sub('-c "import .*main[(][)]"', "/tmp/server.py", module.SERVER)
    assert "/tmp/server.py" in module.SERVER
    return module


@pytest.fixture(scope="module")
def image(task_image: str, example: Any) -> str:
    """The sealed image."""
    return example.cleanroom_image()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Room:
    """A container without a network and the pipe to it, with the same servers at both ends."""

    def __init__(self, example: Any, image: str, scratch: Path, delay: float = 0):
        self.example, self.scratch = example, scratch
        self.started, self.container = time.monotonic(), start(image)
        self.inward = free_port()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{scratch}/relay")
        self.pipe: subprocess.Popen[str] | None = None
        self.execute("cat >/tmp/server.py", input=EITHER_END + SERVER.format(delay=delay))

    def lay(self) -> Room:
        """Lay the pipe, and answer at this end too."""
        arguments = self.container, self.inward, self.scratch, "key"
        self.pipe = self.example.open_pipe(*arguments)
        self.answer()
        return self

    def answer(self) -> None:
        """Answer at this end, as the relay does."""
        self.listener.listen(256)
        threading.Thread(target=serve, args=(self.listener,), daemon=True).start()

    def execute(self, command: str, user: str = "agent", **options: Any) -> str:
        """Run a command in the container."""
        docker = ["docker", "exec", "--interactive", f"--user={user}", self.container]
        options = {"input": "", "text": True, "stdout": -1, "timeout": 120, "check": True} | options
        return subprocess.run([*docker, "sh", "-c", command], **options).stdout

    def talk(self, way: str, client: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a client says: of one here, or of one in the container."""
        if way == "inward":
            return client(self.inward, *arguments)
        docker = ["docker", "exec", "--user=agent", self.container, self.example.AGENT_PYTHON]
        values = json.dumps([self.example.LLM_PORT, *arguments])
        end = f"\nprint(json.dumps({client.__name__}(*json.loads(sys.argv[1]))))"
        return json.loads(output_of(*docker, "-Ic", EITHER_END + end, values).splitlines()[-1])

    def process(self, name: str) -> psutil.Process:
        """Return the pipe's process of this name at this end."""
        assert self.pipe
        family = psutil.Process(self.pipe.pid).children(recursive=True)
        (found,) = [process for process in family if process.name() == name]
        return found

    def far_end(self, query: str) -> int:
        """Return a sum over the SSH server's processes in the container."""
        loop = f'for p in /proc/[0-9]*; do case "$(cat $p/comm)" in sshd*) {query}; esac; done'
        return sum(int(number) for number in self.execute(loop, "root").split())

    def close(self) -> None:
        """End both."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RD)
        self.listener.close()
        if self.pipe:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pipe.pid, signal.SIGKILL)
            self.pipe.communicate()
        subprocess.run(["docker", "rm", "--force", self.container], capture_output=True)


def start(image: str) -> str:
    """Start a container that has no network; returns its id."""
    return output_of("docker", "run", "--rm", "--detach", "--network=none", image).strip()


@contextlib.contextmanager
def opened(example: Any, image: str, delay: float = 0) -> Iterator[Room]:
    """Have a room of one's own; its pipe is not laid yet."""
    with tempfile.TemporaryDirectory() as scratch:
        room = Room(example, image, Path(scratch), delay)
        try:
            yield room
        finally:
            room.close()


@pytest.fixture(scope="module")
def room(example: Any, image: str) -> Iterator[Room]:
    """One room for all tests that leave it as it was."""
    with opened(example, image) as room:
        yield room.lay()


either_way = pytest.mark.parametrize("way", ["inward", "outward"])


def eventually(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ## How it ends
#
# All of these run at once and take their time: they are begun before the first test, and the
# container that waits for its pipe is looked at last.

FREEZE = 14
LAY = """import sys, time
from pathlib import Path
from conftest import load_example
module = load_example()
module.SERVER = sys.argv[4]
module.open_pipe(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), "key")
print("laid", flush=True)
time.sleep(600)
"""


def seconds_to_live(container: str, end: Callable[[], object]) -> float:
    """Return how long a container runs on after something is done to it."""
    with subprocess.Popen(["docker", "wait", container], stdout=subprocess.PIPE) as waiting:
        time.sleep(0.5)  # the engine is to know who waits before it has something to say
        assert waiting.poll() is None
        begun = time.monotonic()
        end()
        try:
            waiting.wait(90)
        finally:
            waiting.kill()
    return time.monotonic() - begun


def after_closing(room: Room) -> float:
    pipe = room.lay().pipe
    assert pipe
    return seconds_to_live(room.container, lambda: os.killpg(pipe.pid, signal.SIGTERM))


def after_killing_ssh(room: Room) -> float:
    return seconds_to_live(room.container, room.lay().process("ssh").kill)


def after_killing_docker(room: Room) -> float:
    return seconds_to_live(room.container, room.lay().process("docker").kill)


def after_killing_the_script(room: Room) -> float:
    arguments = room.container, f"{room.inward}", f"{room.scratch}", room.example.SERVER
    command = [sys.executable, "-c", LAY, *arguments]
    with subprocess.Popen(command, stdout=-1, text=True, cwd=Path(__file__).parent) as script:
        try:
            assert script.stdout
            assert script.stdout.readline() == "laid\n"
            lived = seconds_to_live(room.container, script.kill)
            eventually(lambda: not room.scratch.exists())  # it held the pipe's key
            return lived
        finally:
            script.kill()


def after_a_save(room: Room) -> float:
    """Freeze the container, as a save does, for longer than it would have lived on."""
    ssh = room.lay().process("ssh")

    def save() -> None:
        ssh.kill()
        output_of("docker", "pause", room.container)
        time.sleep(FREEZE)
        try:
            copied = output_of("docker", "cp", f"{room.container}:/tmp/server.py", "-")
        finally:
            output_of("docker", "unpause", room.container)
        assert EITHER_END in copied

    return seconds_to_live(room.container, save)


def without_a_pipe(room: Room) -> float:
    return seconds_to_live(room.container, lambda: None)


Lives = dict[str, "Future[float]"]


@pytest.fixture(scope="module")
def lives(example: Any, image: str) -> Iterator[Lives]:
    """How long containers run on after each of these."""
    cases = [
        without_a_pipe,
        after_killing_the_script,
        after_closing,
        after_killing_ssh,
        after_killing_docker,
        after_a_save,
    ]

    def live(case: Callable[[Room], float]) -> float:
        with opened(example, image) as room:
            return case(room)

    with ThreadPoolExecutor(len(cases)) as threads:
        yield {case.__name__: threads.submit(live, case) for case in cases}


@pytest.mark.parametrize(
    "end",
    ["after_closing", "after_killing_ssh", "after_killing_docker", "after_killing_the_script"],
)
def test_the_container_ends_soon_after_the_near_end_but_leaves_time_to_save(end: str, lives: Lives):
    assert 4 < lives[end].result(90) < 15


def test_a_save_that_takes_long_is_not_cut_off_by_the_containers_end(lives: Lives):
    assert FREEZE < lives["after_a_save"].result(90) < FREEZE + 10


def test_the_servers_end_ends_the_pipe_and_signals_the_script(example: Any, image: str):
    signals = list[int]()
    before = signal.signal(signal.SIGURG, lambda number, _: signals.append(number))
    try:
        with opened(example, image) as room:
            pipe = room.lay().pipe
            assert pipe
            assert not signals
            with call(room.inward, "die"):
                pipe.wait(5)
                eventually(lambda: signals, 1)
    finally:
        signal.signal(signal.SIGURG, before)


@either_way
def test_the_servers_end_ends_the_pipe_whatever_connection_is_still_open(
    way: str, example: Any, image: str
):
    held.clear()
    with opened(example, image) as room, contextlib.ExitStack() as stack:
        pipe = room.lay().pipe
        assert pipe
        if way == "inward":  # a client here that no longer reads what came for it
            stack.enter_context(call(room.inward, "flood"))
            time.sleep(1)
        else:  # a process of the agent's that outlives the server
            hold = f"\ncall({example.LLM_PORT}, 'hold').recv(1)"
            docker = ["docker", "exec", "--detach", "--user=agent", room.container]
            output_of(*docker, example.AGENT_PYTHON, "-Ic", EITHER_END + hold)
            eventually(lambda: held)
        with call(room.inward, "die"):
            pipe.wait(8)


def test_a_server_that_ends_at_once_is_told_within_seconds(example: Any, image: str):
    with ThreadPoolExecutor() as threads, opened(example, image) as room:
        room.execute("echo 'raise SystemExit(3)' >/tmp/server.py")
        with pytest.raises(SystemExit):
            threads.submit(room.lay).result(10)


def test_a_far_end_that_dies_ends_every_connection(example: Any, image: str):
    with opened(example, image) as room, contextlib.ExitStack() as stack:
        room.lay()
        ends = [stack.enter_context(call(room.inward, "echo")) for _ in range(10)]
        for near in ends:
            near.sendall(b"x")
            assert near.recv(1) == b"x"
        room.far_end("kill -KILL ${p#/proc/}")
        for near in ends:
            with contextlib.suppress(ConnectionError):
                assert read_all(near) == b""


# ## What goes through


@either_way
def test_a_hundred_megabytes_arrive_intact_both_ways_at_once(way: str, room: Room):
    assert room.talk(way, send_and_receive, 100 * MEGABYTE)


def test_a_hundred_connections_at_once_each_way_get_each_its_own_bytes(room: Room):
    with ThreadPoolExecutor() as threads:
        ways = [threads.submit(room.talk, w, talk_at_once, 100) for w in ("inward", "outward")]
        assert [way.result() for way in ways] == [100, 100]


@either_way
def test_a_slow_reader_delays_no_other_and_fills_no_memory(way: str, room: Room):
    def memory() -> list[int]:
        near = sum(room.process(name).memory_info().rss for name in ("ssh", "docker"))
        far = room.far_end("grep VmRSS $p/status | tr -cd '0-9\\n'") << 10
        assert near > MEGABYTE < far
        return [near, far]

    before = memory()
    with ThreadPoolExecutor() as threads:
        slowest = threads.submit(room.talk, way, wait_beside_a_slow_reader, 4)
        while not slowest.done():
            assert all(
                now - then < 50 * MEGABYTE for now, then in zip(memory(), before, strict=True)
            )
            time.sleep(0.2)
    assert slowest.result() < 1


@either_way
def test_a_client_that_has_said_all_still_gets_its_answer(way: str, room: Room):
    assert room.talk(way, say_all_then_listen) == "cba" * 1000


@either_way
def test_a_server_that_has_said_all_still_gets_the_rest(way: str, room: Room):
    assert room.talk(way, listen_then_say_all) == ["bye", f"{MEGABYTE}"]


@either_way
def test_an_http_answer_that_is_cut_off_is_an_error(way: str, room: Room):
    assert room.talk(way, fetch, "/whole") == "full"
    assert room.talk(way, fetch, "/cut_in_chunks") == "IncompleteRead"
    assert room.talk(way, fetch, "/cut_below_its_length") == "IncompleteRead"


@either_way
def test_ended_connections_leave_no_socket_behind(way: str, room: Room):
    def held() -> list[int]:
        return [room.process("ssh").num_fds(), room.far_end("ls $p/fd | wc -l")]

    room.talk(way, come_and_go, 3)
    time.sleep(0.5)
    before = held()
    assert room.talk(way, come_and_go, 60) == 60
    eventually(lambda: all(now <= then + 6 for now, then in zip(held(), before, strict=True)))


def test_a_websocket_works(room: Room):
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{room.inward}/websocket", max_size=None) as client:
        for message in ("hello", b"\x00" * 3_000_000, "\u00e9" * 70_000, ""):
            client.send(message)
            assert client.recv(timeout=20) == message
        assert client.ping().wait(10)


def test_both_servers_may_come_up_after_the_pipe(example: Any, image: str):
    with opened(example, image, delay=2) as room:
        begun = time.monotonic()
        room.lay()
        assert time.monotonic() - begun > 2
        assert room.talk("inward", fetch, "/whole") == "full"
        assert room.talk("outward", fetch, "/whole") == "full"


def test_the_users_shell_plays_no_part(example: Any, image: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SHELL", "/bin/false")
    with opened(example, image) as room:
        assert room.lay().talk("inward", fetch, "/whole") == "full"


def test_an_image_whose_root_cannot_log_in_gets_a_pipe_too(example: Any, image: str):
    with opened(example, image) as room:
        room.execute("sed -i 's/^root:[^:]*/root:!locked/' /etc/shadow", "root")
        assert room.lay().talk("inward", fetch, "/whole") == "full"


# ## Through the cleanroom


def test_the_server_is_reached_through_a_container_without_a_network(cleanroom: Cleanroom):
    assert cleanroom.root("ls /sys/class/net").stdout.split() == ["lo"]
    with urlopen(f"{cleanroom.workspace.host}/health", timeout=10) as answer:
        assert answer.status == 200


def test_a_file_goes_into_the_container_and_comes_out_as_it_was(
    cleanroom: Cleanroom, tmp_path: Path
):
    data = random.Random(2).randbytes(30 * MEGABYTE)
    (tmp_path / "in").write_bytes(data)
    assert cleanroom.workspace.file_upload(f"{tmp_path / 'in'}", "/tmp/there").success
    digest = hashlib.sha256(data).hexdigest()
    assert cleanroom.root("sha256sum /tmp/there").stdout.split()[0] == digest
    assert cleanroom.workspace.file_download("/tmp/there", f"{tmp_path / 'out'}").success
    assert (tmp_path / "out").read_bytes() == data
    cleanroom.root("rm /tmp/there")


def test_the_relay_is_reached_from_a_container_without_a_network(cleanroom: Cleanroom):
    before = len(cleanroom.llm.requests)
    body = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}'
    port, path = cleanroom.module.LLM_PORT, cleanroom.relay.path
    ask = (
        "import sys, urllib.request as r; print(r.urlopen(r.Request("
        f"'http://127.0.0.1:{port}{path}/chat/completions', data=sys.argv[1].encode(), "
        f"headers={{'Authorization': 'Bearer {cleanroom.relay.placeholder}'}})).status)"
    )
    result = cleanroom.shell(f"/agent-server/.venv/bin/python -c \"{ask}\" '{body}'")
    assert result.stdout.strip() == "200", result
    assert len(cleanroom.llm.requests) == before + 1


# ## What took its time


def test_a_container_to_which_no_pipe_is_laid_ends_by_itself(lives: Lives):
    assert 10 < lives["without_a_pipe"].result(90) < 75


def test_a_container_with_a_pipe_runs_on(lives: Lives, room: Room):
    waited = lives["without_a_pipe"].result(90) + 5
    time.sleep(max(0, room.started + waited - time.monotonic()))
    assert room.talk("inward", fetch, "/whole") == "full"
