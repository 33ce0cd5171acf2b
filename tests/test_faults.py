"""What goes wrong ends the run soon and in a sentence, with the work saved and nothing left."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TASK_IMAGE, Run, image_unbuilt, instance_id, missing, output_of
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
Strike = Callable[["Play", Request, bool], Response | None]


@dataclass
class Fault:
    """What goes wrong once the agent has worked, and what must come of it."""

    status: int | None = 1  # None: the agent may or may not get over it
    cause: str = ""
    _: KW_ONLY
    # What the agent does then; `strike` sees each call that would be answered with it, or later
    # ones, and whether it is the first, and may answer in its place.
    steps: list[Step] = field(default_factory=list[Step])
    strike: Strike | None = None
    # For what has to stand around the run, or goes wrong before the agent works.
    around: Callable[[Play], AbstractContextManager[dict[str, str]]] | None = None
    environment: dict[str, str] = field(default_factory=dict[str, str])
    within: float = 30  # seconds from the fault to the script's end
    saved: bool = True
    begun: bool = True
    litter: bool = False  # its temp folder stays: nobody is there to remove it


class Play:
    """One run of the example with one fault, and what was seen of it."""

    def __init__(self, fault: Fault, folder: Path):
        self.fault, self.run = fault, Run(folder)
        self.llm = ScriptedLLM([WORK, *fault.steps], respond=self.respond)
        self.containers = set[str]()  # ids or names
        self.began = self.ended = self.outlasted = 0.0  # on the clock, on the clock, seconds
        self.peak, self.torn, self.failures = 0, False, 0
        self.engine: Engine | None = None
        self.struck, self.over = threading.Event(), threading.Event()
        self.done, self.remains = subprocess.CompletedProcess[str]([], 0), list[str]()

    def respond(self, call: Request) -> Response | None:
        """Let the agent work, and then let the fault have its way."""
        if len(self.llm.script) > len(self.fault.steps) or not (call.body or {}).get("tools"):
            return None
        if first := not self.struck.is_set():
            self.strike()
        return self.fault.strike(self, call, first) if self.fault.strike else None

    def strike(self) -> None:
        """Count the seconds from now on."""
        self.containers |= self.run.containers()
        self.began = time.monotonic()
        self.struck.set()

    def __call__(self) -> Play:
        """Run it to its end, and see what outlasts it."""
        older = self.run.output / INSTANCE / "submission.tar.gz"
        older.parent.mkdir(parents=True)
        older.write_bytes(OLDER)
        settings = {"LLM_API_KEY": "sk-x", "LLM_MODEL": "openai/gpt-4o-mini"}
        watcher = threading.Thread(target=self.watch)
        try:
            with self.llm, contextlib.ExitStack() as exits:
                settings |= {"LLM_BASE_URL": self.llm.base_url} | self.fault.environment
                if self.fault.around:
                    settings |= exits.enter_context(self.fault.around(self))
                watcher.start()
                # Twice the time that it may take to where things go wrong, and to the end.
                try:
                    self.done = self.run(timeout=120 + 2 * self.fault.within, **settings)
                except subprocess.TimeoutExpired as late:
                    seen = [(said or b"").decode() for said in (late.stdout, late.stderr)]
                    self.done = subprocess.CompletedProcess(late.cmd, 99, *seen)
                self.over.set()
                watcher.join()
                self.ended = self.ended or time.monotonic()
                self.see_the_end()
        finally:
            self.over.set()
            self.struck.set()
        return self

    def watch(self) -> None:
        """See when the script ends, its memory, and whether its submission is half a file."""
        path = self.run.output / INSTANCE / "submission.tar.gz"
        while not self.over.wait(0.05):
            if self.run.process and not self.ended:
                # Before its output ends, where something outlasts it that writes there too.
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{self.process.pid}/status").read_text()
                    if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
                        self.peak = max(self.peak, int(peak[1]) << 10)
                    elif "State:\tZ" in status:
                        self.ended = time.monotonic()
            with contextlib.suppress(OSError), open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                time.sleep(0.05)
                self.torn |= size != os.fstat(file.fileno()).st_size

    def see_the_end(self) -> None:
        """See what outlasts the script, and for how long; what seems to stay is ended here."""
        while (left := self.left()) and time.monotonic() < self.ended + 30:
            time.sleep(0.3)
        self.outlasted, self.remains = time.monotonic() - self.ended, left
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for container in self.containers if left else ():
            subprocess.run(["docker", "rm", "--force", container], capture_output=True)

    @property
    def process(self) -> psutil.Popen:
        """The script."""
        assert self.run.process
        return self.run.process

    @property
    def container(self) -> str:
        """The container's id."""
        (container,) = self.containers
        return container

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """Strike in a while, unless the run is over by then."""

        def wait() -> None:
            if not self.over.wait(seconds):
                self.strike()
                act()

        threading.Thread(target=wait, daemon=True).start()

    def descendants(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        """Yield the script's processes and their commands."""
        with contextlib.suppress(psutil.Error, AssertionError):
            for process in self.process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    yield process, process.cmdline()

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the processes of the run, wherever they hang: what they inherit has its folder."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PROGRAMBENCH_OUTPUT_DIR") == f"{self.run.output}":
                    yield process

    def left(self) -> list[str]:
        """Return what is there of the run, wherever its processes hang."""
        listed = output_of("docker", "ps", "--all", "--no-trunc", "--format={{.ID}} {{.Names}}")
        found = [name for name in self.containers if name in listed]
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found.append(f"{process.pid}: {' '.join(process.cmdline())[:200]}")
        named = [
            path.relative_to(self.run.temp).parts[0]
            for path in self.printed()
            if self.run.temp in path.parents
        ]
        litter = [] if self.fault.litter else self.run.leftovers()
        return found + [name for name in litter if name not in named]

    def printed(self) -> list[Path]:
        """Return the submissions that the script names."""
        return [*map(Path, re.findall("^SUBMISSION: (.+)$", self.done.stdout or "", re.M))]

    def causes(self) -> list[str]:
        """Return the lines that say why the run ended early."""
        return re.findall("^The run ended early: (.+)$", self.done.stderr, re.M)

    @functools.cached_property
    def saved(self) -> dict[str, int]:
        """Return the names and sizes in the archive that the script names."""
        (path,) = self.printed()
        with tarfile.open(path) as archive:
            return {member.name.removeprefix("./"): member.size for member in archive}


