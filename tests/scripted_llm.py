"""An LLM endpoint on loopback that plays a script, in the three API styles that the SDK speaks."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
    """A server of /v1/chat/completions, /v1/responses and /v1/messages, streamed or not.

    Calls that carry tools get the script's steps in order, and `finish` once it is played; calls
    without tools (the SDK asks for a title) get a plain text. `respond` may answer in its place;
    where it returns None, the script goes on. If it raises ConnectionError, the connection is
    closed without an answer; what else it raises is raised at the end.
    """

    def __init__(
        self,
        script: Iterable[Step] = (),
        respond: Callable[[Request], Response | None] | None = None,
        address: str = "127.0.0.1",
    ):
        self.script = list(script)
        self.respond = respond
        self.requests: list[Request] = []
        self.usages: list[Usage] = []
        self.errors: list[Exception] = []
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        llm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # an answer's head and body are two small writes

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

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = answer

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

    def __enter__(self) -> ScriptedLLM:
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
        except Exception as error:  # a status that nobody retries, so that the test ends soon
            self.errors.append(error)
            return json_response(
                {"error": {"type": "invalid_request_error", "message": f"{error!r}"}}, 400
            )
        style = STYLES.get(request.path)
        if request.method != "POST" or not style or not isinstance(request.body, dict):
            error = {"type": "not_found_error", "message": f"no {request.method} {request.path}"}
            return json_response({"type": "error", "error": error}, 404)
        body: dict[str, Any] = request.body
        with self._lock:
            number = next(self._ids)
            step = None
            if body.get("tools"):
                step = self.script.pop(0) if self.script else FINISH
            # Every answer costs something else, so that a sum tells which were counted.
            usage = Usage(prompt=1000 + 37 * number, completion=80 + number)
            self.usages.append(usage)
        whole, events = style(number, body, step, usage)
        if not body.get("stream"):
            return json_response(whole)
        return Response(headers={"Content-Type": "text/event-stream"}, body=events)


def json_response(body: Any, status: int = 200) -> Response:
    """Return a response of JSON."""
    return Response(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


def named_event(event: dict[str, Any]) -> bytes:
    """Return a server-sent event as /responses and /messages send it, with its type's name."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def halves(text: str) -> tuple[str, str]:
    """Return the text in two pieces, as deltas come."""
    return text[: len(text) // 2], text[len(text) // 2 :]


TITLE = "A scripted run"
Answer = tuple[dict[str, Any], Iterator[bytes]]


def chat_completion(number: int, body: dict[str, Any], step: Step | None, usage: Usage) -> Answer:
    """Return an answer of /chat/completions, whole and as a stream."""
    message: dict[str, Any] = {"role": "assistant", "content": None if step else TITLE}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "" if step else TITLE}]
    reason = "stop"
    if step:
        reason, arguments = "tool_calls", json.dumps(step[1])
        call = {"id": f"call_{number:024}", "type": "function"}
        message["tool_calls"] = [call | {"function": {"name": step[0], "arguments": arguments}}]
        opening = call | {"index": 0, "function": {"name": step[0], "arguments": ""}}
        deltas.append({"tool_calls": [opening]})
        for half in halves(arguments):
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": half}}]})
    common = {"id": f"chatcmpl-{number:029}", "created": 1_750_000_000, "model": body["model"]}
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


def response(number: int, body: dict[str, Any], step: Step | None, usage: Usage) -> Answer:
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
        "output": [item],
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
            return named_event({"type": name, "sequence_number": next(numbers)} | fields)

        begun = whole | {"status": "in_progress", "output": [], "usage": None}
        place = {"item_id": item["id"], "output_index": 0}
        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        empty = {"arguments": ""} if step else {"content": []}
        opened = item | empty | {"status": "in_progress"}
        yield event("response.output_item.added", output_index=0, item=opened)
        if step:
            for half in halves(item["arguments"]):
                yield event("response.function_call_arguments.delta", **place, delta=half)
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield event("response.function_call_arguments.done", **place, **done)
        else:
            place["content_index"] = 0
            part = item["content"][0]
            yield event("response.content_part.added", **place, part=part | {"text": ""})
            for half in halves(TITLE):
                yield event("response.output_text.delta", **place, delta=half, logprobs=[])
            yield event("response.output_text.done", **place, text=TITLE, logprobs=[])
            yield event("response.content_part.done", **place, part=part)
        yield event("response.output_item.done", output_index=0, item=item)
        yield event("response.completed", response=whole)

    return whole, events()


def message(number: int, body: dict[str, Any], step: Step | None, usage: Usage) -> Answer:
    """Return an answer of /messages, whole and as a stream."""
    block: dict[str, Any] = {"type": "text", "text": TITLE}
    empty: dict[str, Any] = {"type": "text", "text": ""}
    if step:
        empty = {"type": "tool_use", "id": f"toolu_{number:024}", "name": step[0], "input": {}}
        block = empty | {"input": step[1]}
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
        "content": [block],
        **stop,
        "usage": counts,
    }

    def events() -> Iterator[bytes]:
        nothing_yet = {"content": [], "stop_reason": None, "usage": counts | {"output_tokens": 1}}
        yield named_event({"type": "message_start", "message": whole | nothing_yet})
        yield named_event({"type": "content_block_start", "index": 0, "content_block": empty})
        yield named_event({"type": "ping"})
        for half in halves(json.dumps(step[1]) if step else TITLE):
            delta = {"type": "text_delta", "text": half}
            if step:
                delta = {"type": "input_json_delta", "partial_json": half}
            yield named_event({"type": "content_block_delta", "index": 0, "delta": delta})
        yield named_event({"type": "content_block_stop", "index": 0})
        total = {"output_tokens": usage.completion}
        yield named_event({"type": "message_delta", "delta": stop, "usage": total})
        yield named_event({"type": "message_stop"})

    return whole, events()


STYLES = {
    "/v1/chat/completions": chat_completion,
    "/v1/responses": response,
    "/v1/messages": message,
}
