"""What reaches the providers: what the SDK alone would send, and nothing that an agent adds."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any


os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import httpx
import litellm
import pytest
from conftest import load_example
from provider_bodies import FILE, FUNCTION_NAMES, PIXEL, URL, attacks
from recording import (
    HOSTS,
    KEY,
    Call,
    Counted,
    Providers,
    Record,
    SdkProcess,
    a_call_without_tools,
    a_conversation,
    alone,
    bridge_to,
    four_calls,
    in_the_box,
    users_llm,
    without_the_policy,
)
from scripted_llm import Response

from openhands.sdk import LLM
from openhands.sdk.llm.utils.openhands_provider import litellm_call_kwargs
from openhands.sdk.llm.utils.verified_models import VERIFIED_MODELS


MODELS = [
    f"{provider}/{name}"
    for provider, names in VERIFIED_MODELS.items()
    for name in names
]


class Wire:
    """The SDK in its process, the providers, and a relay between them."""

    def __init__(self, sdk: SdkProcess, providers: Providers, folder: Path):
        self.sdk = sdk
        self.providers = providers
        self.ledger = folder / "llm_calls.jsonl"

    @contextmanager
    def relay(self, llm: LLM) -> Iterator[Any]:
        """Serve a relay for a user's LLM."""
        with (
            self.providers.in_place_of_the_internet(),
            example.Relay(llm, ledger=self.ledger, call_limit=10_000) as relay,
        ):
            self.providers.start_over()
            yield relay

    def play(
        self, relay: Any, calls: Callable[[LLM], None] = four_calls
    ) -> tuple[Record, Counted]:
        """Let the box's LLM make calls; return what has arrived, and what it has counted."""
        box = relay.llm_for_the_box.model_dump(
            mode="json", context={"expose_secrets": True}
        )
        with bridge_to(relay.socket) as port:
            counted = self.sdk(in_the_box, box, port, calls)
        return self.providers.record, counted

    def through_a_relay(self, llm: LLM) -> tuple[Record, Counted]:
        """Serve a relay for a user's LLM, and play the four calls through it."""
        with self.relay(llm) as relay:
            return self.play(relay)


@pytest.fixture(scope="module")
def sdk() -> Iterator[SdkProcess]:
    """Run the process in which the SDK makes its calls, alone or in the place of the box."""
    with SdkProcess() as sdk:
        yield sdk


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Providers]:
    """Stand in for whatever the relay connects to."""
    with Providers(tmp_path_factory.mktemp("providers")) as providers:
        yield providers


@pytest.fixture
def wire(sdk: SdkProcess, providers: Providers, tmp_path: Path) -> Wire:
    """Return the parts of the way from the SDK to the providers."""
    return Wire(sdk, providers, tmp_path)


# ## The same calls as the SDK's own


def differences(alone: Any, through: Any, where: str) -> Iterator[str]:
    """Tell where two values differ."""
    if isinstance(alone, dict) and isinstance(through, dict):
        for name in sorted({*alone, *through}):
            missing = "<missing>"
            pair = alone.get(name, missing), through.get(name, missing)
            yield from differences(*pair, f"{where}.{name}")
    elif (
        isinstance(alone, list)
        and isinstance(through, list)
        and len(alone) == len(through)
    ):
        for number, pair in enumerate(zip(alone, through, strict=True)):
            yield from differences(*pair, f"{where}[{number}]")
    elif alone != through:
        yield f"{where}: alone {str(alone)[:100]!r}, through the relay {str(through)[:100]!r}"


def comparable(call: Call) -> dict[str, Any]:
    """Return a call without what differs between any two runs of the SDK alone.

    LiteLLM invents an id for each of Gemini's function calls. The relay's session is the run, and
    the SDK's the conversation; either's id goes into the same three places.
    """
    text = re.sub(r"call_[0-9a-f]{28}\b", "call_invented", json.dumps(asdict(call)))
    fields = json.loads(text)
    for part, name in SESSION_PLACES:
        if fields[part].get(name):
            fields[part][name] = "a session"
    if fields["headers"].pop("x-amz-date", None):  # what is signed holds the time
        del fields["headers"]["authorization"]
    return fields


SESSION_PLACES = [
    ("body", "session_id"),
    ("body", "prompt_cache_key"),
    ("headers", "x-litellm-session-id"),
]


def sessions(record: Record) -> set[str | None]:
    """Return the ids of sessions that stand in calls."""
    calls = map(asdict, record.calls)
    found = {call[part].get(name) for call in calls for part, name in SESSION_PLACES}
    return found - {None}


