"""How fast the cleanroom is, beside the SDK's plain way: prints BENCHMARK.md.

    uv run python tests/benchmark.py [--short] >tests/BENCHMARK.md

The plain way is `DockerDevWorkspace` on the default bridge, with a published port, no
seal, and its LLM at the bridge's gateway address. All else is equal: task image, scripted
model, agent, Python, caches; and the plain image goes without the SDK's coding CLIs, to
its advantage. The two take turns, for a quarter of an hour. --short does each once, to show that
all works.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import conftest
import psutil
from conftest import FORWARDED, LOCAL_PRICES, TASK_IMAGE, clean_environment, output_of
from forty_commands import COMMANDS
from scripted_llm import Request, ScriptedLLM, Step


Way = Literal["ours", "plain"]
WAYS: tuple[Way, Way] = "ours", "plain"
# What the relay sets for LiteLLM.
HANDLER = {"EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER": "True"}
SETTINGS = {"LLM_API_KEY": "sk-x", "LLM_MODEL": "openai/gpt-4o-mini"}


@dataclass
class Figure:
    """One row of the table."""

    name: str
    compare: Literal["ratio", "difference", "ours"]
    target: float | None  # the most that the comparison of the medians may give
    counted: str
    ours: list[float] = field(default_factory=list[float])
    plain: list[float] = field(default_factory=list[float])

    def add(self, way: Way, value: float) -> None:
        """Note what was measured in one of the two ways."""
        getattr(self, way).append(value)

    def result(self) -> float:
        """Return what the target is about."""
        if self.compare == "ours":
            return median(self.ours)
        compare = {"ratio": operator.truediv, "difference": operator.sub}[self.compare]
        return compare(median(self.ours), median(self.plain))

    def row(self) -> str:
        """Return the row in Markdown: medians, with the spread in brackets."""
        verdict = ""
        if self.target is not None:
            met = "met" if self.result() <= self.target else "missed"
            verdict = f"at most {self.target:g}: {met}"
        shown = {"ratio": "x {:.2f}", "difference": "{:+.2f}", "ours": ""}[self.compare]
        cells = self.name, spread(self.ours), spread(self.plain)
        return f"| {' | '.join([*cells, shown.format(self.result()), verdict])} |"


def spread(values: list[float]) -> str:
    """Return the median, and the least and the most in brackets."""
    if not values:
        return ""
    return f"{median(values):.4g} ({min(values):.3g} to {max(values):.3g})"


FIRST_CALL = Figure(
    "command to first LLM call, s",
    "ratio",
    0.5,
    "from the process's start to the model's first request; the image is there",
)
SDK_IMPORT = Figure(
    "floor: the SDK's import, s",
    "ours",
    None,
    "what every client of the SDK waits for, with bytecode, in a process of its own",
)
SERVER_START = Figure(
    "floor: the agent server's start, s",
    "ours",
    None,
    "with bytecode, in the container, until it answers there",
)
HEALTHY = Figure(
    "container start to healthy, s", "ratio", 0.4, "until the workspace can be used"
)
IMAGE_TIME = Figure(
    "second task's image, s",
    "ratio",
    1.2,
    "the build, when the SDK's layers are cached for another task",
)
IMAGE_SIZE = Figure("second task's image, MB", "ratio", 1.1, "on top of the task image")
CALL = Figure(
    "LLM call, ms",
    "difference",
    5,
    "LiteLLM in the box, 33 kB, p50: through pipe and relay, and directly",
)
CALLS = Figure(
    "LLM call, 4 at once, ms", "difference", 5, "as many as the relay makes at once"
)
HOST_CALL = Figure(
    "floor: LiteLLM's call on the host, ms",
    "ours",
    None,
    "what the relay's LiteLLM adds, if nothing else takes time",
)
HOST_CALLS = Figure(
    "floor: the same, 4 at once, ms", "ours", None, "what that adds when four are made"
)
FORTY = Figure(
    "forty commands, s",
    "ratio",
    1.0,
    "those of tests/forty_commands.py by a model that answers at once, start to exit",
)
SAVE_50 = Figure("saving 50 MB, s", "ours", 1, "random bytes in /workspace")
SAVE_500 = Figure("saving 500 MB, s", "ours", 6, "random bytes in /workspace")
FOUR = Figure(
    "four runs at once, s", "ratio", 0.6, "of one command, until the last ends"
)
EXIT = Figure(
    "finish to exit, s",
    "ours",
    1.0,
    "from the last answer to the process's end; the plain way saves nothing",
)
MEMORY = Figure(
    "memory of the script, MB",
    "difference",
    25,
    "resident after one command; plain: right after a bare import of the SDK",
)
MEMORY_FLOOR = Figure(
    "floor: the SDK's import and a call, MB",
    "ours",
    None,
    "resident after LiteLLM's first call, which loads a tokenizer",
)
MEMORY_FORTY = Figure(
    "memory after forty commands, MB", "difference", None, "of the script, in both ways"
)
FIGURES = [
    FIRST_CALL,
    SDK_IMPORT,
    SERVER_START,
    HEALTHY,
    IMAGE_TIME,
    IMAGE_SIZE,
    CALL,
    CALLS,
    HOST_CALL,
    HOST_CALLS,
    FORTY,
    SAVE_50,
    SAVE_500,
    FOUR,
    EXIT,
    MEMORY,
    MEMORY_FLOOR,
    MEMORY_FORTY,
]

IMPORT = """
from openhands.sdk import LLM, Conversation
from openhands.tools.preset.default import get_default_agent
from openhands.workspace import DockerDevWorkspace
"""
# What a user of the SDK writes; it must be run from inside a checkout of the SDK.
PLAIN = f"""
import os
from openhands.agent_server.docker.build import BuildOptions
BuildOptions.model_fields["install_acp_providers"].default = ""
BuildOptions.model_rebuild(force=True)
{IMPORT}
llm = LLM(
    usage_id="agent",
    model=os.environ["LLM_MODEL"],
    api_key=os.environ["LLM_API_KEY"],
    base_url=os.environ["LLM_BASE_URL"],
)
with DockerDevWorkspace(
    base_image="{TASK_IMAGE}", target="source-minimal", forward_env={FORWARDED}
) as workspace:
    agent = get_default_agent(llm=llm, cli_mode=True)
    conversation = Conversation(agent=agent, workspace=workspace)
    conversation.send_message("Rebuild it.")
    conversation.run(timeout=900)
    conversation.close()
