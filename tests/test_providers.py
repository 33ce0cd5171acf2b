"""What reaches the providers: what the SDK alone would send, and nothing that an agent
adds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import litellm
import pytest
from conftest import load_example
from provider_bodies import CHAT, FILE, RESPONSES, harmless, refused
from recording import (
    HOSTS,
    KEY,
    Call,
    Counted,
    Providers,
    Record,
    Sdk,
    a_call_without_tools,
    alone,
    bridge_to,
    failed_alone,
    four_calls,
    in_the_box,
    sdk_process,
    users_llm,
    without_the_policy,
)
from relay_bodies import PIXEL, URL, chat, items, steps
from scripted_llm import Response, json_response

from openhands.sdk import LLM
from openhands.sdk.llm.utils.openhands_provider import litellm_call_kwargs
from openhands.sdk.llm.utils.verified_models import VERIFIED_MODELS


example = load_example()


@dataclass
class Wire:
    """The SDK in its process, the providers, and a relay between them."""

    sdk: Sdk
    providers: Providers
    ledger: Path

    @contextmanager
    def relay(self, llm: LLM, **options: Any) -> Iterator[Any]:
        """Serve a relay for a user's LLM."""
        options = {"ledger": self.ledger, "call_limit": 10_000} | options
        with (
            self.providers.in_place_of_the_internet(),
            example.Relay(llm, **options) as relay,
        ):
            self.providers.start_over()
            yield relay

    def play(
        self, relay: Any, calls: Callable[[LLM], None] = four_calls, retries: int = 0
    ) -> tuple[Record, Counted]:
        """Let the box's LLM make calls; return what arrived, and what it counted."""
        box = relay.llm_for_the_box
        sent = box.model_dump(mode="json", context={"expose_secrets": True})
        with bridge_to(relay.socket) as port:
            counted = self.sdk(in_the_box, sent, port, calls, retries)
        return self.providers.record, counted

    @contextmanager
    def agent(self, relay: Any) -> Iterator[httpx.Client]:
        """Be the agent's shell, which sends what it likes."""
        way = httpx.HTTPTransport(uds=str(relay.socket))
        with httpx.Client(transport=way, base_url="http://relay", timeout=30) as agent:
            yield agent

    def lines(self) -> list[dict[str, Any]]:
        """Return the ledger's lines."""
        return list(map(json.loads, self.ledger.read_text().splitlines()))

    def through_a_relay(self, llm: LLM) -> tuple[Record, Counted]:
        """Serve a relay for a user's LLM, and play the four calls through it."""
        with self.relay(llm) as relay:
            return self.play(relay)


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Return the parts of the way from the SDK to the providers."""
    folder = tmp_path_factory.mktemp("wire")
    with sdk_process() as sdk, Providers(folder) as providers:
        yield Wire(sdk, providers, folder / "llm_calls.jsonl")


# ## The same calls as the SDK's own


def differences(alone: Any, through: Any, where: str) -> Iterator[str]:
    """Tell where two values differ."""
    lists = isinstance(alone, list) and isinstance(through, list)
    if isinstance(alone, dict) and isinstance(through, dict):
        for name in sorted({*alone, *through}):
            missing = "<missing>"
            pair = alone.get(name, missing), through.get(name, missing)
            yield from differences(*pair, f"{where}.{name}")
    elif lists and len(alone) == len(through):
        for number, pair in enumerate(zip(alone, through, strict=True)):
            yield from differences(*pair, f"{where}[{number}]")
    elif alone != through:
        yield f"{where}: alone {str(alone)[:100]!r}, not {str(through)[:100]!r}"


def comparable(call: Call) -> dict[str, Any]:
    """Return a call without what differs between any two runs of the SDK alone.

    LiteLLM invents an id for each of Gemini's function calls. The relay's session is
    the run, and the SDK's the conversation; either's id goes into the same places.
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
    """Tell where the calls of the SDK alone differ from those through a relay."""
    expected, alone_counted = wire.sdk(alone, model, environment, **settings)
    assert len(expected.calls) == 4, model
    arrived, counted = wire.through_a_relay(users_llm(model, **settings))
    found = list(differences(alone_counted.limits, counted.limits, f"{model}, limits"))
    pairs = zip(expected.calls, arrived.calls, strict=True)
    for number, pair in enumerate(pairs, start=1):
        ours, theirs = map(comparable, pair)
        found += differences(ours, theirs, f"{model}, call {number}: ")
    assert len(sessions(arrived)) == len(sessions(expected)), model
    return found


