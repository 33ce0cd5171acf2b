"""The relay: how much it takes, what it says of it, and how it serves.

The real LiteLLM calls a recording endpoint.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE, environ, load_example, wait_until
from recording import make_certificate
from relay_bodies import LARGEST, NO_BODIES, TOO_LARGE, Body, as_responses, chat, items
from scripted_llm import Request, Response, ScriptedLLM, json_response

from openhands.sdk import LLM


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
Respond = Callable[[Request], Response | None]


@dataclass
class Wired:
    """A relay, and the recording endpoint that it calls."""

    relay: Any
    llm: ScriptedLLM
    ledger: Path

    @property
    def takes_responses(self) -> bool:
        """Whether the model is asked at /responses."""
        return self.relay.llm.uses_responses_api()

    @property
    def path(self) -> str:
        return "/responses" if self.takes_responses else "/chat/completions"

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
            plain = items() if self.takes_responses else chat()
            raw = json.dumps(plain | (body or {})).encode()
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
    ledger = folder / "ledger.jsonl"
    options = {"call_limit": 10_000} | options
    with ScriptedLLM(respond=respond) as endpoint:
        own_url = endpoint.origin if model.startswith("anth") else endpoint.base_url
        settings: dict[str, Any] = {"model": model, "api_key": KEY} | (llm or {})
        user_llm = LLM(usage_id="agent", base_url=base_url or own_url, **settings)
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


# ## What is refused


# Beside busy neighbours a machine is slower by half. So seconds are counted by what this
# takes at the same moment: 30 ms where nothing disturbs.
PIECE_OF_WORK = json.dumps([chat()["messages"]] * 20_000)


def slowness() -> float:
    """Return how many times as long as undisturbed this machine takes now."""
    spent = list[float]()
    for _ in range(3):
        began = time.process_time()
        json.loads(PIECE_OF_WORK)
        spent.append(time.process_time() - began)
    return min(spent) / 0.03


@contextlib.contextmanager
def measured(size: int, seconds: list[float]) -> Iterator[None]:
    """Note the time, and bound the memory, that this process takes for such a body."""
    Path("/proc/self/clear_refs").write_text("5")
    base, began = memory("VmRSS"), time.process_time()
    yield
    used, spent = memory("VmHWM") - base, time.process_time() - began
    seconds.append(spent)
    # The client or the recording endpoint runs here too, with copies of its own.
    assert used < 200 + 3 * size / 1e6


def memory(name: str) -> float:
    """Return a figure of this process's memory, in MB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s*(\d+) kB", status)
    assert found
    return int(found[1]) / 1000


def refused_at_little_cost(wired: Wired, raw: bytes) -> None:
    """Check that a body is refused in less than a second, and 200 MB beside its own."""
    seconds = list[float]()
    with measured(len(raw), seconds):
        wired.refused(wired.ask(raw=raw))
    assert seconds[0] < slowness()


@pytest.mark.parametrize("model", [MODELS["chat"], MODELS["responses"]])
def test_no_body_but_a_json_object_is_let_through(model: str, wired: Wired):
    for raw in NO_BODIES.values():
        refused_at_little_cost(wired, raw)


