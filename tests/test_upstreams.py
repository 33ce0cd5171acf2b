"""The script with a real LLM gateway as its upstream: a LiteLLM proxy, as upstream's check has it.

The proxy is a process of its own with its own handling of all three protocols. Behind it stands
the scripted endpoint, so that a whole agent can be played. The prices are the proxy's own and on
nobody's list: a cost that is right was the proxy's.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import EXAMPLE, LOCAL_PRICES, ROOT, Run, clean_environment, environ, in_memory
from pydantic import SecretStr
from scripted_llm import STYLES as ANSWERS
from scripted_llm import Request, Response, ScriptedLLM, Step, Usage

SCRIPT: list[Step] = [
    ("terminal", {"command": "pwd; ls -la"}),
    ("terminal", {"command": "echo 'It is seen.' > NOTES.md"}),
]
# Upstream's check sets the first, which speaks chat completions; the other one speaks responses.
CHECKED = ["openhands/claude-haiku-4-5-20251001", "litellm_proxy/gpt-5-mini"]
# Each of these makes the SDK speak another protocol to the proxy, and the proxy to its upstream.
STYLES = {
    "openai/gpt-4o-mini": "/v1/chat/completions",
    "openai/gpt-5-mini": "/v1/responses",
    "anthropic/claude-haiku-4-5-20251001": "/v1/messages",
}
COUNTED = ["prompt_tokens", "completion_tokens", "cache_read_tokens", "cache_write_tokens"]
COUNTED += ["reasoning_tokens"]
MADE_UP = {"id", "created"}
PRICES = {"input_cost_per_token": 0.003, "output_cost_per_token": 0.005}


class Proxy:
    """A LiteLLM proxy on loopback, and the scripted endpoint that is its only upstream."""

    def __init__(self, llm: ScriptedLLM, folder: Path):
        self.llm, self.folder = llm, folder
        self.key = f"sk-test-{secrets.token_hex(16)}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    @contextlib.contextmanager
    def serving(self) -> Iterator[Proxy]:
        models = [
            {
                "model_name": model.partition("/")[2],
                "litellm_params": {"model": model, "api_key": "sk-upstream", "api_base": base}
                | PRICES,
            }
            for model in STYLES
            for base in [self.llm.origin if "anthropic" in model else self.llm.base_url]
        ]
        config = {"model_list": models, "general_settings": {"master_key": self.key}}
        (self.folder / "config.yaml").write_text(json.dumps(config))
        # Its dependencies and the SDK's exclude each other: it gets an environment of its own.
        pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
        command = ["uv", "tool", "run", f"--exclude-newer={pins['exclude-newer']}"]
        command += [f"--python={sys.executable}", f"--from=litellm[proxy]=={version('litellm')}"]
        command += ["litellm", "--config=config.yaml", "--host=127.0.0.1", f"--port={self.port}"]
        with open(self.folder / "log", "w") as log:
            process = psutil.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=clean_environment(**LOCAL_PRICES),
            )
        try:
            self.wait(process)
            yield self
        finally:
            family = [*process.children(recursive=True), process]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(signal.SIGTERM)
            for member in psutil.wait_procs(family, timeout=10)[1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()

    def wait(self, process: psutil.Popen) -> None:
        """Wait until it answers; its packages may have to be downloaded first."""
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self.origin}/health/readiness"
                if httpx.get(url, trust_env=False).status_code == 200:
                    return
            log = (self.folder / "log").read_text()[-3000:]
            assert process.poll() is None, f"the proxy ended:\n{log}"
            assert time.monotonic() < deadline, f"the proxy does not answer:\n{log}"
            time.sleep(0.2)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, model: str) -> dict[str, str]:
        """The three settings of upstream's check, for this model."""
        base = f"{self.origin}/v1" if model.startswith("openai/") else self.origin
        return {"LLM_MODEL": model, "LLM_API_KEY": self.key, "LLM_BASE_URL": base}

    @contextlib.contextmanager
    def playing(self, respond: Any = None) -> Iterator[ScriptedLLM]:
        """Begin the script anew, with the same answers and the same usages as every time."""
        self.llm.script, self.llm.respond = list(SCRIPT), respond
        self.llm.requests, self.llm.usages, self.llm._ids = [], [], itertools.count(1)
        yield self.llm
        self.llm.respond = None


