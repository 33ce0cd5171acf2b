"""How fast the cleanroom is, beside the SDK's plain way.

    bash tests/ground.sh uv run python tests/benchmark.py [--short] [--json FILE]

The plain way is `DockerDevWorkspace` on the default bridge, with a published port, no
seal, and its LLM at the bridge's gateway address. All else is equal: task image, scripted
model, agent, Python, caches; and the plain image goes without the SDK's coding CLIs, to
its advantage. The two take turns. --short repeats nothing: it shows that all works, not
how fast. A full run takes 15 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import operator
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import conftest
import psutil
from conftest import FORWARDED, LOCAL_PRICES, TASK_IMAGE, clean_environment, output_of
from scripted_llm import Request, ScriptedLLM, Step


# Name and unit; what of the medians is compared, and the target; what is counted.
FIGURES = """
command to first LLM call, s | ratio <= 0.55 | process start to first request, images there
container start to healthy, s | ratio <= 0.4 | until the workspace can be used
second task's image, s | ratio <= 0.5 | the build, the SDK's layer cached by another task's
LLM call, ms | difference | LiteLLM in the box, 33 kB, p50: by pipe and relay, or directly
step, s | ratio | one of forty of the agent's, with a model that answers at once
saving 50 MB, s | ours | random bytes in /workspace
saving 500 MB, s | ours | random bytes in /workspace
finish to exit, s | ours <= 1.5 | last answer to process end; the plain way saves nothing
memory of the script, MB | difference <= 15 | resident when the agent finishes
"""
WAYS = "ours", "plain"
SDK_VERSION = version("openhands-sdk")
SETTINGS = {"LLM_API_KEY": "sk-x", "LLM_MODEL": "openai/gpt-4o-mini"}
# What a user of the SDK writes; it must be run from inside a checkout of the SDK.
PLAIN = f"""
import os
from openhands.agent_server.docker.build import BuildOptions
BuildOptions.model_fields["install_acp_providers"].default = ""
BuildOptions.model_rebuild(force=True)
from openhands.sdk import LLM, Conversation
from openhands.tools.preset.default import get_default_agent
from openhands.workspace import DockerDevWorkspace

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
    conversation.send_message("Say some numbers.")
    conversation.run(timeout=900)
    conversation.close()
"""
# For the agent server's Python, in the container.
CALLER = """
import json, statistics, sys, time, litellm
options, calls = json.loads(sys.argv[1]), int(sys.argv[2])
messages = [{"role": "user", "content": 33_000 * "x"}]
took = []
for _ in range(calls):
    start = time.perf_counter()
    litellm.completion(messages=messages, **options)
    took.append(time.perf_counter() - start)
