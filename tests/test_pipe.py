"""The pipe's functions at both ends: real sockets, and a far end in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import execnet
import psutil
import pytest
from conftest import Cleanroom, load_example

MEGABYTE = 1 << 20
# What container_end() does, but without a container to stop.
FAR_END = """
import contextlib, os, queue, signal, socket, struct, threading
listener = socket.create_server(("127.0.0.1", 0), backlog=256)
channel.send((os.getpid(), listener.getsockname()[1]))
serve(channel, listener, lambda: socket.create_connection(("127.0.0.1", server_port)))
os._exit(0)
"""
# A near end in a process of its own, to be killed: prints the far end's process id.
NEAR_END = """
import execnet, sys, time
far = execnet.Group().makegateway(f"popen//python={sys.executable}")
control = far.remote_exec(sys.argv[1])
print(control.receive()[0], flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def example() -> Any:
    return load_example()


def far_end(example: Any, server_port: int) -> str:
    """Return the source that the far end runs."""
    functions = [inspect.getsource(function) for function in (example.carry, example.serve)]
    head = f"from __future__ import annotations\nserver_port = {server_port}\n"
    return head + "\n".join(functions) + FAR_END


Handler = Callable[[socket.socket], None]


@contextlib.contextmanager
def serving(handle: Handler, port: int = 0) -> Iterator[int]:
    """Serve every connection in a thread of its own; yields the port."""
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:

        def run(near: socket.socket) -> None:
            with near, contextlib.suppress(OSError):
                handle(near)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while near := listener.accept()[0]:
                    threading.Thread(target=run, args=(near,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RD)


class Pipe:
    """Both ends; `inward` leads to the far end's server, `outward` to the near end's."""

    def __init__(self, example: Any, server_port: int, near_port: int):
        self.group = execnet.Group()
        far = self.group.makegateway(f"popen//python={sys.executable}")
        self.control = far.remote_exec(far_end(example, server_port))
        self.pid, self.outward = self.control.receive(timeout=20)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.inward = self.listener.getsockname()[1]
        self.near_end = threading.Thread(
            target=example.serve,
            args=(
                self.control,
                self.listener,
                lambda: socket.create_connection(("127.0.0.1", near_port)),
            ),
            daemon=True,
        )
        self.near_end.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RD)
        self.listener.close()
        self.group.terminate(timeout=5)

    def connect(self, way: str) -> socket.socket:
        """Connect through the pipe, with a timeout that no good case reaches."""
        port = self.inward if way == "inward" else self.outward
        return socket.create_connection(("127.0.0.1", port), timeout=30)


Lay = Callable[[Handler], Pipe]


@pytest.fixture
def lay(example: Any) -> Iterator[Lay]:
    """`lay(handle)` lays a pipe whose servers at either end do the same."""
    with contextlib.ExitStack() as stack:

        def lay(handle: Handler) -> Pipe:
            ports = [stack.enter_context(serving(handle)) for _ in range(2)]
            pipe = Pipe(example, *ports)
            stack.callback(pipe.close)
            return pipe

        yield lay


either_way = pytest.mark.parametrize("way", ["inward", "outward"])


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


def eventually(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@either_way
def test_a_hundred_megabytes_arrive_intact_both_ways_at_once(way: str, lay: Lay):
    data = random.Random(1).randbytes(100 * MEGABYTE)
    received = bytearray()
    with lay(echo).connect(way) as near:
        sending = threading.Thread(
            target=lambda: (near.sendall(data), near.shutdown(socket.SHUT_WR)), daemon=True
        )
        sending.start()
        while chunk := near.recv(1 << 18):
            received += chunk
        sending.join()
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_a_hundred_connections_at_once_get_each_its_own_bytes(lay: Lay):
    pipe = lay(echo)
    at_once = threading.Barrier(100)

    def talk(number: int) -> bool:
        data = random.Random(number).randbytes(200_000)
        with pipe.connect("inward" if number % 2 else "outward") as near:
            at_once.wait(30)
            threading.Thread(
                target=lambda: (near.sendall(data), near.shutdown(socket.SHUT_WR)), daemon=True
            ).start()
            return read_all(near) == data

    with ThreadPoolExecutor(100) as threads:
        assert all(threads.map(talk, range(100)))


@either_way
def test_a_slow_reader_delays_no_other_and_fills_no_memory(way: str, lay: Lay):
    chunk = bytes(MEGABYTE)

    def flood_or_echo(near: socket.socket) -> None:
        if near.recv(1) == b"f":
            while True:
                near.sendall(chunk)
        echo(near)

    pipe = lay(flood_or_echo)
    processes = [psutil.Process(), psutil.Process(pipe.pid)]
    with pipe.connect(way) as slow, pipe.connect(way) as fast:
        fast.sendall(b"e")
        before = [process.memory_info().rss for process in processes]
        slow.sendall(b"f")  # and never reads
        slowest = 0.0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            start = time.monotonic()
            fast.sendall(b"x" * 1000)
            got = 0
            while got < 1000:
                got += len(fast.recv(1000 - got))
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.005)
        after = [process.memory_info().rss for process in processes]
    assert slowest < 1
    assert all(now - then < 50 * MEGABYTE for now, then in zip(after, before, strict=True))


@either_way
def test_a_client_that_has_said_all_still_gets_its_answer(way: str, lay: Lay):
    def answer(near: socket.socket) -> None:
        said = read_all(near)
        time.sleep(0.2)
        near.sendall(said[::-1] * 1000)

    with lay(answer).connect(way) as near:
        near.sendall(b"abc")
        near.shutdown(socket.SHUT_WR)
        assert read_all(near) == b"cba" * 1000


@either_way
def test_a_server_that_has_said_all_still_gets_the_rest(way: str, lay: Lay):
    heard = list[bytes]()

    def answer(near: socket.socket) -> None:
        near.sendall(b"bye")
        near.shutdown(socket.SHUT_WR)
        heard.append(read_all(near))

    with lay(answer).connect(way) as near:
        assert read_all(near) == b"bye"
        time.sleep(0.2)
        near.sendall(b"x" * MEGABYTE)
        near.shutdown(socket.SHUT_WR)
        eventually(lambda: heard)
    assert heard == [b"x" * MEGABYTE]


def reset(near: socket.socket) -> None:
    """Close a connection so that the other side sees a reset."""
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.close()


@either_way
def test_a_servers_reset_is_no_clean_end(way: str, lay: Lay):
    def half(near: socket.socket) -> None:
        near.recv(1)
        near.sendall(b"half an ans")
        time.sleep(0.3)
        reset(near)

    with lay(half).connect(way) as near:
        near.sendall(b"?")
        with pytest.raises(ConnectionResetError):
            read_all(near)


@either_way
def test_a_clients_reset_is_no_clean_end(way: str, lay: Lay):
    ends = list[str]()

    def listen(near: socket.socket) -> None:
        try:
            read_all(near)
            ends.append("clean")
        except ConnectionResetError:
            ends.append("reset")

    with lay(listen).connect(way) as near:
        near.sendall(b"half a quest")
        time.sleep(0.3)
        reset(near)
        eventually(lambda: ends)
    assert ends == ["reset"]


@either_way
def test_ended_connections_leave_no_thread_and_no_socket(way: str, lay: Lay):
    pipe = lay(echo)
    processes = [psutil.Process(), psutil.Process(pipe.pid)]

    def held() -> list[int]:
        return [process.num_threads() + process.num_fds() for process in processes]

    with pipe.connect(way) as near:
        near.sendall(b"x")
        near.recv(1)
    time.sleep(0.5)
    before = held()
    for number in range(60):
        with pipe.connect(way) as near:
            near.sendall(b"x")
            assert near.recv(1) == b"x"
            if number % 3 == 0:
                reset(near)
            elif number % 3 == 1:
                near.shutdown(socket.SHUT_WR)
                assert read_all(near) == b""
    eventually(lambda: all(now <= then + 6 for now, then in zip(held(), before, strict=True)))


def test_a_websocket_works(lay: Lay):
    from websockets.sync.client import connect
    from websockets.sync.server import ServerConnection, serve

    def talk(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    def relay_to(port: int) -> Handler:
        def pass_on(near: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", port)) as far:
                threading.Thread(target=pump, args=(near, far), daemon=True).start()
                pump(far, near)

        return pass_on

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    with serve(talk, "127.0.0.1", 0, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pipe = lay(relay_to(server.socket.getsockname()[1]))
        with connect(f"ws://127.0.0.1:{pipe.inward}", max_size=None) as client:
            for message in ("hello", b"\x00" * 3_000_000, "\u00e9" * 70_000, ""):
                client.send(message)
                assert client.recv(timeout=20) == message
            assert client.ping().wait(10)
        server.shutdown()


def test_a_server_may_come_up_after_the_pipe(example: Any):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    pipe = Pipe(example, port, port)
    try:
        for way in ("inward", "outward"):
            with pipe.connect(way) as near, pytest.raises(ConnectionError):
                assert read_all(near) is None, "an end that looks like an empty answer"
        with serving(echo, port):
            for way in ("inward", "outward"):
                with pipe.connect(way) as near:
                    near.sendall(b"now")
                    assert near.recv(3) == b"now"
    finally:
        pipe.close()


def test_a_far_end_that_dies_breaks_every_connection(lay: Lay):
    pipe = lay(echo)
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(pipe.connect("inward")) for _ in range(10)]
        for near in ends:
            near.sendall(b"x")
            assert near.recv(1) == b"x"
        os.kill(pipe.pid, signal.SIGKILL)
        for near in ends:
            with pytest.raises(ConnectionError):
                assert read_all(near) is None, "an end that looks clean"
    pipe.near_end.join(10)
    assert not pipe.near_end.is_alive()


def test_a_far_end_ends_with_the_near_end(lay: Lay):
    pipe = lay(echo)
    with pipe.connect("outward") as near:
        near.sendall(b"x")
        assert near.recv(1) == b"x"
        pipe.close()
        eventually(lambda: not is_running(pipe.pid))


def test_a_far_end_ends_when_the_near_end_is_killed(example: Any):
    command = [sys.executable, "-c", NEAR_END, far_end(example, 1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as near:
        assert near.stdout
        pid = int(near.stdout.readline())
        assert is_running(pid)
        near.kill()
    eventually(lambda: not is_running(pid))


# ## Through a container that has no network


def test_the_server_is_reached_through_a_container_without_a_network(cleanroom: Cleanroom):
    from urllib.request import urlopen

    details = cleanroom.root("ls /sys/class/net").stdout.split()
    assert details == ["lo"]
    with urlopen(f"{cleanroom.workspace.host}/health", timeout=10) as answer:
        assert answer.status == 200


def test_a_file_goes_into_the_container_and_comes_out_as_it_was(
    cleanroom: Cleanroom, tmp_path: Any
):
    data = random.Random(2).randbytes(30 * MEGABYTE)
    (tmp_path / "in").write_bytes(data)
    assert cleanroom.workspace.file_upload(f"{tmp_path / 'in'}", "/tmp/there").success
    assert cleanroom.root("sha256sum /tmp/there").stdout.split()[0] == (
        hashlib.sha256(data).hexdigest()
    )
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
