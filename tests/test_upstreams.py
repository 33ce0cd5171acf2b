"""Upstream's check of its examples, with a real LiteLLM proxy as LLM_BASE_URL.

The proxy is a process of its own. Behind it stands the scripted provider, so that a whole
agent can be played. The prices are the proxy's own and on nobody's list: a cost that is
right was the proxy's.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import secrets
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import ROOT, clean_environment, environ, sdk_with_example
from pydantic import SecretStr
from scripted_llm import Request, ScriptedLLM, Step


SCRIPT: list[Step] = [
    ("terminal", {"command": "pwd; ls -la"}),
    ("terminal", {"command": "echo 'It is seen.' > NOTES.md"}),
]
# What the check sets, and what the proxy makes of it: upstream's check sets the first,
# for which the SDK asks for chat completions; for the other one it asks for responses.
ROUTES = {
    "openhands/claude-haiku-4-5-20251001": "anthropic/claude-haiku-4-5-20251001",
    "litellm_proxy/gpt-5-mini": "openai/gpt-5-mini",
}
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/responses"}
COUNTED = [
    *["prompt_tokens", "completion_tokens", "reasoning_tokens"],
    *["cache_read_tokens", "cache_write_tokens"],
]
PRICES = {"input_cost_per_token": 0.003, "output_cost_per_token": 0.005}


class Proxy:
    """A LiteLLM proxy on loopback, and the scripted provider behind it."""

    def __init__(self, llm: ScriptedLLM, folder: Path):
        self.llm, self.folder = llm, folder
        self.key = f"sk-test-{secrets.token_hex(16)}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config(self) -> dict[str, Any]:
        models = list[dict[str, Any]]()
        for model, real in ROUTES.items():
            base = self.llm.origin if "anthropic" in real else self.llm.base_url
            parameters = {"model": real, "api_key": "sk-upstream", "api_base": base}
            name = model.partition("/")[2]
            models.append({"model_name": name, "litellm_params": parameters | PRICES})
        return {"model_list": models, "general_settings": {"master_key": self.key}}

    @contextlib.contextmanager
    def serving(self) -> Iterator[Proxy]:
        (self.folder / "config.yaml").write_text(json.dumps(self.config()))
        # Its requirements and the SDK's exclude each other: it gets a place of its own.
        pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
        command = ["uv", "tool", "run", f"--exclude-newer={pins['exclude-newer']}"]
        command += [f"--python={sys.executable}"]
        command += [f"--from=litellm[proxy]=={version('litellm')}", "litellm"]
        command += ["--config=config.yaml", "--host=127.0.0.1", f"--port={self.port}"]
        log = self.folder / "log"
        with log.open("w") as file:
            process = psutil.Popen(
                command,
                stdout=file,
                stderr=file,
                cwd=self.folder,
                env=clean_environment(),
            )
        try:
            deadline = time.monotonic() + 300  # its packages may have to be downloaded
            while not self.answers():
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
            yield self
        finally:
            family = [*process.children(recursive=True), process]
            for end in (psutil.Process.terminate, psutil.Process.kill):
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        end(member)
                psutil.wait_procs(family, timeout=10)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            url = f"{self.origin}/health/readiness"
            return httpx.get(url, trust_env=False).status_code == 200
        return False

    @contextlib.contextmanager
    def playing(self) -> Iterator[ScriptedLLM]:
        """Play the script from its beginning, with the usages of every time."""
        self.llm.script, self.llm.requests = list(SCRIPT), []
        self.llm.usages, self.llm._ids = [], itertools.count(1)
        yield self.llm


@pytest.fixture(scope="module")
def proxy(task_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy for all runs; none is started where no engine could run them."""
    folder = tmp_path_factory.mktemp("proxy")
    with ScriptedLLM() as llm, Proxy(llm, folder).serving() as proxy:
        yield proxy