print(1000 * statistics.median(took[calls // 10:]))
"""

say = partial(print, file=sys.stderr, flush=True)


@dataclass
class Figure:
    """One row of the table."""

    compare: str
    target: str
    counted: str
    ours: list[float] = field(default_factory=list[float])
    plain: list[float] = field(default_factory=list[float])

    @property
    def result(self) -> float:
        """What the target is about."""
        if self.compare == "ours":
            return median(self.ours)
        compare = {"ratio": operator.truediv, "difference": operator.sub}[self.compare]
        return compare(median(self.ours), median(self.plain))

    @property
    def verdict(self) -> str:
        if not self.target:
            return ""
        limit = float(self.target.removeprefix("<= "))
        return f"{self.target}, {'met' if self.result <= limit else 'missed'}"

    def row(self, name: str) -> str:
        """The row in Markdown: medians, with the spread in brackets."""

        def cell(values: list[float]) -> str:
            spread = f" ({min(values):.4g} to {max(values):.4g})" * (len(values) > 1)
            return f"{median(values):.4g}{spread}" if values else ""

        shown = {"ratio": "x {:.3g}", "difference": "{:+.3g}", "ours": ""}[self.compare]
        compared = shown.format(self.result)
        cells = name, cell(self.ours), cell(self.plain), compared, self.verdict
        return f"| {' | '.join(cells)} |"


def figures() -> dict[str, Figure]:
    """Return the rows of the table, still empty."""
    found = dict[str, Figure]()
    for line in FIGURES.strip().splitlines():
        name, compared, counted = line.split(" | ")
        compare, _, target = compared.partition(" ")
        found[name] = Figure(compare, target, counted)
    return found


def container_start(container: str) -> float:
    """Return when a container started, in seconds since 1970."""
    started = output_of("docker", "inspect", "--format={{.State.StartedAt}}", container)
    return datetime.fromisoformat(started.strip()).timestamp()


@dataclass
class Bench:
    """Measures the two ways; `gateway` is where a container on the bridge has its LLM."""

    gateway: str
    table: dict[str, Figure] = field(default_factory=figures)

    def note(self, way: str, found: dict[str, float]) -> None:
        """Put what was found into the table."""
        for name, value in found.items():
            getattr(self.table[name], way).append(value)

    def run(self, way: str, steps: int) -> None:
        """Run a task as a process; raises RuntimeError if it fails."""
        say(f"a whole run, {way}")
        came, finished, memory = list[float](), list[float](), list[float]()

        def watch(request: Request) -> None:
            came.append(time.time())
            if request.body.get("tools") and not llm.script:
                memory.append(process.memory_info().rss / 1e6)
                finished.append(time.time())

        script: list[Step] = [
            ("terminal", {"command": f"echo {number}"}) for number in range(steps)
        ]
        with (
            ScriptedLLM(script, watch, self.gateway) as llm,
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryFile("w+") as log,
        ):
            command = [f"{conftest.EXAMPLE}"] if way == "ours" else ["-c", PLAIN]
            settings = SETTINGS | {
                "LLM_BASE_URL": llm.base_url,
                "OH_SESSION_API_KEYS_0": secrets.token_hex(16),
                "PROGRAMBENCH_OUTPUT_DIR": folder,
            }
            began, env = time.time(), clean_environment(**settings)
            command = [sys.executable, *command]
            with psutil.Popen(command, env=env, stdout=log, stderr=log) as process:
                status = process.wait()
            ended = time.time()
            if status or not finished:
                log.seek(0)
                raise RuntimeError(f"{way}: status {status}: {log.read()[-3000:]}")
        found = {
            "command to first LLM call, s": came[0] - began,
            "step, s": (finished[0] - came[0]) / steps,
            "finish to exit, s": ended - finished[0],
            "memory of the script, MB": memory[0],
        }
        self.note(way, found)

    @contextlib.contextmanager
    def workspace(self, way: str, llm: ScriptedLLM, plain_image: str) -> Iterator[Any]:
        """Have a workspace, and note how long it took to start."""
        with contextlib.ExitStack() as exits:
            if way == "ours":
                folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
                workspace = exits.enter_context(
                    conftest.open_cleanroom(llm, folder)
                ).workspace
            else:
                os.environ["OH_SESSION_API_KEYS_0"] = secrets.token_hex(16)
                workspace = exits.enter_context(conftest.plain_workspace(plain_image))
            started = container_start(workspace._container_id)
            self.note(way, {"container start to healthy, s": time.time() - started})
            yield workspace

    def calls(self, way: str, plain_image: str, calls: int) -> None:
        """Start a workspace, and call the LLM from it; save what is in ours."""
        say(f"a workspace, {way}")
        with ScriptedLLM(address=self.gateway) as llm:
            example, model = conftest.load_example(), SETTINGS["LLM_MODEL"]
            options = {"model": model, "api_key": "sk-x", "api_base": llm.base_url}
            if way == "ours":
                box = {"model": f"litellm_proxy/{model}", "api_base": example.BOX_URL}
                options |= box
            with self.workspace(way, llm, plain_image) as workspace:
                command = ["docker", "exec", "--env=LITELLM_LOCAL_MODEL_COST_MAP=True"]
                command += [workspace._container_id, "/agent-server/.venv/bin/python"]
                took = output_of(
                    *command, "-c", CALLER, json.dumps(options), f"{calls}"
                )
                self.note(way, {"LLM call, ms": float(took)})
                for size in (50, 500) * (way == "ours"):
                    self.save(example, workspace, size)

    def save(self, example: Any, workspace: Any, size: int) -> None:
        """Save a submission of so many MB that do not compress."""
        fill = f"head -c {size}000000 /dev/urandom >/workspace/blob"
        assert workspace.execute_command(fill, timeout=60).exit_code == 0
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            assert example.save_submission(workspace, Path(folder))
            took = time.perf_counter() - began
        self.note("ours", {f"saving {size} MB, s": took})

    def build(self, way: str) -> None:
        """Build onto a task image that differs from all that was ever built onto."""
        say(f"a build, {way}")
        text = f"FROM {TASK_IMAGE}\nUSER root\nRUN echo {secrets.token_hex()} >/new\n"
        with conftest.image_built(text) as image:
            began = time.perf_counter()
            if way == "ours":
                build_ours(image)
            else:
                build_plain(image)
            self.note(way, {"second task's image, s": time.perf_counter() - began})


def build_ours(image: str) -> None:
    """Build the sealed image onto a task image."""
    example = conftest.load_example()
    example.cleanroom_image(example.inspect_task_image(image), None)


def build_plain(image: str) -> str:
    """Build the SDK's own image onto a task image; returns its name."""
    from openhands.agent_server.docker.build import BuildOptions, build

    options = {"base_image": image, "target": "source-minimal", "push": False}
    return build(BuildOptions(**options, install_acp_providers=""))[0]


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Have what both ways need: a checkout to be in, one environment, an address."""
    address = "docker network inspect bridge --format={{range.IPAM.Config}}{{.Gateway}}{{end}}"
    gateway = output_of(*address.split()).strip()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        checkout = conftest.clone_sdk(Path(scratch, "sdk"))
        # Users have bytecode.
        shared = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
        exempt = f"{os.environ.get('NO_PROXY', '')},{gateway}".strip(",")
        shared |= {"TMPDIR": scratch, "NO_PROXY": exempt, "no_proxy": exempt}
        tempfile.tempdir = scratch  # for what the SDK leaves behind in this process
        # The SDK echoes what its commands print; stdout is for the table.
        echoed = contextlib.redirect_stdout(sys.stderr)
        shared |= LOCAL_PRICES
        with conftest.environ(**shared), contextlib.chdir(checkout), echoed:
            yield Bench(gateway)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cleanroom beside the plain way.")
    parser.add_argument("--short", action="store_true", help="each figure, once")
    parser.add_argument(
        "--json", type=Path, help="where all that was measured is written"
    )
    arguments = parser.parse_args()
    rounds, steps, calls = (1, 4, 10) if arguments.short else (5, 40, 200)
    load = f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start"
    with bench() as here:
        plain_image = build_plain(TASK_IMAGE)
        build_ours(TASK_IMAGE)
        for way in WAYS * rounds:
            here.run(way, steps)
            here.calls(way, plain_image, calls)
            here.build(way)
    print("| figure | ours | plain | ratio or difference | target |\n|" + " --- |" * 5)
    print(
        "\n".join(figure.row(name) for name, figure in here.table.items()), end="\n\n"
    )
    print("\n".join(f"- {name}: {each.counted}." for name, each in here.table.items()))
    print(f"- {load}; SDK {SDK_VERSION}; {TASK_IMAGE}.")
    if arguments.json:
        results = {
            name: asdict(each) | {"result": each.result, "verdict": each.verdict}
            for name, each in here.table.items()
        }
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