@pytest.mark.parametrize("make", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_what_expands_is_refused(make: Callable[[], Body], wired: Wired):
    refused_at_little_cost(wired, json.dumps(make(), ensure_ascii=False).encode())


METHODS = ("GET", "PUT", "DELETE", "OPTIONS", "FOO")
PATHS = (
    "/", "/v1/chat/completions", "/chat/completions/", "//chat/completions",
    "/chat/completions/../responses", "/chat/completions%2f", "/CHAT/completions",
    "/messages", "/files", "/models", "/responses/resp_1", "/docs", "/openapi.json",
)  # fmt: skip


def test_nothing_but_two_endpoints_is_served(wired: Wired):
    for method in METHODS:
        for path in ("/chat/completions", "/responses"):
            wired.refused(wired.ask(method=method, path=path))
    for path in PATHS:
        wired.refused(wired.ask(path=path))
    assert wired.ask(method="GET", raw=b"", path="/v1/model/info").status == 404


# ## What is let through


@pytest.mark.parametrize("make", LARGEST.values(), ids=LARGEST.keys())
def test_the_largest_calls_cost_less_than_a_second_and_200_mb(
    make: Callable[[], Body], wires: dict[str, Wired], tmp_path: Path
):
    """Without the client's share: the body is sent by another process."""
    body, chat_file, responses_file = make(), tmp_path / "chat", tmp_path / "responses"
    chat_file.write_text(json.dumps(body, ensure_ascii=False))
    responses_file.write_text(json.dumps(as_responses(body), ensure_ascii=False))
    del body
    for wired in wires.values():
        wired.ask()  # the first call of a kind imports what it needs
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
    for model, wired in wires.items():
        file = responses_file if wired.takes_responses else chat_file
        address = [
            "--unix-socket",
            str(wired.relay.socket),
            f"http://relay{wired.path}",
        ]
        command = [*curl, "--data-binary", f"@{file}", *address]
        # The endpoint, which reads and parses what LiteLLM sends, has its share. What else
        # the machine does only ever adds to the time.
        most, costs = 1.5 * slowness(), list[float]()
        while len(costs) < 2 or (min(costs) > most and len(costs) < 4):
            wired.llm.requests.clear()
            with measured(file.stat().st_size, costs):
                status = subprocess.check_output(command, text=True, timeout=60)
            assert (status, len(wired.llm.requests)) == ("200", 1), model
        assert min(costs) < most, (model, costs)
        wired.llm.requests.clear()


# ## Bounds of bodies and connections


def head(wired: Wired, *lines: str) -> bytes:
    start = (f"POST {wired.path} HTTP/1.1", "Host: relay", *lines, "", "")
    return "\r\n".join(start).encode()


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
    wait_until(lambda: not wired.relay._bytes)
    assert wired.ask().status == 200


def test_of_two_fields_of_one_name_the_one_that_was_checked_is_sent(wired: Wired):
    raw = json.dumps(chat()).encode()
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
    slots = threading.Semaphore(4)

    def respond(_: Request) -> None:
        assert slots.acquire(blocking=False), "a fifth call"
        time.sleep(0.2)
        slots.release()

    with wire(tmp_path, respond=respond) as wired, ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: wired.ask().status, range(100)))
    assert set(answers) == {200, 429}
    assert answers.count(200) >= 60


# ## The provider's side


@every_model
def test_an_error_names_no_secret_and_no_path(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTHER_API_KEY", "other-secret-0123456789")
    words = f"key {KEY} and other-secret-0123456789 in /home/me/keys/a.txt "
    words += "é" * 9999

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
        choices = [{"message": message}]
        return json_response({"id": "1", "model": "m", "choices": choices})

    with wire(tmp_path, respond=respond) as wired:
        (choice,) = json.loads(wired.ask().text)["choices"]
        assert choice["message"]["content"] == "It is ***."


# What may say how a provider is reached, in small letters or in capitals.
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
AUTHORITIES = ("ssl_cert_file", "ssl_cert_dir", "requests_ca_bundle", "curl_ca_bundle")


@contextlib.contextmanager
def host_with(**variables: str) -> Iterator[None]:
    """Have these variables, and no others that say how a provider is reached."""
    others = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in PROXIES + AUTHORITIES
    }
    with environ(**others | variables), pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay.litellm, "ssl_verify", True)  # as it will be again
        relay.exempt_loopback_from_proxies()
        yield


def each_once(*names: str) -> Any:
    """Parametrize a test with each model and, for one of them, each variable."""
    cases = [(names[0], model) for model in MODELS.values()]
    cases += [(name, MODELS["chat"]) for name in names[1:]]
    return pytest.mark.parametrize(("name", "model"), cases)


