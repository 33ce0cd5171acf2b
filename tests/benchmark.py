"""How fast the cleanroom is, beside the plain way: `DockerDevWorkspace` as the SDK documents it.

    bash tests/ground.sh uv run python tests/benchmark.py [--short | --growth] [--json FILE]

The plain way has the default bridge, a published port and no seal, and calls its LLM directly, at
the bridge's gateway address. All else is equal: task image, scripted model, agent preset, Python,
caches. The two take turns. --short leaves out cold builds and growth and repeats nothing: it shows
that all works, not how fast. --growth is a full run's last part. A full run takes 25 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import operator
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
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
from scripted_llm import Request, Response, ScriptedLLM, Step

# Name and unit; what of the medians is compared, and the target; what is counted.
FIGURES = """
command to first LLM call, s | ratio <= 0.55 | process start to the first request, images cached
container start to healthy, s | ratio <= 0.4 | to the first 200 of /health in the server's log
cold build on a new task image, s | ratio <= 0.5 | the build, SDK layer cached by another task's
no-op build check, s | ours <= 0.3 | what finds out that an image is built already
call through the pipe, ms | difference <= 0.5 | GET /health, kept alive, p50; plain: published port
LLM call through pipe and relay, ms | difference <= 2 | a small one, kept alive, p50; plain: bridge
first byte of a streamed answer, ms | difference <= 3 | from the request, p50; plain: bridge
16 streams at once | ours <= 1.3 | the slowest against one alone, 20 pieces in 1 s each
download of 200 MB, MB/s | ratio >= 0.7 | the server's file API to the host; plain: published port
finish to exit, s | ours <= 1.5 | last answer to process end: save, stop, clean; plain saves nothing
image on top of the task's, MB | ratio | what its layers hold that the task image has not
LLM calls not the agent's | ours <= 0 | requests without tools: they ask for a title
memory of the script, MB | difference <= 15 | resident when the agent ends; plain: bare SDK import
floor: SDK imports, s | ours | in a process of their own
floor: server start, s | ours | `docker run` of our image, the server alone, to its first answer
floor: docker exec cat, MB/s | ours | the same 200 MB, to the host
"""
WAYS = "ours", "plain"
SETTINGS = {"LLM_API_KEY": "sk-x", "LLM_MODEL": "openai/gpt-4o-mini"}
SETTINGS |= {"OH_SESSION_API_KEYS_0": secrets.token_hex(16), "PROGRAMBENCH_TIME_LIMIT": "900"}
FILE, FILE_SIZE = "/tmp/benchmark", 200_000_000
AGENT_PYTHON = "/agent-server/.venv/bin/python"
SDK, TAG = "https://github.com/OpenHands/software-agent-sdk.git", f"v{version('openhands-sdk')}"
# What a user of the SDK writes; it must be run from inside a checkout of the SDK.
IMPORTS = """
import os, sys
from openhands.sdk import LLM, Conversation
from openhands.tools.preset.default import get_default_agent
from openhands.workspace import DockerDevWorkspace
"""
PLAIN = f"""{IMPORTS}
model, key, url = (os.environ[f"LLM_{{name}}"] for name in ("MODEL", "API_KEY", "BASE_URL"))
llm = LLM(usage_id="agent", model=model, api_key=key, base_url=url)
agent = get_default_agent(llm, cli_mode=True)
with DockerDevWorkspace(
    base_image="{TASK_IMAGE}", target="source-minimal", forward_env={FORWARDED}
) as workspace:
    conversation = Conversation(agent=agent, workspace=workspace)
    conversation.send_message("Say some numbers.")
    conversation.run(timeout=900)
    conversation.close()
"""
BUILD_PLAIN = f"""{IMPORTS}
import time; start = time.perf_counter()
options = dict(base_image=sys.argv[1], target="source-minimal", platform="linux/amd64")
image = DockerDevWorkspace._build_image_from_base(**options)
print(time.perf_counter() - start, image)
"""
BUILD_OURS = f"""
import sys, time; sys.path.append("{Path(__file__).parent}")
from conftest import load_example; module = load_example(); start = time.perf_counter()
image = module.cleanroom_image(); print(time.perf_counter() - start, image)
"""
# The plain image has three coding CLIs as well, some 600 MB. Where Node cannot be had, and in the
# short form, it goes without.
WITHOUT_CLIS = """
from openhands.agent_server.docker.build import BuildOptions
BuildOptions.model_fields["install_acp_providers"].default = ""
BuildOptions.model_rebuild(force=True)
"""
BARE = (
    sys.executable,
    "-c",
    f"""import json, psutil, time; start = time.perf_counter(); {IMPORTS}
