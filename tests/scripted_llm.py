"""An LLM endpoint on loopback that plays a script, in the API styles that the SDK speaks."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

    All are served whole or as a stream, but for Bedrock's.

    Chat completions are served at OpenRouter's path too, with the price that OpenRouter tells.

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
            disable_nagle_algorithm = (
                True  # an answer's head and body are two small writes
            )

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

    @property
    def base_url(self) -> str:
        """What LLM_BASE_URL is set to for OpenAI's styles; Anthropic's takes it without /v1."""
        return f"{self.origin}/v1"

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
        except (
            Exception
        ) as error:  # a status that nobody retries, so that the test ends soon
            self.errors.append(error)
            return json_response(
                {"error": {"type": "invalid_request_error", "message": f"{error!r}"}},
                400,
            )
        style = style_of(request.path)
        if request.method != "POST" or not style or not isinstance(request.body, dict):
            error = {
                "type": "not_found_error",
                "message": f"no {request.method} {request.path}",
            }
            return json_response({"type": "error", "error": error}, 404)
        body: dict[str, Any] = {"model": model_in(request.path)} | request.body
        with self._lock:
            number = next(self._ids)
            step = None
            if body.get("tools") or body.get("toolConfig"):  # Bedrock calls them so
                step = self.script.pop(0) if self.script else FINISH
            # Every answer costs something else, so that a sum tells which were counted.
            usage = Usage(
                1000 + 37 * number, completion=80 + number, cached=self.cached
            )
            self.usages.append(usage)
        whole, events = style(number, body, step, usage, self.thinking)
        if not body.get("stream") and ":stream" not in request.path:
            return json_response(whole)
        return Response(headers={"Content-Type": "text/event-stream"}, body=events)


def json_response(body: Any, status: int = 200) -> Response:
    """Return a response of JSON."""
    return Response(
        status, {"Content-Type": "application/json"}, json.dumps(body).encode()
    )


def named_event(event: dict[str, Any]) -> bytes:
    """Return a server-sent event as /responses and /messages send it, with its type's name."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def halves(text: str) -> tuple[str, str]:
    """Return the text in two pieces, as deltas come."""
    return text[: len(text) // 2], text[len(text) // 2 :]


TITLE = "A scripted run"
THOUGHT = "The script says what comes next."
SIGNATURE = "c2lnbmVkIGJ5IHRoZSBwcm92aWRlcg=="
Answer = tuple[dict[str, Any], Iterator[bytes]]
Style = Callable[..., Answer]


def chat_completion(
    number: int,
    body: dict[str, Any],
    step: Step | None,
    usage: Usage,
    thinking: bool = False,
) -> Answer:
    """Return an answer of /chat/completions, whole and as a stream."""
    message: dict[str, Any] = {"role": "assistant", "content": None if step else TITLE}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": "" if step else TITLE}
    ]
    reason = "stop"
    if step:
        reason, arguments = "tool_calls", json.dumps(step[1])
        if thinking:
            message["reasoning_content"] = THOUGHT
            deltas.append({"reasoning_content": THOUGHT})
        call = {"id": f"call_{number:024}", "type": "function"}
        message["tool_calls"] = [
            call | {"function": {"name": step[0], "arguments": arguments}}
        ]
        opening = call | {"index": 0, "function": {"name": step[0], "arguments": ""}}
        deltas.append({"tool_calls": [opening]})
        for half in halves(arguments):
            deltas.append(
                {"tool_calls": [{"index": 0, "function": {"arguments": half}}]}
            )
    common = {
        "id": f"chatcmpl-{number:029}",
        "created": 1_750_000_000,
        "model": body["model"],
    }
    counts = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    whole = common | {"object": "chat.completion", "choices": [choice], "usage": counts}

    def events() -> Iterator[bytes]:
        chunk = common | {"object": "chat.completion.chunk"}
        for delta in deltas:
            part = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            yield f"data: {json.dumps(chunk | {'choices': [part]})}\n\n".encode()
        part = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}
        yield f"data: {json.dumps(chunk | {'choices': [part]})}\n\n".encode()
        if (body.get("stream_options") or {}).get("include_usage"):
            yield f"data: {json.dumps(chunk | {'choices': [], 'usage': counts})}\n\n".encode()
        yield b"data: [DONE]\n\n"

    return whole, events()