@dataclass
class Checked:
    """A run that is over, as upstream's check makes it."""

    model: str
    done: subprocess.CompletedProcess[str]
    folder: Path
    requests: list[Request]

    def accounts(self) -> dict[str, float]:
        """Return what the run cost and counted, as its output and trajectory have it."""
        (cost,) = re.findall(r"(?m)^EXAMPLE_COST: ([\d.e-]+)$", self.done.stdout)
        (path,) = self.folder.glob("*/trajectory.jsonl")
        events = map(json.loads, path.read_text().splitlines())
        *_, stats = (event["value"] for event in events if event.get("key") == "stats")
        usages = [
            metrics["accumulated_token_usage"]
            for metrics in stats["usage_to_metrics"].values()
        ]
        counts = {name: sum(usage[name] for usage in usages) for name in COUNTED}
        return {"cost": float(cost)} | counts

    def ledger(self) -> list[dict[str, Any]]:
        """Return the relay's ledger."""
        (path,) = self.folder.glob("*/llm_calls.jsonl")
        return list(map(json.loads, path.read_text().splitlines()))


@pytest.fixture(scope="module", params=ROUTES)
def checked(
    request: pytest.FixtureRequest,
    proxy: Proxy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Checked:
    """A run of upstream's check, in a checkout of the SDK, among its own examples."""
    # No setting names an output folder, so that the working directory gets it.
    root = tmp_path_factory.mktemp("upstream") / "sdk"
    path = sdk_with_example(root)
    settings = {"LLM_MODEL": request.param, "LLM_API_KEY": proxy.key}
    with proxy.playing() as llm:
        done = subprocess.run(
            [sys.executable, path.relative_to(root)],
            cwd=root,
            env=clean_environment(LLM_BASE_URL=proxy.origin, **settings),
            capture_output=True,
            text=True,
            timeout=600,
        )
    return Checked(request.param, done, root / "submissions", llm.requests)


def accounts_without_the_relay(
    proxy: Proxy, model: str, folder: Path
) -> dict[str, float]:
    """Return the accounts of the same run without a container, straight to the proxy."""
    with environ(**clean_environment(NO_PROXY="127.0.0.1")), proxy.playing():
        from openhands.sdk import LLM, Agent, Conversation, Tool
        from openhands.tools.terminal import TerminalTool

        key, url = SecretStr(proxy.key), proxy.origin
        agent = Agent(
            llm=LLM(usage_id="agent", model=model, api_key=key, base_url=url),
            tools=[Tool(name=TerminalTool.name)],
        )
        conversation = Conversation(agent=agent, workspace=folder, visualizer=None)
        with contextlib.closing(conversation):
            conversation.send_message("Look around.")
            conversation.run()
            metrics = conversation.conversation_stats.get_combined_metrics()
    assert proxy.llm.script == []
    usage = metrics.accumulated_token_usage
    counts = {name: getattr(usage, name) for name in COUNTED}
    return {"cost": metrics.accumulated_cost} | counts


def test_the_check_that_upstream_makes_of_its_examples_passes(checked: Checked):
    assert checked.done.returncode == 0, checked.done.stdout + checked.done.stderr
    assert len(re.findall("^EXAMPLE_COST:", checked.done.stdout, re.M)) == 1
    path = PATHS[ROUTES[checked.model].partition("/")[0]]
    called = [call.path for call in checked.requests if call.method == "POST"]
    assert called == [path] * (len(SCRIPT) + 1)  # and the finish


def test_a_run_counts_and_costs_what_it_does_without_the_relay(
    checked: Checked, proxy: Proxy, tmp_path: Path
):
    expected = accounts_without_the_relay(proxy, checked.model, tmp_path)
    assert expected["cost"] > 1
    assert checked.accounts() == pytest.approx(expected)
    ledger = checked.ledger()
    assert sum(line["cost"] for line in ledger) == pytest.approx(expected["cost"])
    prompt = sum(line["tokens"]["in"] for line in ledger)
    assert prompt == expected["prompt_tokens"]
