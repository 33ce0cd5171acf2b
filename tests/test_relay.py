"""The relay, asked as the agent's shell could ask it, against an endpoint that notes what comes."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import load_example
from scripted_llm import Request, Response, ScriptedLLM, json_response

KEY = "sk-test-0123456789abcdef0123456789abcdef"
MAX_BODY = 32 << 20
PIXEL = "data:image/png;base64,iVBORw0KGgo="
Body = dict[str, Any]


@dataclass
class Style:
    """One of the three API styles: where it lives, and the least that it takes."""

    model: str
    path: str
    key_header: str
    body: Body

    def auth(self, key: str) -> dict[str, str]:
        """Return the header that carries a key."""
        prefix = "Bearer " if self.key_header == "Authorization" else ""
        return {self.key_header: prefix + key}


STYLES = {
    "chat": Style(
        "openai/gpt-4o-mini",
        "/v1/chat/completions",
        "Authorization",
        {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
    ),
    "responses": Style(
        "openai/gpt-4o-mini",
        "/v1/responses",
        "Authorization",
        {"model": "gpt-4o-mini", "input": [{"role": "user", "content": "hi"}]},
    ),
    "messages": Style(
        "anthropic/claude-haiku-4-5",
        "/v1/messages",
        "x-api-key",
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "hi"}],
        },
    ),
}
every_style = pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
CHAT = STYLES["chat"]


class Answer:
    """An answer, read to its end."""

    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.headers, self.raw = response.status, response.headers, response.read()

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Wired:
    """A relay between its own connections and an endpoint."""

    def __init__(self, llm: ScriptedLLM, module: Any, portal: Any):
        self.llm, self.module = llm, module
        self._ledger = io.StringIO()
        self.relay = module.Relay(self._ledger)
        self.placeholder: str = self.relay.placeholder
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "relay"
        self._serving = portal.wrap_async_context_manager(self.relay.serving(self._path))

    def connect(self) -> socket.socket:
        near = socket.socket(socket.AF_UNIX)
        near.connect(f"{self._path}")
        return near

    def __enter__(self) -> Wired:
        self._serving.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._serving.__exit__(*error)
        self._folder.cleanup()

    def entries(self, count: int) -> list[dict[str, Any]]:
        """Return the ledger, once it has so many lines: they follow their answers."""
        deadline = time.monotonic() + 5
        while len(lines := self._ledger.getvalue().splitlines()) < count:
            assert time.monotonic() < deadline, lines
            time.sleep(0.01)
        return [json.loads(line) for line in lines]

    def open(
        self,
        style: Style,
        body: Any = None,
        *,
        method: str = "POST",
        path: str = "",
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request; the answer is still to be read. By default all of it is good."""
        if raw is None:
            raw = json.dumps(style.body if body is None else body).encode()
        connection = http.client.HTTPConnection("relay", timeout=20)
        connection.sock = self.connect()
        connection.sock.settimeout(20)
        sent = {"Content-Type": "application/json"} | style.auth(self.placeholder)
        connection.request(method, path or style.path, raw, sent | (headers or {}))
        return connection.getresponse()

    def ask(self, style: Style, body: Any = None, **options: Any) -> Answer:
        """Send a request and read the answer."""
        return Answer(self.open(style, body, **options))

    def ask_raw(self, request: bytes) -> bytes:
        """Send bytes and return all that comes back before the relay closes, or is silent."""
        with self.connect() as near:
            near.settimeout(2)
            near.sendall(request)
            came = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                while data := near.recv(1 << 16):
                    came += data
            return came

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """Lend the relay an address, for clients that need one."""
        opened = list[socket.socket]()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def pump(source: socket.socket, sink: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    while data := source.recv(1 << 16):
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while near := listener.accept()[0]:
                        far = self.connect()
                        opened.extend((near, far))
                        for ends in ((near, far), (far, near)):
                            threading.Thread(target=pump, args=ends, daemon=True).start()

            threading.Thread(target=accept, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                # LiteLLM keeps its connections for the next call, which will not come.
                for end in (listener, *opened):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as llm:
        yield llm


@pytest.fixture(scope="module")
def examples(endpoint: ScriptedLLM) -> dict[str, Any]:
    """The example, set up for each of the models."""
    return {
        model: load_example(
            LLM_API_KEY=KEY,
            LLM_MODEL=model,
            LLM_BASE_URL=endpoint.origin if model.startswith("anthropic") else endpoint.base_url,
        )
        for model in {style.model for style in STYLES.values()}
    }


@pytest.fixture(scope="module")
def portal(examples: dict[str, Any]) -> Iterator[Any]:
    """The thread that relays run in."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def wired(
    request: pytest.FixtureRequest, endpoint: ScriptedLLM, examples: dict[str, Any], portal: Any
) -> Iterator[Wired]:
    """A fresh relay, for the style that the test is about."""
    arguments = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    style: Style = arguments.get("style", CHAT)
    endpoint.requests.clear()
    endpoint.respond = None
    with Wired(endpoint, examples[style.model], portal) as wired:
        yield wired


def assert_refused(wired: Wired, answer: Answer) -> None:
    """The endpoint saw nothing; the caller and the ledger were told why."""
    assert answer.status == 403, answer.raw
    assert wired.llm.requests == []
    assert len(answer.body["error"]["message"]) > 20
    assert KEY.encode() not in answer.raw
    (entry,) = wired.entries(1)
    assert entry["refused"]
    assert entry["status"] == 403


# ## The key


@every_style
@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "api-key"])
def test_the_real_key_takes_the_placeholders_place(style: Style, header: str, wired: Wired):
    prefix = "Bearer " if header == "Authorization" else ""
    plain = Style(style.model, style.path, header, style.body)
    assert wired.ask(plain).status == 200
    (call,) = wired.llm.requests
    assert call.headers[header] == prefix + KEY
    assert wired.placeholder not in str(call.headers)


def test_the_placeholder_is_another_one_for_every_relay(examples: dict[str, Any]):
    relays = [examples[CHAT.model].Relay(io.StringIO()) for _ in range(10)]
    assert len({relay.placeholder for relay in relays}) == 10
    assert all(len(relay.placeholder) > 40 for relay in relays)


@every_style
def test_the_placeholder_is_no_key_to_anything_but_a_header(style: Style, wired: Wired):
    text = f"My key is {wired.placeholder}."
    (field,) = style.body.keys() & {"messages", "input"}
    assert wired.ask(style, style.body | {field: [{"role": "user", "content": text}]}).status == 200
    (call,) = wired.llm.requests
    assert call.body[field][0]["content"] == text
    assert KEY.encode() not in call.raw


@every_style
@pytest.mark.parametrize("key", ["", "another", "placeholder-", "placeholder-" + "0" * 32])
def test_a_call_without_the_placeholder_is_refused(style: Style, key: str, wired: Wired):
    assert_refused(wired, wired.ask(style, headers=style.auth(key)))


@every_style
def test_a_key_that_the_endpoint_gives_away_is_masked(style: Style, wired: Wired):
    headers = {"Content-Type": f"text/{KEY}", "x-request-id": f"for {KEY}", "X-Key": KEY}
    wired.llm.respond = lambda call: Response(401, headers, f"Wrong key: {KEY}. {KEY}".encode())
    answer = wired.ask(style)
    assert answer.status == 401
    assert KEY not in str(answer.headers)
    assert KEY.encode() not in answer.raw
    assert answer.raw.startswith(b"Wrong key: ")


@pytest.mark.parametrize("size", [1, 2, 7, 39, 40, 41])
def test_a_key_that_comes_in_pieces_is_masked(size: int, wired: Wired):
    text = f"sk-test-sk-test-0123{KEY}sk-{KEY[:-1]}!{KEY}{KEY[:20]}".encode()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]
            time.sleep(0.002)  # so that they arrive one by one

    wired.llm.respond = lambda call: Response(200, {"Content-Type": "text/plain"}, chunks())
    answer = wired.ask(CHAT)
    assert answer.raw == text.replace(KEY.encode(), wired.placeholder.encode())


@pytest.fixture(scope="module")
def endpoints_key(endpoint: ScriptedLLM, portal: Any) -> Any:
    """Wire a relay that has this key, or none."""

    def wire(key: str = "") -> Wired:
        endpoint.requests.clear()
        endpoint.respond = None
        settings = {"LLM_MODEL": CHAT.model, "LLM_BASE_URL": endpoint.base_url}
        settings |= {"LLM_API_KEY": key} if key else {}
        return Wired(endpoint, load_example(**settings), portal)

    return wire


@pytest.mark.parametrize("key", ["test", "EMPTY", "sk-1234"])
def test_a_local_servers_dummy_key_is_left_in_answers(key: str, endpoints_key: Any):
    with endpoints_key(key) as wired:
        wired.llm.respond = lambda call: Response(200, {}, f"py{key} {key}".encode())
        assert wired.ask(CHAT).raw == f"py{key} {key}".encode()
        assert wired.llm.requests[0].headers["Authorization"] == f"Bearer {key}"


def test_a_local_server_without_a_key_is_called(endpoints_key: Any):
    with endpoints_key() as wired:
        assert wired.ask(CHAT).status == 200
        assert len(wired.llm.requests) == 1


def test_white_space_around_the_key_is_not_sent(endpoints_key: Any):
    with endpoints_key(f" {KEY}\n") as wired:
        assert wired.ask(CHAT).status == 200
        assert wired.llm.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_a_key_that_no_header_can_hold_is_a_502_in_the_ledger(endpoints_key: Any):
    with endpoints_key("of two\nlines") as wired:
        assert wired.ask(CHAT).status == 502
        assert wired.entries(1)[0]["status"] == 502
        assert "of two" not in str(wired.entries(1))


# ## Answers


@every_style
def test_an_answer_is_passed_on_as_it_is(style: Style, wired: Wired):
    body = b'{"any": [1, 2.50], "\\u00e9": "\xc3\xa9"}'
    headers = {"Content-Type": "application/json", "x-request-id": "req_1"}
    wired.llm.respond = lambda call: Response(200, headers, body)
    answer = wired.ask(style)
    assert (answer.status, answer.raw) == (200, body)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["x-request-id"] == "req_1"


@every_style
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 529])
def test_an_error_is_passed_on_as_it_is(style: Style, status: int, wired: Wired):
    wired.llm.respond = lambda call: Response(status, {"Retry-After": "7"}, b'{"error": "no"}')
    answer = wired.ask(style)
    assert (answer.status, answer.raw) == (status, b'{"error": "no"}')
    assert answer.headers["Retry-After"] == "7"
    assert wired.entries(1)[0]["status"] == status


@every_style
def test_a_stream_is_not_held_up(style: Style, wired: Wired):
    go_on = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"data: one\n\n"
        assert go_on.wait(20)
        yield b"data: two\n\n"

    headers = {"Content-Type": "text/event-stream"}
    wired.llm.respond = lambda call: Response(200, headers, chunks())
    response = wired.open(style, style.body | {"stream": True})
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.read(11) == b"data: one\n\n"
    go_on.set()
    assert response.read() == b"data: two\n\n"


@every_style
def test_half_an_answer_does_not_look_like_a_whole_one(style: Style, wired: Wired):
    def chunks() -> Iterator[bytes]:
        yield b"data: one\n\n"
        raise ConnectionAbortedError

    wired.llm.respond = lambda call: Response(200, {}, chunks())
    response = wired.open(style)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    assert "refused" not in wired.entries(1)[0]


@every_style
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(style: Style, status: int, wired: Wired):
    with ScriptedLLM() as elsewhere:
        location = {"Location": f"{elsewhere.origin}{style.path}"}
        wired.llm.respond = lambda call: Response(status, location, b"")
        answer = wired.ask(style)
        assert answer.status == 403
        assert elsewhere.requests == []
    assert len(wired.llm.requests) == 1
    assert wired.entries(1)[0]["refused"]


def test_an_endpoint_that_is_not_there_is_a_502_with_a_reason(portal: Any):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    module = load_example(LLM_API_KEY=KEY, LLM_MODEL=CHAT.model, LLM_BASE_URL=address)
    with ScriptedLLM() as llm, Wired(llm, module, portal) as wired:
        answer = wired.ask(CHAT)
        assert answer.status == 502
        assert "127.0.0.1" in answer.body["error"]["message"]
        assert wired.entries(1)[0]["status"] == 502


@every_style
def test_calls_that_are_let_through_are_in_the_ledger_without_body_or_key(
    style: Style, wired: Wired
):
    wired.ask(style)
    wired.ask(style, style.body | {"stream": True})
    for entry in wired.entries(2):
        assert entry["path"] == style.path
        assert entry["status"] == 200
        assert abs(entry["time"] - time.time()) < 60
        assert "hi" not in entry.values()
        assert KEY not in str(entry)


@every_style
def test_a_refused_call_is_in_the_ledger_without_its_body(style: Style, wired: Wired):
    (field,) = style.body.keys() & {"messages", "input"}
    secret = {"role": "user", "content": [{"type": "secret", "image_url": "secret"}]}
    for body in ({"tools": ["secret"]}, {field: [secret]}, {field: {"x": "secret"}}, {"model": 7}):
        wired.ask(style, style.body | body)
    for entry in wired.entries(4):
        assert entry["refused"]
        assert "secret" not in str(entry)


def test_a_body_cannot_make_the_ledger_grow_by_more_than_a_line(wired: Wired):
    name = "x" * (1 << 20)
    assert_refused(wired, wired.ask(CHAT, CHAT.body | {name: 1}))
    assert len(json.dumps(wired.entries(1))) < 1000


def test_many_calls_at_once_get_each_its_own_answer(wired: Wired):
    def echo(call: Request) -> Response:
        time.sleep(0.05)
        return json_response(call.body["user"])

    wired.llm.respond = echo
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = wired.ask(CHAT, CHAT.body | {"user": f"user {number}"}).body

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"user {number}" for number in range(40)}


def ends_within(seconds: float, wired: Wired) -> bool:
    """End a relay, but do not wait for ever."""
    ending = threading.Thread(target=wired.__exit__, args=(None, None, None), daemon=True)
    ending.start()
    ending.join(seconds)
    return not ending.is_alive()


def test_the_relay_ends_though_a_client_stays_connected(
    endpoint: ScriptedLLM, examples: dict[str, Any], portal: Any
):
    endpoint.respond = None
    wired = Wired(endpoint, examples[CHAT.model], portal).__enter__()
    with wired.connect() as near:
        raw = json.dumps(CHAT.body).encode()
        near.sendall(head(wired, CHAT, f"Content-Length: {len(raw)}") + raw)
        assert near.recv(15) == b"HTTP/1.1 200 OK"
        assert ends_within(5, wired)


def test_the_relay_ends_though_an_answer_is_under_way(
    endpoint: ScriptedLLM, examples: dict[str, Any], portal: Any
):
    go_on = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"data: one\n\n"
        go_on.wait(20)

    endpoint.respond = lambda call: Response(200, {}, chunks())
    wired = Wired(endpoint, examples[CHAT.model], portal).__enter__()
    response = wired.open(CHAT)
    try:
        assert response.read(11) == b"data: one\n\n"
        assert ends_within(5, wired)
    finally:
        go_on.set()
        response.close()


# ## What is refused


@every_style
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])
def test_no_method_but_post_is_let_through(style: Style, method: str, wired: Wired):
    response = wired.open(style, method=method)
    assert response.status == 403
    assert wired.llm.requests == []
    assert wired.entries(1)[0]["refused"]


PATHS = [
    "/",
    "/v1",
    "/v1/",
    "/v1/models",
    "/v1/files",
    "/v1/embeddings",
    "/v1/batches",
    "/v1/messages/batches",
    "/v1/messages/count_tokens",
    "/v1/images/generations",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1/input_items",
    "/v1/chat/completions/chatcmpl-1",
    "/chat/completions",
    "/responses",
    "/messages",
    "{}/",
    "{}?",
    "{}?x=1",
    "{}#x",
    "{};x",
    "/{}",
    "/x/..{}",
    "/.{}",
    "/%2e%2e{}",
    "{}/%2e",
    "{}%20",
    "{}%00",
    "{}/../models",
    "{}/..%2fmodels",
    "http://127.0.0.1:1{}",
    "http://relay{}",
    "//127.0.0.1:1{}",
    "{UPPER}",
    "{ENCODED}",
]


@every_style
@pytest.mark.parametrize("path", PATHS)
def test_no_path_but_the_styles_own_is_let_through(style: Style, path: str, wired: Wired):
    encoded = style.path.replace("s", "%73")
    path = path.replace("{}", style.path)
    path = path.replace("{UPPER}", style.path.upper()).replace("{ENCODED}", encoded)
    assert_refused(wired, wired.ask(style, path=path))


@every_style
def test_no_other_providers_path_is_let_through(style: Style, wired: Wired):
    for other in STYLES.values():
        if other.model != style.model:
            assert_refused(wired, wired.ask(style, path=other.path))
            break


@every_style
@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "claude-opus-4-5",
        "{}-x",
        "x-{}",
        "x/{}",
        "{}:online",
        "{},gpt-4o",
        "{}\n",
        "\n{}",
        "{} ",
        "{UPPER}",
        "",
        None,
        ["{}"],
        {"name": "{}"},
        7,
        True,
    ],
)
def test_no_other_model_is_let_through(style: Style, model: Any, wired: Wired):
    good = style.body["model"]
    given = json.loads(json.dumps(model).replace("{UPPER}", good.upper()).replace("{}", good))
    assert_refused(wired, wired.ask(style, style.body | {"model": given}))


@every_style
def test_no_call_without_a_model_is_let_through(style: Style, wired: Wired):
    body = {name: value for name, value in style.body.items() if name != "model"}
    assert_refused(wired, wired.ask(style, body))


FUNCTION = {"type": "function", "function": {"name": "a", "parameters": {"type": "object"}}}
PROVIDER_TOOLS: list[Body] = [
    {"type": "web_search"},
    {"type": "web_search_2025_08_26"},
    {"type": "web_search_preview"},
    {"type": "web_search_preview_2025_03_11", "search_context_size": "low"},
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
    {"type": "web_fetch_20250910", "name": "web_fetch"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "code_execution_20250825", "name": "code_execution"},
    {"type": "mcp", "server_label": "x", "server_url": "https://192.0.2.1/mcp"},
    {"type": "mcp_toolset", "mcp_server_name": "x"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "computer_use_preview", "environment": "browser"},
    {"type": "computer_20250124", "name": "computer"},
    {"type": "image_generation"},
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    {"type": "memory_20250818", "name": "memory"},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "function ", "name": "a"},
    {"type": "Function", "name": "a"},
    {"type": ["function"], "name": "a"},
    {"type": None, "name": "a"},
]
# What LiteLLM, as a proxy before Gemini, takes for a search at the provider.
GEMINI_TOOLS: list[Body] = [
    {"googleSearch": {}},
    {"google_search": {}},
    {"googleSearchRetrieval": {}},
    {"enterpriseWebSearch": {}},
    {"urlContext": {}},
    {"url_context": {}},
    {"codeExecution": {}},
    {"googleMaps": {}},
    {"type": "function", "googleSearch": {}},
    {"type": "custom", "urlContext": {}},
]


@every_style
@pytest.mark.parametrize("tool", PROVIDER_TOOLS, ids=lambda tool: str(tool["type"]))
def test_no_tool_that_runs_at_the_provider_is_let_through(style: Style, tool: Body, wired: Wired):
    assert_refused(wired, wired.ask(style, style.body | {"tools": [FUNCTION, tool]}))


@every_style
@pytest.mark.parametrize("tool", GEMINI_TOOLS, ids=json.dumps)
def test_no_tool_without_a_type_that_runs_at_the_provider_is_let_through(
    style: Style, tool: Body, wired: Wired
):
    assert_refused(wired, wired.ask(style, style.body | {"tools": [FUNCTION, tool]}))


@every_style
@pytest.mark.parametrize("tools", [{"type": "web_search"}, "web_search", ["web_search"], [[]], 1])
def test_no_tools_that_are_not_a_list_of_tools_are_let_through(
    style: Style, tools: Any, wired: Wired
):
    assert_refused(wired, wired.ask(style, style.body | {"tools": tools}))


FIELDS: list[Body] = [
    {"web_search_options": {}},
    {"plugins": [{"id": "web"}]},
    {"mcp_servers": [{"type": "url", "url": "https://192.0.2.1/mcp", "name": "x"}]},
    {"background": True},
    {"previous_response_id": "resp_1"},
    {"conversation": "conv_1"},
    {"prompt": {"id": "pmpt_1"}},
    {"container": "container_1"},
    {"models": ["gpt-4o"]},
    {"fallbacks": ["gpt-4o"]},
    {"api_base": "https://192.0.2.1"},
    {"base_url": "https://192.0.2.1"},
    {"provider": {"order": ["x"]}},
    {"route": "fallback"},
    {"transforms": []},
    {"extra_body": {"web_search_options": {}}},
    {"extra_headers": {"Host": "192.0.2.1"}},
    {"functions": []},
    {"modalities": ["text", "audio"]},
    {"search_parameters": {"mode": "on"}},
    {"enable_search": True},
    {"mock_response": "x"},
    {"Web_Search_Options": {}},
    {"": {}},
]


@every_style
@pytest.mark.parametrize("field", FIELDS, ids=lambda field: next(iter(field)))
def test_no_field_that_reaches_out_is_let_through(style: Style, field: Body, wired: Wired):
    assert_refused(wired, wired.ask(style, style.body | field))


URL = "https://192.0.2.1/a.png"


def chat(*content: Any, **fields: Any) -> Body:
    return {"messages": [{"role": "user", "content": list(content)} | fields]}


def item(*content: Any, **fields: Any) -> Body:
    return {"input": [{"role": "user", "content": list(content)} | fields]}


MEDIA: dict[str, list[Body]] = {
    "chat": [
        chat({"type": "image_url", "image_url": {"url": URL}}),
        chat({"type": "image_url", "image_url": URL}),
        chat({"type": "image_url", "image_url": {"url": "http://192.0.2.1/"}}),
        chat({"type": "image_url", "image_url": {"url": "gs://bucket/a.png"}}),
        chat({"type": "image_url", "image_url": {"url": "//192.0.2.1/a.png"}}),
        chat({"type": "image_url", "image_url": {"url": f" {PIXEL}"}}),
        chat({"type": "image_url", "image_url": {"url": PIXEL, "file_id": "file-1"}}),
        chat({"type": "image_url", "image_url": {"url": [URL]}}),
        chat({"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": URL}}),
        chat({"type": "file", "file": {"file_id": "file-1"}}),
        chat({"type": "file", "file": {"file_data": URL}}),
        chat({"type": "video_url", "video_url": {"url": URL}}),
        chat({"type": "input_image", "image_url": URL}),
        chat({"type": "input_file", "file_url": URL}),
        chat({"type": "text", "text": "x", "file_id": "file-1"}),
        # Some servers tell a part's type by its fields.
        chat({"role": "user", "video_url": {"url": URL}}),
        chat({"type": "text", "text": "x", "audio_url": {"url": URL}}),
        chat("x", {"role": "user", "file": {"file_id": "file-1"}}),
        {"messages": [{"role": "user", "content": "x", "audio": {"id": "audio_1"}}]},
        # LiteLLM makes these a part of the content.
        chat(thinking_blocks=[{"type": "image", "source": {"type": "url", "url": URL}}]),
        {
            "messages": [
                {"role": "tool", "tool_call_id": "1"} | chat({"type": "file"})["messages"][0]
            ]
        },
        {"messages": [{"role": "user", "content": {"type": "image_url", "image_url": URL}}]},
        {"messages": {"role": "user", "content": "x"}},
        {"messages": "x"},
    ],
    "responses": [
        item({"type": "input_image", "image_url": URL}),
        item({"type": "input_image", "image_url": {"url": URL}}),
        item({"type": "input_image", "file_id": "file-1"}),
        item({"type": "input_image", "image_url": PIXEL, "file_id": "file-1"}),
        item({"type": "input_file", "file_url": URL}),
        item({"type": "input_text", "text": "x", "file_url": URL}),
        item({"type": "input_file", "file_id": "file-1"}),
        item({"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": URL}),
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]},
        {"input": [{"type": "mcp_approval_response", "approve": True}]},
        {"input": [{"type": "mcp_list_tools", "server_label": "x", "tools": []}]},
        {"input": [{"type": "image_generation_call", "id": "ig_1"}]},
        {"input": [{"type": "code_interpreter_call", "id": "ci_1", "container_id": "c"}]},
        {"input": [{"type": "file_search_call", "id": "fs_1"}]},
        {"input": [{"type": "computer_call_output", "output": {"image_url": URL}}]},
        {
            "input": [
                {
                    "type": "function_call_output",
                    "call_id": "1",
                    "output": [{"type": "input_image", "image_url": URL}],
                }
            ]
        },
        {
            "input": [
                {
                    "type": "custom_tool_call_output",
                    "call_id": "1",
                    "output": [{"type": "input_file", "file_id": "file-1"}],
                }
            ]
        },
        {"input": {"role": "user", "content": "x"}},
    ],
    "messages": [
        chat({"type": "image", "source": {"type": "url", "url": URL}}),
        chat({"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
        chat({"type": "document", "source": {"type": "url", "url": URL}}),
        chat({"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
        chat({"type": "document", "source": {"type": "content", "content": []}}),
        chat({"type": "document", "source": URL}),
        chat({"type": "container_upload", "file_id": "file_1"}),
        chat({"type": "text", "text": "x", "url": URL}),
        chat({"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}),
        chat({"type": "mcp_tool_use", "id": "1", "name": "x", "input": {}}),
        chat({"type": "web_search_tool_result", "tool_use_id": "1", "content": []}),
        chat(
            {
                "type": "tool_result",
                "tool_use_id": "1",
                "content": [{"type": "image", "source": {"type": "url", "url": URL}}],
            }
        ),
        chat(
            {
                "type": "tool_result",
                "tool_use_id": "1",
                "content": [
                    {
                        "type": "tool_result",
                        "content": [{"type": "document", "source": {"type": "url", "url": URL}}],
                    }
                ],
            }
        ),
        {"system": [{"type": "image", "source": {"type": "url", "url": URL}}]},
        {"system": {"type": "text", "text": "x"}},
    ],
}


@pytest.mark.parametrize(
    ("style", "body"),
    [(STYLES[name], body) for name, bodies in MEDIA.items() for body in bodies],
    ids=[f"{name}-{number}" for name, bodies in MEDIA.items() for number in range(len(bodies))],
)
def test_no_content_that_is_not_in_the_call_itself_is_let_through(
    style: Style, body: Body, wired: Wired
):
    assert_refused(wired, wired.ask(style, style.body | body))


def test_no_reference_to_a_stored_item_is_let_through_for_want_of_a_type(wired: Wired):
    style = STYLES["responses"]
    assert_refused(wired, wired.ask(style, style.body | {"input": [{"id": "msg_1"}]}))


def test_no_instructions_that_hold_media_by_url_are_let_through(wired: Wired):
    style = STYLES["responses"]
    body = {"instructions": item({"type": "input_image", "image_url": URL})["input"]}
    assert_refused(wired, wired.ask(style, style.body | body))


NO_BODIES = {
    "nothing": b"",
    "text": b"hello",
    "list": b"[]",
    "list of calls": json.dumps([CHAT.body]).encode(),
    "string": b'"x"',
    "null": b"null",
    "cut off": json.dumps(CHAT.body).encode()[:-1],
    "two": json.dumps(CHAT.body).encode() * 2,
    "form": b"model=gpt-4o-mini&messages=",
    "not UTF-8": json.dumps(CHAT.body).encode().replace(b"hi", b"\xff"),
    "deep": b'{"model":' + b"[" * 100_000,
    "deep and whole": b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@every_style
@pytest.mark.parametrize("raw", NO_BODIES.values(), ids=NO_BODIES.keys())
def test_no_body_but_a_json_object_is_let_through(style: Style, raw: bytes, wired: Wired):
    assert_refused(wired, wired.ask(style, raw=raw))


@every_style
@pytest.mark.parametrize("depth", [200, 900, 1500])
def test_no_depth_of_content_breaks_the_relay(style: Style, depth: int, wired: Wired):
    content: Any = "x"
    for _ in range(depth):
        content = [{"type": "tool_result", "content": content}]
    (field,) = style.body.keys() & {"messages", "input"}
    shell = json.dumps(style.body | {field: [{"role": "user", "content": "DEEP"}]})
    raw = b'[{"type":"tool_result","content":' * depth + b'"x"' + b"}]" * depth
    answer = wired.ask(style, raw=shell.encode().replace(b'"DEEP"', raw))
    if answer.status == 200:
        assert wired.llm.requests[0].raw.count(b"tool_result") == depth
    else:
        assert_refused(wired, answer)


def test_no_body_over_the_bound_is_let_through(wired: Wired):
    large = CHAT.body | {"user": "x" * MAX_BODY}
    try:
        assert_refused(wired, wired.ask(CHAT, large))
    except ConnectionError:  # it hung up before it had read it all
        assert wired.llm.requests == []
        assert wired.entries(1)[0]["refused"]


def test_a_body_near_the_bound_is_let_through(wired: Wired):
    large = CHAT.body | {"user": "x" * (MAX_BODY - 1000)}
    assert wired.ask(CHAT, large).status == 200
    assert wired.llm.requests[0].body == large


def test_calls_that_are_too_large_together_are_refused_until_others_have_ended(wired: Wired):
    """Else the agent's side could use up this host's memory with bodies that never end."""
    head = f"POST {CHAT.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY - 1}\r\n\r\n"
    with contextlib.ExitStack() as exits:
        for _ in range(8):
            exits.enter_context(wired.connect()).sendall(head.encode())
        deadline = time.monotonic() + 5
        while (answer := wired.ask(CHAT)).status == 200:  # not all of the eight are seen yet
            assert time.monotonic() < deadline
        assert answer.status == 403
    wired.llm.requests.clear()
    deadline = time.monotonic() + 5
    while (answer := wired.ask(CHAT)).status == 403:  # not all of the eight are gone yet
        assert time.monotonic() < deadline
    assert answer.status == 200
    while wired.relay.room < wired.module.Relay(io.StringIO()).room:
        assert time.monotonic() < deadline


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(wired: Wired):
    bomb = gzip.compress(json.dumps(CHAT.body | {"user": "x" * (64 << 20)}).encode())
    assert len(bomb) < 1 << 20
    answer = wired.ask(CHAT, raw=bomb, headers={"Content-Encoding": "gzip"})
    assert wired.llm.requests == []
    assert answer.status in (400, 403, 413)


@every_style
def test_of_two_fields_of_one_name_the_one_that_was_checked_is_sent(style: Style, wired: Wired):
    good, rest = style.body["model"], json.dumps(style.body)[1:]
    first_good = rest[:-1] + ', "model": "gpt-evil"}'
    assert_refused(wired, wired.ask(style, raw=b"{" + first_good.encode()))
    answer = wired.ask(style, raw=b'{"model": "gpt-evil", ' + rest.encode())
    if answer.status == 200:
        (call,) = wired.llm.requests
        assert call.raw.count(b'"model"') == 1
        assert call.body["model"] == good
    else:
        assert wired.llm.requests == []


def head(wired: Wired, style: Style, *lines: str) -> bytes:
    """Return the head of a request, with these lines in it."""
    (name, value), *_ = style.auth(wired.placeholder).items()
    start = (f"POST {style.path} HTTP/1.1", "Host: relay", f"{name}: {value}")
    return "\r\n".join([*start, "Content-Type: application/json", *lines, "", ""]).encode()


@every_style
def test_no_second_request_is_smuggled_in_a_first_one(style: Style, wired: Wired):
    evil = json.dumps(style.body | {"model": "gpt-evil"}).encode()
    inner = head(wired, style, f"Content-Length: {len(evil)}") + evil
    body = json.dumps(style.body).encode()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for lines, sent in [
        ((f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"), chunked + inner),
        (("Transfer-Encoding: chunked", f"Content-Length: {len(body)}"), body + inner),
        ((f"Content-Length: {len(body)}", "Content-Length: 5"), body + inner),
        ((f"Content-Length: +{len(body)}",), body + inner),
        (("Transfer-Encoding: chunked, identity",), chunked + inner),
        (("Transfer-Encoding : chunked",), chunked + inner),
        (("Content-Length: 5\x00",), body + inner),
    ]:
        came = wired.ask_raw(head(wired, style, *lines) + sent)
        assert b"HTTP/1.1 200" not in came, lines
        assert wired.llm.requests == [], lines


def test_a_chunked_body_is_refused_or_checked_like_any_other(wired: Wired):
    def chunked(body: Body) -> bytes:
        raw = json.dumps(body).encode()
        return head(wired, CHAT, "Transfer-Encoding: chunked") + b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in (raw[:9], raw[9:], b"")
        )

    assert b"HTTP/1.1 403" in wired.ask_raw(chunked(CHAT.body | {"model": "gpt-evil"}))
    assert wired.llm.requests == []
    wired.ask_raw(chunked(CHAT.body))
    assert all(call.body == CHAT.body for call in wired.llm.requests)


def test_two_requests_on_one_connection_are_each_checked(wired: Wired):
    good = json.dumps(CHAT.body).encode()
    evil = json.dumps(CHAT.body | {"model": "gpt-evil"}).encode()
    both = b"".join(
        head(wired, CHAT, f"Content-Length: {len(raw)}") + raw for raw in (good, evil, good)
    )
    came = wired.ask_raw(both)
    assert [came.count(b"HTTP/1.1 %d" % status) for status in (200, 403)] == [2, 1]
    assert [call.body for call in wired.llm.requests] == [CHAT.body, CHAT.body]


DROPPED = {
    "Host": "192.0.2.1",
    "X-Forwarded-For": "192.0.2.1",
    "X-Forwarded-Host": "192.0.2.1",
    "Forwarded": "for=192.0.2.1",
    "Cookie": "session=192.0.2.1",
    "Connection": "keep-alive, 192.0.2.1",
    "Keep-Alive": "timeout=192.0.2.1",
    "Proxy-Authorization": "Basic 192.0.2.1",
    "TE": "trailers, 192.0.2.1",
    "Trailer": "192.0.2.1",
    "Upgrade": "192.0.2.1",
    "Referer": "http://192.0.2.1",
    "Origin": "http://192.0.2.1",
    "OpenAI-Organization": "org-192.0.2.1",
    "OpenAI-Project": "proj-192.0.2.1",
    "X-HTTP-Method-Override": "192.0.2.1",
    "X-Original-URL": "/192.0.2.1",
    "x-litellm-api-base": "http://192.0.2.1",
    "helicone-target-url": "http://192.0.2.1",
    "x-portkey-custom-host": "http://192.0.2.1",
    "Content-Type": "application/x-www-form-urlencoded; x=192.0.2.1",
}


@every_style
@pytest.mark.parametrize("name", DROPPED)
def test_no_header_that_steers_is_let_through(style: Style, name: str, wired: Wired):
    wired.ask(style, headers={name: DROPPED[name]})
    for call in wired.llm.requests:
        assert "192.0.2.1" not in str(call.headers)
        assert call.headers["Host"] == wired.llm.origin.removeprefix("http://")
        assert call.headers["Content-Type"].startswith("application/json")


@every_style
@pytest.mark.parametrize("name", ["Accept", "anthropic-beta", "anthropic-version", "User-Agent"])
def test_the_key_goes_into_no_header_but_a_keys(style: Style, name: str, wired: Wired):
    wired.ask(style, headers={name: wired.placeholder})
    for call in wired.llm.requests:
        assert KEY not in (call.headers[name] or "")


@every_style
def test_no_key_of_the_agents_own_is_let_through(style: Style, wired: Wired):
    other = "x-api-key" if style.key_header == "Authorization" else "Authorization"
    wired.ask(style, headers={other: "sk-of-somebody-else"})
    stolen = style.auth("sk-of-somebody-else") | {"Accept": wired.placeholder}
    wired.ask(style, headers=stolen)
    for call in wired.llm.requests:
        assert "somebody-else" not in str(call.headers)


# ## What is let through

SCHEMA = {
    "type": "object",
    "description": "Fetches nothing.",
    "properties": {
        "url": {"type": "string", "description": URL},
        "type": {"type": "string", "enum": ["web_search", "mcp"]},
        "source": {"type": "object", "properties": {"file_id": {"type": "string"}}},
        "image_url": {"type": "string", "format": "uri"},
        "content": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "input": {"$ref": "#/$defs/input"},
    },
    "required": ["url"],
    "$defs": {"input": {"type": "string"}},
    "additionalProperties": False,
}
ARGUMENTS = json.dumps({"url": URL, "type": "web_search", "source": {"file_id": "file-1"}})
SAID = f"See {URL}, or file_id=file-1 \u00e9 \U0001f600 and \x00 \x1b[31m"
CACHED = {"cache_control": {"type": "ephemeral"}}


def call_of(number: int) -> Body:
    function = {"name": "a", "arguments": ARGUMENTS}
    return {"id": f"call_{number}", "type": "function", "function": function}


GOOD: dict[str, list[Body]] = {
    "chat": [
        {
            "model": "gpt-4o-mini",
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": SAID} | CACHED]},
                {"role": "developer", "content": SAID},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": SAID},
                        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}},
                        {"type": "image_url", "image_url": {"url": PIXEL}},
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": [call_of(1), call_of(2)]},
                {"role": "tool", "tool_call_id": "call_1", "name": "a", "content": SAID},
                {
                    "role": "tool",
                    "tool_call_id": "call_2",
                    "name": "a",
                    "content": [{"type": "text", "text": SAID}],
                },
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": SAID,
                    "thinking_blocks": [{"type": "thinking", "thinking": SAID, "signature": "x"}],
                },
                {"role": "user", "content": SAID},
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "a",
                        "description": SAID,
                        "parameters": SCHEMA,
                        "strict": False,
                    },
                }
                | CACHED
            ],
            "tool_choice": {"type": "function", "function": {"name": "a"}},
            "parallel_tool_calls": True,
            "temperature": 0.0,
            "top_p": 1,
            "max_completion_tokens": 16384,
            "seed": 1,
            "stop": ["</s>"],
            "stream": False,
            "user": "u",
            "metadata": {"url": URL, "tags": ["a"]},
            "reasoning_effort": "high",
            "prompt_cache_key": "x",
            "prompt_cache_retention": "24h",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            },
        },
        {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]},
        CHAT.body | {"stream": True, "stream_options": {"include_usage": True}},
        CHAT.body | {"tools": [], "max_tokens": 5},
    ],
    "responses": [
        {
            "model": "gpt-4o-mini",
            "instructions": SAID,
            "input": [
                {"role": "system", "content": SAID},
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": SAID},
                        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
                    ],
                },
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [{"type": "summary_text", "text": SAID}],
                    "content": None,
                    "encrypted_content": "gAAAAA==",
                },
                {
                    "type": "message",
                    "role": "assistant",
                    "id": "msg_1",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": SAID, "annotations": []}],
                },
                {
                    "type": "function_call",
                    "id": "fc_1",
                    "call_id": "call_1",
                    "name": "a",
                    "arguments": ARGUMENTS,
                    "status": "completed",
                },
                {"type": "function_call_output", "call_id": "call_1", "output": SAID},
                {
                    "type": "function_call_output",
                    "call_id": "call_2",
                    "output": [
                        {"type": "input_text", "text": SAID},
                        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
                    ],
                },
            ],
            "tools": [
                {
                    "type": "function",
                    "name": "a",
                    "description": SAID,
                    "parameters": SCHEMA,
                    "strict": False,
                }
            ],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "high", "summary": "auto"},
            "text": {"verbosity": "low", "format": {"type": "text"}},
            "store": False,
            "max_output_tokens": 128000,
            "metadata": {"trace": "x"},
            "prompt_cache_key": "x",
            "prompt_cache_retention": "24h",
        },
        STYLES["responses"].body | {"input": SAID, "stream": True},
    ],
    "messages": [
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 64000,
            "system": [{"type": "text", "text": SAID} | CACHED, {"type": "text", "text": "x"}],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": SAID} | CACHED,
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": "iVBORw0KGgo=",
                            },
                        },
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": SAID},
                            "title": URL,
                        },
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": SAID, "signature": "EqQB=="},
                        {"type": "redacted_thinking", "data": "EmwK=="},
                        {"type": "text", "text": SAID},
                        {
                            "type": "tool_use",
                            "id": "toolu_1",
                            "name": "a",
                            "input": {
                                "url": URL,
                                "type": "web_search",
                                "content": {"x": 1},
                                "source": {"type": "url", "url": URL},
                            },
                        },
                        {"type": "tool_use", "id": "toolu_2", "name": "a", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "toolu_1",
                            "is_error": True,
                            "content": [
                                {"type": "text", "text": SAID},
                                {
                                    "type": "image",
                                    "source": {
                                        "type": "base64",
                                        "media_type": "image/png",
                                        "data": "iVBORw0KGgo=",
                                    },
                                },
                            ],
                        }
                        | CACHED,
                        {"type": "tool_result", "tool_use_id": "toolu_2", "content": SAID},
                    ],
                },
            ],
            "tools": [
                {"name": "a", "description": SAID, "input_schema": SCHEMA} | CACHED,
                {"type": "custom", "name": "b", "input_schema": SCHEMA},
            ],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
            "thinking": {"type": "enabled", "budget_tokens": 10000},
            "temperature": 1.0,
            "top_k": 5,
            "stop_sequences": ["x"],
            "metadata": {"user_id": "u"},
            "stream": True,
        },
        STYLES["messages"].body | {"system": SAID, "tools": []},
        STYLES["messages"].body | {"output_config": {"effort": "low"}},
    ],
}


@pytest.mark.parametrize(
    ("style", "body"),
    [(STYLES[name], body) for name, bodies in GOOD.items() for body in bodies],
    ids=[f"{name}-{number}" for name, bodies in GOOD.items() for number in range(len(bodies))],
)
def test_what_an_agent_needs_is_let_through_unchanged(style: Style, body: Body, wired: Wired):
    answer = wired.ask(style, body)
    assert answer.status == 200, answer.raw
    (call,) = wired.llm.requests
    assert call.body == body
    assert call.path == style.path
    assert "refused" not in wired.entries(1)[0]


def test_the_versions_that_a_client_asks_for_are_let_through(wired: Wired):
    asked = {"anthropic-version": "2023-06-01", "anthropic-beta": "interleaved-thinking-2025-05-14"}
    assert wired.ask(CHAT, headers=asked).status == 200
    for name, value in asked.items():
        assert wired.llm.requests[0].headers[name] == value


# ## The client that the agent server has

TOOLS = [{"type": "function", "function": {"name": "a", "parameters": SCHEMA}}]
HISTORY = [
    {"role": "system", "content": [{"type": "text", "text": "Be good."} | CACHED]},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "See this."},
            {"type": "image_url", "image_url": {"url": PIXEL}},
        ],
    },
    {"role": "assistant", "content": "So.", "tool_calls": [call_of(1)]},
    {"role": "tool", "tool_call_id": "call_1", "name": "a", "content": "Done."},
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("style", [STYLES["chat"], STYLES["messages"]], ids=["chat", "messages"])
def test_litellm_gets_its_completions_through(style: Style, stream: bool, wired: Wired):
    import litellm

    wired.llm.script = [("a", {"url": URL})]
    with wired.listening() as address:
        answer: Any = litellm.completion(  # pyright: ignore
            model=style.model,
            messages=HISTORY,
            tools=TOOLS,
            stream=stream,
            api_key=wired.placeholder,
            base_url=address + wired.relay.path,
            max_retries=0,
        )
        if stream:
            answer = litellm.stream_chunk_builder(list(answer), messages=HISTORY)
    (called,) = answer.choices[0].message.tool_calls
    assert (called.function.name, json.loads(called.function.arguments)) == ("a", {"url": URL})
    assert wired.llm.requests[0].path == style.path
    assert KEY in str(wired.llm.requests[0].headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_litellm_gets_its_responses_through(stream: bool, wired: Wired):
    import litellm

    wired.llm.script = [("a", {"url": URL})]
    with wired.listening() as address:
        answer: Any = litellm.responses(  # pyright: ignore
            model=CHAT.model,
            instructions="Be good.",
            input=GOOD["responses"][0]["input"][1:],
            tools=GOOD["responses"][0]["tools"],
            include=["reasoning.encrypted_content"],
            store=False,
            stream=stream,
            api_key=wired.placeholder,
            api_base=address + wired.relay.path,
        )
        if stream:
            answer = next(e for e in answer if e.type == "response.completed").response
    (called,) = answer.output
    assert (called.name, json.loads(called.arguments)) == ("a", {"url": URL})
    assert wired.llm.requests[0].path == "/v1/responses"


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, "AuthenticationError"), (429, "RateLimitError"), (500, "InternalServerError")],
)
@pytest.mark.parametrize("style", [STYLES["chat"], STYLES["messages"]], ids=["chat", "messages"])
def test_litellm_understands_the_endpoints_errors(
    style: Style, status: int, error: str, wired: Wired
):
    import litellm

    said = {"type": "error", "error": {"type": "some_error", "message": "That is it."}}
    wired.llm.respond = lambda call: json_response(said, status)
    with wired.listening() as address, pytest.raises(getattr(litellm, error), match="That is it"):
        litellm.completion(
            model=style.model,
            messages=HISTORY,
            api_key=wired.placeholder,
            base_url=address + wired.relay.path,
            max_retries=0,
        )


@pytest.mark.parametrize("style", [STYLES["chat"], STYLES["messages"]], ids=["chat", "messages"])
def test_litellm_understands_a_refusal(style: Style, wired: Wired):
    import litellm

    with (
        wired.listening() as address,
        pytest.raises(Exception, match="cleanroom's relay") as raised,
    ):
        litellm.completion(
            model=style.model,
            messages=HISTORY,
            web_search_options={"search_context_size": "low"},
            api_key=wired.placeholder,
            base_url=address + wired.relay.path,
            max_retries=0,
        )
    assert getattr(raised.value, "status_code", None) == 403
    assert wired.llm.requests == []
