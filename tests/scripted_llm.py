"""An LLM endpoint on loopback that plays a script, in the API styles that the SDK speaks."""

from __future__ import annotations

import itertools
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self


Step = tuple[str, dict[str, Any]]
FINISH: Step = ("finish", {"message": "The script is played."})


@dataclass
class Request:
    """What came in. `headers` are looked up without regard to case; `body` is parsed JSON."""

    method: str
    path: str
    headers: Message
    raw: bytes
    body: Any = None


@dataclass
class Response:
    """What goes out: a body of known length, or chunks that are sent as they are produced.

    A generator of chunks may wait between them. If it raises ConnectionError, the connection is
    cut without the last chunk: half an answer.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes | Iterable[bytes] = b""


@dataclass
class Usage:
    """The tokens that one answer claims; `cached` ones are part of `prompt`."""

    prompt: int
    completion: int
    cached: int = 0


class ScriptedLLM:
    """A server of OpenAI's two styles, of Anthropic's, Gemini's and Bedrock's.

    Nothing is streamed, as the SDK asks for no streams. Chat completions are served at
    OpenRouter's path too, with the price that OpenRouter tells.

    Calls that carry tools get the script's steps in order, and `finish` once it is played; calls
    without tools (the SDK asks for a title) get a plain text. `respond` may answer in its place;
    where it returns None, the script goes on. If it raises ConnectionError, the connection is
    closed without an answer; what else it raises is raised at the end. With `thinking`, each
    step stands behind signed thinking, as a provider's own models answer; `cached` prompt
    tokens are claimed in each.
    """

    def __init__(
        self,
        script: Iterable[Step] = (),
        respond: Callable[[Request], Response | None] | None = None,
        address: str = "127.0.0.1",
        thinking: bool = False,
        cached: int = 0,
    ):
        self.script = list(script)
        self.respond = respond
        self.thinking = thinking
        self.cached = cached
        self.requests: list[Request] = []
        self.usages: list[Usage] = []
        self.errors: list[Exception] = []
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        llm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer's head and body are two small writes.
            disable_nagle_algorithm = True

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def answer(self):
                raw = b"".join(self.body())
                try:
                    body = json.loads(raw)
                except ValueError:
                    body = None
                request = Request(self.command, self.path, self.headers, raw, body)
                response = llm._answer(request)
                self.send_response(response.status)
                for name, value in response.headers.items():
                    self.send_header(name, value)
                if isinstance(response.body, bytes):
                    self.send_header("Content-Length", f"{len(response.body)}")
                    self.end_headers()
                    self.wfile.write(response.body)
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for chunk in response.body:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                self.wfile.write(b"0\r\n\r\n")

            def body(self) -> Iterator[bytes]:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    while size := int(self.rfile.readline(), 16):
                        yield self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    yield self.rfile.read(int(self.headers.get("Content-Length", 0)))

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = (
                answer
            )

            def log_message(self, format: str, *args: object):
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def get_request(self):
                connection, address = super().get_request()
                llm._connections.append(connection)
                return connection, address

            def handle_error(self, request: Any, client_address: Any):
                """Say nothing: a client that goes away is no error here."""

        self._connections: list[Any] = []
        self._server = Server((address, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            connection.close()
        if self.errors and not kind:
            raise self.errors[0]

    def speak_tls(self, certificate: Path) -> None:
        """Be asked by https from now on, with a file of a key and a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    @property
    def base_url(self) -> str:
        """What LLM_BASE_URL is set to for OpenAI's styles; Anthropic's takes it without /v1."""
        return f"{self.origin}/v1"

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a run whose LLM this is."""
        return {
            "LLM_MODEL": "openai/gpt-4o-mini",
            "LLM_API_KEY": "sk-x",
            "LLM_BASE_URL": self.base_url,
        }

    @property
    def origin(self) -> str:
        """The address without a path."""
        address, port = self._server.server_address[:2]
        return f"http://{address}:{port}"

    def _answer(self, request: Request) -> Response:
        with self._lock:
            self.requests.append(request)
        try:
            if self.respond and (response := self.respond(request)):
                return response
        except ConnectionError:  # hang up
            raise
        except Exception as error:
            self.errors.append(error)
            # A status that nobody retries, so that the test ends soon.
            told = {"type": "invalid_request_error", "message": f"{error!r}"}
            return json_response({"error": told}, 400)
        style = style_of(request.path)
        if request.method != "POST" or not style or not isinstance(request.body, dict):
            missing = f"no {request.method} {request.path}"
            error = {"type": "not_found_error", "message": missing}
            return json_response({"type": "error", "error": error}, 404)
        body: dict[str, Any] = {"model": model_in(request.path)} | request.body
        with self._lock:
            number = next(self._ids)
            step = None
            if body.get("tools") or body.get("toolConfig"):  # Bedrock calls them so
                step = self.script.pop(0) if self.script else FINISH
            # Every answer costs something else, so that a sum tells which were counted.
            usage = Usage(1000 + 37 * number, 80 + number, self.cached)
            self.usages.append(usage)
        return json_response(style(Turn(number, body, step, usage, self.thinking)))


def json_response(body: Any, status: int = 200) -> Response:
    """Return a response of JSON."""
    return Response(
        status, {"Content-Type": "application/json"}, json.dumps(body).encode()
    )


# ## The styles

TITLE = "A scripted run"
THOUGHT = "The script says what comes next."
SIGNATURE = "c2lnbmVkIGJ5IHRoZSBwcm92aWRlcg=="


@dataclass
class Turn:
    """What is to be said: a step of the script, or the title where there is none."""

    number: int
    body: dict[str, Any]
    step: Step | None
    usage: Usage
    thinking: bool


def chat_completion(turn: Turn) -> dict[str, Any]:
    """Return an answer of /chat/completions."""
    message: dict[str, Any] = {"role": "assistant", "content": TITLE}
    if turn.step:
        name, arguments = turn.step
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"id": f"call_{turn.number:024}", "type": "function"}
        message |= {"content": None, "tool_calls": [call | {"function": function}]}
        if turn.thinking:
            message["reasoning_content"] = THOUGHT
    reason = "tool_calls" if turn.step else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    usage = turn.usage
    counts = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    return {
        "id": f"chatcmpl-{turn.number:029}",
        "created": 1_750_000_000,
        "model": turn.body["model"],
        "object": "chat.completion",
        "choices": [choice],
        "usage": counts,
    }


def openrouter_completion(turn: Turn) -> dict[str, Any]:
    """Return OpenRouter's answer: a chat completion with its price, if asked for."""
    whole = chat_completion(turn)
    if (turn.body.get("usage") or {}).get("include"):
        whole["usage"]["cost"] = openrouter_price(turn.usage)
    if turn.step and turn.thinking:
        message = whole["choices"][0]["message"]
        message["reasoning"] = message.pop("reasoning_content")
        signed = {"text": THOUGHT, "signature": SIGNATURE}
        kind = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
        message["reasoning_details"] = [kind | signed]
    return whole


