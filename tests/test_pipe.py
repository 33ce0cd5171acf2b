"""The pipe: the only way into a container without a network, and the only way out."""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import Cleanroom, load_example, output_of, wait_until
from scripted_llm import Request, Response, json_response


SERVER_PYTHON = "/agent-server/.venv/bin/python"
MEBIBYTE = 1 << 20


def can_connect(port: int) -> bool:
    """Tell whether somebody listens on a port of this host's loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


# ## How it ends
#
# Containers with a pipe and no agent server. All of them take their time, at once and
# beside the other tests.

SAVE = 14  # seconds, more than a container runs on without its pipe
FORK = "while :; do sleep 300 & done"


class Piped:
    """A container without a network, and the pipe to it; nobody accepts at its end."""

    def __init__(self, image: str, scratch: Path):
        docker_run = ["docker", "run", "--rm", "--detach", "--pids-limit=100"]
        self.container = output_of(*docker_run, "--network=none", image).strip()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.relay = socket.socket(socket.AF_UNIX)
        self.relay.bind(f"{scratch}/relay")
        self.relay.listen(4096)
        lay_pipe = load_example().lay_pipe
        self.pipe = lay_pipe(self.container, port, scratch / "relay", scratch)
        wait_until(lambda: can_connect(port))

    def close(self) -> None:
        """End both."""
        self.pipe.end()
        self.relay.close()
        subprocess.run(["docker", "rm", "-f", self.container], capture_output=True)

    def detached(self, *command: str) -> None:
        """Start a command as the agent."""
        docker_exec = ["docker", "exec", "--detach", "--user=agent", self.container]
        output_of(*docker_exec, *command)

    def ssh(self) -> psutil.Process:
        """Return the SSH client, which is the pipe's process."""
        return psutil.Process(self.pipe._process.pid)

    def docker_exec(self) -> psutil.Process:
        """Return the `docker exec` that it has started."""
        (child,) = self.ssh().children()
        return child

    def seconds_to_live(self, end: Callable[[], object]) -> float:
        """Return how long the container runs on after something is done."""
        command = ["docker", "wait", self.container]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as waiting:
            time.sleep(0.5)  # the engine is to know who waits
            assert waiting.poll() is None
            begun = time.monotonic()
            try:
                end()
                waiting.wait(60)
            finally:
                waiting.kill()
        return time.monotonic() - begun


def the_script_ends_it(piped: Piped) -> None:
    """End the pipe as the script does."""
    piped.pipe.end()


def ssh_is_killed(piped: Piped) -> None:
    """Kill the SSH client."""
    piped.ssh().kill()


def docker_exec_is_killed(piped: Piped) -> None:
    """Kill the `docker exec`."""
    piped.docker_exec().kill()


def ssh_is_killed_and_the_agent_forks(piped: Piped) -> None:
    """Kill the SSH client where no process can be started in the container."""
    piped.detached("sh", "-c", FORK)
    time.sleep(2)
    piped.ssh().kill()


def ssh_is_killed_and_the_work_saved(piped: Piped) -> None:
    """Freeze the container, as a save does, for longer than it would have run on."""
    piped.ssh().kill()
    time.sleep(1)  # it is noticed there before all is frozen
    output_of("docker", "pause", piped.container)
    time.sleep(SAVE)
    output_of("docker", "unpause", piped.container)


ENDS = [
    the_script_ends_it,
    ssh_is_killed,
    docker_exec_is_killed,
    ssh_is_killed_and_the_agent_forks,
    ssh_is_killed_and_the_work_saved,
]


@pytest.fixture(scope="module")
def image(task_image: str) -> str:
    """The sealed image."""
    example = load_example()
    return example.cleanroom_image(example.inspect_task_image(task_image), None)


@contextlib.contextmanager
def opened(image: str) -> Iterator[Piped]:
    """Have a container with a pipe."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.closing(Piped(image, Path(scratch))) as piped,
    ):
        yield piped


@pytest.fixture(scope="module", autouse=True)
def lives(image: str) -> Iterator[dict[str, Future[float]]]:
    """How long containers run on after each of these."""

    def live(end: Callable[[Piped], None]) -> float:
        with opened(image) as piped:
            return piped.seconds_to_live(lambda: end(piped))

    with (
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(len(ENDS)) as threads,
    ):
        patch.setenv("SHELL", "/bin/false")  # the user's shell plays no part
        yield {end.__name__: threads.submit(live, end) for end in ENDS}


# ## Through it


def test_no_port_is_published(cleanroom: Cleanroom):
    assert output_of("docker", "port", cleanroom.container) == ""
    assert cleanroom.shell("ls /sys/class/net").stdout.split() == ["lo"]


def test_the_server_is_reached_only_with_the_session_key(cleanroom: Cleanroom):
    workspace = cleanroom.workspace
    assert httpx.get(f"{workspace.host}/health", trust_env=False).is_success
    for key, status in ("", 401), ("x" * 64, 401), (workspace.api_key, 200):
        answer = httpx.get(
            f"{workspace.host}/api/bash/bash_events/search",
            headers={"X-Session-API-Key": key},
            trust_env=False,
        )
        assert answer.status_code == status


# For the agent's shell: calls with nonces, many at once, and what is wrong with answers.
CALL = r"""
import json, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor

