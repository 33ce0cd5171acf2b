"""Records, at the providers' end of the wire, the calls that the SDK and the relay make.

The SDK plays in a process of its own, since the relay changes LiteLLM's settings.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import litellm
import pytest
from relay_bodies import PIXEL
from scripted_llm import Request, Response, ScriptedLLM, openrouter_price

from openhands.sdk import LLM, ImageContent, Message, TextContent
from openhands.sdk.llm.call_context import LLMCallContext
from openhands.sdk.tool import Action, Observation, ToolDefinition, ToolExecutor
from openhands.sdk.tool.builtins import FinishTool, ThinkTool
from openhands.tools.file_editor import FileEditorTool
from openhands.tools.preset.default import get_default_agent
from openhands.tools.task_tracker import TaskTrackerTool
from openhands.tools.terminal import TerminalTool


KEY = "sk-of-the-user"
BOX_URL = "http://127.0.0.1:4999"
ELSEWHERE = "203.0.113.7"  # what every name resolves to; an address that nobody has
OPENHANDS = "llm-proxy.app.all-hands.dev"
HOSTS = f"""
api.anthropic.com api.deepseek.com api.minimax.io api.mistral.ai api.moonshot.ai
api.openai.com api.x.ai api.z.ai bedrock-runtime.us-east-1.amazonaws.com
dashscope.aliyuncs.com generativelanguage.googleapis.com inference.do-ai.run
llm.example {OPENHANDS} localhost mine.openai.azure.com openrouter.ai
""".split()
# What a client's release or a connection says about itself, and no call.
CONNECTION_HEADERS = set(
    "accept accept-encoding connection content-length user-agent".split()
)


@dataclass(frozen=True)
class Call:
    """A call as it arrived at a provider."""

    method: str
    host: str
    path: str
    body: Any
    headers: dict[str, str]


@dataclass(frozen=True)
class Record:
    """Which names and addresses a process has looked for, and which calls have arrived."""

    names: set[str]
    received: list[Call]

    @property
    def calls(self) -> list[Call]:
        """What was posted; the SDK also asks some providers what a model can do."""
        return [call for call in self.received if call.method == "POST"]


class Providers(ScriptedLLM):
    """Stands in for the providers: every name resolves to it, every call is recorded.

    The calls go to the providers' own addresses over TLS, and `socket.connect` leads them here.
    So no base URL has to be set, and no host that is called is missed.
    """

    def __init__(self, folder: Path):
        super().__init__(thinking=True, cached=500)
        self.certificate = make_certificate(folder)
        self.speak_tls(self.certificate)
        self.names: set[str] = set()
        self.received: list[Call] = []

    def start_over(self) -> None:
        """Drop what was recorded, number the next answers from one, and call three tools."""
        self._ids = itertools.count(1)
        self.script = [("terminal", {"command": f"ls -{letter}"}) for letter in "alh"]
        for recorded in (self.names, self.received, self.requests, self.usages):
            recorded.clear()

    @property
    def record(self) -> Record:
        """What was recorded since `start_over`."""
        return Record(set(self.names), list(self.received))

    def _answer(self, request: Request) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        host = headers.pop("host")
        told = {name: text for name, text in headers.items() if is_told(name)}
        call = Call(request.method, host, request.path, request.body, told)
        self.received.append(call)
        response = super()._answer(replace(request, path=path_here(host, request.path)))
        if host == OPENHANDS and self.usages:  # it tells what a call has cost
            cost = openrouter_price(self.usages[-1])
            response.headers["x-litellm-response-cost"] = str(cost)
        return response

    @contextmanager
    def in_place_of_the_internet(self) -> Iterator[Providers]:
        """Lead every connection to a name to this server, and let no other out."""
        connect, resolve = socket.socket.connect, socket.getaddrinfo

        def connect_here(self_: socket.socket, address: Any) -> None:
            if self_.family == socket.AF_INET and address[0] == ELSEWHERE:
                address = self._server.server_address
            elif self_.family != socket.AF_UNIX:
                self.names.add(f"{address[0]}:{address[1]}")
                raise ConnectionRefusedError(address)
            return connect(self_, address)

        def resolve_here(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name in (None, "127.0.0.1", "localhost", ELSEWHERE):
                return resolve(host, port, *rest, **options)
            self.names.add(name)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ELSEWHERE, int(port)))]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "connect", connect_here)
            patch.setattr(socket, "getaddrinfo", resolve_here)
            patch.setenv("SSL_CERT_FILE", str(self.certificate))
            yield self


def is_told(header: str) -> bool:
    """Return whether a header is part of what a call says."""
    return header not in CONNECTION_HEADERS and not header.startswith("x-stainless")


def path_here(host: str, path: str) -> str:
    """Return the path at which the scripted endpoint serves what the host serves at `path`."""
    for end in ("/chat/completions", "/responses", "/messages"):
        if path.partition("?")[0].endswith(end):
            return ("/api/v1" if host == "openrouter.ai" else "/v1") + end
    return path


def make_certificate(folder: Path) -> Path:
    """Make a key and a certificate for the names of all providers."""
    file = folder / "providers.pem"
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256"
    command += " -nodes -days 2 -subj /CN=providers"
    files = ["-keyout", str(file), "-out", str(folder / "certificate.pem")]
    options = [*files, "-addext", f"subjectAltName={names}"]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    with file.open("a") as whole:
        whole.write((folder / "certificate.pem").read_text())
    return file


@contextmanager
def bridge_to(unix_socket: Path) -> Iterator[int]:
    """Serve a unix socket on a TCP port of loopback, as the pipe does in the box."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def copy(source: socket.socket, target: socket.socket) -> None:
            with source, target, suppress(OSError):
                while piece := source.recv(65536):
                    target.sendall(piece)

        def accept() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    relay = socket.socket(socket.AF_UNIX)
                    relay.connect(str(unix_socket))
                    for pair in ((client, relay), (relay, client)):
                        threading.Thread(target=copy, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


# ## What the SDK's process does


@dataclass(frozen=True)
class Counted:
    """What an LLM of the SDK's knows of itself after its calls."""

    cost: float
    tokens: dict[str, int]
    limits: tuple[int | None, int | None]


Sdk = Callable[..., Any]


@contextmanager
def sdk_process() -> Iterator[Sdk]:
    """Have a process in which the SDK makes its calls as if there were no relay.

    Yields what calls a function there and returns what it returns.
    """

    def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return pool.submit(function, *arguments, **options).result()

    spawn = get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, spawn, start_sdk, (folder,)) as pool,
    ):
        yield call