def test_every_verified_model_gets_the_calls_that_the_sdk_alone_makes(wire: Wire):
    found: list[str] = []
    unroutable = Counter[str]()
    providers = VERIFIED_MODELS.items()
    for model in (f"{name}/{model}" for name, models in providers for model in models):
        if is_routable(model):
            found += different(wire, model, {})
        else:
            unroutable[model.partition("/")[0]] += 1
    assert not found, f"{len(found)} differences:\n" + "\n".join(found)
    # As the SDK lists them, LiteLLM does not know these.
    assert unroutable == {"glm": 3, "nvidia": 5, "qwen": 10}


# Left out: Vertex AI, for which the SDK wants packages that it does not require, and
# models with manual thinking on Bedrock: LiteLLM's async call leaves their beta header
# out, the SDK's own one too.
AZURE = {"AZURE_API_BASE": "https://mine.openai.azure.com", "AZURE_API_KEY": KEY}
OTHERS = {
    "azure/gpt-4o": AZURE,
    "azure/gpt-5.6": AZURE,
    "bedrock/anthropic.claude-opus-5": {
        "AWS_ACCESS_KEY_ID": "AKIAOFTHEUSER",
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_REGION_NAME": "us-east-1",
    },
    "dashscope/qwen3-coder-plus": {"DASHSCOPE_API_KEY": KEY},
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


OWN = "https://llm.example"
GOOGLE = "https://generativelanguage.googleapis.com"
GEMINI = "/v1beta/models/gemini-3.8-flash:generateContent"
# A model, a host, the path of the call, and what is written; {} is that path.
SPELLINGS = [
    ("openai/gpt-4o", OWN, "/v1/chat/completions", " / /v1 /v1/ {}"),
    ("openai/gpt-6.1-sol", OWN, "/v1/responses", " /v1 {}"),
    ("anthropic/claude-opus-5-5", OWN, "/v1/messages", " / /v1 /v1/ {}"),
    ("mistral/devstral-2512", OWN, "/v1/chat/completions", " /v1 {}"),
    ("litellm_proxy/claude-opus-5-5", OWN, "/chat/completions", " / {}"),
    ("litellm_proxy/gpt-6.1-sol", OWN, "/v1/responses", "/v1 {}"),
    ("moonshot/kimi-k3", "https://api.moonshot.ai", "/v1/chat/completions", " /v1 {}"),
    (
        "openrouter/anthropic/claude-opus-5",
        "https://openrouter.ai",
        "/api/v1/chat/completions",
        " /api /api/v1 {}",
    ),
    ("gemini/gemini-3.8-flash", GOOGLE, GEMINI, " /v1beta /v1beta/models {}"),
]
BASE_URLS = [
    pytest.param(model, f"{host}{written}", path, id=f"{model} {written}")
    for model, host, path, spellings in SPELLINGS
    for written in spellings.format(path).split(" ")
]


@pytest.mark.parametrize(("model", "base_url", "path"), BASE_URLS)
def test_base_urls_work_as_people_write_them(
    wire: Wire, model: str, base_url: str, path: str
):
    llm = users_llm(model, base_url=base_url)
    assert provider_problem(llm) is None
    with wire.relay(llm) as relay:
        (call,) = wire.play(relay, a_call_without_tools)[0].calls
    assert (call.host, call.path) == (httpx.URL(base_url).host, path)
    if "claude-opus-5-5" in model:
        # The SDK's cap for base URLs does not reach the provider.
        limits = {"max_tokens", "max_completion_tokens"} & call.body.keys()
        assert [call.body[name] for name in limits] == [128_000]


# LiteLLM knows no price of these, and so neither do the SDK and the relay.
UNPRICED = {"mistral/devstral-2512", "openrouter/openai/gpt-6.1-sol"}
NO_URLS = ["llm.example/v1", "https:///v1", "http://a:b/v1", "https://a/v1?x=1"]
PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"model": "glm/glm-5.3"}, "LLM_MODEL=glm/glm-5.3"),
    ({"model": "a-model-of-nobody"}, "LLM_MODEL=a-model-of-nobody"),
    ({"model": "mistral/devstral-2512", "api_key": None}, "set LLM_API_KEY"),
    *(({"model": "openai/gpt-4o", "base_url": url}, "LLM_BASE_URL") for url in NO_URLS),
]