def openrouter_price(usage: Usage) -> float:
    """Return what OpenRouter says the tokens cost: not what any price list says."""
    return round((usage.prompt + 5 * usage.completion) * 1.1e-6, 9)


def response(turn: Turn) -> dict[str, Any]:
    """Return an answer of /responses."""
    item: dict[str, Any]
    if turn.step:
        item = {
            "id": f"fc_{turn.number:048}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{turn.number:024}",
            "name": turn.step[0],
            "arguments": json.dumps(turn.step[1]),
        }
    else:
        text = {"type": "output_text", "text": TITLE, "annotations": [], "logprobs": []}
        item = {
            "id": f"msg_{turn.number:048}",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [text],
        }
    reasoning = {
        "id": f"rs_{turn.number:048}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": THOUGHT}],
        "encrypted_content": SIGNATURE,
    }
    usage = turn.usage
    return {
        "id": f"resp_{turn.number:048}",
        "object": "response",
        "created_at": 1_750_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": turn.body["model"],
        "output": [reasoning, item] if turn.step and turn.thinking else [item],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": turn.body.get("tools") or [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        },
        "metadata": {},
    }


def message(turn: Turn) -> dict[str, Any]:
    """Return an answer of /messages."""
    content: list[dict[str, Any]] = [{"type": "text", "text": TITLE}]
    if turn.step:
        name, arguments = turn.step
        call = {"id": f"toolu_{turn.number:024}", "name": name, "input": arguments}
        content = [{"type": "tool_use"} | call]
        if turn.thinking:
            thought = {"thinking": THOUGHT, "signature": SIGNATURE}
            content.insert(0, {"type": "thinking"} | thought)
    usage = turn.usage
    return {
        "id": f"msg_{turn.number:024}",
        "type": "message",
        "role": "assistant",
        "model": turn.body["model"],
        "content": content,
        "stop_reason": "tool_use" if turn.step else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.prompt - usage.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.completion,
        },
    }