def is_routable(model: str) -> bool:
    """Return whether LiteLLM knows the provider."""
    try:
        litellm.get_llm_provider(**litellm_call_kwargs(model, None))
    except litellm.exceptions.BadRequestError:
        return False
    return True


def different(
    wire: Wire, model: str, environment: dict[str, str], **settings: Any
) -> list[str]:
    """Tell where the calls of the SDK alone differ from the same calls through a relay."""
    expected, alone_counted = wire.sdk(alone, model, environment, **settings)
    assert len(expected.calls) == 4, model
    arrived, counted = wire.through_a_relay(users_llm(model, **settings))
    found = list(differences(alone_counted.limits, counted.limits, f"{model}, limits"))
    for number, pair in enumerate(
        zip(expected.calls, arrived.calls, strict=True), start=1
    ):
        ours, theirs = map(comparable, pair)
        found += differences(ours, theirs, f"{model}, call {number}: ")
    assert len(sessions(arrived)) == len(sessions(expected)), model
    return found


def test_every_verified_model_gets_the_calls_that_the_sdk_alone_makes(wire: Wire):
    found: list[str] = []
    unroutable = Counter[str]()
    for model in MODELS:
        if is_routable(model):
            found += different(wire, model, {})
        else:
            unroutable[model.partition("/")[0]] += 1
    assert not found, f"{len(found)} differences:\n" + "\n".join(found)
    # As the SDK lists them, LiteLLM does not know these.
    assert unroutable == {"glm": 3, "nvidia": 5, "qwen": 10}


# Left out: Vertex AI, for which the SDK wants packages that it does not require. Models with manual
# thinking on Bedrock: LiteLLM's async call leaves their beta header out, the SDK's own one too.
OTHERS = {
    "azure/gpt-4o": {
        "AZURE_API_BASE": "https://mine.openai.azure.com",
        "AZURE_API_KEY": KEY,
    },
    "azure/gpt-5.6": {
        "AZURE_API_BASE": "https://mine.openai.azure.com",
        "AZURE_API_KEY": KEY,
    },
    "bedrock/anthropic.claude-opus-5": {
        "AWS_ACCESS_KEY_ID": "AKIAOFTHEUSER",
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_REGION_NAME": "us-east-1",
    },
    "cerebras/gpt-oss-120b": {"CEREBRAS_API_KEY": KEY},
    "dashscope/qwen3-coder-plus": {"DASHSCOPE_API_KEY": KEY},
    "fireworks_ai/accounts/fireworks/models/glm-4p6": {"FIREWORKS_API_KEY": KEY},
    "nvidia_nim/nvidia/nemotron-3-super": {"NVIDIA_NIM_API_KEY": KEY},
    "together_ai/deepseek-ai/DeepSeek-V3.1": {"TOGETHERAI_API_KEY": KEY},
    "xai/grok-4": {"XAI_API_KEY": KEY},
    "zai/glm-4.6": {"ZAI_API_KEY": KEY},
    "anthropic/claude-opus-5-5": {"ANTHROPIC_API_KEY": KEY},
    "gemini/gemini-3.8-flash": {"GEMINI_API_KEY": KEY},
}


UNTOLD = {"bedrock", "zai"}  # LiteLLM does not say what these lack


@pytest.mark.parametrize("model", OTHERS)
def test_credentials_are_found_where_the_providers_own_client_looks(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, model: str
):
    without_a_key = users_llm(model, api_key=None)
    for name in OTHERS[model]:
        monkeypatch.delenv(name, raising=False)
    if model.partition("/")[0] not in UNTOLD:
        assert "set LLM_API_KEY" in (provider_problem(without_a_key) or "")
    for name, value in OTHERS[model].items():
        monkeypatch.setenv(name, value)
    assert provider_problem(without_a_key) is None
    assert different(wire, model, OTHERS[model], api_key=None) == []