@each_once("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
def test_a_proxy_is_used_but_for_this_host(name: str, model: str, tmp_path: Path):
    with ScriptedLLM() as proxy, host_with(**{name: proxy.origin}):
        for host in ("127.0.0.1", "localhost"):
            with wire(tmp_path, model) as wired:
                url = wired.relay.llm.base_url.replace("127.0.0.1", host)
                wired.relay.llm.base_url = url
                assert wired.ask().status == 200
                assert proxy.requests == []
        with wire(tmp_path, model, base_url="http://192.0.2.1/v1") as wired:
            wired.ask()
            assert proxy.requests[0].path.startswith("http://192.0.2.1/")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost's, by nobody whom this host knows."""
    return make_certificate(tmp_path_factory.mktemp("authority"))


@each_once("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
def test_a_companys_own_authority_is_honoured_for_the_provider(
    name: str, model: str, certificate: Path, tmp_path: Path
):
    # The control: whom nobody vouches for is not asked.
    for variables, status in (({name: f"{certificate}"}, 200), ({}, 500)):
        with host_with(**variables), wire(tmp_path, model) as wired:
            wired.llm.speak_tls(certificate)
            wired.relay.llm.base_url = re.sub(
                "http://127.0.0.1", "https://localhost", wired.relay.llm.base_url
            )
            answer = wired.ask()
        assert answer.status == status, answer.text
        assert variables or "CERTIFICATE_VERIFY_FAILED" in answer.text


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


def test_a_cost_limit_holds_with_many_calls_at_once(tmp_path: Path):
    with wire(tmp_path, HAIKU, cost_limit=2.5 * HIGHEST) as wired:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: wired.ask(), range(40)))
        statuses = [answer.status for answer in answers]
        assert set(statuses) <= {200, 402}
        assert statuses.count(200) >= 2
        assert wired.relay.cost <= 2.5 * HIGHEST
        assert wired.relay._reserved == pytest.approx(0)


@pytest.mark.parametrize("how", ["no price", "no answer", "nonsense", "late"])
def test_what_a_call_may_have_cost_is_counted_under_a_limit(how: str, tmp_path: Path):
    def respond(_: Request) -> Response | None:
        if how == "no answer":
            raise ConnectionError
        if how == "nonsense":
            return Response(body=b"nonsense")
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


def test_a_call_limit_holds(tmp_path: Path):
    with wire(tmp_path, call_limit=2) as wired:
        assert [wired.ask().status for _ in range(4)] == [200, 200, 402, 402]
        assert len(wired.llm.requests) == 2
        assert wired.relay.refused == 2


def test_refusals_do_not_fill_the_disk(tmp_path: Path):
    with wire(tmp_path) as wired:
        wired.relay.refused = 2_000
        assert wired.ask({"stream": True}).status == 403
        assert wired.entries() == []


def test_a_server_without_a_key_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with wire(tmp_path, llm={"api_key": None}) as wired:
        assert wired.ask().status == 200


# ## The relay itself


def test_only_this_user_can_connect(wired: Wired):
    assert wired.relay.socket.parent.stat().st_mode & 0o077 == 0


@every_model
def test_leaving_waits_for_no_call(model: str, tmp_path: Path):
    release = threading.Event()

    def respond(_: Request) -> None:
        release.wait(60)

    with wire(tmp_path, model, respond, cost_limit=None) as wired:
        asking = threading.Thread(target=lambda: wired.ask(timeout=10), daemon=True)
        asking.start()
        wait_until(lambda: wired.llm.requests)
        with wired.connect():
            began = time.monotonic()
            wired.relay.__exit__(None, None, None)
        assert time.monotonic() - began < 2
        release.set()
        assert not wired.relay._thread.is_alive()
        assert not wired.relay.socket.parent.exists()
        assert wired.entries()[-1]["status"] == 499


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


def test_only_the_script_prints_and_a_line_for_each_call_that_fails(tmp_path: Path):
    """Neither "Give Feedback" nor a warning, whatever happens."""
    script = tmp_path / "script.py"
    script.write_text(SILENT)
    environment = os.environ | {"OPENHANDS_SUPPRESS_BANNER": "1"}
    with ScriptedLLM(respond=lambda _: Response(500, body=b"<html>")) as llm:
        models = [MODELS["anthropic"], MODELS["chat"], MODELS["gemini"]]
        command = [sys.executable, script, EXAMPLE, llm.origin, *models]
        options: Any = {"env": environment, "cwd": tmp_path, "timeout": 120}
        done = subprocess.run(command, capture_output=True, text=True, **options)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(models)
    for line in lines:
        assert re.match(r"\[ +[\d.]+ s\] An LLM call failed with 500: ", line)