print(json.dumps([time.perf_counter() - start, psutil.Process().memory_info().rss / 1e6]))""",
)
# For the agent server's Python, in the container: one kept-alive connection for the small calls, a
# new one for each long stream.
CALLER = r"""
import http.client, json, statistics, sys, time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
url, key = urlsplit(sys.argv[1]), sys.argv[2]
def ask(pieces, connection=None):
    connection = connection or http.client.HTTPConnection(url.netloc, timeout=60)
    body = json.dumps({"model": "gpt-4o-mini", "messages": [], "user": pieces})
    headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
    start = time.perf_counter()
    connection.request("POST", url.path + "/chat/completions", body, headers)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read(1)
    first = time.perf_counter() - start
    answer.read()
    return first * 1000, (time.perf_counter() - start) * 1000

kept = http.client.HTTPConnection(url.netloc, timeout=60)
small = [ask("1 0", kept)[1] for _ in range(220)]
first = [ask("2 5", kept)[0] for _ in range(220)]
alone = ask("20 50")[1]
with ThreadPoolExecutor(16) as threads:
    together = [threads.submit(ask, "20 50") for _ in range(16)]
print(json.dumps({
    "LLM call through pipe and relay, ms": statistics.median(small[20:]),
    "first byte of a streamed answer, ms": statistics.median(first[20:]),
    "16 streams at once": max(each.result()[1] for each in together) / alone,
}))
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
        sign, limit = self.target.split()
        met = {"<=": operator.le, ">=": operator.ge}[sign](self.result, float(limit))
        return f"{self.target}, {'met' if met else 'missed'}"

    def row(self, name: str) -> str:
        """The row in Markdown: medians, with the spread in brackets."""

        def cell(values: list[float]) -> str:
            spread = f" ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else ""
            return f"{median(values):.4g}{spread}" if values else ""

        shown = {"ratio": "x {:.3g}", "difference": "{:+.3g}", "ours": ""}[self.compare]
        cells = name, cell(self.ours), cell(self.plain), shown.format(self.result), self.verdict
        return f"| {' | '.join(cells)} |"


def figures() -> dict[str, Figure]:
    """Return the rows of the table, still empty."""
    rows = (re.split(r" \| (\w+) ?(.*) \| ", line) for line in FIGURES.strip().splitlines())
    return {name: Figure(compare, target, counted) for name, compare, target, counted in rows}


def echoes(number: int) -> list[Step]:
    return [("terminal", {"command": f"echo {n}"}) for n in range(number)]


def answer(request: Request) -> Response:
    """Answer in pieces; `user` says how many, and how many ms are between them."""

    def stream(pieces: int, pause: int) -> Iterator[bytes]:
        for number in range(pieces):
            time.sleep(pause / 1000 if number else 0)
            yield b"data: {}\n\n"

    return Response(body=stream(*map(int, request.body["user"].split())))


def endpoint(address: str) -> str:
    """Serve as long as this process lives; returns the URL."""
    return ScriptedLLM(respond=answer, address=address).__enter__().base_url