# ## The LLM's faults


def always(response: Response) -> Strike:
    """Have the LLM give one answer for good."""
    return lambda play, call, first: response


def refusal(status: int) -> Strike:
    """Have the LLM refuse for good."""
    error = {"type": "some_error", "message": "It is not to be."}
    return always(json_response({"error": error}, status))


def hang_up(play: Play, call: Request, first: bool) -> Response:
    """Have the LLM close the connection without an answer."""
    raise ConnectionError


def half_an_answer() -> Iterator[bytes]:
    """Send the beginning of an answer, and close the connection."""
    yield b'{"id": "x", "object": "chat.comp'
    raise ConnectionError


def recover(play: Play, call: Request, first: bool) -> Response | None:
    """Have the LLM fail twice."""
    play.failures += 1
    return json_response({"error": {"message": "Not yet."}}, 500) if play.failures <= 2 else None


def hang(play: Play, call: Request, first: bool) -> None:
    """Have the LLM not answer while the script runs."""
    play.over.wait(ENDLESS)


# ## The user's


def sends(*signals: int, group: bool = False, after: float = 2, apart: float = 0.5) -> Strike:
    """Send the script signals, or its group as a terminal does, while the agent works."""

    def act(play: Play) -> None:
        for number, signum in enumerate(signals):
            if number:
                time.sleep(apart)
                play.strike()
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                (os.killpg if group else os.kill)(play.process.pid, signum)

    def strike(play: Play, call: Request, first: bool) -> None:
        if first:
            play.later(after, lambda: act(play))

    return strike


def hanging(strike: Strike) -> Strike:
    """Do that while the LLM does not answer."""

    def both(play: Play, call: Request, first: bool) -> None:
        strike(play, call, first)
        hang(play, call, first)

    return both