def start_sdk(folder: str) -> None:
    """Start the providers of the SDK's process."""
    os.environ["TMPDIR"] = tempfile.tempdir = folder  # the tools leave folders there
    global alone_providers
    logging.disable(logging.CRITICAL)
    litellm.suppress_debug_info = True
    alone_providers = Providers(Path(folder)).__enter__()
    # LiteLLM keeps its clients.
    os.environ["SSL_CERT_FILE"] = str(alone_providers.certificate)
    # What a relay has set for its own calls, in an environment that is inherited here.
    os.environ.pop("EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER", None)


def users_llm(model: str, **settings: Any) -> LLM:
    """Return what an SDK user writes; it gives up at once where something is wrong."""
    options = {"usage_id": "agent", "api_key": KEY, "num_retries": 0} | settings
    return LLM(model=model, **options)


def alone(
    model: str, environment: dict[str, str], **settings: Any
) -> tuple[Record, Counted]:
    """Let the SDK make its four calls without a relay."""
    with (
        pytest.MonkeyPatch.context() as patch,
        alone_providers.in_place_of_the_internet(),
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        llm = users_llm(model, **settings)
        alone_providers.start_over()
        four_calls(llm)
        return alone_providers.record, counted_by(llm)


def failed_alone(model: str, answer: Response) -> str:
    """Return which exception the SDK raises without a relay at this answer."""
    llm = users_llm(model)
    alone_providers.respond = lambda _: answer
    try:
        with alone_providers.in_place_of_the_internet():
            a_call_without_tools(llm)
    except Exception as error:
        return type(error).__name__
    finally:
        alone_providers.respond = None
    return "none"


def in_the_box(
    sent: dict[str, Any], port: int, play: Callable[[LLM], None], retries: int = 0
) -> Counted:
    """Let the LLM that the relay has sent into the box make calls."""
    assert sent.pop("base_url") == BOX_URL
    here = {"base_url": f"http://127.0.0.1:{port}", "num_retries": retries}
    llm = LLM.model_validate(sent | here)
    try:
        play(llm)
    except Exception as error:  # LiteLLM's cannot be pickled
        raise RuntimeError(f"{type(error).__name__}: {error}"[:2000]) from None
    return counted_by(llm)


def without_the_policy(model: str, path: str, body: dict[str, Any]) -> Record:
    """Make a call as a relay would that hands LiteLLM whatever body it gets."""
    call = litellm.completion if path == "/chat/completions" else litellm.responses
    options = {"api_key": KEY, "drop_params": True, "max_retries": 0, "timeout": 5}
    with alone_providers.in_place_of_the_internet():
        alone_providers.start_over()
        # LiteLLM's have no base class; what counts is what was sent.
        with suppress(Exception):
            call(**{**options, **body, "model": model})
        return alone_providers.record


def counted_by(llm: LLM) -> Counted:
    """Return what an LLM has counted, and its limits."""
    usage = llm.metrics.accumulated_token_usage
    counts = usage.model_dump() if usage else {}
    tokens = {name: count for name, count in counts.items() if name.endswith("_tokens")}
    limits = llm.effective_max_input_tokens, llm.effective_max_output_tokens
    return Counted(llm.metrics.accumulated_cost, tokens, limits)


class NoTerminal(ToolExecutor[Action, Observation]):
    """Takes the place of a terminal: no tool is run here."""

    def __call__(self, action: Action, conversation: object = None) -> Observation:
        raise NotImplementedError


CONTEXT = LLMCallContext(prompt_cache_key="a-conversation", session_id="a-conversation")


def four_calls(llm: LLM) -> None:
    """Make a call, one with a tool's answer, one with pictures, and one without tools.

    The tool's answer stands behind the provider's own answer: signed thinking and a tool call.
    """
    agent = get_default_agent(llm=llm, cli_mode=True)
    workspace = SimpleNamespace(working_dir="/tmp")
    state: Any = SimpleNamespace(agent=agent, workspace=workspace, persistence_dir=None)
    tools = list[ToolDefinition[Any, Any]]()
    tools += TerminalTool.create(state, executor=NoTerminal())
    for tool in (FileEditorTool, TaskTrackerTool, FinishTool, ThinkTool):
        tools += tool.create(state)
    assert {tool.name for tool in agent.tools} <= {tool.name for tool in tools}

    system = [agent.static_system_message, "It is Monday."]
    messages = [
        Message(role="system", content=[TextContent(text=text) for text in system]),
        Message(role="user", content=[TextContent(text="Rebuild the program.")]),
    ]
    picture = [TextContent(text="It looks so:"), ImageContent(image_urls=[PIXEL])]

    def call() -> Message:
        answer = llm.generate(
            messages=messages,
            tools=tools,
            store=False,
            add_security_risk_prediction=True,
            call_context=CONTEXT,
        )
        return answer.message

    def result_of(answer: Message, content: list[Any]) -> Message:
        assert answer.tool_calls
        (made,) = answer.tool_calls
        return Message(
            role="tool", content=content, tool_call_id=made.id, name=made.name
        )

    first = call()
    messages += [first, result_of(first, [TextContent(text="a.c\nb.c")])]
    second = call()
    messages += [second, result_of(second, picture)]
    messages += [Message(role="user", content=picture)]
    call()
    a_call_without_tools(llm)


def a_call_without_tools(llm: LLM) -> None:
    """Make a call as for a conversation's title, with a picture in it."""
    content = [TextContent(text="Give it a title."), ImageContent(image_urls=[PIXEL])]
    system = Message(role="system", content=[TextContent(text="You give titles.")])
    llm.generate([system, Message(role="user", content=content)], call_context=CONTEXT)