@pytest.fixture(scope="module")
def proxy(task_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy for all runs; it is not started where there is no engine to run them."""
    with ScriptedLLM() as llm, Proxy(llm, tmp_path_factory.mktemp("proxy")).serving() as proxy:
        yield proxy


@dataclass
class Played:
    """A run that is over."""

    model: str
    done: subprocess.CompletedProcess[str]
    folder: Path
    requests: list[Request]

    @property
    def cost(self) -> float:
        (line,) = re.findall(r"(?m)^EXAMPLE_COST: ([\d.e-]+)$", self.done.stdout)
        return float(line)

    def read(self, name: str) -> list[Any]:
        """Return what one of the files of lines holds."""
        (path,) = self.folder.glob(f"*/{name}")
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", params=CHECKED)
def checked(
    request: pytest.FixtureRequest, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Played:
    """A run as upstream's own check of its examples does it."""
    # Without an output folder among the settings, the working directory gets it: a copy's.
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(EXAMPLE.parent, root / "examples", ignore=shutil.ignore_patterns("__*"))
    with proxy.playing() as llm:
        done = subprocess.run(
            [sys.executable, EXAMPLE.relative_to(ROOT)],
            cwd=root,
            env=clean_environment(**proxy.settings(request.param)),
            capture_output=True,
            text=True,
            timeout=600,
        )
    return Played(request.param, done, root / "submissions", llm.requests)


def stream(model: str, key: str, url: str) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a streamed call; it runs here and, by its source, in the container."""
    import litellm

    function = {"name": "terminal", "parameters": {"type": "object", "properties": {}}}
    asked = [{"role": "user", "content": "Look around."}]
    if "gpt-5" in model:
        tools = [{"type": "function", **function}]
        chunks: Any = litellm.responses(
            input=asked, model=model, tools=tools, stream=True, api_key=key, api_base=url
        )
    else:
        tools = [{"type": "function", "function": function}]
        usage = {"include_usage": True}
        chunks = litellm.completion(
            messages=asked,
            model=model,
            tools=tools,
            stream=True,
            stream_options=usage,
            api_key=key,
            base_url=url,
        )
    for chunk in chunks:
        yield chunk.model_dump(mode="json", warnings=False)


@dataclass
class Streamed(Played):
    """A run that is over, and what the chunks of a streamed call were, from there and from here."""

    relayed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    direct: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    held_up: bool = False


@pytest.fixture(scope="module", params=STYLES)
def played(
    request: pytest.FixtureRequest, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Streamed:
    """A run in which the container also makes a streamed call."""
    model: str = request.param
    run, settings = Run(tmp_path_factory.mktemp("played")), proxy.settings(model)
    arrived, asked = threading.Event(), threading.Event()
    relayed, held_up = list[dict[str, Any]](), list[bool]()

    def call_from_container() -> None:
        (container,) = run.containers()
        inside = ["docker", "exec", container]
        python = ["/agent-server/.venv/bin/python", "-Ic"]
        (placeholder,) = in_memory(container, "placeholder-[0-9a-f]{32}")
        url = "http://127.0.0.1:4999" + settings["LLM_BASE_URL"].removeprefix(proxy.origin)
        code = ["from __future__ import annotations", "import json", inspect.getsource(stream)]
        code += [f"for chunk in stream({model!r}, {placeholder!r}, {url!r}):"]
        code += ["    print(json.dumps(chunk), flush=True)"]
        with subprocess.Popen(
            [*inside, *python, "\n".join(code)],
            stdout=subprocess.PIPE,
            text=True,
        ) as called:
            assert called.stdout
            for line in called.stdout:
                if line.startswith("{"):
                    relayed.append(json.loads(line))
                    arrived.set()
        assert called.returncode == 0

    def respond(call: Request) -> Response | None:
        if call.method == "POST" and call.body.get("stream"):
            return Response(headers={"Content-Type": "text/event-stream"}, body=slowly(call))
        # When the agent is about to finish, all that a run has is there.
        if not (llm.script or asked.is_set()) and call.body and call.body.get("tools"):
            asked.set()
            call_from_container()
        return None

    def slowly(call: Request) -> Iterator[bytes]:
        """Hold the second half back until the caller has a chunk of the first one."""
        _, events = ANSWERS[call.path](99, call.body, SCRIPT[0], Usage(1234, 56))
        whole = list(events)
        yield from whole[: len(whole) // 2]
        held_up.append(not arrived.wait(30))
        yield from whole[len(whole) // 2 :]

    with proxy.playing(respond) as llm:
        done = run(timeout=240, **settings)
        requests = [call for call in llm.requests if not (call.body or {}).get("stream")]
        assert asked.is_set(), f"the script was not played to its end:\n{done.stdout}{done.stderr}"
        with environ(**clean_environment(**LOCAL_PRICES)):
            direct = list(stream(model, proxy.key, settings["LLM_BASE_URL"]))
    return Streamed(model, done, run.output, requests, relayed, direct, any(held_up))


Accounts = dict[str, float]


def accounts_of(played: Played) -> Accounts:
    """Return what a run cost, and the tokens that it counted, as its files and output have them."""
    events = played.read("trajectory.jsonl")
    told = [event["value"] for event in events if event.get("key") == "stats"]
    usages = [
        metrics["accumulated_token_usage"] for metrics in told[-1]["usage_to_metrics"].values()
    ]
    return {"cost": played.cost} | {name: sum(usage[name] for usage in usages) for name in COUNTED}


def accounts_without_relay(proxy: Proxy, model: str, folder: Path) -> Accounts:
    """Return the accounts of the same run without a container, straight to the proxy."""
    with environ(**clean_environment(**LOCAL_PRICES)), proxy.playing() as llm:
        from openhands.sdk import LLM, Agent, Conversation, Tool
        from openhands.tools.terminal import TerminalTool

        settings = proxy.settings(model)
        base_url, key = settings["LLM_BASE_URL"], settings["LLM_API_KEY"]
        agent = Agent(
            llm=LLM(usage_id="agent", model=model, api_key=SecretStr(key), base_url=base_url),
            tools=[Tool(name=TerminalTool.name)],
        )
        conversation = Conversation(agent=agent, workspace=f"{folder}", visualizer=None)
        with contextlib.closing(conversation):
            conversation.send_message("Look around.")
            conversation.run()
            metrics = conversation.conversation_stats.get_combined_metrics()
    assert llm.script == []
    usage = metrics.accumulated_token_usage
    return {"cost": metrics.accumulated_cost} | {name: getattr(usage, name) for name in COUNTED}


def without_made_up(chunk: Any) -> Any:
    """Return a chunk without what is another one in each call, ids and times."""
    if isinstance(chunk, list):
        return [without_made_up(part) for part in chunk]
    if isinstance(chunk, dict):
        return {k: without_made_up(v) for k, v in chunk.items() if k not in MADE_UP}
    return chunk


def test_the_check_that_upstream_makes_of_its_examples_passes(checked: Played):
    assert checked.done.returncode == 0, checked.done.stderr
    lines = checked.done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("EXAMPLE_COST:")]) == 1


def test_upstreams_check_costs_what_it_costs_without_the_relay(
    checked: Played, proxy: Proxy, tmp_path: Path
):
    expected = accounts_without_relay(proxy, checked.model, tmp_path)
    assert expected["cost"] > 1
    assert accounts_of(checked) == pytest.approx(expected)


def test_an_agent_finishes_its_task_through_a_litellm_proxy(played: Streamed):
    assert played.done.returncode == 0, played.done.stderr
    called = [call.path for call in played.requests if call.method == "POST"]
    assert called == [STYLES[played.model]] * (len(SCRIPT) + 1)  # and the finish


def test_the_litellm_proxy_is_spoken_to_in_the_style_of_the_model(played: Streamed):
    assert {call["path"] for call in played.read("llm_calls.jsonl")} == {STYLES[played.model]}


def test_a_run_counts_and_costs_what_it_does_without_the_relay(
    played: Streamed, proxy: Proxy, tmp_path: Path
):
    expected = accounts_without_relay(proxy, played.model, tmp_path)
    assert expected["cost"] > 1
    assert accounts_of(played) == pytest.approx(expected)


def test_a_streamed_call_from_the_container_gets_what_a_direct_one_gets(played: Streamed):
    assert len(played.direct) > 4
    assert "1234" in f"{played.direct[-1]}"  # the usage is among it
    assert without_made_up(played.relayed) == without_made_up(played.direct)


def test_a_stream_reaches_the_container_while_it_is_produced(played: Streamed):
    assert played.relayed
    assert not played.held_up