def during(*words: str, then: Strike, unbuilt: bool = False) -> Callable[[Play], Any]:
    """Strike when a process of the script's has these words in its command."""

    @contextlib.contextmanager
    def around(play: Play) -> Iterator[dict[str, str]]:
        def wait() -> None:
            while not play.over.wait(0.02):
                for _, command in play.descendants():
                    if {*words} <= {*command}:
                        if "--name" in command:
                            play.containers.add(command[command.index("--name") + 1])
                        play.strike()
                        then(play, Request("", "", None, b""), True)  # pyright: ignore
                        return

        threading.Thread(target=wait, daemon=True).start()
        with contextlib.ExitStack() as exits:
            image = exits.enter_context(image_unbuilt()) if unbuilt else TASK_IMAGE
            yield {"PROGRAMBENCH_TASK_IMAGE": image}

    return around


# ## The agent's

TO_THE_SERVER = (
    "for p in /proc/[0-9]*; do grep -qs agent_server $p/cmdline && kill -{} ${{p#/*/}}; done"
)
MANY_FILES, SPARSE = 100_000, 5 << 30
HOARD = f"""cd /workspace && truncate -s {SPARSE} sparse && mkdir many &&
    python3 -c 'for n in range({MANY_FILES}): open(f"many/{{n}}", "w")'"""
HOGS = """for n in $(seq 40); do
    /agent-server/.venv/bin/python -c 'import time; x = b"x" * (40 << 20); time.sleep(100)' &
    sleep .1; done"""


def once(*command: str) -> Strike:
    """Run a command on the host, at the first call, with the container's id in place of {}."""

    def strike(play: Play, call: Request, first: bool) -> None:
        if first:
            output_of(*(word.replace("{}", play.container) for word in command))

    return strike


# A disk of its own for what the agent server writes, small enough to be filled.
SMALL_DISK = """mount -t tmpfs -o size=60m tmpfs /mnt && chown --reference=/home/agent /mnt &&
    cp -a /home/agent/. /mnt/ && mount --move /mnt /home/agent"""


def shrink_disk(play: Play, call: Request, first: bool) -> None:
    """Give the agent's home a small disk, which only this machine's root can do."""
    if first:
        pid = output_of("docker", "inspect", "--format={{.State.Pid}}", play.container).strip()
        output_of("nsenter", f"--target={pid}", "--mount", "sh", "-c", SMALL_DISK)


# ## The engine's


def kill_pipe(play: Play, call: Request, first: bool) -> None:
    """Kill the client end of the pipe."""
    if first:
        pipes = [process for process, command in play.descendants() if play.container in command]
        play.later(1, lambda: [process.kill() for process in pipes])


class Engine:
    """A way to the engine that can be cut, as when the engine restarts: all who talk to it are
    cut off, nobody answers for a while, and the containers are dead or, with live restore, not.
    """

    def __init__(self, path: Path):
        context = "{{.Endpoints.docker.Host}}"
        real = os.environ.get("DOCKER_HOST") or output_of(
            "docker", "context", "inspect", f"--format={context}"
        )
        if not real.startswith("unix://"):
            missing("the engine does not listen on a socket of this machine's")
        self.path, self.real = path, real.strip().removeprefix("unix://")
        self.connections = list[socket.socket]()
        self.listen()

    def listen(self) -> None:
        """Answer, until `restart` or `close`."""
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.path}")
        self.listener.listen(64)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

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

    def restart(self, container: str, kill: bool) -> None:
        """Be away for a while: less where nothing has to be stopped and started."""
        self.close()
        if kill:
            output_of("docker", "kill", container)
        time.sleep(5 if kill else 2)
        self.listen()


@contextlib.contextmanager
def own_way_to_the_engine(play: Play) -> Iterator[dict[str, str]]:
    """Have the script reach the engine in a way that can be cut."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Engine(Path(folder, "engine"))) as play.engine,
    ):
        yield {"DOCKER_HOST": f"unix://{play.engine.path}"}


def at(*words: str, then: Callable[[Engine], None]) -> Callable[[Play], Any]:
    """Do that to the script's way to the engine when a process has these words in its command."""

    @contextlib.contextmanager
    def around(play: Play) -> Iterator[dict[str, str]]:
        with own_way_to_the_engine(play) as settings:
            engine = play.engine
            assert engine
            with during(*words, then=lambda play, call, first: then(engine))(play) as more:
                yield settings | more

    return around


