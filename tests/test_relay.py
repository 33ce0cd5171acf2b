"""The relay: what it lets through to the provider, what it costs, and what it refuses.

The real LiteLLM calls a recording endpoint. The SDK in the box has a process of its
own, as in a run.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import multiprocessing
import os
import re
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE, load_example
from relay_bodies import (
    ALLOWED,
    BODIES,
    CHAT,
    FIELDS,
    LARGEST,
    NO_BODIES,
    PROVIDER_TOOLS,
    REFUSED,
    TOO_LARGE,
    URL,
    Body,
    as_responses,
    steps,
)
from scripted_llm import Request, Response, ScriptedLLM, json_response

from openhands.sdk import LLM, Message, TextContent


# What the SDK in the box has; the relay adds to this process's own.
ENVIRONMENT = dict(os.environ)

relay = load_example()


KEY = "sk-real-0123456789abcdef"
# One for each way in which LiteLLM speaks to providers.
MODELS = {
    "anthropic": "anthropic/claude-opus-5",
    "chat": "openai/gpt-4o",
    "responses": "openai/gpt-6-sol",
    "gemini": "gemini/gemini-3.8-flash",
    "openrouter": "openrouter/anthropic/claude-opus-5",
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
GEMINI_ANSWER = {
    "candidates": [
        {
            "content": {"role": "model", "parts": [{"text": "hi"}]},
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 10,
        "candidatesTokenCount": 5,
        "totalTokenCount": 15,
    },
}
Respond = Callable[[Request], Response | None]

# Where this process connects to; a hook cannot be taken out again.
CONNECTED: list[Any] = []


def note_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and not isinstance(arguments[1], str | bytes):
        CONNECTED.append(arguments[1][:2])


sys.addaudithook(note_connection)


@dataclass
class Wired:
    """A relay, and the recording endpoint that it calls."""

    relay: Any
    llm: ScriptedLLM
    ledger: Path
    style: str = field(init=False)
    path: str = field(init=False)

    def __post_init__(self):
        responses = self.relay.llm.uses_responses_api()
        self.style = "responses" if responses else "chat"
        self.path = "/responses" if responses else "/chat/completions"

    def connect(self, timeout: float = 30) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.relay.socket))
        connection.settimeout(timeout)
        return connection

    def ask(
        self,
        body: Body | None = None,
        *,
        raw: bytes | None = None,
        method: str = "POST",
        path: str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Any:
        """Send a body, or what is added to the plain one; return the answer."""
        if raw is None:
            raw = json.dumps(BODIES[self.style] | (body or {})).encode()
        client = http.client.HTTPConnection("relay")
        client.sock = self.connect(timeout)
        with contextlib.closing(client):
            with contextlib.suppress(BrokenPipeError):  # refused before it was sent
                client.request(method, path or self.path, raw, headers or {})
            answer: Any = client.getresponse()
            answer.text = answer.read().decode()
        return answer

    def entries(self) -> list[Body]:
        return [json.loads(line) for line in self.ledger.read_text().splitlines()]

    def refused(self, answer: Any, status: int = 403) -> str:
        """Check that the last call was refused and not made; return the reason."""
        assert answer.status == status, answer.text
        assert self.llm.requests == []
        error = json.loads(answer.text)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        entry = self.entries()[-1]
        assert entry["status"] == status
        assert entry["refused"] in error["message"]
        assert len(entry["refused"]) < 600
        assert entry["refused"].isprintable()
        return entry["refused"]


@contextlib.contextmanager
def wire(
    folder: Path,
    model: str = MODELS["chat"],
    respond: Respond | None = None,
    base_url: str | None = None,
    llm: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[Wired]:
    def answer(request: Request) -> Response | None:
        response = respond(request) if respond else None
        if response is None and "enerateContent" in request.path:
            return json_response(GEMINI_ANSWER)
        return response

    ledger = folder / "ledger.jsonl"
    options = {"call_limit": 10_000} | options
    with ScriptedLLM(respond=answer) as endpoint:
        if base_url is None:
            url = endpoint.origin if model.startswith("anth") else endpoint.base_url
        else:
            url = base_url.replace("ENDPOINT", endpoint.origin)
        settings: dict[str, Any] = {"model": model, "api_key": KEY, "base_url": url}
        settings |= llm or {}
        user_llm = LLM(usage_id="agent", **settings)
        endpoint.requests.clear()
        with relay.Relay(user_llm, ledger=ledger, **options) as served:
            yield Wired(served, endpoint, ledger)


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Wired]]:
    """One relay for each model, for the tests that need nothing special."""
    with contextlib.ExitStack() as exits:
        folder = tmp_path_factory.mktemp("wires")
        found: dict[str, Wired] = {}
        for name, model in MODELS.items():
            (folder / name).mkdir()
            found[model] = exits.enter_context(wire(folder / name, model))
        yield found


@pytest.fixture
def wired(wires: dict[str, Wired], request: pytest.FixtureRequest) -> Wired:
    """The relay for the test's model, with nothing recorded yet."""
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    found = wires[params.get("model", MODELS["chat"])]
    found.llm.requests.clear()
    return found


