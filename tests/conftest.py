"""What the tests share: the example as a module, images, engines, one running cleanroom."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil
import pytest
from pydantic import SecretStr
from scripted_llm import ScriptedLLM


if TYPE_CHECKING:
    from runs import Run

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "12_programbench_cleanroom.py"
TASK_IMAGE = os.environ.get(
    "PROGRAMBENCH_TASK_IMAGE",
    "programbench/abishekvashok_1776_cmatrix.5c082c6:task_cleanroom_v6",
)
# LiteLLM's import fetches a price list. If that fails, it warns in the midst of the import, which
# now and then ends with a deadlock or a circular import: 5 of 15 plain containers, three starting
# at a time, on a machine with no way out. The example and its image do the same as this.
LOCAL_PRICES = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
os.environ |= LOCAL_PRICES
# What the SDK's plain container gets of the environment: this, and the key that the SDK gives it.
FORWARDED = ["OH_SESSION_API_KEYS_0", *LOCAL_PRICES]
MODULE_NAME = "programbench_cleanroom"


def clean_environment(**environment: str) -> dict[str, str]:
    """Return this process's environment with no settings of the example's but those given."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(
            ("LLM_", "PROGRAMBENCH_", "OH_SESSION_", "SESSION_API_KEY")
        )
    }
    return inherited | {"PROGRAMBENCH_TASK_IMAGE": TASK_IMAGE} | environment


@contextlib.contextmanager
def environ(**environment: str) -> Iterator[None]:
    """Have exactly this environment for a while."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def load_example() -> Any:
    """Return the example as a module; its file's name is none that `import` takes."""
    if MODULE_NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(MODULE_NAME, EXAMPLE)
        assert spec and spec.loader
        # pydantic looks a class's module up by its name.
        sys.modules[MODULE_NAME] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[MODULE_NAME]


def run_script(example: Any) -> int:
    """Run the script in this process; returns its exit status."""
    handlers = {number: signal.getsignal(number) for number in example.STOP_SIGNALS}
    try:
        return example.script()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def instance_id(image: str) -> str:
    """Return ProgramBench's name of the task that an image, named with its tag, is for."""
    return re.sub(r"^.*/|:.*", "", image).replace("_1776_", "__")


def missing(reason: str) -> NoReturn:
    """Skip for want of something, except in CI: there, nothing may go untested."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def output_of(*command: str) -> str:
    """Return what a command prints."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def clone_sdk(folder: Path) -> Path:
    """Make a checkout of the SDK's repository, in the version that is installed."""
    url, tag = (
        "https://github.com/OpenHands/software-agent-sdk.git",
        f"v{version('openhands-sdk')}",
    )
    clone = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth=1"]
    output_of(*clone, f"--branch={tag}", url, f"{folder}")
    return folder


def sdk_with_example(folder: Path) -> Path:
    """Make a checkout of the SDK with the example among its own; return the copy."""
    examples = clone_sdk(folder) / "examples" / "02_remote_agent_server"
    examples.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(EXAMPLE, examples))


@pytest.fixture(scope="session")
def docker() -> None:
    """A Docker engine that answers."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        missing(f"there is no Docker engine: {error}")
    if done.returncode:
        missing("there is no Docker engine: `docker info` fails")


@pytest.fixture(scope="session")
def task_image(docker: None) -> str:
    """The name of a task image that this engine has."""
    if subprocess.run(
        ["docker", "image", "inspect", TASK_IMAGE], capture_output=True
    ).returncode:
        missing(
            f"there is no image {TASK_IMAGE}; tests/offline/stand-ins.sh makes a small one"
        )
    return TASK_IMAGE


@pytest.fixture(scope="session")
def sealed_image(task_image: str) -> str:
    """The task image, sealed."""
    example = load_example()
    return example.cleanroom_image(example.inspect_task_image(task_image), None)


# What `DockerDevWorkspace` does, but for the coding CLIs.
BUILD = """import sys; from openhands.agent_server.docker.build import BuildOptions, build
options = dict(base_image=sys.argv[1], target="source-minimal", push=False)
print(build(BuildOptions(**options, install_acp_providers=""))[0])"""


@pytest.fixture(scope="session")
def plain_image(task_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image that the SDK itself builds from the task image, with no seal: the control."""
    env = os.environ | LOCAL_PRICES | {"TMPDIR": f"{tmp_path_factory.mktemp('build')}"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, task_image],
        cwd=load_example().sdk_checkout(None),
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()[-1]