def restart(kill: bool) -> Strike:
    """Have the engine restart while the agent works."""

    def strike(play: Play, call: Request, first: bool) -> None:
        if first and play.engine:
            play.later(1, functools.partial(play.engine.restart, play.container, kill))

    return strike


# ## The host's


def folder_vanishes(play: Play, call: Request, first: bool) -> None:
    """Put a file in the output folder's place."""
    if first:
        shutil.rmtree(play.run.output)
        play.run.output.touch()


@contextlib.contextmanager
def small_output_folder(play: Play) -> Iterator[dict[str, str]]:
    """Have an output folder on a disk of its own, of one megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", f"{play.run.output}"]
    if subprocess.run(mount, capture_output=True).returncode:
        missing("a small disk can only be made by root")
    try:
        yield {}
    finally:
        output_of("umount", "--lazy", f"{play.run.output}")


def disk_fills(play: Play, call: Request, first: bool) -> None:
    """Fill the disk of the output folder to its last byte."""
    if first:
        with contextlib.suppress(OSError), open(play.run.output / "fill", "wb", 0) as file:
            while file.write(bytes(4096)):
                pass


FAULTS = {
    # These take two minutes each, or nearly, and mostly wait: they come first.
    "the LLM answers 429": Fault(1, "429", strike=refusal(429), within=200),
    "the LLM answers 500": Fault(1, "500", strike=refusal(500), within=200),
    "the LLM answers garbage": Fault(
        strike=always(Response(headers={"Content-Type": "application/json"}, body=b"<html>{")),
        within=200,
    ),
    "the LLM hangs up": Fault(strike=hang_up, within=200),
    "the LLM stops in the middle": Fault(
        strike=lambda play, call, first: Response(body=half_an_answer()), within=200
    ),
    "the agent hits its iteration limit": Fault(
        1,
        "iteration",
        steps=[("think", {"thought": f"{n}"}) for n in range(520)],
        within=200,
    ),
    "the LLM answers 401": Fault(1, "401", strike=refusal(401)),
    "the LLM answers 402": Fault(1, "402", strike=refusal(402)),
    "the LLM fails twice": Fault(0, steps=[shell("true")], strike=recover, within=90),
    "the agent gets stuck": Fault(1, "stuck", steps=[shell("true")] * 10),
    "the agent exceeds the time limit": Fault(
        1, "12 s", steps=[BUSY], environment={"PROGRAMBENCH_TIME_LIMIT": "12"}
    ),
    "the LLM exceeds the time limit": Fault(
        1, "12 s", strike=hang, environment={"PROGRAMBENCH_TIME_LIMIT": "12"}
    ),
    "the server is frozen beyond the time limit": Fault(
        1,
        "12 s",
        steps=[shell(TO_THE_SERVER.format("STOP"))],
        environment={"PROGRAMBENCH_TIME_LIMIT": "12"},
        within=60,
    ),
    "Ctrl-C": Fault(130, steps=[BUSY], strike=sends(signal.SIGINT, group=True), within=15),
    "Ctrl-C while the LLM hangs": Fault(
        130, strike=hanging(sends(signal.SIGINT, group=True)), within=15
    ),
    "SIGTERM": Fault(143, steps=[BUSY], strike=sends(signal.SIGTERM), within=15),
    "SIGHUP": Fault(129, steps=[BUSY], strike=sends(signal.SIGHUP), within=15),
    "SIGTERM while the server starts": Fault(
        143,
        around=during("exec", then=sends(signal.SIGTERM)),
        within=15,
        saved=False,
        begun=False,
    ),
    # Saving takes long here: there is something to leave at once.
    "Ctrl-C twice": Fault(
        130,
        steps=[shell(f"truncate -s {4 * SPARSE} /workspace/sparse"), BUSY],
        strike=sends(signal.SIGINT, signal.SIGINT, group=True, after=5, apart=3),
        within=5,
        saved=False,
        begun=False,
    ),
    **{
        f"{signal.Signals(signum).name} while it builds": Fault(
            128 + signum,
            around=during(
                "buildx", "build", then=sends(signum, group=group, after=4), unbuilt=True
            ),
            within=15,
            saved=False,
            begun=False,
        )
        for signum, group in (
            (signal.SIGINT, True),
            (signal.SIGTERM, False),
            (signal.SIGHUP, False),
        )
    },
    "SIGKILL": Fault(
        137, steps=[BUSY], strike=sends(signal.SIGKILL), within=5, saved=False, begun=False
    ),
    "SIGTERM twice while it saves": Fault(
        143,
        steps=[shell(f"truncate -s {4 * SPARSE} /workspace/sparse")],
        strike=sends(signal.SIGTERM, signal.SIGTERM, after=5, apart=3),
        within=5,
        saved=False,
        begun=False,
    ),
    "SIGKILL while it saves": Fault(
        137,
        steps=[shell(f"truncate -s {4 * SPARSE} /workspace/sparse")],
        strike=sends(signal.SIGINT, signal.SIGKILL, group=True, after=5, apart=3),
        within=5,
        saved=False,
        begun=False,
    ),
    "SIGKILL before there is a pipe": Fault(
        137,
        around=during("docker", "run", then=sends(signal.SIGKILL, after=0)),
        within=5,
        litter=True,
        saved=False,
        begun=False,
    ),
    "the agent kills all that it may": Fault(1, "server", steps=[shell("kill -9 -1")]),
    "the agent kills its server": Fault(1, "server", steps=[shell(TO_THE_SERVER.format("KILL"))]),
    "the server runs out of memory": Fault(
        1,
        "server",
        steps=[shell(HOGS)],
        strike=once("docker", "update", "--memory=900m", "--memory-swap=900m", "{}"),
        within=60,
    ),
    "the agent fills its disk": Fault(
        1,
        "ended",
        steps=[shell("cat /dev/zero > /home/agent/fill; echo full")],
        strike=shrink_disk,
        within=60,
    ),
    "the agent forks without end": Fault(
        None,
        steps=[shell("f() { f | f & }; f; sleep 2")],
        strike=once("docker", "update", "--pids-limit=200", "{}"),
        within=90,
    ),
    "the agent hoards": Fault(0, steps=[shell(HOARD)], within=240),
    "the pipe's process is killed": Fault(1, "pipe", steps=[BUSY], strike=kill_pipe),
    "the container is killed": Fault(
        1, "container", steps=[BUSY], strike=once("docker", "kill", "{}"), saved=False
    ),
    "the engine restarts": Fault(
        steps=[BUSY], strike=restart(kill=True), around=own_way_to_the_engine, saved=False
    ),
    "the engine restarts and the container lives": Fault(
        steps=[BUSY], strike=restart(kill=False), around=own_way_to_the_engine
    ),
    # A whole run comes after it.
    "the engine restarts before there is a pipe": Fault(
        0,
        around=at("docker", "exec", then=lambda engine: engine.restart("", kill=False)),
        within=90,
    ),
    "the output folder vanishes": Fault(None, strike=folder_vanishes),
    "the output folder's disk is full": Fault(
        None, strike=disk_fills, around=small_output_folder, within=200
    ),
}


def which(**wanted: Any) -> Any:
    """Parametrize a test with the runs whose fault has these values."""
    names = [
        name
        for name, fault in FAULTS.items()
        if all(getattr(fault, key) == value for key, value in wanted.items())
    ]
    return pytest.mark.parametrize("play", names, indirect=True)


def of(*names: str) -> Any:
    """Parametrize a test with these runs."""
    return pytest.mark.parametrize("play", names, indirect=True)


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest, task_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Play]]]:
    """The runs that are asked for, under way. Two start at a time: that is what takes long."""
    chosen = {
        item.callspec.params["play"]  # pyright: ignore
        for item in request.session.items
        if item.path == request.path
    }
    starting = threading.Semaphore(2)

    def go(name: str, folder: Path) -> Play:
        play = Play(FAULTS[name], folder)
        starting.acquire()
        threading.Thread(target=lambda: (play.struck.wait(), starting.release())).start()
        return play()

    with ThreadPoolExecutor(len(chosen)) as pool:
        yield {
            name: pool.submit(go, name, tmp_path_factory.mktemp("play"))
            for name in FAULTS
            if name in chosen
        }


@pytest.fixture
def play(request: pytest.FixtureRequest, plays: dict[str, Future[Play]]) -> Play:
    """A run that is over."""
    return plays[request.param].result()


@of(*FAULTS)
def test_the_exit_status_tells_what_happened(play: Play):
    expected = {0, 1} if play.fault.status is None else {play.fault.status}
    status = play.done.returncode
    # As a shell puts it, where a signal ended the script.
    assert (128 - status if status < 0 else status) in expected, play.done.stderr[-3000:]


@of(*FAULTS)
def test_the_script_ends_soon(play: Play):
    assert play.began, "nothing went wrong"
    assert play.ended - play.began < play.fault.within


@of(*FAULTS)
def test_nothing_outlasts_the_script_by_more_than_seconds(play: Play):
    assert play.outlasted < 20, play.remains


@of(*FAULTS)
def test_there_is_no_traceback(play: Play):
    assert "Traceback" not in play.done.stdout + play.done.stderr


@which(status=1)
def test_the_cause_is_said_in_one_line(play: Play):
    (cause,) = play.causes()
    assert re.search(play.fault.cause, cause, re.IGNORECASE)
    assert cause.isprintable()
    assert len(cause) < 400


@of(
    *(
        name
        for name, fault in FAULTS.items()
        if name.startswith("the LLM") and fault.status and not fault.environment
    )
)
def test_a_failure_of_the_llms_names_its_host(play: Play):
    (cause,) = play.causes()
    assert play.llm.origin.partition("//")[2] in cause


@which(saved=True)
def test_the_work_is_saved(play: Play):
    assert play.saved["src/work.txt"] == len("mine\n")


@which(saved=False)
def test_no_submission_is_named_that_is_not_there(play: Play):
    for path in play.printed():
        with tarfile.open(path) as archive:
            assert archive.getnames()


@which(begun=True)
def test_the_cost_so_far_is_printed_once(play: Play):
    (cost,) = re.findall(r"^EXAMPLE_COST: ([\d.e-]+)$", play.done.stdout, re.M)
    assert float(cost) > 0


@of(*(name for name, fault in FAULTS.items() if fault.begun and "output folder" not in name))
def test_the_ledger_and_the_trajectory_are_saved(play: Play):
    folder = play.run.output / INSTANCE
    for name in ("llm_calls.jsonl", "trajectory.jsonl"):
        lines = (folder / name).read_text().splitlines()
        assert lines
        assert all(isinstance(json.loads(line), dict) for line in lines)


@of(*(name for name in FAULTS if "output folder" not in name))
def test_an_older_submission_is_kept(play: Play):
    kept = {path: path.read_bytes() for path in play.run.output.glob("*/*.tar.gz")}
    assert OLDER in kept.values()
    # And it is not passed off as this run's.
    assert OLDER not in [path.read_bytes() for path in play.printed()]


@of(*FAULTS)
def test_a_submission_is_never_half_a_file(play: Play):
    assert not play.torn


@of("the output folder vanishes", "the output folder's disk is full")
def test_a_submission_that_cannot_go_where_it_belongs_goes_to_the_temp_folder(play: Play):
    (path,) = play.printed()
    assert play.run.temp in path.parents


@of("the agent hoards")
def test_many_files_and_a_sparse_one_are_saved(play: Play):
    assert play.saved["sparse"] == SPARSE
    assert sum(name.startswith("many/") for name in play.saved) >= MANY_FILES


@of("the agent hoards")
def test_what_the_agent_hoards_fills_no_memory_of_the_host(play: Play):
    assert play.peak < 1 << 30