def each_body(table: dict[str, list[Body]]) -> Any:
    """Return a mark that runs a test for each body of a table, with each model."""
    cases = [
        pytest.param(model, body, id=f"{name}-{number}")
        for name, model in MODELS.items()
        for number, body in enumerate(
            table["responses" if name == "responses" else "chat"]
        )
    ]
    return pytest.mark.parametrize(("model", "body"), cases)


# ## The SDK in the box, and the SDK alone


class Bridge:
    """Leads from a port to a socket in the file system, as the pipe does."""

    def __init__(self, path: Path):
        self.path = path
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self.path))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self.copy, args=ends, daemon=True).start()

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


MESSAGES = [
    Message(role="system", content=[TextContent(text="be brief")]),
    Message(role="user", content=[TextContent(text="hi")]),
]


def be_the_box(environment: dict[str, str]) -> None:
    """Give a new process the environment that this one had."""
    os.environ.clear()
    os.environ.update(environment)


def sdk_error(llm: Body) -> tuple[str, str]:
    """Call an LLM as the SDK does; return the kind and the text of what went wrong."""
    asked = LLM.model_validate(llm)
    call = asked.responses if asked.uses_responses_api() else asked.completion
    try:
        call(MESSAGES)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


@pytest.fixture(scope="module")
def box() -> Iterator[Callable[[Body], tuple[str, str]]]:
    """`sdk_error` in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, be_the_box, (ENVIRONMENT,)) as pool:
        yield lambda llm: pool.submit(sdk_error, llm).result(timeout=300)


def box_llm(wired: Wired, **changes: Any) -> Body:
    """Return the LLM for the box, at a port of this host."""
    bridge = Bridge(wired.relay.socket)
    llm = wired.relay.llm_for_the_box
    assert llm.base_url == "http://127.0.0.1:4999"
    data = llm.model_dump(mode="json", context={"expose_secrets": True})
    return data | {"base_url": bridge.url, "num_retries": 0} | changes


def alone_llm(wired: Wired, model: str) -> Body:
    """Return the LLM that an SDK user has."""
    url = wired.relay.llm.base_url
    return {"model": model, "api_key": KEY, "base_url": url, "num_retries": 0}


# ## What is refused


@each_body(REFUSED)
def test_nothing_is_let_through_that_reaches_out(model: str, body: Body, wired: Wired):
    reason = wired.refused(wired.ask(body))
    assert URL not in reason


@every_model
def test_no_tool_of_the_providers_is_let_through(model: str, wired: Wired):
    own = BODIES[wired.style]["tools"]
    for tool in PROVIDER_TOOLS:
        wired.refused(wired.ask({"tools": [*own, tool]}))


@every_model
def test_no_other_field_is_let_through(model: str, wired: Wired):
    for added in FIELDS:
        (name,) = added
        if wired.style == "chat" and name == "store":
            continue
        reason = wired.refused(wired.ask(added))
        assert name[:20].replace("\x1b", " ").replace("\n", " ") in reason
        assert "SECRET" not in wired.ledger.read_text()


@every_model
@pytest.mark.parametrize("raw", NO_BODIES.values(), ids=NO_BODIES.keys())
def test_no_body_but_a_json_object_is_let_through(model: str, raw: bytes, wired: Wired):
    wired.refused(wired.ask(raw=raw))


@pytest.mark.parametrize("make", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_what_expands_is_refused(make: Callable[[], Body], wired: Wired):
    began = time.process_time()
    wired.refused(wired.ask(make()))
    assert time.process_time() - began < 2


METHODS = ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO")
PATHS = (
    "/", "/v1/chat/completions", "/chat/completions/", "//chat/completions",
    "/chat/completions/../responses", "/chat/completions%2f", "/chat%2fcompletions/x",
    "/CHAT/completions", "/completions", "/messages", "/v1/messages", "/embeddings",
    "/files", "/models", "/responses/resp_1", "/key/info", "/docs", "/openapi.json",
)  # fmt: skip


def test_nothing_but_two_endpoints_is_served(wired: Wired):
    for method in METHODS:
        for path in ("/chat/completions", "/responses"):
            wired.refused(wired.ask(method=method, path=path))
    for path in PATHS:
        wired.refused(wired.ask(path=path))
    assert wired.ask(method="GET", raw=b"", path="/v1/model/info").status == 404


@every_model
def test_a_model_is_asked_at_one_endpoint(model: str, wired: Wired):
    """LiteLLM would translate the other style into the provider's."""
    other = {"chat": "responses", "responses": "chat"}[wired.style]
    path = {"chat": "/chat/completions", "responses": "/responses"}[other]
    wired.refused(wired.ask(raw=json.dumps(BODIES[other]).encode(), path=path))