@pytest.mark.parametrize(("settings", "words"), PROBLEMS)
def test_what_cannot_work_is_told(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], words: str
):
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    told = provider_problem(users_llm(**settings)) or ""
    assert words in told
    assert KEY not in told


@pytest.mark.parametrize("model", sorted(UNPRICED))
def test_a_cost_limit_without_a_price_is_told(model: str):
    assert provider_problem(users_llm(model)) is None
    told = provider_problem(users_llm(model), cost_limit=1.0)
    assert "LLM_COST_LIMIT" in (told or "")
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


# ## Cost

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
        lines = wire.lines()
    assert [call.path for call in arrived.calls] == [STYLES[model]] * 4
    assert expected.cost > 0 or model in UNPRICED
    noted = sum(line["cost"] for line in lines)
    for cost in (counted.cost, relay.cost, noted):
        assert cost == pytest.approx(expected.cost, abs=1e-12)
    assert expected.tokens["cache_read_tokens"] == 4 * 500
    assert counted.tokens == expected.tokens
    names = ("prompt_tokens", "cache_read_tokens", "completion_tokens")
    tokens = [relay.tokens_in, relay.tokens_cached, relay.tokens_out]
    assert tokens == [expected.tokens[name] for name in names]
    assert (relay.calls, len(lines)) == (4, 4)


def test_a_rehearsal_needs_no_provider_and_costs_nothing(wire: Wire):
    llm = users_llm("openai/rehearsal", api_key=None)
    with wire.relay(llm, rehearsal=True) as relay, wire.agent(relay) as agent:
        names: list[str] = []
        for step in range(5):
            body = chat(*steps(step))
            answer = agent.post(CHAT, json=body).json()["choices"][0]["message"]
            (call,) = answer["tool_calls"]
            names.append(call["function"]["name"])
        assert names == ["terminal", "terminal", "terminal", "finish", "finish"]
        assert (relay.cost, relay.calls) == (0.0, 5)
        assert wire.providers.record == Record(set(), [])


# ## What goes wrong