def plain_workspace(image: str, **fields: Any) -> Any:
    """The SDK's container as the SDK starts it, but for the range of its port."""
    from openhands.workspace import DockerWorkspace

    fields |= {"server_image": image, "detach_logs": False, "forward_env": FORWARDED}
    fields |= {"host_port": load_example().free_port()}
    with environ(**os.environ | LOCAL_PRICES):
        return DockerWorkspace(**fields)


def sealed_tag(image: str) -> str:
    """Return the tag under which the example keeps what it seals of a task image."""
    example = load_example()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "image_exists", lambda _: True)
        return example.cleanroom_image(example.inspect_task_image(image), None)


@contextlib.contextmanager
def image_built(dockerfile: str, *options: str) -> Iterator[str]:
    """Have a task image of this text, under a name of its own."""
    instance = f"tests_1776_image.{secrets.token_hex(4)[:7]}"
    name, label = (
        f"programbench/{instance}:task_cleanroom_v6",
        f"of-the-tests={instance}",
    )
    # Not from stdin: Docker would leave a copy of that in the temp folder.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text(dockerfile)
        tags = [f"--tag={name}", f"--label={label}"]
        output_of("docker", "build", "--quiet", *tags, *options, folder)
    try:
        yield name
    finally:
        list_images = ["docker", "image", "ls", "--quiet"]
        # What was built onto it has its label, but for a seal that a test made itself.
        built = {*output_of(*list_images, f"--filter=label={label}").split()}
        with contextlib.suppress(load_example().CleanroomError):  # for another platform
            built |= {*output_of(*list_images, sealed_tag(name)).split()}
        output_of("docker", "image", "rm", "--force", *built)


def image_unbuilt() -> contextlib.AbstractContextManager[str]:
    """Have a task image that no agent server was built onto yet."""
    return image_built(f"FROM {TASK_IMAGE}\n")


@pytest.fixture
def run_example(tmp_path: Path) -> Run:
    """`run_example(**environment)` runs the example with these settings and no others."""
    from runs import Run  # which needs what stands here

    return Run(tmp_path)