def response(
    number: int,
    body: dict[str, Any],
    step: Step | None,
    usage: Usage,
    thinking: bool = False,
) -> Answer:
    """Return an answer of /responses, whole and as a stream."""
    if step:
        item: dict[str, Any] = {
            "id": f"fc_{number:048}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{number:024}",
            "name": step[0],
            "arguments": json.dumps(step[1]),
        }
    else:
        text = {"type": "output_text", "text": TITLE, "annotations": [], "logprobs": []}
        item = {
            "id": f"msg_{number:048}",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [text],
        }
    reasoning = {
        "id": f"rs_{number:048}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": THOUGHT}],
        "encrypted_content": SIGNATURE,
    }
    whole: dict[str, Any] = {
        "id": f"resp_{number:048}",
        "object": "response",
        "created_at": 1_750_000_000,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body["model"],
        "output": [reasoning, item] if step and thinking else [item],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": "medium", "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        },
        "user": None,
        "metadata": {},
    }

    def events() -> Iterator[bytes]:
        numbers = itertools.count()

        def event(name: str, /, **fields: Any) -> bytes:
            return named_event(
                {"type": name, "sequence_number": next(numbers)} | fields
            )

        begun = whole | {"status": "in_progress", "output": [], "usage": None}
        place = {"item_id": item["id"], "output_index": len(whole["output"]) - 1}
        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        if len(whole["output"]) > 1:
            yield event("response.output_item.added", output_index=0, item=reasoning)
            yield event("response.output_item.done", output_index=0, item=reasoning)
        empty = {"arguments": ""} if step else {"content": []}
        opened = item | empty | {"status": "in_progress"}
        index = place["output_index"]
        yield event("response.output_item.added", output_index=index, item=opened)
        if step:
            for half in halves(item["arguments"]):
                yield event(
                    "response.function_call_arguments.delta", **place, delta=half
                )
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield event("response.function_call_arguments.done", **place, **done)
        else:
            place["content_index"] = 0
            part = item["content"][0]
            yield event(
                "response.content_part.added", **place, part=part | {"text": ""}
            )
            for half in halves(TITLE):
                yield event(
                    "response.output_text.delta", **place, delta=half, logprobs=[]
                )
            yield event("response.output_text.done", **place, text=TITLE, logprobs=[])
            yield event("response.content_part.done", **place, part=part)
        yield event("response.output_item.done", output_index=index, item=item)
        yield event("response.completed", response=whole)

    return whole, events()