HEADERS = {
    "Host": "192.0.2.1",
    "Authorization": "Bearer 192.0.2.1",
    "x-api-key": "192.0.2.1",
    "X-Forwarded-Host": "192.0.2.1",
    "Cookie": "session=192.0.2.1",
    "anthropic-beta": "web-fetch-2025-09-10,192.0.2.1",
    "OpenAI-Organization": "org-192.0.2.1",
    "x-litellm-api-base": "http://192.0.2.1",
    "x-litellm-session-id": "192.0.2.1",
    "helicone-target-url": "http://192.0.2.1",
    "Content-Type": "application/x-www-form-urlencoded; x=192.0.2.1",
}


@every_model
def test_no_header_and_no_model_of_the_agents_is_sent(model: str, wired: Wired):
    assert wired.ask({"model": "evil/model"}, headers=HEADERS).status == 200
    (call,) = wired.llm.requests
    assert "192.0.2.1" not in str(call.headers)
    assert "evil" not in f"{call.path} {call.raw}"
    assert KEY in str(call.headers)
    assert model.split("/")[-1] in f"{call.path} {call.raw}"


# ## What is let through


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a body, with the name under which it stands."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from strings(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, key)
    else:
        yield key, str(value)


# Where a URL is only read: texts, descriptions, and the arguments of a call.
READ = {"text", "description", "content", "instructions", "url", "arguments", "system"}
BUILT_IN = r"(?i)google_?search|url_?context|code_?execution|web_search|mcp|computer"


@each_body(ALLOWED)
def test_what_an_agent_needs_is_let_through_and_runs_nothing(
    model: str, body: Body, wired: Wired
):
    if not wired.relay.llm.is_caching_prompt_active():
        if "cache_control" in str(body):
            # For Gemini, LiteLLM would store it at the provider, which costs.
            wired.refused(wired.ask(body))
        cached = ', "cache_control": {"type": "ephemeral"}'
        body = json.loads(json.dumps(body).replace(cached, ""))
    del CONNECTED[:]
    answer = wired.ask(body)
    assert answer.status == 200, answer.text
    (call,) = wired.llm.requests
    host, port = wired.llm.origin.removeprefix("http://").split(":")
    assert set(CONNECTED) <= {(host, int(port))}
    for key, text in strings(call.body):
        if URL in text:
            assert key in READ, key
    for tool in call.body.get("tools", []):
        assert tool.get("type") in (None, "function", "custom")
        assert not any(re.search(BUILT_IN, name) for name in tool)
    assert {"web_search_options", "plugins", "mcp_servers"}.isdisjoint(call.body)