BASE_URLS = [
    pytest.param(model, f"{host}{written}", path, id=f"{model} {written}")
    for model, host, path, spellings in (
        (
            "openai/gpt-4o",
            "https://llm.example",
            "/v1/chat/completions",
            " / /v1 /v1/ {}",
        ),
        ("openai/gpt-6.1-sol", "https://llm.example", "/v1/responses", " /v1 /v1/ {}"),
        (
            "anthropic/claude-opus-5-5",
            "https://llm.example",
            "/v1/messages",
            " / /v1 /v1/ {}",
        ),
        (
            "mistral/devstral-2512",
            "https://llm.example",
            "/v1/chat/completions",
            " /v1 {}",
        ),
        (
            "litellm_proxy/claude-opus-5-5",
            "https://llm.example",
            "/chat/completions",
            " / {}",
        ),
        (
            "litellm_proxy/gpt-6.1-sol",
            "https://llm.example",
            "/v1/responses",
            "/v1 /v1/ {}",
        ),
        (
            "moonshot/kimi-k3",
            "https://api.moonshot.ai",
            "/v1/chat/completions",
            " /v1 {}",
        ),
        (
            "openrouter/anthropic/claude-opus-5",
            "https://openrouter.ai",
            "/api/v1/chat/completions",
            " /api /api/v1 /api/v1/ {}",
        ),
        (
            "gemini/gemini-3.8-flash",
            "https://generativelanguage.googleapis.com",
            "/v1beta/models/gemini-3.8-flash:generateContent",
            " /v1beta /v1beta/ /v1beta/models {}",
        ),
    )
    for written in spellings.format(path).split(" ")
]


@pytest.mark.parametrize(("model", "base_url", "path"), BASE_URLS)
def test_base_urls_work_as_people_write_them(
    wire: Wire, model: str, base_url: str, path: str
):
    llm = users_llm(model, base_url=base_url)
    told = provider_problem(llm)
    if told:
        assert "LLM_BASE_URL" in told
        return
    arrived, _ = wire.through_a_relay(llm)
    assert [call.path for call in arrived.calls] == [path] * 4
    assert {call.host for call in arrived.calls} == {httpx.URL(base_url).host}
    if (
        "claude-opus-5-5" in model
    ):  # the SDK's cap for base URLs does not reach the provider
        limits = {"max_tokens", "max_completion_tokens"} & arrived.calls[0].body.keys()
        assert [arrived.calls[0].body[name] for name in limits] == [128_000]