def knock(host: str, calls: int) -> float:
    """Return how long a small call to the agent server takes, p50, in ms."""
    connection, took = http.client.HTTPConnection(host), list[float]()
    for _ in range(calls):
        start = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        took.append(time.perf_counter() - start)
    return median(took[calls // 10 :]) * 1000


def speed(source: Any, start: float) -> float:
    """Return how fast the file came since `start`, in MB/s."""
    assert sum(map(len, iter(lambda: source.read(1 << 20), b""))) == FILE_SIZE
    return FILE_SIZE / 1e6 / (time.perf_counter() - start)


def container_of(process: psutil.Process) -> str:
    """Return the container that a script's `docker` commands name."""
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if found := re.search(r"\b[0-9a-f]{64}\b", " ".join(child.cmdline())):
                return found[0]
    raise LookupError("the script has no container")


def layers(image: str) -> list[dict[str, Any]]:
    """Return what an image consists of on top of the task image, largest first."""
    history = "docker history --no-trunc --human=false --format={{.Size}}_{{.CreatedBy}}".split()
    top, below = (output_of(*history, name).splitlines() for name in (image, TASK_IMAGE))
    found = [line.split("_", 1) for line in top[: len(top) - len(below)]]
    rows = [{"MB": int(size) / 1e6, "by": " ".join(by.split())[:120]} for size, by in found]
    return sorted(rows, key=lambda row: -row["MB"])


@dataclass
class Bench:
    """Measures; `setup` is what the plain way runs first, `gateway` is where its LLM is."""

    gateway: str
    setup: str
    table: dict[str, Figure] = field(default_factory=figures)

    def note(self, way: str, found: dict[str, float]) -> None:
        """Put what was found into the table, as far as it has rows for it."""
        for name in found.keys() & self.table.keys():
            getattr(self.table[name], way).append(found[name])

    def run(self, way: str, script: list[Step]) -> dict[str, float]:
        """Run a task in one of the ways, as a process; raises if it fails."""
        came, finished, memory, seen = list[float](), list[float](), list[float](), list[str]()

        def watch(request: Request) -> None:
            came.append(time.time())
            if request.body.get("tools") and not llm.script:
                memory[:] = [process.memory_info().rss / 1e6]
                look = "docker inspect --format={{.State.StartedAt}} $0; docker logs -t $0 2>&1"
                seen.extend(output_of("sh", "-c", look, container_of(process)).splitlines())
                finished.append(time.time())

        with (
            ScriptedLLM(script, watch, self.gateway) as llm,
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryFile("w+") as log,
        ):
            command = [f"{conftest.EXAMPLE}"] if way == "ours" else ["-c", self.setup + PLAIN]
            settings = SETTINGS | {"LLM_BASE_URL": llm.base_url, "PROGRAMBENCH_OUTPUT_DIR": folder}
            command, begin = [sys.executable, *command], time.time()
            env = clean_environment(**settings)
            with psutil.Popen(command, env=env, stdout=log, stderr=log) as process:
                while process.poll() is None:
                    time.sleep(0.01)
                    with contextlib.suppress(psutil.Error):
                        memory.append(process.memory_info().rss / 1e6)
            end = time.time()
            if process.returncode or not finished:
                log.seek(0)
                raise RuntimeError(f"{way}: status {process.returncode}: {log.read()[-3000:]}")
            files = Path(folder).glob("*/*")
            sizes = {f"{path.name}, MB": path.stat().st_size / 1e6 for path in files}
        healthy = [line for line in seen if re.search(r"GET /health HTTP\S+ 200", line)]
        start, well = (datetime.fromisoformat(line.split()[0]) for line in (seen[0], healthy[0]))
        return sizes | {
            "command to first LLM call, s": came[0] - begin,
            "container start to healthy, s": (well - start).total_seconds(),
            "s per step": (finished[0] - came[0]) / len(script),
            "finish to exit, s": end - finished[0],
            "s in all": end - begin,
            "memory of the script, MB": memory[0],
            "memory, MB more while saving": max(memory) - memory[0],
            "LLM calls not the agent's": sum(not call.body.get("tools") for call in llm.requests),
        }

    def whole_runs(self, pairs: int) -> None:
        """Run a small task, and import the SDK alone."""
        for way in WAYS * pairs:
            say(f"a whole run, {way}")
            ran = self.run(way, echoes(3))
            if way == "plain":
                took, ran["memory of the script, MB"] = json.loads(output_of(*BARE))
                self.note("ours", {"floor: SDK imports, s": took})
            self.note(way, ran)

    def held_open(self, rounds: int) -> str:
        """Call and download from workspaces that are held open; returns our image."""
        say("calls and downloads")
        with contextlib.ExitStack() as exits:
            # In a process of its own, so that its threads take no time from the relay's.
            spawn = multiprocessing.get_context("spawn")
            pool = exits.enter_context(ProcessPoolExecutor(1, mp_context=spawn))
            url = pool.submit(endpoint, self.gateway).result()
            module = conftest.load_example(LLM_BASE_URL=url, **SETTINGS)
            exec(self.setup)
            ledger = exits.enter_context(tempfile.TemporaryFile("w"))
            ours, relay = exits.enter_context(conftest.open_cleanroom(module, ledger))
            fields = {"target": "source-minimal", "forward_env": FORWARDED, "detach_logs": False}
            plain = module.DockerDevWorkspace(base_image=TASK_IMAGE, **fields)
            exits.enter_context(plain)
            exits.callback(output_of, "docker", "kill", plain._container_id)  # quicker than to stop
            inside = f"http://127.0.0.1:{module.LLM_PORT}{relay.path}"
            held = {"ours": (ours, inside, relay.placeholder), "plain": (plain, url, "sk-x")}
            for way, (workspace, *_) in held.items():
                make = f"umask 22; head -c {FILE_SIZE} /dev/urandom >{FILE}; cat {FILE} >/dev/null"
                docker = ["docker", "exec", "--user=root", workspace._container_id]
                output_of(*docker, "sh", "-c", make)
                start = time.perf_counter()
                image = workspace.get_image()
                found = {"no-op build check, s": time.perf_counter() - start}
                on_top = sum(layer["MB"] for layer in layers(image))
                found["image on top of the task's, MB"] = on_top
                self.note(way, found)
            for way in WAYS * rounds:
                workspace, *llm = held[way]
                docker = ["docker", "exec", workspace._container_id]
                found = json.loads(output_of(*docker, AGENT_PYTHON, "-c", CALLER, *llm))
                host = workspace.host.removeprefix("http://")
                found["call through the pipe, ms"] = knock(host, 300)
                start, connection = time.perf_counter(), http.client.HTTPConnection(host)
                key = {"X-Session-API-Key": workspace.api_key}
                connection.request("GET", f"/api/file/download?path={FILE}", headers=key)
                found["download of 200 MB, MB/s"] = speed(connection.getresponse(), start)
                start = time.perf_counter()
                with subprocess.Popen([*docker, "cat", FILE], stdout=subprocess.PIPE) as cat:
                    found["floor: docker exec cat, MB/s"] = speed(cat.stdout, start)
                self.note(way, found)
            return ours.get_image()

    def server(self, image: str) -> None:
        """Start the agent server by itself, on the default bridge."""
        say("the agent server by itself")
        # Without a key it refuses to listen on all interfaces.
        docker = "docker run --detach --rm -p=127.0.0.1::8000 --env=OH_SESSION_API_KEYS_0=key"
        server = "-m openhands.agent_server --host=0.0.0.0 --port=8000"
        start, entry = time.perf_counter(), f"--entrypoint={AGENT_PYTHON}"
        container = output_of(*docker.split(), entry, image, *server.split()).strip()
        try:
            host = output_of("docker", "port", container, "8000").split()[0]
            while time.perf_counter() < start + 120:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    knock(host, 1)
                    self.note("ours", {"floor: server start, s": time.perf_counter() - start})
                    break
                time.sleep(0.02)
        finally:
            output_of("docker", "rm", "--force", container)

    def cold_builds(self, rounds: int) -> None:
        """Build onto task images that differ in their files from all that was ever built onto."""
        for way in WAYS * rounds:
            say(f"a cold build, {way}")
            build = BUILD_OURS if way == "ours" else self.setup + BUILD_PLAIN
            new = f"FROM {TASK_IMAGE}\nRUN echo {secrets.token_hex()} >/tmp/benchmark\n"
            with conftest.image_built(new) as image:
                env = clean_environment(PROGRAMBENCH_TASK_IMAGE=image)
                command = [sys.executable, "-c", build, image]
                built = subprocess.check_output(command, env=env, text=True, timeout=600).split()
                self.note(way, {"cold build on a new task image, s": float(built[-2])})
                output_of("docker", "image", "rm", "--force", built[-1])

    def growth(self) -> list[dict[str, Any]]:
        """Tell how cost grows with the workspace, the events, and the runs side by side."""
        rows, fill = list[dict[str, Any]](), "head -c {}000000 /dev/urandom >/workspace/blob"
        fills = {n: {"command": fill.format(n), "timeout": 120} for n in (1, 50, 500, 2000)}
        cases = [("workspace, MB", n, 1, WAYS[:1], [("terminal", f)]) for n, f in fills.items()]
        cases += [("steps", n, 1, WAYS, echoes(n)) for n in (10, 100, 300)]
        cases += [("runs side by side", n, n, WAYS, echoes(3)) for n in (1, 2, 4)]
        for grows, number, at_once, ways, script in cases:
            for way in ways:
                with ThreadPoolExecutor(at_once) as threads:
                    runs = [threads.submit(self.run, way, script) for _ in range(at_once)]
                ran = [{"broke": f"{e!r}"} if (e := r.exception()) else r.result() for r in runs]
                rows.append({"grows": grows, "to": number, "way": way, "runs": ran})
                say(json.dumps(rows[-1]))
        return rows


@contextlib.contextmanager
def bench(short: bool) -> Iterator[Bench]:
    """Have what both ways need: a checkout to be in, one environment, the bridge's address."""
    address = "docker network inspect bridge --format={{range.IPAM.Config}}{{.Gateway}}{{end}}"
    gateway, setup = output_of(*address.split()).strip(), WITHOUT_CLIS
    with contextlib.suppress(OSError):
        if not short:
            socket.create_connection(("nodejs.org", 443), timeout=5).close()
            setup = ""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        clone = f"git -c advice.detachedHead=false clone --quiet --depth=1 --branch={TAG} {SDK}"
        output_of(*clone.split(), f"{scratch}/sdk")
        # The plain way's build asks git for these, ours sets them: the caches shall be the same.
        commit = output_of("git", "-C", f"{scratch}/sdk", "rev-parse", "HEAD").strip()
        # Users have bytecode.
        shared = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
        shared |= {"SDK_SHA": commit, "SDK_REF": TAG, **LOCAL_PRICES}
        exempt = f"{os.environ.get('NO_PROXY', '')},{gateway}".strip(",")
        shared |= {"TMPDIR": scratch, "NO_PROXY": exempt}
        tempfile.tempdir = scratch  # for what the SDK leaves behind in this process
        # The SDK echoes what its commands print; stdout is for the table.
        echoed = contextlib.redirect_stdout(sys.stderr)
        with conftest.environ(**shared), contextlib.chdir(f"{scratch}/sdk"), echoed:
            yield Bench(gateway, setup)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cleanroom beside the plain way.")
    parser.add_argument("--short", action="store_true", help="each quick figure, once")
    parser.add_argument("--growth", action="store_true", help="only how cost grows")
    parser.add_argument("--json", type=Path, help="where all that was measured is written")
    arguments = parser.parse_args()
    short, top, growth = arguments.short, list[dict[str, Any]](), list[dict[str, Any]]()
    load = f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start"
    notes = [f"{load}; SDK {TAG}; {TASK_IMAGE}"]
    with bench(short) as here:
        if here.setup:
            notes.append("the plain image goes without the SDK's coding CLIs, to its advantage")
        if not arguments.growth:
            for way in WAYS * (not short):
                here.run(way, echoes(3))  # as a warm-up
            here.whole_runs(1 if short else 5)
            image = here.held_open(1 if short else 5)
            for _ in range(1 if short else 3):
                here.server(image)
            top = layers(image)
            here.cold_builds(0 if short else 3)
        if not short:
            growth = here.growth()
    table = {name: figure for name, figure in here.table.items() if figure.ours}
    large = [f"{row['MB']:.0f} MB `{row['by'][:70]}`" for row in top if row["MB"] >= 1]
    notes += [f"what our image has on top of the task's: {'; '.join(large)}"] * bool(large)
    print("| figure | ours | plain | ratio or difference | target |\n|" + " --- |" * 5)
    print("\n".join(figure.row(name) for name, figure in table.items()), end="\n\n")
    print("\n".join(f"- {name}: {figure.counted}." for name, figure in table.items()))
    print("\n".join(f"- {note}." for note in notes))
    if arguments.json:
        results = {n: {"result": f.result, "verdict": f.verdict} for n, f in table.items()}
        rows = {name: asdict(figure) | results[name] for name, figure in table.items()}
        found = {"figures": rows, "notes": notes, "layers": top, "growth": growth}
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