def message(
    number: int,
    body: dict[str, Any],
    step: Step | None,
    usage: Usage,
    thinking: bool = False,
) -> Answer:
    """Return an answer of /messages, whole and as a stream."""
    block: dict[str, Any] = {"type": "text", "text": TITLE}
    empty: dict[str, Any] = {"type": "text", "text": ""}
    if step:
        empty = {
            "type": "tool_use",
            "id": f"toolu_{number:024}",
            "name": step[0],
            "input": {},
        }
        block = empty | {"input": step[1]}
    thought = {"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}
    counts = {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        "service_tier": "standard",
    }
    stop = {"stop_reason": "tool_use" if step else "end_turn", "stop_sequence": None}
    whole = {
        "id": f"msg_{number:024}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [thought, block] if step and thinking else [block],
        **stop,
        "usage": counts,
    }

    def events() -> Iterator[bytes]:
        nothing_yet = {
            "content": [],
            "stop_reason": None,
            "usage": counts | {"output_tokens": 1},
        }
        yield named_event({"type": "message_start", "message": whole | nothing_yet})
        index = len(whole["content"]) - 1
        if index:
            blank = thought | {"thinking": "", "signature": ""}
            yield named_event(
                {"type": "content_block_start", "index": 0, "content_block": blank}
            )
            for kind, name in (
                ("thinking_delta", "thinking"),
                ("signature_delta", "signature"),
            ):
                delta = {"type": kind, name: thought[name]}
                yield named_event(
                    {"type": "content_block_delta", "index": 0, "delta": delta}
                )
            yield named_event({"type": "content_block_stop", "index": 0})
        start = {"type": "content_block_start", "index": index, "content_block": empty}
        yield named_event(start)
        yield named_event({"type": "ping"})
        for half in halves(json.dumps(step[1]) if step else TITLE):
            delta = {"type": "text_delta", "text": half}
            if step:
                delta = {"type": "input_json_delta", "partial_json": half}
            yield named_event(
                {"type": "content_block_delta", "index": index, "delta": delta}
            )
        yield named_event({"type": "content_block_stop", "index": index})
        total = {"output_tokens": usage.completion}
        yield named_event({"type": "message_delta", "delta": stop, "usage": total})
        yield named_event({"type": "message_stop"})

    return whole, events()


def openrouter_completion(
    number: int,
    body: dict[str, Any],
    step: Step | None,
    usage: Usage,
    thinking: bool = False,
) -> Answer:
    """Return OpenRouter's answer: a chat completion with its price, if that was asked for."""
    whole, events = chat_completion(number, body, step, usage, thinking)
    whole["provider"] = "Scripted"
    if (body.get("usage") or {}).get("include"):
        whole["usage"]["cost"] = openrouter_price(usage)
    if step and thinking:
        message = whole["choices"][0]["message"]
        message["reasoning"] = message.pop("reasoning_content")
        signed = {
            "type": "reasoning.text",
            "text": THOUGHT,
            "signature": SIGNATURE,
            "index": 0,
        }
        message["reasoning_details"] = [signed | {"format": "anthropic-claude-v1"}]
    return whole, events


def openrouter_price(usage: Usage) -> float:
    """Return what OpenRouter says the tokens cost: not what any price list says."""
    return round((usage.prompt + 5 * usage.completion) * 1.1e-6, 9)


def generate_content(
    number: int,
    body: dict[str, Any],
    step: Step | None,
    usage: Usage,
    thinking: bool = False,
) -> Answer:
    """Return an answer of Gemini's generateContent, whole and as a stream."""
    parts: list[dict[str, Any]] = [{"text": TITLE}]
    if step:
        parts = [{"functionCall": {"name": step[0], "args": step[1]}}]
        if thinking:
            parts[0]["thoughtSignature"] = SIGNATURE
            parts.insert(0, {"text": THOUGHT, "thought": True})
    common = {"responseId": f"gemini-{number:017}", "modelVersion": body["model"]}
    counts = {
        "promptTokenCount": usage.prompt,
        "candidatesTokenCount": usage.completion,
        "totalTokenCount": usage.prompt + usage.completion,
        "cachedContentTokenCount": usage.cached,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.prompt}],
    }

    def answer(parts: list[dict[str, Any]]) -> dict[str, Any]:
        candidate = {"index": 0, "content": {"role": "model", "parts": parts}}
        return {"candidates": [candidate], "usageMetadata": counts, **common}

    whole = answer(parts)
    whole["candidates"][0]["finishReason"] = "STOP"

    def events() -> Iterator[bytes]:
        for part in parts[:-1]:
            yield f"data: {json.dumps(answer([part]))}\r\n\r\n".encode()
        last = answer(parts[-1:])
        last["candidates"][0]["finishReason"] = "STOP"
        yield f"data: {json.dumps(last)}\r\n\r\n".encode()

    return whole, events()


def converse(
    number: int,
    body: dict[str, Any],
    step: Step | None,
    usage: Usage,
    thinking: bool = False,
) -> Answer:
    """Return an answer of Bedrock's converse; its streams are not played."""
    content: list[dict[str, Any]] = [{"text": TITLE}]
    if step:
        call = {"toolUseId": f"tooluse_{number:022}", "name": step[0], "input": step[1]}
        content = [{"toolUse": call}]
        if thinking:
            thought = {"reasoningText": {"text": THOUGHT, "signature": SIGNATURE}}
            content.insert(0, {"reasoningContent": thought})
    counts = {
        "inputTokens": usage.prompt - usage.cached,
        "outputTokens": usage.completion,
        "totalTokens": usage.prompt + usage.completion,
        "cacheReadInputTokens": usage.cached,
        "cacheWriteInputTokens": 0,
    }
    whole = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use" if step else "end_turn",
        "usage": counts,
        "metrics": {"latencyMs": 1},
    }
    return whole, iter(())


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
GEMINI = re.compile(
    r"/v1(alpha|beta)?/models/(?P<model>[^/]+):(generate|streamGenerate)Content"
)
STYLES: dict[str, Style] = {
    "/v1/chat/completions": chat_completion,
    "/v1/responses": response,
    "/v1/messages": message,
    "/api/v1/chat/completions": openrouter_completion,
    "/api/v1/responses": response,
}