@every_model
@pytest.mark.parametrize("make", LARGEST.values(), ids=LARGEST.keys())
def test_the_largest_calls_cost_less_than_a_second_and_200_mb(
    model: str, make: Callable[[], Body], wires: dict[str, Wired], tmp_path: Path
):
    """Without the client's share: the body is made and sent by another process."""
    style = "responses" if model == MODELS["responses"] else "chat"
    body = CHAT | make() if style == "chat" else as_responses(CHAT | make())
    file = tmp_path / "body"
    file.write_bytes(json.dumps(body, ensure_ascii=False).encode())
    del body
    Path("/proc/self/clear_refs").write_text("5")
    base, began = memory("VmRSS"), time.process_time()
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary"]
    wired = wires[model]
    address = [f"@{file}", "--unix-socket", str(wired.relay.socket)]
    command = [*curl, *address, f"http://relay{wired.path}"]
    assert subprocess.check_output(command, text=True, timeout=60) == "200"
    used, spent = memory("VmHWM") - base, time.process_time() - began
    wired.llm.requests.clear()
    # The recording endpoint runs here too: it reads and parses what LiteLLM sends.
    assert spent < 1.5
    assert used < 200 + 3 * file.stat().st_size / 1e6


def memory(name: str) -> float:
    """Return a figure of this process's memory, in MB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s*(\d+) kB", status)
    assert found
    return int(found[1]) / 1000


# ## Bounds of bodies and connections


def head(wired: Wired, *lines: str) -> bytes:
    start = (f"POST {wired.path} HTTP/1.1", "Host: relay", *lines, "", "")
    return "\r\n".join(start).encode()


def send(wired: Wired, raw: bytes) -> bytes:
    """Send bytes, and return what comes until the other side closes or says no more."""
    with wired.connect(timeout=2) as connection:
        connection.sendall(raw)
        came = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := connection.recv(65536):
                came += data
    return came


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def test_a_body_is_bounded_whether_its_length_is_told_or_not(wired: Wired):
    part = b" " * (1 << 20)
    for start, unit in (
        (head(wired, f"Content-Length: {33 << 20}"), part),
        (head(wired, "Transfer-Encoding: chunked"), chunked(part)[:-5]),
    ):
        with wired.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(start)
                for _ in range(33):
                    connection.sendall(unit)
                assert connection.recv(65536).startswith(b"HTTP/1.1 403")
        assert wired.llm.requests == []
        assert "larger than" in wired.entries()[-1]["refused"]


def test_bodies_under_way_are_bounded_together(wired: Wired):
    start = head(wired, f"Content-Length: {32 << 20}")
    with contextlib.ExitStack() as exits:
        for _ in range(8):
            connection = exits.enter_context(wired.connect())
            connection.sendall(start + b" " * ((32 << 20) - 1))
        wired.refused(wired.ask(), status=429)
    deadline = time.monotonic() + 10
    while wired.relay._bytes:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert wired.ask().status == 200


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(wired: Wired):
    bomb = gzip.compress(b" " * (64 << 20))
    wired.refused(wired.ask(raw=bomb, headers={"Content-Encoding": "gzip"}))


def test_no_second_request_is_smuggled_in_a_first_one(wired: Wired):
    inner = head(wired, "Content-Length: 2") + b"{}"
    body = json.dumps(CHAT).encode()
    length = f"Content-Length: {len(body)}"
    for lines, sent in [
        ((length, "Transfer-Encoding: chunked"), chunked(body) + inner),
        ((length, "Content-Length: 5"), body + inner),
        ((f"Content-Length: +{len(body)}",), body + inner),
        (("Transfer-Encoding: chunked, identity",), chunked(body) + inner),
        (("Transfer-Encoding : chunked",), chunked(body) + inner),
        (("Content-Length: 5\x00",), body + inner),
    ]:
        came = send(wired, head(wired, *lines) + sent)
        assert came.count(b"HTTP/1.1 200") + came.count(b"HTTP/1.1 403") < 3, lines
        bodies = [call.body["messages"] for call in wired.llm.requests]
        assert all(messages == CHAT["messages"] for messages in bodies)


def test_chunked_and_pipelined_calls_are_each_checked(wired: Wired):
    good = json.dumps(CHAT).encode()
    bad = json.dumps(CHAT | {"stream": True}).encode()
    chunks = head(wired, "Transfer-Encoding: chunked") + chunked(good[:9], good[9:])
    whole = head(wired, f"Content-Length: {len(good)}") + good
    refused = head(wired, f"Content-Length: {len(bad)}") + bad
    came = send(wired, chunks + whole + refused + whole)
    found = re.findall(rb"HTTP/1.1 (\d+)", came)
    assert found == [b"200", b"200", b"403"]  # which also ends the connection
    assert len(wired.llm.requests) == 2


def test_of_two_fields_of_one_name_the_one_that_was_checked_is_sent(wired: Wired):
    raw = json.dumps(CHAT).encode()
    evil = b'"messages": [{"role": "user", "content": "evil"}], '
    assert wired.ask(raw=b"{" + evil + raw[1:]).status == 200
    assert b"evil" not in wired.llm.requests[0].raw
    bad = raw[:-1] + b', "tools": [{"type": "web_search"}]}'
    wired.llm.requests.clear()
    wired.refused(wired.ask(raw=bad))


def test_two_thousand_open_connections_do_no_harm(wired: Wired):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    begun = (b"", b"POST /chat", head(wired, "Content-Length: 9") + b"{")
    try:
        with contextlib.ExitStack() as exits:
            for number in range(2_000):
                connection = exits.enter_context(wired.connect())
                with contextlib.suppress(ConnectionError):
                    connection.sendall(begun[number % 3])
            began = time.monotonic()
            assert wired.ask().status == 200
            assert time.monotonic() - began < 5
            assert len(wired.relay._server.server_state.connections) < 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_few_calls_are_under_way_at_once(tmp_path: Path):
    count, most, lock = [0], [0], threading.Lock()

    def respond(_: Request) -> None:
        with lock:
            count[0] += 1
            most[0] = max(most[0], count[0])
        time.sleep(0.2)
        with lock:
            count[0] -= 1

    with wire(tmp_path, respond=respond) as wired, ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: wired.ask().status, range(100)))
    assert most[0] <= 4
    assert set(answers) == {200, 429}
    assert answers.count(200) >= 60


# ## The provider's side


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


@every_model
def test_errors_reach_the_sdk_as_they_are(model: str, box: Any, tmp_path: Path):
    current: list[Any] = []

    def respond(_: Request) -> Response:
        status, error = current[0]
        return json_response({"type": "error", "error": error}, status)

    with wire(tmp_path, model, respond) as wired:
        alone, inside = alone_llm(wired, model), box_llm(wired)
        for name, answer in ERRORS.items():
            current[:] = [answer]
            assert box(inside)[0] == box(alone)[0] != "", name


@every_model
def test_an_error_names_no_secret_and_no_path(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTHER_API_KEY", "other-secret-0123456789")
    words = (
        f"key {KEY} and other-secret-0123456789 in /home/me/keys/a.txt " + "é" * 9999
    )

    def respond(_: Request) -> Response:
        response = json_response({"error": {"message": words}}, 429)
        response.headers["Retry-After"] = "7"
        return response

    with wire(tmp_path, model, respond) as wired:
        answer = wired.ask()
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        message = json.loads(answer.text)["error"]["message"]
        assert len(message.encode()) <= 2_000
        for secret in (KEY, "other-secret", "/home/me", "Traceback", "site-packages"):
            assert secret not in answer.text + wired.ledger.read_text()
        assert wired.relay.last.startswith("429") and wired.relay.last.isprintable()
        assert len(wired.llm.requests) == 1  # the SDK repeats a call, not LiteLLM


def test_a_key_in_an_answer_is_masked(tmp_path: Path):
    def respond(_: Request) -> Response:
        message = {"role": "assistant", "content": f"It is {KEY}."}
        return json_response(
            {"id": "1", "model": "m", "choices": [{"message": message}]}
        )

    with wire(tmp_path, respond=respond) as wired:
        assert json.loads(wired.ask().text)["choices"][0]["message"]["content"] == (
            "It is ***."
        )


@every_model
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(model: str, status: int, tmp_path: Path):
    with ScriptedLLM() as elsewhere:

        def respond(request: Request) -> Response:
            there = elsewhere.origin.replace("127.0.0.1", "localhost") + request.path
            return Response(status, {"Location": there})

        with wire(tmp_path, model, respond) as wired:
            answer = wired.ask()
            assert answer.status >= 500
            assert "redirect" in answer.text
            assert elsewhere.requests == []


@every_model
def test_no_netrc_is_used(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password netrc-secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with wire(tmp_path, model) as wired:
        assert wired.ask().status == 200
        assert KEY in str(wired.llm.requests[0].headers)


@every_model
def test_a_proxy_is_used_but_for_this_host(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedLLM() as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.origin)
        if hasattr(relay, "exempt_loopback_from_proxies"):
            relay.exempt_loopback_from_proxies()
        for host in ("127.0.0.1", "localhost"):
            with wire(tmp_path, model) as wired:
                wired.relay.llm.base_url = wired.relay.llm.base_url.replace(
                    "127.0.0.1", host
                )
                assert wired.ask().status == 200
                assert proxy.requests == []
        with wire(tmp_path, model, base_url="http://192.0.2.1/v1") as wired:
            wired.ask()
            assert proxy.requests[0].path.startswith("http://192.0.2.1/")


@every_model
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_ca_bundle_is_honoured(
    model: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", key, "-out", certificate]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command.split(), *files, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    for bundle, expected in ((None, 500), (certificate, 200)):
        if bundle:
            monkeypatch.setenv(name, str(bundle))
        with wire(tmp_path, model) as wired:
            server = wired.llm._server
            server.socket = context.wrap_socket(server.socket, server_side=True)
            url = wired.relay.llm.base_url.replace("http:", "https:")
            wired.relay.llm.base_url = url.replace("127.0.0.1", "localhost")
            assert wired.ask().status == expected
    monkeypatch.setattr(relay.litellm, "ssl_verify", True)


# ## Cost and limits


def test_the_ledger_tells_what_each_call_was_and_cost(tmp_path: Path):
    with wire(tmp_path, MODELS["anthropic"]) as wired:
        answer = wired.ask()
        wired.ask({"stream": True})
        call, refused = wired.entries()
        assert call.keys() == {
            "time", "endpoint", "model", "status", "tokens", "cost", "seconds"
        }  # fmt: skip
        assert call["model"] == MODELS["anthropic"]
        assert call["tokens"] == {"in": 1037, "cached": 0, "out": 81}
        assert call["cost"] == pytest.approx(1037 * 5e-6 + 81 * 25e-6)
        assert float(answer.headers["x-litellm-response-cost"]) == call["cost"]
        assert refused["refused"] == "stream: extra_forbidden"
        found = wired.relay
        assert (found.cost, found.calls, found.refused) == (call["cost"], 1, 1)
        assert (found.tokens_in, found.tokens_out) == (1037, 81)


def test_given_prices_are_used(tmp_path: Path):
    prices = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.01}
    with wire(tmp_path, "openai/mine", llm=prices) as wired:
        wired.ask()
        assert wired.relay.cost == pytest.approx(1037 * 0.001 + 81 * 0.01)


HAIKU = "anthropic/claude-haiku-4-5-20251001"
HIGHEST = 64_000 * 5e-6  # for what it answers


def test_a_cost_limit_holds_with_many_calls_at_once(box: Any, tmp_path: Path):
    with wire(tmp_path, HAIKU, cost_limit=2.5 * HIGHEST) as wired:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: wired.ask(), range(40)))
        statuses = [answer.status for answer in answers]
        assert set(statuses) <= {200, 402}
        assert statuses.count(200) >= 2
        assert wired.relay.cost <= 2.5 * HIGHEST
        assert wired.relay._reserved == pytest.approx(0)
    with wire(tmp_path, HAIKU, cost_limit=0.9 * HIGHEST) as wired:
        assert "could cost" in wired.refused(wired.ask(), status=402)
        began = time.monotonic()
        kind, text = box(box_llm(wired, num_retries=5))
        assert kind and "could cost" in text
        assert time.monotonic() - began < 8  # it was not tried again


@pytest.mark.parametrize("how", ["no price", "no answer", "late"])
def test_what_a_call_may_have_cost_is_counted_under_a_limit(how: str, tmp_path: Path):
    def respond(_: Request) -> Response | None:
        if how == "no answer":
            raise ConnectionError
        if how == "late":
            time.sleep(3)
        message = {"role": "assistant", "content": "hi"}
        body = {"id": "1", "model": "unknown", "choices": [{"message": message}]}
        return json_response(body | {"usage": None})

    prices = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.001}
    llm = {"max_output_tokens": 1000, "timeout": 1}
    with wire(
        tmp_path, "openai/mine", respond, llm=llm | prices, cost_limit=10.0
    ) as wired:
        wired.ask()
        assert wired.relay.cost == pytest.approx(1.0, abs=0.01) or how == "no price"
        assert wired.relay.cost <= 1.0


def test_a_call_limit_holds(box: Any, tmp_path: Path):
    with wire(tmp_path, call_limit=2) as wired:
        assert [wired.ask().status for _ in range(4)] == [200, 200, 402, 402]
        assert len(wired.llm.requests) == 2
        kind, text = box(box_llm(wired, num_retries=5))
        assert kind == "APIError" and "2 calls have been made" in text
        assert wired.relay.refused == 3


def test_refusals_do_not_fill_the_disk(wired: Wired):
    before = wired.relay.refused
    wired.relay.refused = 2_000
    size = wired.ledger.stat().st_size
    assert wired.ask({"stream": True}).status == 403
    assert wired.ledger.stat().st_size == size
    wired.relay.refused = before


# ## Settings


def test_a_server_without_a_key_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with wire(tmp_path, llm={"api_key": None}) as wired:
        assert wired.ask().status == 200


# ## The relay itself


def test_only_this_user_can_connect(wired: Wired):
    assert wired.relay.socket.parent.stat().st_mode & 0o077 == 0
    assert len(str(wired.relay.socket)) < 80


@every_model
def test_leaving_waits_for_no_call(model: str, tmp_path: Path):
    release = threading.Event()

    def respond(_: Request) -> None:
        release.wait(60)

    with wire(tmp_path, model, respond, cost_limit=None) as wired:
        asking = threading.Thread(target=lambda: wired.ask(timeout=10), daemon=True)
        asking.start()
        deadline = time.monotonic() + 10
        while not wired.llm.requests:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with wired.connect():
            began = time.monotonic()
            wired.relay.__exit__(None, None, None)
        assert time.monotonic() - began < 2
        release.set()
        assert not wired.relay._thread.is_alive()
        assert not wired.relay.socket.parent.exists()
        assert wired.entries()[-1]["status"] == 499


def test_a_rehearsal_needs_no_provider_and_costs_nothing(tmp_path: Path):
    body: Body = {"messages": list(CHAT["messages"])}
    llm = {"api_key": None}
    with wire(tmp_path, "openai/rehearsal", llm=llm, rehearsal=True) as wired:
        names: list[str] = []
        del CONNECTED[:]
        for step in range(5):
            answer = json.loads(wired.ask(body).text)["choices"][0]["message"]
            (call,) = answer["tool_calls"]
            names.append(call["function"]["name"])
            body["messages"] += [
                {"role": "assistant", "tool_calls": [call]},
                {
                    "role": "tool",
                    "tool_call_id": call["id"],
                    "name": names[-1],
                    "content": f"{step}",
                },
            ]
        assert names == ["terminal", "terminal", "terminal", "finish", "finish"]
        assert (wired.relay.cost, wired.relay.calls, CONNECTED) == (0.0, 5, [])
        assert wired.llm.requests == []


SILENT = """
import importlib.util, pathlib, sys, threading
before = threading.active_count()
spec = importlib.util.spec_from_file_location("m", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["m"] = module
spec.loader.exec_module(module)
assert threading.active_count() == before
from openhands.sdk import LLM
import httpx
for model in sys.argv[3:]:
    llm = LLM(usage_id="a", model=model, api_key="sk-0123456789", base_url=sys.argv[2])
    ledger = pathlib.Path("ledger")
    with module.Relay(llm, ledger=ledger, call_limit=9) as relay:
        transport = httpx.HTTPTransport(uds=str(relay.socket))
        with httpx.Client(transport=transport, base_url="http://relay") as client:
            messages = [{"role": "user", "content": "hi"}]
            body = {"model": "m", "messages": messages}
            assert client.post("/chat/completions", json=body).status_code >= 400
            assert client.post("/x", json=body).status_code == 403
            client.request("GET", "/", headers={"Upgrade": "websocket"})
"""


def test_nothing_is_printed(tmp_path: Path):
    """Neither "Give Feedback" nor a warning, whatever happens."""
    script = tmp_path / "script.py"
    script.write_text(SILENT)
    environment = ENVIRONMENT | {"OPENHANDS_SUPPRESS_BANNER": "1"}
    with ScriptedLLM(respond=lambda _: Response(500, body=b"<html>")) as llm:
        models = [MODELS["anthropic"], MODELS["chat"], MODELS["gemini"]]
        done = subprocess.run(
            [sys.executable, script, EXAMPLE, llm.origin, *models],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            cwd=tmp_path,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_long_run_is_let_through(wired: Wired):
    """A thousand steps of three calls each."""
    assert wired.ask(steps(1_000, 3)).status == 200
    assert len(wired.llm.requests[0].body["messages"]) == 4_001
