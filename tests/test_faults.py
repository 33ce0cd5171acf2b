"""What goes wrong ends the run soon, is told in a sentence, and costs none of the work.

Each fault is one run of the example, in a process of its own that has imported it
already, and all tests look at that run.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import (
    TASK_IMAGE,
    image_unbuilt,
    instance_id,
    missing,
    output_of,
)
from runs import Run, members, start
from scripted_llm import Request, Response, ScriptedLLM, Step, json_response


INSTANCE = instance_id(TASK_IMAGE)
OLDER = b"an older submission"
# Seconds after which what is endless here ends all the same, should nobody end it.
ENDLESS = 200


def shell(command: str) -> Step:
    """Return the step of an agent that runs a command."""
    return "terminal", {"command": command}


# Every agent works first, so that each run can tell whether that was saved.
WORK = shell("cd /workspace && mkdir src && echo mine > src/work.txt")
BUSY = shell(f"sleep {ENDLESS}")
SSH = ["ssh", "-F"]  # and the file that lies beside the pipe's key


Strike = Callable[["Play"], object]
Answer = Callable[["Play"], Response | None]


@dataclass
class Fault:
    """What goes wrong once the agent has worked, and what must come of it."""

    status: int | None = 1  # None: the agent may or may not get over it
    cause: str = ""  # what is said of it, as a pattern
    _: KW_ONLY
    steps: list[Step] = field(default_factory=list[Step])  # the agent's, after its work
    strike: Strike | None = None  # done once, after its work
    answer: Answer | None = None  # the LLM's from then on
    at: tuple[str, ...] = ()  # strike at the script's command of these words instead
    around: Callable[[Play], AbstractContextManager[dict[str, str]]] | None = None
    settings: dict[str, str] = field(default_factory=dict[str, str])
    within: float = 30  # seconds from the fault to the script's end
    saved: bool = True
    begun: bool = True  # and so it says what it cost
    outlasted: float = 20  # seconds after which nothing is left
    abrupt: bool = False  # nobody is there to remove the temp folders


class Play(Run):
    """One run of the example with one fault, and what was seen of it."""

    def __init__(self, fault: Fault, folder: Path):
        super().__init__(folder)
        self.fault, self.folder = fault, folder
        self.llm = ScriptedLLM([WORK, *fault.steps], respond=self.respond)
        self.containers_seen = set[str]()  # ids or names
        self.folders = set[Path]()  # those with the pipe's key and the relay's socket
        self.began = self.ended = self.outlasted = 0.0  # on the clock, on it, seconds
        self.peak = self.signals = self.status = 0
        self.engine: Engine | None = None
        self.struck, self.over = threading.Event(), threading.Event()
        self.stdout, self.stderr, self.remains = "", "", list[str]()

    def play(self) -> Play:
        """Run it to its end, and see what outlasts it."""
        older = self.output / INSTANCE / "submission.tar.gz"
        older.parent.mkdir(parents=True)
        older.write_bytes(OLDER)
        settings = dict[str, str]()
        try:
            with self.llm, contextlib.ExitStack() as exits:
                settings |= self.llm.settings | self.fault.settings
                if self.fault.around:
                    settings |= exits.enter_context(self.fault.around(self))
                if self.fault.at:
                    self.in_background(self.strike_at_the_command)
                self.run_script(self.variables(**settings))
                self.see_the_end()
        finally:
            self.over.set()
            self.struck.set()
        return self

    def run_script(self, environment: dict[str, str]) -> None:
        """Run the script, and see when it ends and how much memory it takes."""
        stdout, stderr = self.folder / "stdout", self.folder / "stderr"
        script = start(environment, stdout, stderr)
        self.process = psutil.Process(script.pid)
        status = Path(f"/proc/{self.process.pid}/status")
        # Twice the time that it may take to where things go wrong, and to the end.
        deadline = time.monotonic() + 120 + 2 * self.fault.within
        while script.exitcode is None:
            if time.monotonic() > deadline:
                os.killpg(self.process.pid, signal.SIGABRT)
            with contextlib.suppress(OSError):
                peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
                self.peak = int(peak[1]) << 10 if peak else self.peak
            time.sleep(0.05)
        self.ended, self.status = time.monotonic(), script.exitcode
        self.over.set()
        self.stdout, self.stderr = stdout.read_text(), stderr.read_text()

    def respond(self, call: Request) -> Response | None:
        """Let the agent work, and then let the fault have its way."""
        worked = len(self.llm.script) <= len(self.fault.steps)
        if not worked or not call.body.get("tools"):
            return None
        if not self.struck.is_set() and not self.fault.at:
            self.note_strike()
            if self.fault.strike:
                self.fault.strike(self)
        return self.fault.answer(self) if self.fault.answer else None

    def strike_at_the_command(self) -> None:
        """Wait for the script's command, and strike."""
        words = {*self.fault.at}
        while not self.over.wait(0.02):
            for _, command in self.children():
                if words <= {*command}:
                    if "--name" in command:
                        name = command[command.index("--name") + 1]
                        self.containers_seen.add(name)
                    self.note_strike()
                    assert self.fault.strike
                    self.fault.strike(self)
                    return

    def note_strike(self) -> None:
        """Count the seconds from now on, and note what the script has of this host."""
        self.containers_seen |= self.containers()
        sockets = self.process.net_connections("unix") if self.process else []
        files = [f"{each.laddr}" for each in sockets]
        files += [words[2] for _, words in self.children() if words[:2] == SSH]
        self.folders |= {Path(file).parent for file in files if file}
        self.began = time.monotonic()
        self.struck.set()

    def in_background(self, act: Callable[[], object], after: float = 0) -> None:
        """Do something in a while, unless the run is over by then."""

        def wait() -> None:
            if not self.over.wait(after):
                act()

        threading.Thread(target=wait, daemon=True).start()

    def see_the_end(self) -> None:
        """See what outlasts the script, and how long; what seems to stay is ended."""
        deadline = self.ended + self.fault.outlasted + 10
        looked = time.monotonic()  # the look itself takes its time where much runs
        while (left := self.left()) and looked < deadline:
            time.sleep(0.3)
            looked = time.monotonic()
        self.outlasted, self.remains = looked - self.ended, left
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for container in self.containers_seen if left else ():
            subprocess.run(["docker", "rm", "--force", container], capture_output=True)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def container(self) -> str:
        """The container's id."""
        (container,) = self.containers_seen
        return container

    def children(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        """Yield the script's processes and their commands."""
        with contextlib.suppress(psutil.Error):
            for child in self.process.children(recursive=True) if self.process else ():
                with contextlib.suppress(psutil.Error):
                    yield child, child.cmdline()

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the run's processes, whose they are now: its folder is inherited."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                folder = process.environ().get("PROGRAMBENCH_OUTPUT_DIR")
                if folder == f"{self.output}":
                    yield process

    def left(self) -> list[str]:
        """Return what is there of the run."""
        fields = "--format={{.ID}} {{.Names}}"
        listed = output_of("docker", "ps", "--all", "--no-trunc", fields)
        found = [name for name in self.containers_seen if name in listed]
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found.append(f"{process.pid}: {' '.join(process.cmdline())[:200]}")
        # Where the output folder takes no files, the submission's is named.
        named = {path.parent.parent.name for path in self.printed()}
        found += {*self.leftovers()} - named if not self.fault.abrupt else []
        for folder in self.folders:
            # A socket may stay where nobody is there to remove it, a key never.
            if folder.exists() and not (self.fault.abrupt and "relay-" in folder.name):
                found.append(f"{folder}")
        return found

    def printed(self) -> list[Path]:
        """Return the submissions that the script names."""
        return [Path(p) for p in re.findall("^SUBMISSION: (.+)$", self.stdout, re.M)]

    def causes(self) -> list[str]:
        """Return the lines that say why the run ended early."""
        return re.findall("^The run ended early: (.+)$", self.stderr, re.M)

    @functools.cached_property
    def archives(self) -> dict[Path, dict[str, int]]:
        """The names and sizes in each archive of the run's, read to its end."""
        archives = dict[Path, dict[str, int]]()
        saved = {*self.output.glob("*/*.tar.gz"), *self.output.glob("*/older/*.tar.gz")}
        for path in {*saved, *self.printed()}:
            if path.read_bytes() != OLDER:
                archives[path] = members(path)
        return archives

    def saved(self) -> dict[str, int]:
        """Return the names and sizes in the archive that the script names."""
        (path,) = self.printed()
        return self.archives[path]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the objects in a file of lines of JSON in the output folder."""
        text = (self.output / INSTANCE / name).read_text()
        return [json.loads(line) for line in text.splitlines()]


# ## The LLM's faults


def refuse(status: int) -> Callable[[], Response]:
    """Refuse as providers do."""
    error = {"message": f"Not now: {status}."}
    return lambda: json_response({"error": error}, status)


def answer_garbage() -> Response:
    """Answer what is no answer of an LLM's, though it says so."""
    return Response(headers={"Content-Type": "application/json"}, body=b"<html>{")


def hang_up() -> Response:
    """Close the connection without an answer."""
    raise ConnectionError


def answer_half() -> Response:
    """Send the beginning of an answer, and close the connection."""

    def half() -> Iterator[bytes]:
        yield b'{"id": "x", "object": "chat.comp'
        raise ConnectionError

    return Response(headers={"Content-Type": "application/json"}, body=half())


# Where a connection is closed, the relay's HTTP client asks once more by itself.
CLOSED = [answer_half, answer_half, hang_up, hang_up]
FAILURES = [refuse(429), answer_garbage, *CLOSED]


def in_turn(kinds: Iterable[Callable[[], Response] | None]) -> Answer:
    """Have the LLM answer one after the other; None and the end are its script's."""
    rest = iter(kinds)

    def answer(play: Play) -> Response | None:
        kind = next(rest, None)
        return kind() if kind else None

    return answer


def hang(play: Play) -> None:
    """Do not answer while the script runs."""
    play.over.wait(ENDLESS)


# ## The user's


def sends(*signals: int, group: bool = False, after: float = 2) -> Strike:
    """Send the script signals, or its group as a terminal does; it may end at the last."""

    def send(play: Play) -> None:
        for number in signals:
            if not play.over.wait(3 if play.signals else after) and play.process:
                play.note_strike()
                play.signals += 1
                (os.killpg if group else os.kill)(play.process.pid, number)

    return lambda play: play.in_background(lambda: send(play))


@contextlib.contextmanager
def unbuilt_image(play: Play) -> Iterator[dict[str, str]]:
    """Have a task image that no agent server was built onto yet."""
    with image_unbuilt() as image:
        yield {"PROGRAMBENCH_TASK_IMAGE": image}


# ## The agent's

# With the server's process for p. What outlives the server still holds its output.
TO_THE_SERVER = (
    "for p in /proc/[0-9]*; do grep -qs agent_server $p/cmdline && {{ {}; }}; done"
)
FREEZE_SERVER = TO_THE_SERVER.format("kill -STOP ${p#/*/}")
KILL_SERVER = TO_THE_SERVER.format("sleep 99 >$p/fd/1 & kill -KILL ${p#/*/}")
MANY_FILES, SPARSE = 50_000, 2 << 30
HOARD = f"""cd /workspace && truncate -s {SPARSE} sparse && mkdir many &&
    python3 -c 'for n in range({MANY_FILES}): open(f"many/{{n}}", "w")'"""
# A thousand of each, held open, and all of the memory that processes may share.
HOLD = """cat /dev/zero >/dev/shm/fill; python3 -c '
import socket, time
held = [(socket.socketpair(), open("/dev/null")) for _ in range(1000)]
time.sleep(600)' & sleep 2; jobs"""
# Saving it takes long: there is something to leave at once.
MUCH_TO_SAVE = shell(f"truncate -s {10 * SPARSE} /workspace/sparse")
# By a process that is small itself.
FILL_MEMORY = """python3 -c '
import os
memory = os.memfd_create("memory")
while True:
    os.write(memory, bytes(1 << 20))'"""
# A disk of its own for what the agent server writes, small enough to be filled.
SMALL_DISK = """cd /var/lib/agent-server && mount -t tmpfs -o size=60m tmpfs /mnt &&
    chown --reference=. /mnt && cp -a . /mnt/ && mount --move /mnt /var/lib/agent-server"""
FILL_DISK = "cat /dev/zero > /var/lib/agent-server/fill; echo full"


def on_the_host(*command: str) -> Strike:
    """Run a command, with the container's id in place of {}."""
    return lambda play: output_of(*(w.replace("{}", play.container) for w in command))


def shrink_disk(play: Play) -> None:
    """Give the agent server a small disk, which only this machine's root can do."""
    inspect = ("docker", "inspect", "--format={{.State.Pid}}", play.container)
    pid = output_of(*inspect).strip()
    output_of("nsenter", f"--target={pid}", "--mount", "sh", "-c", SMALL_DISK)


# ## The engine's


def kill_pipe(play: Play) -> None:
    """Kill the pipe's `docker exec` while the agent works."""
    pipes = [each for each, command in play.children() if "openhands" in command]
    assert pipes
    play.in_background(lambda: [each.kill() for each in pipes], after=1)


class Engine:
    """A way to the engine that can be cut, as when the engine restarts or is gone."""

    def __init__(self, path: Path):
        context = "--format={{.Endpoints.docker.Host}}"
        real = os.environ.get("DOCKER_HOST") or output_of(
            "docker", "context", "inspect", context
        )
        if not real.startswith("unix://"):
            missing("the engine does not listen on a socket of this machine's")
        self.path, self.real = path, real.strip().removeprefix("unix://")
        self.connections = list[socket.socket]()
        self.listen()

    def listen(self) -> None:
        """Answer from now on."""
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.path}")
        self.listener.listen(64)
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        """Connect whoever comes to the real engine."""
        with contextlib.suppress(OSError):
            while near := listener.accept()[0]:
                far = socket.socket(socket.AF_UNIX)
                far.connect(self.real)
                self.connections += near, far
                for ends in (near, far), (far, near):
                    threading.Thread(target=self.pump, args=ends, daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Carry bytes one way, up to their end."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Cut everyone off."""
        for end in [self.listener, *self.connections]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def restart(self) -> None:
        """Be away for two seconds, as with live restore: the containers run on."""
        self.close()
        time.sleep(2)
        self.listen()


@contextlib.contextmanager
def own_way_to_the_engine(play: Play) -> Iterator[dict[str, str]]:
    """Have the script reach the engine in a way that can be cut."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Engine(Path(folder, "engine"))) as play.engine,
    ):
        yield {"DOCKER_HOST": f"unix://{play.engine.path}"}


def to_the_engine(act: Callable[[Engine], None], after: float = 0) -> Strike:
    """Do that to the script's way to the engine."""

    def strike(play: Play) -> None:
        assert (engine := play.engine)
        play.in_background(lambda: act(engine), after)

    return strike


# ## The host's


def folder_vanishes(play: Play) -> None:
    """Put a file in the output folder's place."""
    shutil.rmtree(play.output)
    play.output.touch()


@contextlib.contextmanager
def small_output_folder(play: Play) -> Iterator[dict[str, str]]:
    """Have an output folder on a disk of its own, of one megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", f"{play.output}"]
    if subprocess.run(mount, capture_output=True).returncode:
        missing("a small disk can only be made by root")
    try:
        yield {}
    finally:
        output_of("umount", "--lazy", f"{play.output}")


def disk_fills(play: Play) -> None:
    """Fill the disk of the output folder to its last byte."""
    with contextlib.suppress(OSError), open(play.output / "fill", "wb", 0) as file:
        while file.write(bytes(4096)):
            pass


# ## The faults

NOT_SAVED: dict[str, Any] = {"saved": False, "begun": False}
ABRUPT: dict[str, Any] = NOT_SAVED | {"within": 5, "abrupt": True}
TIME_LIMIT = {"PROGRAMBENCH_TIME_LIMIT": "12"}
FAULTS = {
    # Two minutes, in which the SDK mostly waits: it comes first.
    "the LLM fails for good, each time in another way": Fault(
        1,
        "Not now: 500",
        answer=in_turn(itertools.chain(FAILURES, itertools.repeat(refuse(500)))),
        within=200,
    ),
    "the engine restarts, the LLM fails twice, and the agent hoards": Fault(
        0,
        steps=[shell("true"), shell(HOLD), shell(HOARD)],
        around=own_way_to_the_engine,
        at=("docker", "exec"),
        strike=to_the_engine(Engine.restart),
        answer=in_turn(FAILURES[1:4]),
        within=240,
    ),
    "the agent hits its step limit": Fault(
        1,
        "iteration",
        steps=[("think", {"thought": f"{n}"}) for n in range(9)],
        settings={"PROGRAMBENCH_STEP_LIMIT": "4"},
    ),
    "the agent gets stuck": Fault(1, "stuck", steps=[shell("true")] * 10),
    "the agent exceeds the time limit": Fault(
        1, "12 s", steps=[BUSY], settings=TIME_LIMIT
    ),
    "the server is frozen beyond the time limit": Fault(
        1, "12 s", steps=[shell(FREEZE_SERVER)], settings=TIME_LIMIT, within=60
    ),
    "Ctrl-C": Fault(
        130, steps=[BUSY], strike=sends(signal.SIGINT, group=True), within=15
    ),
    "SIGTERM while the LLM hangs": Fault(
        143, strike=sends(signal.SIGTERM), answer=hang, within=15
    ),
    "SIGHUP": Fault(129, steps=[BUSY], strike=sends(signal.SIGHUP), within=15),
    "Ctrl-C while it builds": Fault(
        130,
        around=unbuilt_image,
        at=("buildx", "build"),
        strike=sends(signal.SIGINT, group=True, after=4),
        within=15,
        **NOT_SAVED,
    ),
    "SIGTERM while the server starts": Fault(
        143,
        at=("docker", "exec", "--user=agent"),
        strike=sends(signal.SIGTERM),
        within=15,
        **NOT_SAVED,
    ),
    "SIGTERM while it saves, and again": Fault(
        143,
        steps=[MUCH_TO_SAVE],
        strike=sends(signal.SIGTERM, signal.SIGTERM, after=5),
        **ABRUPT,
    ),
    "Ctrl-C, and SIGKILL while it saves": Fault(
        137,
        steps=[MUCH_TO_SAVE, BUSY],
        strike=sends(signal.SIGINT, signal.SIGKILL, after=5),
        **ABRUPT,
    ),
    "SIGKILL before there is a pipe": Fault(
        137,
        at=("docker", "run"),
        strike=sends(signal.SIGKILL, after=0),
        outlasted=75,
        **ABRUPT,
    ),
    "the agent kills its server": Fault(1, "server", steps=[shell(KILL_SERVER)]),
    "the agent fills its memory": Fault(
        1,
        "server",
        steps=[shell(FILL_MEMORY)],
        strike=on_the_host(
            "docker", "update", "--memory=900m", "--memory-swap=900m", "{}"
        ),
        within=60,
    ),
    "the agent fills its disk": Fault(
        1, "disk is full", steps=[shell(FILL_DISK)], strike=shrink_disk, within=60
    ),
    "the agent forks without end": Fault(
        None,
        steps=[shell("f() { f | f & }; f; sleep 2")],
        strike=on_the_host("docker", "update", "--pids-limit=200", "{}"),
        within=90,
    ),
    "the pipe's process is killed": Fault(1, "pipe", steps=[BUSY], strike=kill_pipe),
    "the container is killed": Fault(
        1,
        "container has ended",
        steps=[BUSY],
        strike=on_the_host("docker", "kill", "{}"),
        saved=False,
    ),
    "the engine is gone": Fault(
        1,
        "engine",
        steps=[BUSY],
        around=own_way_to_the_engine,
        strike=to_the_engine(Engine.close, after=1),
        saved=False,
    ),
    "the engine restarts while the agent works": Fault(
        1,
        "engine",
        steps=[BUSY],
        around=own_way_to_the_engine,
        strike=to_the_engine(Engine.restart, after=1),
    ),
    "the output folder vanishes": Fault(0, strike=folder_vanishes),
    "the output folder's disk is full": Fault(
        0, strike=disk_fills, around=small_output_folder, within=200
    ),
}
ENDS_EARLY = [name for name, fault in FAULTS.items() if fault.status == 1]
SAVED = [name for name, fault in FAULTS.items() if fault.saved]
BEGUN = [name for name, fault in FAULTS.items() if fault.begun]
WITH_A_FOLDER = [name for name in FAULTS if "output folder" not in name]


def of(*names: str) -> Any:
    """Parametrize a test with these runs."""
    return pytest.mark.parametrize("play", names, indirect=True)


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest,
    task_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[Play]]]:
    """The runs that are asked for, under way. They start one by one: that takes long."""
    chosen = {
        item.callspec.params["play"]  # pyright: ignore
        for item in request.session.items
        if item.path == request.path and "play" in item.fixturenames  # pyright: ignore
    }
    starting = threading.Semaphore(1)

    def run(play: Play) -> Play:
        starting.acquire()
        threading.Thread(
            target=lambda: (play.struck.wait(), starting.release())
        ).start()
        return play.play()

    with ThreadPoolExecutor(len(chosen)) as pool:
        yield {
            name: pool.submit(run, Play(fault, tmp_path_factory.mktemp("play")))
            for name, fault in FAULTS.items()
            if name in chosen
        }


@pytest.fixture
def play(request: pytest.FixtureRequest, plays: dict[str, Future[Play]]) -> Play:
    """A run that is over."""
    return plays[request.param].result()


@of(*FAULTS)
def test_the_exit_status_tells_what_happened(play: Play):
    expected = {0, 1} if play.fault.status is None else {play.fault.status}
    # As a shell puts it, where a signal ended the script.
    status = 128 - play.status if play.status < 0 else play.status
    assert status in expected, play.stderr[-3000:]


@of(*FAULTS)
def test_the_script_ends_soon(play: Play):
    assert play.began, "nothing went wrong"
    assert play.ended - play.began < play.fault.within


@of(*FAULTS)
def test_nothing_outlasts_the_script_by_more_than_seconds(play: Play):
    assert play.outlasted < play.fault.outlasted, play.remains


@of(*FAULTS)
def test_there_is_no_traceback(play: Play):
    assert "Traceback" not in play.stdout + play.stderr


@of(*ENDS_EARLY)
def test_the_cause_is_said_in_one_line(play: Play):
    (cause,) = play.causes()
    assert re.search(play.fault.cause, cause, re.IGNORECASE)
    assert cause.isprintable()
    assert len(cause) < 400


@of("the LLM fails for good, each time in another way")
def test_a_failure_of_the_llms_names_its_host(play: Play):
    (cause,) = play.causes()
    assert play.llm.origin.partition("//")[2] in cause


@of(*SAVED)
def test_the_work_is_saved(play: Play):
    assert play.saved()["src/work.txt"] == len("mine\n")


@of(*BEGUN)
def test_the_cost_so_far_is_printed_once(play: Play):
    (cost,) = re.findall(r"^EXAMPLE_COST: ([\d.e-]+)$", play.stdout, re.M)
    assert float(cost) > 0


@of(*(name for name in BEGUN if name in WITH_A_FOLDER))
def test_the_ledger_and_the_trajectory_are_saved(play: Play):
    assert all(line["endpoint"] for line in play.lines("llm_calls.jsonl"))
    assert all(line["kind"] for line in play.lines("trajectory.jsonl"))


@of(*WITH_A_FOLDER)
def test_an_older_submission_is_kept_and_not_passed_off_as_the_runs(play: Play):
    kept = [path.read_bytes() for path in play.output.rglob("*.tar.gz")]
    assert OLDER in kept
    assert OLDER not in [path.read_bytes() for path in play.printed()]


@of(*FAULTS)
def test_a_submission_is_never_half_a_file(play: Play):
    assert all(play.archives.values())


@of(*(name for name in FAULTS if "it saves" in name))
def test_a_first_signal_does_not_cut_a_save_off(play: Play):
    assert play.signals == 2


@of("the LLM fails for good, each time in another way")
def test_each_failure_of_the_llms_is_in_the_ledger(play: Play):
    failed = [line for line in play.lines("llm_calls.jsonl") if line["status"] != 200]
    assert [line["status"] for line in failed] == [429, 502, 500, 500, 500]
    assert all(line["error"] and line["cost"] == 0 for line in failed), failed


@of("the output folder vanishes", "the output folder's disk is full")
def test_a_submission_that_cannot_go_where_it_belongs_goes_to_the_temp_folder(
    play: Play,
):
    (path,) = play.printed()
    assert play.temp in path.parents


@of("the engine restarts, the LLM fails twice, and the agent hoards")
def test_many_files_and_a_sparse_one_are_saved_in_little_memory(play: Play):
    saved = play.saved()
    assert saved["sparse"] == SPARSE
    assert sum(name.startswith("many/") for name in saved) >= MANY_FILES
    assert play.peak < 1 << 30


def test_a_run_whose_words_nobody_can_read_saves_its_work(
    task_image: str, tmp_path: Path
):
    run, full = Run(tmp_path), Path("/dev/full")
    # It ends early: that is told too. Until then it has still stopped what stalls.
    limits = {"PROGRAMBENCH_STEP_LIMIT": "2", "PROGRAMBENCH_COMMAND_LIMIT": "4"}
    with ScriptedLLM([WORK, shell("yes"), shell("true")]) as llm:
        script = start(run.variables(**limits, **llm.settings), full, full)
        script.join(120)
    assert script.exitcode == 1
    assert len(llm.requests) == 2
    assert "src/work.txt" in run.submission()
    (trajectory,) = run.output.glob("*/trajectory.jsonl")
    assert "[Stopped after" in trajectory.read_text()