"""
# For a Python in the container, or on the host.
CALLER = """
import json, statistics, sys, time, litellm
from concurrent.futures import ThreadPoolExecutor
options, calls, at_once = (json.loads(each) for each in sys.argv[1:])
messages = [{"role": "user", "content": 33_000 * "x"}]

def call(number):
    start = time.perf_counter()
    litellm.completion(messages=messages, **options)
    return time.perf_counter() - start

with ThreadPoolExecutor(at_once) as threads:
    took = list(threads.map(call, range(calls)))
print(1000 * statistics.median(took[calls // 10:]))
"""
STARTER = """
import subprocess, sys, time, urllib.request
began = time.perf_counter()
options = ["-I", "-X", "pycache_prefix=/cleanroom/bytecode"]
server = ["-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", "8001"]
process = subprocess.Popen(
    [sys.executable, *options, *server], cwd="/tmp", stdout=-3, stderr=-3
)
while process.poll() is None:
    try:
        urllib.request.urlopen("http://127.0.0.1:8001/health")
        break
    except OSError:
        time.sleep(0.05)
assert process.poll() is None
print(time.perf_counter() - began)
process.kill()
"""
IN_THE_BOX = [
    "env",
    "LITELLM_LOCAL_MODEL_COST_MAP=True",
    "OH_PRELOAD_TOOLS=false",
    "OH_ENABLE_VSCODE=false",
    "/agent-server/.venv/bin/python",
]

say = partial(print, file=sys.stderr, flush=True)


@dataclass
class Times:
    """When things happened in one run, in seconds since 1970, and its memory in MB."""

    began: float = 0
    first_call: float = 0
    finish: float = 0
    ended: float = 0
    memory: float = 0


def run(way: Way, gateway: str, commands: list[str]) -> Times:
    """Run a task as a process; raises RuntimeError if it fails."""
    times = Times()

    def note(request: Request) -> None:
        times.first_call = times.first_call or time.time()
        if request.body.get("tools") and not llm.script:
            times.memory = process.memory_info().rss / 1e6
            times.finish = time.time()

    script: list[Step] = [("terminal", {"command": each}) for each in commands]
    with (
        ScriptedLLM(script, note, gateway) as llm,
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile("w+") as log,
    ):
        command = [f"{conftest.EXAMPLE}"] if way == "ours" else ["-c", PLAIN]
        settings = SETTINGS | {
            "LLM_BASE_URL": llm.base_url,
            "OH_SESSION_API_KEYS_0": secrets.token_hex(16),
            "PROGRAMBENCH_OUTPUT_DIR": folder,
        }
        env = clean_environment(**settings)
        times.began = time.time()
        process = psutil.Popen(
            [sys.executable, *command], env=env, stdout=log, stderr=log
        )
        with process:
            status = process.wait()
        times.ended = time.time()
        if status or not times.finish:
            log.seek(0)
            raise RuntimeError(f"{way}: status {status}: {log.read()[-3000:]}")
    return times


def whole_run(way: Way, gateway: str) -> None:
    """Measure a run of the forty commands."""
    say(f"forty commands, {way}")
    times = run(way, gateway, COMMANDS)
    FIRST_CALL.add(way, times.first_call - times.began)
    FORTY.add(way, times.ended - times.began)
    EXIT.add(way, times.ended - times.finish)
    MEMORY_FORTY.add(way, times.memory)


def four_runs(way: Way, gateway: str) -> None:
    """Measure four runs that start together."""
    say(f"four runs at once, {way}")
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: run(way, gateway, ["ls"]), range(4)))
    began, ended = min(each.began for each in runs), max(each.ended for each in runs)
    FOUR.add(way, ended - began)
    if way == "ours":
        MEMORY.ours += [each.memory for each in runs]


def bare_import() -> None:
    """Measure the import of the SDK alone, once it has bytecode, and a call after it."""
    say("a bare import")
    stop = "\nprint(flush=True)\ninput()\n"
    with ScriptedLLM() as llm:
        call = f"import litellm\nlitellm.completion(messages=[], **{call_options(llm)})"
        command = [sys.executable, "-c", f"{IMPORT}{stop}{call}{stop}"]
        began = time.time()
        with (
            conftest.environ(**os.environ | HANDLER),
            psutil.Popen(command, stdin=-1, stdout=-1) as process,
        ):
            process.stdout.readline()
            SDK_IMPORT.ours.append(time.time() - began)
            MEMORY.plain.append(process.memory_info().rss / 1e6)
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            MEMORY_FLOOR.ours.append(process.memory_info().rss / 1e6)
            process.communicate(b"\n")


def call_options(llm: ScriptedLLM) -> dict[str, str]:
    """Return how LiteLLM calls the scripted model directly."""
    model = SETTINGS["LLM_MODEL"]
    return {"model": model, "api_key": "sk-x", "api_base": llm.base_url}


def in_a_workspace(way: Way, gateway: str, plain_image: str, calls: int) -> None:
    """Measure the start of a workspace, calls from it and, in ours, floors and saving."""
    say(f"a workspace, {way}")
    with contextlib.ExitStack() as exits:
        llm = exits.enter_context(ScriptedLLM(address=gateway))
        example, direct = conftest.load_example(), call_options(llm)
        options = direct
        if way == "ours":
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
            opened = conftest.open_cleanroom(llm, folder)
            workspace = exits.enter_context(opened).workspace
            in_ours = f"litellm_proxy/{direct['model']}"
            options = direct | {"model": in_ours, "api_base": example.BOX_URL}
        else:
            os.environ["OH_SESSION_API_KEYS_0"] = secrets.token_hex(16)
            workspace = exits.enter_context(conftest.plain_workspace(plain_image))
        container = workspace._container_id
        HEALTHY.add(way, time.time() - container_start(container))

        in_the_box = ["docker", "exec", container, *IN_THE_BOX, "-c"]
        on_the_host = [sys.executable, "-c"]
        at_once = example.MAX_CALLS_AT_ONCE
        for figure, floor, number in (CALL, HOST_CALL, 1), (CALLS, HOST_CALLS, at_once):
            figure.add(way, calls_from(in_the_box, options, calls, number))
            if way == "ours":
                with conftest.environ(**os.environ | HANDLER):
                    floor.add(way, calls_from(on_the_host, direct, calls, number))
        if way == "ours":
            SERVER_START.ours.append(float(output_of(*in_the_box, STARTER)))
            save(workspace, 50, SAVE_50)
            save(workspace, 500, SAVE_500)


def calls_from(
    python: list[str], options: dict[str, str], calls: int, at_once: int
) -> float:
    """Return what a call takes from a Python, in milliseconds: the median."""
    arguments = [json.dumps(options), f"{calls}", f"{at_once}"]
    return float(output_of(*python, CALLER, *arguments))


def container_start(container: str) -> float:
    """Return when a container started, in seconds since 1970."""
    started = output_of("docker", "inspect", "--format={{.State.StartedAt}}", container)
    return datetime.fromisoformat(started.strip()).timestamp()


def save(workspace: Any, size: int, figure: Figure) -> None:
    """Measure the saving of a submission of so many MB that do not compress."""
    fill = f"head -c {size}000000 /dev/urandom >/workspace/blob"
    assert workspace.execute_command(fill, timeout=60).exit_code == 0
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        assert conftest.load_example().save_submission(workspace, Path(folder))
        figure.ours.append(time.perf_counter() - began)


def second_image(way: Way) -> None:
    """Measure a build onto a task image that differs from all that was ever built onto."""
    say(f"a build, {way}")
    text = f"FROM {TASK_IMAGE}\nUSER root\nRUN echo {secrets.token_hex()} >/new\n"
    with conftest.image_built(text) as image:
        began = time.perf_counter()
        built = build_ours(image) if way == "ours" else build_plain(image)
        IMAGE_TIME.add(way, time.perf_counter() - began)
        IMAGE_SIZE.add(way, megabytes(built) - megabytes(image))


def build_ours(image: str) -> str:
    """Build the sealed image onto a task image; returns its name."""
    example = conftest.load_example()
    return example.cleanroom_image(example.inspect_task_image(image), None)


def build_plain(image: str) -> str:
    """Build the SDK's own image onto a task image; returns its name."""
    from openhands.agent_server.docker.build import BuildOptions, build

    options = {"base_image": image, "target": "source-minimal", "push": False}
    return build(BuildOptions(**options, install_acp_providers=""))[0]


def megabytes(image: str) -> float:
    """Return the size of an image's layers."""
    return (
        int(output_of("docker", "image", "inspect", "--format={{.Size}}", image)) / 1e6
    )


@contextlib.contextmanager
def what_both_need() -> Iterator[str]:
    """Have a checkout to be in and one environment; yields the bridge's gateway."""
    address = "docker network inspect bridge --format={{range.IPAM.Config}}{{.Gateway}}{{end}}"
    gateway = output_of(*address.split()).strip()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        checkout = conftest.clone_sdk(Path(scratch, "sdk"))
        # Users have bytecode.
        shared = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
        exempt = f"{os.environ.get('NO_PROXY', '')},{gateway}".strip(",")
        shared |= {"TMPDIR": scratch, "NO_PROXY": exempt, "no_proxy": exempt}
        shared |= LOCAL_PRICES
        tempfile.tempdir = scratch  # for what the SDK leaves behind in this process
        # The SDK echoes what its commands print; stdout is for the page.
        echoed = contextlib.redirect_stdout(sys.stderr)
        with conftest.environ(**shared), contextlib.chdir(checkout), echoed:
            yield gateway


PAGE = """\
# How fast the cleanroom is

Printed by `tests/benchmark.py` on {date}, on a machine with {cpus} CPUs and {memory:.0f} GB
(Linux {kernel}, Docker {docker}, SDK {sdk}), {rounds} rounds of each way, in turns: the medians,
with the least and the most in brackets. "Plain" is the SDK's own way.

| figure | ours | plain | compared | target |
| --- | --- | --- | --- | --- |
{rows}

What is counted:

{counted}

Where a target is missed:

- First LLM call: the SDK's import and the server's start are most of it, one after the
  other. To have them at the same time, the container would have to start before the SDK
  is imported. The audit and the SDK's first step take a second each.
- Healthy: it is the server's own start, without its search for garbage among what it
  imports. 1.4 s of it is a library for browsers, which the server imports to say that
  there is no browser.
- Image: 54 MB are the bytecode with which the server starts in half the time, and 37 MB
  the SSH server with what it needs, which is installed anew for each task in 6 s.
- LLM call: the relay uses LiteLLM too, so that each call passes it twice, the second time
  on the host. The pipe and the policy take about 1 ms, the SDK's reckoning of the cost 1 ms.
- Memory: LiteLLM's first call loads a tokenizer of 45 MB.
"""


def main() -> None:
    rounds, calls = (1, 20) if "--short" in sys.argv else (2, 200)
    with what_both_need() as gateway:
        plain_image = build_plain(TASK_IMAGE)
        build_ours(TASK_IMAGE)
        for way in WAYS * rounds:
            whole_run(way, gateway)
            in_a_workspace(way, gateway, plain_image, calls)
            second_image(way)
            four_runs(way, gateway)
            bare_import()
    page = PAGE.format(
        date=datetime.now(UTC).date(),
        cpus=os.cpu_count(),
        memory=psutil.virtual_memory().total / 1e9,
        kernel=platform.release(),
        docker=output_of("docker", "version", "--format={{.Server.Version}}").strip(),
        sdk=version("openhands-sdk"),
        rounds=rounds,
        rows="\n".join(each.row() for each in FIGURES),
        counted="\n".join(f"- {each.name}: {each.counted}." for each in FIGURES),
    )
    print(page, end="")


if __name__ == "__main__":
    main()