# One model of each of LiteLLM's ways to speak to a provider.
ATTACKED = (
    "anthropic/claude-opus-5-5",
    "openai/gpt-6.1-sol",
    "openai/gpt-4o",
    "gemini/gemini-3.8-flash",
    "openrouter/anthropic/claude-opus-5",
)
ERRORS: dict[str, tuple[int, Any]] = {
    "rate limit": (429, {"type": "rate_limit_error", "message": "slow down"}),
    "quota": (429, {"code": "insufficient_quota", "message": "insufficient_quota"}),
    "key": (401, {"type": "authentication_error", "message": "invalid x-api-key"}),
    "context": (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum"}),
    "history": (400, {"message": "`tool_use` ids were found without `tool_result`"}),
    "no model": (404, {"message": "no such model"}),
    "down": (503, {"message": "overloaded"}),
    "bad": (400, {"message": "x" * 100_000}),
}


def answers(response: Response) -> Callable[[object], Response]:
    """Return what gives the same answer to every call."""
    return lambda _: response


@pytest.mark.parametrize("model", ATTACKED)
def test_errors_reach_the_sdk_as_they_are(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, model: str
):
    with wire.relay(users_llm(model)) as relay:
        for status, error in ERRORS.values():
            answer = json_response({"type": "error", "error": error}, status)
            expected = wire.sdk(failed_alone, model, answer)
            assert expected != "none"
            monkeypatch.setattr(wire.providers, "respond", answers(answer))
            with pytest.raises(RuntimeError, match=f"^{expected}: "):
                wire.play(relay, a_call_without_tools)


@pytest.mark.parametrize("model", STYLES)
def test_a_provider_that_fails_or_redirects_is_asked_once_and_no_other_host(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, model: str
):
    llm = users_llm(model)
    with wire.relay(llm) as relay, wire.agent(relay) as agent:
        path, body = CHAT, chat()
        if llm.uses_responses_api():
            path, body = RESPONSES, items()
        for status in (503, 301, 302, 303, 307, 308):
            answer = Response(status, {"Location": URL}, b"{}")
            monkeypatch.setattr(wire.providers, "respond", answers(answer))
            wire.providers.start_over()
            told = agent.post(path, json=body)
            assert told.status_code >= 500
            assert ("the provider redirects" in told.text) == (status != 503)
            (call,) = wire.providers.record.received
            assert wire.providers.record.names <= {call.host}


@pytest.mark.parametrize(
    ("limit", "words"),
    [({"call_limit": 0}, "0 calls have"), ({"cost_limit": 0.1}, "could cost")],
)
def test_what_is_over_a_limit_is_told_to_the_sdk_which_does_not_try_again(
    wire: Wire, limit: dict[str, Any], words: str
):
    with wire.relay(users_llm("anthropic/claude-opus-5-5"), **limit) as relay:
        with pytest.raises(RuntimeError, match=f"(?s)^APIError: .*{words}"):
            wire.play(relay, a_call_without_tools, retries=5)
        assert (relay.refused, relay.calls) == (1, 0)
        assert wire.providers.record.received == []


# ## Attacks

ATTACKERS_HEADERS = {
    "anthropic-beta": "web-fetch-2025-09-10,attacker",
    "api-key": "sk-attacker",
    "authorization": "Bearer sk-attacker",
    "content-type": "application/x-www-form-urlencoded; x=attacker",
    "cookie": "session=attacker",
    "helicone-target-url": URL,
    "host": "attacker.example",
    "openai-organization": "attacker",
    "x-api-key": "sk-attacker",
    "x-forwarded-host": "attacker.example",
    "x-goog-api-key": "sk-attacker",
    "x-litellm-api-base": URL,
    "x-litellm-session-id": "attacker",
}
# Where text stands that a provider hands to its model and to nothing else.
TEXT = set(
    "arguments args command content description input instructions output "
    "reasoning_content text thinking".split()
)
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
            here = f"{where}.{name}"
            found.add(f"{here}={below}" if name in ("type", "role") else here)
            found |= set() if is_free(name, below) else shape(below, here)
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
    elif isinstance(value, str) and name not in TEXT and "attacker" in value:
        yield f"{name}: {value[:80]}"


def is_free(name: str, value: Any) -> bool:
    """Return whether only the agent's own tools read what stands here."""
    return name in FREE or (name == "input" and isinstance(value, dict))


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
def usual(wire: Wire) -> dict[str, Usual]:
    """Return what is usual for each attacked model."""
    found: dict[str, Usual] = {}
    for model in ATTACKED:
        calls = wire.sdk(alone, model, {})[0].calls
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
        found += [" ".join(target(call))] * (target(call) not in usual.targets)
        more = call.headers.keys() - usual.headers
        found += [f"has the header {name}" for name in more]
        found += addresses([call.body, call.headers])
        if not any(KEY in value for value in call.headers.values()):
            found.append("goes without the user's key")
        if isinstance(call.body, dict):
            models = {call.body.get("model")} - usual.models
            found += [f"asks {model}" for model in models]
            fields = shape(call.body) - usual.fields
            found += [f"has {name}" for name in fields if not HARMLESS.search(name)]
    return found


# Where a provider may cut its own cache, and what a model thought: the SDK's own calls
# have less of it.
HARMLESS = re.compile(
    r"\.cache_control(\.type=ephemeral)?$"
    r"|\.(reasoning_content|thinking_blocks|contents\.parts\.thought)$"
    r"|\.thinking_blocks\.(data|signature|thinking|type=(redacted_)?thinking)$"
    r"|\.messages\.content\.(data|type=redacted_thinking)$"
    r"|\.input\.(status|content\.type=reasoning_text)$"
)


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
    logins = [f"machine {host} login attacker password x\n" for host in HOSTS]
    netrc.write_text("".join(logins))
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    llm = users_llm(model)
    own_path = RESPONSES if llm.uses_responses_api() else CHAT
    let_through = harmless()
    found: list[str] = []
    statuses: list[int] = []
    with wire.relay(llm) as relay, wire.agent(relay) as agent:
        for name, (path, body) in (refused() | let_through).items():
            wire.providers.start_over()
            answer = agent.post(path, json=body, headers=ATTACKERS_HEADERS)
            expected = 200 if name in let_through and path == own_path else 403
            if "cache_control" in str(body) and not llm.is_caching_prompt_active():
                expected = 403  # for Gemini, LiteLLM would store it, which costs
            if answer.status_code != expected:
                found.append(f"{name}: {answer.text[:200]}")
            statuses.append(answer.status_code)
            done = harm(wire.providers.record, usual[model])
            found += [f"{name} ({answer.status_code}): {what}" for what in done]
    assert not found, f"{len(found)} findings:\n" + "\n".join(found)
    # What was refused is in the ledger with its name, and with nothing that was sent.
    lines = wire.lines()
    assert [line["status"] for line in lines] == statuses
    for name, line in zip(refused(), lines, strict=False):
        told = line["refused"]
        field = name.partition(" field ")[2][:20]
        assert re.sub(r"[\x1b\n]", " ", field) in told, name
        assert told.isprintable()
        assert len(told) < 600
        assert "attacker" not in told, name


# Some of the same bodies in LiteLLM's hands, to show that the test above would notice.
CONTROLS = {
    "anthropic/claude-opus-5-5": {
        "chat tool web_search_20250305": "has .tools.type=web_search_20250305",
        "chat tool mcp": "has .mcp_servers.url",
        "chat field api_base": "looks up attacker.example",
        "chat field api_key": "x-api-key: sk-attacker",
        "part 0 image_url": "has .messages.content.source.type=url",
        "answer 0 thinking_blocks": "has .messages.content.type=server_tool_use",
    },
    "openai/gpt-6.1-sol": {
        "responses tool web_search": "has .tools.type=web_search",
        "responses field extra_body": "asks attacker/model",
        "responses field api_base": "looks up attacker.example",
        "item 0 message": f"image_url: {URL}",
        "item 5 message": f"file_id: {FILE}",
        "item 13 item_reference": "has .input.type=item_reference",
    },
    "openai/gpt-4o": {
        "chat tool web_search": "has .tools.type=web_search",
        "chat field web_search_options": "has .web_search_options",
        "part 0 image_url": f"url: {URL}",
    },
    "gemini/gemini-3.8-flash": {
        "chat tool googleSearch": "has .tools.googleSearch",
        "chat tool urlContext": "has .tools.url_context",
        "part 0 image_url": "looks up attacker.example",
        "part 2 image_url": "has .contents.parts.file_data.file_uri",
        "chat a long text to cache": f"GET {GOOGLE[8:]} /v1beta/cachedContents",
    },
    "openrouter/anthropic/claude-opus-5": {
        "chat tool openrouter:web_search": "has .tools.type=openrouter:web_search",
        "chat field plugins": "has .plugins",
        "chat field models": "models: attacker/model",
        "part 0 image_url": f"url: {URL}",
    },
}


@pytest.mark.parametrize("model", CONTROLS)
def test_without_the_policy_they_would(wire: Wire, usual: dict[str, Usual], model: str):
    calls = refused() | harmless()
    for name, what in CONTROLS[model].items():
        record = wire.sdk(without_the_policy, model, *calls[name])
        assert what in harm(record, usual[model]), name