@dataclass
class Cleanroom:
    """A running cleanroom, and what it is wired to."""

    workspace: Any
    relay: Any
    llm: ScriptedLLM
    key: str
    ledger: Path

    @property
    def container(self) -> str:
        """The container's id."""
        return self.workspace.container

    def shell(self, command: str, timeout: float = 30) -> Any:
        """Run a command where the agent's tools run; has `.exit_code`, `.stdout`, `.stderr`."""
        return self.workspace.execute_command(command, timeout=timeout)

    def root(
        self, command: str, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the container's root, who otherwise runs nothing."""
        return subprocess.run(
            ["docker", "exec", "--user=root", self.container, "sh", "-c", command],
            capture_output=True,
            text=True,
            timeout=timeout,
        )


# For the container's Python, run as a root who may trace.
SEARCH_MEMORY = r"""
import json, os, re, sys
patterns, found = json.load(sys.stdin), {}

def search(pid):
    if int(pid) == os.getpid() or "\nState:\tZ" in open(f"/proc/{pid}/status").read():
        return
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        name = open(f"/proc/{pid}/comm").read().strip()
        for line in maps:
            low, high = (int(end, 16) for end in line.split()[0].split("-"))
            try:
                memory.seek(low)
                data = memory.read(high - low)
            except (OSError, OverflowError, ValueError):
                continue
            for pattern in patterns:
                for match in set(re.findall(pattern.encode(), data)):
                    found.setdefault(match.decode(), []).append(name)

for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        search(pid)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended since
print(json.dumps(found))
"""


def in_memory(container: str, *patterns: str) -> dict[str, list[str]]:
    """Return what matches in the memory of a container's processes, with their names."""
    command = [
        "docker",
        "exec",
        "--interactive",
        "--privileged",
        "--user=root",
        container,
    ]
    done = subprocess.run(
        [*command, "/agent-server/.venv/bin/python", "-Ic", SEARCH_MEMORY],
        input=json.dumps(patterns),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


@contextlib.contextmanager
def open_cleanroom(
    llm: ScriptedLLM,
    folder: Path,
    image: str = TASK_IMAGE,
    model: str = "openai/gpt-4o-mini",
    **fields: Any,
) -> Iterator[Cleanroom]:
    """Have a cleanroom whose relay's provider is `llm`, wired as in the example's `main()`."""
    from openhands.sdk import LLM

    example = load_example()
    key, ledger = f"sk-test-{secrets.token_hex(16)}", folder / "llm_calls.jsonl"
    provider = LLM(
        usage_id="agent", model=model, api_key=SecretStr(key), base_url=llm.base_url
    )
    with environ(**clean_environment()):
        example.exempt_loopback_from_proxies()
        with (
            example.Relay(provider, ledger=ledger, call_limit=1000) as relay,
            example.Cleanroom(
                base_image=image,
                target="source-minimal",
                network="none",
                relay_socket=relay.socket,
                **fields,
            ) as workspace,
        ):
            yield Cleanroom(workspace, relay, llm, key, ledger)


@pytest.fixture(scope="session")
def cleanroom(
    task_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cleanroom]:
    """One cleanroom for the whole session."""
    with (
        ScriptedLLM() as llm,
        open_cleanroom(llm, tmp_path_factory.mktemp("cleanroom")) as room,
    ):
        yield room


# That engine's host has one socket in common with this one: no network, no process, and
# no temp folder, lest something passes through files. With its first process everything
# in it ends, mounts too. Its arguments are a folder for it, and the tests' temp folder.
APART = "unshare --net --pid --uts --mount --mount-proc --fork --kill-child sh -euc"
DAEMON = """umount -lRq /var/lib/docker || :; mount --bind "$0/lib" /var/lib/docker
    mount --bind "$0/run" /run; mount -t tmpfs tmpfs "$1"; unset TMPDIR; cd /
    hostname elsewhere; ip link set lo up
    printf '%s:100000:65536\\n' nobody nogroup >/run/ids
    for file in /etc/subuid /etc/subgid
    do
        mount --bind /run/ids $file
    done
    exec dockerd -lwarn --config-file=/run/daemon.json"""
PROGRAMS = "command -v dockerd nsenter ip setpriv; unshare --user true"
# In a user namespace, where its root is the first of these ids. It waits for a line, which
# says that they are mapped; until then it must keep its capabilities.
ROOTLESS = """unshare --user --keep-caps sh -euc
    'read -r _; exec setpriv --reuid=0 --regid=0 --clear-groups "$@"' sh"""
ROOTLESS_IDS = 100_000


def wait_until(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextlib.contextmanager
def another_engine(
    settings: dict[str, Any], factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    """Have another engine with these settings; yields its address and its process.

    With the setting "rootless" it runs as another user.
    """
    apart = APART.split()
    if subprocess.run([*apart, PROGRAMS]).returncode:
        missing("only root can start another engine, in namespaces of its own")
    # The runtime is what ours needs too; no other setting of ours is its business.
    file = Path("/etc/docker/daemon.json")
    config = json.loads(file.read_text() if file.exists() else "{}")
    runtimes = {name: config[name] for name in config if "runtime" in name}
    # Not in the tests' own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory(prefix="engine-", dir="/tmp") as folder:
        run = Path(folder, "run")
        run.mkdir()
        Path(folder, "lib").mkdir()
        (run / "daemon.json").write_text(json.dumps(settings | runtimes))
        command = [*apart, DAEMON, folder, f"{factory.getbasetemp()}"]
        if settings.get("rootless"):
            output_of("chown", "-R", f"{ROOTLESS_IDS}:{ROOTLESS_IDS}", folder)
            # The tests' folder is closed to it. What is hidden instead, it has as /run.
            command = [*shlex.split(ROOTLESS), *apart, DAEMON, folder, f"{run}"]
        with subprocess.Popen(command, stdin=-1) as process:
            try:
                if settings.get("rootless"):
                    map_ids(process)
                wait_until((run / "docker.sock").exists, 60)
                (daemon,) = psutil.Process(process.pid).children()
                yield f"unix://{run}/docker.sock", daemon.pid
            finally:
                assert process.stdin
                process.stdin.close()
                for daemon in psutil.Process(process.pid).children():
                    daemon.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
                process.kill()


def map_ids(process: subprocess.Popen[bytes]) -> None:
    """Map the ids of a process's user namespace, and let it go on."""
    namespace = f"/proc/{process.pid}/ns/user"
    wait_until(lambda: os.readlink(namespace) != os.readlink("/proc/self/ns/user"))
    for kind in ("uid", "gid"):
        ids = f"0 {ROOTLESS_IDS} 65536"
        Path(f"/proc/{process.pid}/{kind}_map").write_text(ids)
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()


def bring_images(url: str, *images: str) -> None:
    """Bring images of our engine to another one."""
    with subprocess.Popen(["docker", "save", *images], stdout=-1) as sent:
        load = ["docker", f"--host={url}", "load", "--quiet"]
        subprocess.run(load, stdin=sent.stdout, check=True, timeout=300)


def engine_state() -> dict[str, set[str]]:
    """Return what the engine holds, by kind, or nothing where there is no engine."""
    commands = {
        "container": "docker ps --all --quiet --no-trunc",
        "network": "docker network ls --quiet",
        "volume": "docker volume ls --quiet",
    }
    state = dict[str, set[str]]()
    for kind, command in commands.items():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            state[kind] = set(output_of(*command.split()).split())
    return state


def another_run() -> bool:
    """Tell whether somebody else runs the example or tests: then what is whose cannot be told."""
    ours = psutil.Process()
    related = {
        process.pid
        for process in [ours, *ours.parents(), *ours.children(recursive=True)]
    }
    return any(
        process.pid not in related
        and any(
            word.endswith(("pytest", EXAMPLE.name))
            for word in process.info["cmdline"] or []
        )
        for process in psutil.process_iter(["cmdline"])
    )


def our_processes() -> set[int]:
    """Return the ids of the `docker` commands below this process."""
    found = set[int]()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name() == "docker":
                found.add(process.pid)
    return found


# What takes long comes first, so that at the end no process waits for another.
LONG = """test_faults test_attacks test_hosts test_images test_remote test_standalone
    test_script test_providers test_upstreams test_relay test_commands""".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first."""
    order = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


# The tests run in several processes, which one that runs none has started.
BEFORE = pytest.StashKey[dict[str, set[str]]]()


def runs_tests_itself(config: pytest.Config) -> bool:
    """Tell whether this is one of the several processes."""
    return hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note what the engine holds before any test runs."""
    if not runs_tests_itself(session.config):
        session.config.stash[BEFORE] = engine_state()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """No container, network or volume outlives the tests."""
    if runs_tests_itself(session.config):
        return
    before = session.config.stash[BEFORE]

    def left() -> list[str]:
        return [
            f"{kind} {name}"
            for kind, now in engine_state().items()
            for name in now - before.get(kind, set())
            if not another_run()
        ]

    if soon_none(left):
        print(f"\nThe tests leave behind: {left()}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def soon_none(left: Callable[[], list[str]]) -> list[str]:
    """Return what is left after a while, or nothing as soon as nothing is."""
    deadline = time.monotonic() + 30
    while left() and time.monotonic() < deadline:
        time.sleep(1)
    return left()


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No temp folder and no process outlives the tests."""
    # A temp folder of this run's own: what is in it at the end is ours and nobody else's.
    temp = tmp_path_factory.mktemp("tmp")
    os.environ["TMPDIR"], tempfile.tempdir = f"{temp}", None
    processes = our_processes()

    def left() -> list[str]:
        names = [f"process {pid}" for pid in our_processes() - processes]
        # uv keeps lock files in the temp folder, whoever calls it, and multiprocessing a
        # folder of its own for as long as this process lives.
        return names + [
            f"{path}"
            for path in temp.iterdir()
            if not path.name.startswith(("uv-", "pymp-"))
        ]

    yield
    assert not soon_none(left)