# LiteLLM knows no price of these, and so neither do the SDK and the relay.
UNPRICED = {"mistral/devstral-2512", "openrouter/openai/gpt-6.1-sol"}
PROBLEMS = {
    "an unknown provider": ({"model": "glm/glm-5.3"}, "LLM_MODEL=glm/glm-5.3"),
    "no provider": ({"model": "a-model-of-nobody"}, "LLM_MODEL=a-model-of-nobody"),
    "no key": ({"model": "mistral/devstral-2512", "api_key": None}, "set LLM_API_KEY"),
    "no scheme": (
        {"model": "openai/gpt-4o", "base_url": "llm.example/v1"},
        "LLM_BASE_URL",
    ),
    "no host": ({"model": "openai/gpt-4o", "base_url": "https:///v1"}, "LLM_BASE_URL"),
    "a wrong port": (
        {"model": "openai/gpt-4o", "base_url": "http://a:b/v1"},
        "LLM_BASE_URL",
    ),
    "a query": (
        {"model": "openai/gpt-4o", "base_url": "https://a/v1?x=1"},
        "LLM_BASE_URL",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_cannot_work_is_told(monkeypatch: pytest.MonkeyPatch, problem: str):
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    settings, words = PROBLEMS[problem]
    told = provider_problem(users_llm(**settings))
    assert told
    assert words in told
    assert KEY not in told


@pytest.mark.parametrize("model", sorted(UNPRICED))
def test_a_cost_limit_without_a_price_is_told(model: str):
    assert provider_problem(users_llm(model)) is None
    assert "LLM_COST_LIMIT" in (
        provider_problem(users_llm(model), cost_limit=1.0) or ""
    )
    prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6}
    priced = users_llm(model, **prices, max_output_tokens=32_000)
    assert provider_problem(priced, cost_limit=1.0) is None


def test_limits_pictures_caches_and_thinking_arrive_as_written_here(wire: Wire):
    def third_call(model: str) -> tuple[int | None, Call]:
        arrived, counted = wire.through_a_relay(users_llm(model))
        return counted.limits[0], arrived.calls[2]

    picture = PIXEL.partition(",")[2]
    window, opus = third_call("anthropic/claude-opus-5-5")
    assert (window, opus.body["max_tokens"]) == (1_000_000, 128_000)
    assert opus.body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert json.dumps(opus.body["messages"]).count(picture) == 2
    assert "anthropic-beta" not in opus.headers
    cached = {"type": "ephemeral"}
    assert opus.body["system"][0]["cache_control"] == cached
    assert opus.body["messages"][-1]["content"][-1]["cache_control"] == cached

    window, haiku = third_call("anthropic/claude-haiku-4-5-20251001")
    assert (window, haiku.body["max_tokens"]) == (200_000, 64_000)
    assert haiku.body["thinking"] == {"type": "enabled", "budget_tokens": 63_999}
    assert haiku.headers["anthropic-beta"] == "interleaved-thinking-2025-05-14"

    window, sol = third_call("openai/gpt-6.1-sol")
    assert (window, sol.body["max_output_tokens"]) == (922_000, 128_000)
    assert sol.body["include"] == ["reasoning.encrypted_content"]
    assert json.dumps(sol.body["input"]).count(picture) == 2
    assert sol.body["store"] is False

    _, argon = third_call("gemini/gemini-4-argon")
    assert argon.body["generationConfig"]["max_output_tokens"] == 524_288
    assert json.dumps(argon.body["contents"]).count(picture) == 2
    assert json.dumps(argon.body["contents"]).count("thoughtSignature") == 2


# ## Cost, and whole conversations

# One model of each style, and where its calls arrive.
STYLES = {
    "anthropic/claude-opus-5-5": "/v1/messages",
    "openai/gpt-6.1-sol": "/v1/responses",
    "mistral/devstral-2512": "/v1/chat/completions",
    "gemini/gemini-3.8-flash": "/v1alpha/models/gemini-3.8-flash:generateContent",
    "openrouter/anthropic/claude-opus-5": "/api/v1/chat/completions",
    "openrouter/openai/gpt-6.1-sol": "/api/v1/responses",
    "openhands/claude-opus-5-5": "/chat/completions",
}


@pytest.mark.parametrize("model", STYLES)
def test_cost_and_tokens_are_the_sdks_own(wire: Wire, model: str):
    _, expected = wire.sdk(alone, model, {})
    with wire.relay(users_llm(model)) as relay:
        arrived, counted = wire.play(relay)
        lines = list(map(json.loads, wire.ledger.read_text().splitlines()))
    assert [call.path for call in arrived.calls] == [STYLES[model]] * 4
    assert expected.cost > 0 or model in UNPRICED
    assert counted.cost == pytest.approx(expected.cost, abs=1e-12)
    assert relay.cost == pytest.approx(expected.cost, abs=1e-12)
    assert sum(line["cost"] for line in lines) == pytest.approx(
        expected.cost, abs=1e-12
    )
    assert expected.tokens["cache_read_tokens"] == 4 * 500
    assert counted.tokens == expected.tokens
    names = ("prompt_tokens", "cache_read_tokens", "completion_tokens")
    tokens = [relay.tokens_in, relay.tokens_cached, relay.tokens_out]
    assert tokens == [expected.tokens[name] for name in names]
    assert (relay.calls, len(lines)) == (4, 4)


@pytest.mark.parametrize(
    "model", ["gemini/gemini-3.8-flash", "openrouter/anthropic/claude-opus-5"]
)
def test_a_conversation_runs_to_its_end(wire: Wire, tmp_path: Path, model: str):
    folder = tmp_path / "workspace"
    folder.mkdir()
    with wire.relay(users_llm(model)) as relay:
        wire.providers.script = [
            ("terminal", {"command": "echo 'int main(void) { return 0; }' > main.c"}),
            ("file_editor", {"command": "view", "path": f"{folder}/main.c"}),
            ("finish", {"message": "It is built."}),
        ]
        arrived, counted = wire.play(relay, partial(a_conversation, folder=folder))
    assert (folder / "main.c").read_text() == "int main(void) { return 0; }\n"
    assert [call.path for call in arrived.calls] == [STYLES[model]] * 3
    assert "int main(void)" in json.dumps(arrived.calls[2].body)
    assert (relay.calls, relay.refused) == (3, 0)
    assert relay.cost > 0
    assert relay.cost == pytest.approx(counted.cost)


@pytest.mark.parametrize("model", STYLES)
def test_a_provider_that_fails_is_asked_once(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, model: str
):
    monkeypatch.setattr(wire.providers, "respond", lambda _: Response(503, {}, b"{}"))
    with wire.relay(users_llm(model)) as relay, pytest.raises(RuntimeError):
        wire.play(relay, a_call_without_tools)
    assert relay.calls == len(wire.providers.record.calls) == 1


# ## Attacks

ATTACKED = (
    "anthropic/claude-opus-5-5",
    "openai/gpt-6.1-sol",
    "openai/gpt-4o",
    "gemini/gemini-3.8-flash",
    "openrouter/anthropic/claude-opus-5",
)
ATTACKERS_HEADERS = {
    "anthropic-beta": "web-fetch-2025-09-10,mcp-client-2025-04-04",
    "api-key": "sk-attacker",
    "authorization": "Bearer sk-attacker",
    "host": "attacker.example",
    "http-referer": URL,
    "openai-organization": "attacker",
    "x-api-key": "sk-attacker",
    "x-goog-api-key": "sk-attacker",
    "x-litellm-api-base": URL,
    "x-litellm-session-id": "attacker",
    "x-title": "attacker",
}
# Where text stands that a provider hands to its model and to nothing else.
TEXT = {
    "arguments",
    "args",
    "content",
    "description",
    "input",
    "instructions",
    "output",
    "text",
}
TEXT |= {"reasoning_content", "thinking", "command"}
# Parts of a call that only the agent's own tools read.
FREE = {"args", "input_schema", "parameters", "parametersJsonSchema", "response"}


def shape(value: Any, where: str = "") -> set[str]:
    """Return which fields and which types a body has, wherever they stand."""
    found: set[str] = set()
    if isinstance(value, list):
        for item in value:
            found |= shape(item, where)
    elif isinstance(value, dict):
        for name, below in value.items():
            found.add(
                f"{where}.{name}={below}"
                if name in ("type", "role")
                else f"{where}.{name}"
            )
            found |= set() if is_free(name, below) else shape(below, f"{where}.{name}")
    return found


def addresses(value: Any, name: str = "") -> Iterator[str]:
    """Find what is the attacker's and stands where a provider might look it up."""
    if isinstance(value, dict):
        for name, below in value.items():
            if not is_free(name, below):
                yield from addresses(below, name)
    elif isinstance(value, list):
        for item in value:
            yield from addresses(item, name)
    elif (
        isinstance(value, str)
        and name not in TEXT
        and ("attacker" in value or FILE in value)
    ):
        yield f"{name}: {value[:80]}"


def is_free(name: str, value: Any) -> bool:
    """Return whether only the agent's own tools read what stands here."""
    return name in FREE or (name == "input" and isinstance(value, dict))


example = load_example()


def provider_problem(llm: LLM, cost_limit: float | None = None) -> str | None:
    """Return what is told of a provider before the build, or None."""
    try:
        example.check_provider(llm, cost_limit)
    except example.CleanroomError as error:
        return str(error)
    return None


@dataclass
class Usual:
    """What the SDK's own calls to a model look like."""

    targets: set[tuple[str, str, str]]
    models: set[str | None]
    headers: set[str]
    fields: set[str]


@pytest.fixture(scope="module")
def usual(sdk: SdkProcess) -> dict[str, Usual]:
    """Return what is usual for each attacked model."""
    found: dict[str, Usual] = {}
    for model in ATTACKED:
        calls = sdk(alone, model, {})[0].calls
        found[model] = Usual(
            targets={target(call) for call in calls},
            models={call.body.get("model") for call in calls},
            headers={name for call in calls for name in call.headers},
            fields=set().union(*(shape(call.body) for call in calls)),
        )
    return found


def target(call: Call) -> tuple[str, str, str]:
    """Return what a call was sent to."""
    return call.method, call.host, call.path


def harm(record: Record, usual: Usual) -> list[str]:
    """Tell what was done that the SDK's own calls to the model do not do."""
    hosts = {host for _, host, _ in usual.targets}
    found = [f"looks up {name}" for name in record.names - hosts]
    found += [f"{len(record.received)} calls"] * (len(record.received) > 1)
    for call in record.received:
        found += [" ".join(target) for target in {target(call)} - usual.targets]
        found += [
            f"has the header {name}" for name in call.headers.keys() - usual.headers
        ]
        found += addresses([call.body, call.headers])
        if isinstance(call.body, dict):
            found += [
                f"asks {model}" for model in {call.body.get("model")} - usual.models
            ]
            fields = shape(call.body) - usual.fields
            found += [
                f"has {field}"
                for field in sorted(fields)
                if not CACHE_MARK.search(field)
            ]
    return found


# Where a provider may cut its own cache; the SDK sets it in fewer places.
CACHE_MARK = re.compile(r"\.cache_control(\.type=ephemeral)?$")


@pytest.mark.parametrize("model", ATTACKED)
def test_no_body_makes_a_provider_do_more_than_answer(
    wire: Wire,
    usual: dict[str, Usual],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
):
    # Nor does the host add what its user keeps for other programs.
    netrc = tmp_path / ".netrc"
    netrc.write_text(
        "".join(f"machine {host} login attacker password x\n" for host in HOSTS)
    )
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    found: list[str] = []
    answered: set[str] = set()
    with wire.relay(users_llm(model)) as relay:
        transport = httpx.HTTPTransport(uds=str(relay.socket))
        with httpx.Client(
            transport=transport, base_url="http://relay", timeout=30
        ) as agent:
            for name, (path, body) in attacks().items():
                wire.providers.start_over()
                status = agent.post(
                    path, json=body, headers=ATTACKERS_HEADERS
                ).status_code
                if status == 200:
                    answered.add(name)
                done = harm(wire.providers.record, usual[model])
                found += [f"{name} ({status}): {what}" for what in done]
    assert not found, f"{len(found)} findings:\n" + "\n".join(found)
    style = "responses" if users_llm(model).uses_responses_api() else "chat"
    assert {f"{style} function named {name}" for name in FUNCTION_NAMES} <= answered


@pytest.mark.parametrize("model", ATTACKED)
def test_a_redirect_leads_to_no_other_host(
    wire: Wire, usual: dict[str, Usual], monkeypatch: pytest.MonkeyPatch, model: str
):
    def redirect(_: object) -> Response:
        return Response(307, {"Location": URL}, b"{}")

    monkeypatch.setattr(wire.providers, "respond", redirect)
    with wire.relay(users_llm(model)) as relay:
        with pytest.raises(RuntimeError):
            wire.play(relay, a_call_without_tools)
        assert len(wire.providers.record.calls) == 1
        assert harm(wire.providers.record, usual[model]) == []


# Some of the same bodies in LiteLLM's hands, to show that the test above would notice.
CONTROLS = {
    "anthropic/claude-opus-5-5": {
        "chat tool web_search_20250305": "has .tools.type=web_search_20250305",
        "chat tool mcp": "has .mcp_servers.url",
        "responses tool web_search_preview": "has .tools.type=web_search_20250305",
        "chat field api_base": "looks up attacker.example",
        "chat field api_key": "x-api-key: sk-attacker",
        "chat field mcp_servers": "has .mcp_servers.url",
        "part 0 image_url": "has .messages.content.source.type=url",
        "answer 0 thinking_blocks": "has .messages.content.type=server_tool_use",
        "answer 1 thinking_blocks": "has .messages.content.source.type=url",
    },
    "openai/gpt-6.1-sol": {
        "responses tool web_search": "has .tools.type=web_search",
        "responses tool mcp": "has .tools.server_url",
        "responses field extra_body": "asks attacker/model",
        "responses field api_base": "looks up attacker.example",
        "responses field previous_response_id": "has .previous_response_id",
        "item 0 message": f"image_url: {URL}",
        "item 4 message": f"file_id: {FILE}",
        "item 12 item_reference": "has .input.type=item_reference",
    },
    "openai/gpt-4o": {
        "chat tool web_search": "has .tools.type=web_search",
        "chat field web_search_options": "has .web_search_options",
        "chat field organization": "openai-organization: attacker",
        "part 0 image_url": f"url: {URL}",
    },
    "gemini/gemini-3.8-flash": {
        "chat tool googleSearch": "has .tools.googleSearch",
        "chat tool urlContext": "has .tools.url_context",
        "chat tool codeExecution": "has .tools.code_execution",
        "chat field cached_content": "has .cachedContent",
        "part 0 image_url": "looks up attacker.example",
        "part 3 image_url": "has .contents.parts.file_data.file_uri",
        "part 30 text": "GET generativelanguage.googleapis.com /v1beta/cachedContents",
    },
    "openrouter/anthropic/claude-opus-5": {
        "chat tool openrouter:web_search": "has .tools.type=openrouter:web_search",
        "chat field plugins": "has .plugins",
        "chat field models": "models: attacker/model",
        "part 0 image_url": f"url: {URL}",
    },
}


@pytest.mark.parametrize("model", CONTROLS)
def test_without_the_policy_they_would(
    sdk: SdkProcess, usual: dict[str, Usual], model: str
):
    for name, what in CONTROLS[model].items():
        record = sdk(without_the_policy, model, *attacks()[name])
        assert what in harm(record, usual[model]), name