def generate_content(turn: Turn) -> dict[str, Any]:
    """Return an answer of Gemini's generateContent."""
    parts: list[dict[str, Any]] = [{"text": TITLE}]
    if turn.step:
        name, arguments = turn.step
        parts = [{"functionCall": {"name": name, "args": arguments}}]
        if turn.thinking:
            parts[0]["thoughtSignature"] = SIGNATURE
            parts.insert(0, {"text": THOUGHT, "thought": True})
    candidate = {"index": 0, "content": {"role": "model", "parts": parts}}
    usage = turn.usage
    return {
        "candidates": [candidate | {"finishReason": "STOP"}],
        "usageMetadata": {
            "promptTokenCount": usage.prompt,
            "candidatesTokenCount": usage.completion,
            "totalTokenCount": usage.prompt + usage.completion,
            "cachedContentTokenCount": usage.cached,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.prompt}],
        },
        "responseId": f"gemini-{turn.number:017}",
        "modelVersion": turn.body["model"],
    }


def converse(turn: Turn) -> dict[str, Any]:
    """Return an answer of Bedrock's converse."""
    content: list[dict[str, Any]] = [{"text": TITLE}]
    if turn.step:
        name, arguments = turn.step
        call = {"toolUseId": f"tooluse_{turn.number:022}"}
        content = [{"toolUse": call | {"name": name, "input": arguments}}]
        if turn.thinking:
            thought = {"reasoningText": {"text": THOUGHT, "signature": SIGNATURE}}
            content.insert(0, {"reasoningContent": thought})
    usage = turn.usage
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use" if turn.step else "end_turn",
        "usage": {
            "inputTokens": usage.prompt - usage.cached,
            "outputTokens": usage.completion,
            "totalTokens": usage.prompt + usage.completion,
            "cacheReadInputTokens": usage.cached,
            "cacheWriteInputTokens": 0,
        },
        "metrics": {"latencyMs": 1},
    }


def style_of(path: str) -> Style | None:
    """Return what answers at the path."""
    if model_in(path):
        return generate_content
    return converse if CONVERSE.fullmatch(path) else STYLES.get(path)


def model_in(path: str) -> str | None:
    """Return the model that a path of Gemini's names."""
    match = GEMINI.fullmatch(path.partition("?")[0])
    return match and match["model"]


CONVERSE = re.compile(r"/model/[^/]+/converse")
GEMINI = re.compile(r"/v1(alpha|beta)?/models/(?P<model>[^/]+):generateContent")
Style = Callable[[Turn], dict[str, Any]]
STYLES: dict[str, Style] = {
    "/v1/chat/completions": chat_completion,
    "/v1/responses": response,
    "/v1/messages": message,
    "/api/v1/chat/completions": openrouter_completion,
    "/api/v1/responses": response,
}