def call(nonce):
    body = {"model": "any", "messages": [{"role": "user", "content": nonce}]}
    url, headers = "http://127.0.0.1:4999/chat/completions", {"Content-Type": "text/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = json.load(answer)["choices"][0]["message"]["content"]
    return [] if said == nonce * 2000 else [f"{nonce} got {said[:80]}"]

with ThreadPoolExecutor(16) as threads:
    print(json.dumps(sum(threads.map(call, sys.argv[1:]), [])))
"""


def call_at_once(cleanroom: Cleanroom, count: int) -> list[str]:
    """Have the agent's shell make so many calls; returns their nonces."""
    nonces = [secrets.token_hex(16) for _ in range(count)]
    result = cleanroom.shell(shlex.join([SERVER_PYTHON, "-c", CALL, *nonces]), 120)
    assert json.loads(result.stdout or "null") == [], result
    return nonces


@pytest.fixture
def echoed(cleanroom: Cleanroom) -> Iterator[Counter[str]]:
    """What was said to the LLM, how often; it says the same, 2,000 times."""
    said = Counter[str]()

    def answer(request: Request) -> Response:
        text = request.body["messages"][0]["content"]
        said[text] += 1
        message = {"role": "assistant", "content": text * 2000}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        completion = {"id": "x", "object": "chat.completion", "created": 1}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return json_response(
            completion | {"model": "x", "choices": [choice], "usage": usage}
        )

    before, cleanroom.llm.respond = cleanroom.llm.respond, answer
    yield said
    cleanroom.llm.respond = before


def test_each_of_many_calls_is_made_once_and_gets_its_own_answer_in_little_memory(
    cleanroom: Cleanroom, echoed: Counter[str]
):
    call_at_once(cleanroom, 16)
    echoed.clear()
    before = psutil.Process().memory_info().rss  # the relay is in this process
    nonces = call_at_once(cleanroom, 100)
    assert psutil.Process().memory_info().rss - before < 40 * MEBIBYTE
    assert echoed == Counter(nonces)


# For the agent's Python.
OPEN_CONNECTIONS = """
import socket, time
held = [socket.socket() for _ in range(2000)]
for each in held:
    each.setblocking(False)
    each.connect_ex(("127.0.0.1", 4999))
time.sleep(7)
"""


def test_the_agents_connections_are_bounded_where_they_begin(image: str):
    with opened(image) as piped:
        piped.detached(SERVER_PYTHON, "-c", OPEN_CONNECTIONS)
        wait_until(lambda: piped.ssh().num_fds() > 300)
        time.sleep(2)
        assert piped.ssh().num_fds() <= 400


def answers(cleanroom: Cleanroom) -> bool:
    """Tell whether the agent server answers."""
    with contextlib.suppress(httpx.TransportError):
        return cleanroom.shell("echo on").stdout == "on\n"
    return False


def test_two_thousand_open_connections_do_the_script_no_harm(
    cleanroom: Cleanroom, echoed: Counter[str]
):
    before = psutil.Process().num_fds()
    command = ["docker", "exec", "--detach", "--user=agent", cleanroom.container]
    output_of(*command, SERVER_PYTHON, "-c", OPEN_CONNECTIONS)
    wait_until(lambda: psutil.Process().num_fds() - before > 200)
    # While they come faster than the relay closes them, the SDK's may be refused, too.
    wait_until(lambda: answers(cleanroom))
    call_at_once(cleanroom, 1)
    assert psutil.Process().num_fds() - before < 400
    wait_until(lambda: psutil.Process().num_fds() - before < 20, 20)


def test_its_port_is_none_that_the_system_gives_to_clients(cleanroom: Cleanroom):
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    first, last = map(int, limits.split())
    assert not first <= cleanroom.workspace.host_port <= last


# ## What ends


@pytest.fixture
def signals(lives: dict[str, Future[float]]) -> Iterator[list[int]]:
    """The signals that say that something has ended, once nothing else may."""
    for life in lives.values():
        life.exception()
    received = list[int]()
    before = signal.signal(signal.SIGURG, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGURG, before)


def test_a_pipe_or_server_that_ends_is_noticed_at_once_with_its_last_words(
    signals: list[int],
):
    say = "read line; head -c 300M /dev/zero | tr '\\0' x; printf '\\nwhy\\033[2J'; exit 3"
    before = psutil.Process().memory_info().rss
    companion = load_example().Companion("The server", ["sh", "-c", say])
    wait_until(lambda: signals)
    assert companion.ended
    assert companion.last_words().endswith("x why[2J (exit status 3)")
    assert len(companion.last_words()) < 400
    assert psutil.Process().memory_info().rss - before < 10 * MEBIBYTE


def test_a_pipe_that_the_script_ends_is_no_surprise(signals: list[int]):
    companion = load_example().Companion("The pipe", ["sleep", "60"])
    companion.end()
    wait_until(lambda: companion.ended)
    assert not signals


# ## What took its time


@pytest.mark.parametrize("end", [end.__name__ for end in ENDS[:4]])
def test_the_container_ends_soon_after_the_pipe_but_leaves_time_to_save(
    end: str, lives: dict[str, Future[float]]
):
    assert 4 < lives[end].result(90) < 15


def test_a_save_that_takes_long_is_not_cut_off_by_the_containers_end(
    lives: dict[str, Future[float]],
):
    lived = lives["ssh_is_killed_and_the_work_saved"].result(90)
    # Frozen while it is saved, it notices afterwards, and has its ten seconds then.
    assert SAVE < lived < SAVE + 15
