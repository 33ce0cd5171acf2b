# /// script
# requires-python = ">=3.12"
# dependencies = [
#     "openhands-sdk==1.58.0",
#     "openhands-tools==1.58.0",
#     "openhands-workspace==1.58.0",
#     "execnet==2.1.2",
#     "pydantic>=2.13",
# ]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# ///
"""An OpenHands agent in a ProgramBench cleanroom: no network, one pipe, no key.

ProgramBench hands an agent a compiled program with its documentation and asks it to rebuild
the program, without any network. An OpenHands agent runs *inside* the container, behind an
HTTP server, and calls its LLM from there: taking the network away cuts the script off from
the server and the agent off from its model. This example takes it away all the same, exactly
as the benchmark's reference harness does, and lays one pipe in its place:

    host: this script                               container: --network none
    +-------------------------------+ docker exec -i +------------------------------+
    | SDK client -> 127.0.0.1:PORT -+-->          >--+-> 127.0.0.1:8000 agent server|
    |                               |    one pipe    |       tools: shell, editor   |
    | provider <- LLM relay       <-+--<          <--+-- 127.0.0.1:4000 <- litellm  |
    |         key, policy, ledger   |    (framed)    |  /workspace/executable 0111  |
    +-------------------------------+                +------------------------------+

Run it with `python examples/12_programbench_cleanroom.py`. It needs Docker with buildx, git
and uv. Without LLM_API_KEY it rehearses with a scripted model, at no cost; the other settings
are in section 1. The last lines that it prints are

    SUBMISSION: submissions/abishekvashok__cmatrix.5c082c6/submission.tar.gz
    EXAMPLE_COST: 0.0123

Where the guarantee stops: a model may remember the original's source, and code that the agent
loads into the running binary with LD_PRELOAD sees the binary's memory, as in the benchmark.
"""

# The SDK and execnet leave some types out.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

# ## 1. Settings
#
# All of them come from the environment, so that one process is one task and any scheduler can
# run it. They are checked first of all: importing the SDK takes seconds.


def fail(sentence: str, status: int = 2) -> NoReturn:
    """End the script with one sentence; status 2 says that the user can mend it."""
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(status)


def setting(name: str, default: str = "", pattern: str = ".*", remedy: str = "") -> str:
    """Return an environment variable, or end with what is wrong with it."""
    value = os.environ.get(name, default)
    if not re.fullmatch(pattern, value, re.DOTALL):
        fail(f"{name}={value!r}: {remedy}")
    return value


# The cleanroom image: the docs and the binary, which can be run but not read, in /workspace.
TASK_IMAGE = setting(
    "PROGRAMBENCH_TASK_IMAGE",
    "programbench/abishekvashok_1776_cmatrix.5c082c6:task_cleanroom_v6",
    r"([\w.-]+(:\d+)?/)?([\w.-]+/)*[A-Za-z0-9][\w.-]*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?",
    "set it to the name of an image, like programbench/owner_1776_repo.sha:tag.",
)
# ProgramBench calls the image of the task <owner>__<repo>.<sha> <owner>_1776_<repo>.<sha>.
INSTANCE_ID = re.sub(r"^(.*/)?|[:@].*", "", TASK_IMAGE).replace("_1776_", "__")
# `programbench eval` looks for a run's submissions in folders that bear their instance ids.
FOLDER = Path(setting("PROGRAMBENCH_OUTPUT_DIR", "submissions")) / INSTANCE_ID
INSTRUCTION = setting(
    "PROGRAMBENCH_INSTRUCTION",
    "/workspace holds a compiled program, `executable`, and its documentation. You can run it "
    "but not read it, and there is no network. Characterise it: run it with many arguments and "
    "inputs, wrong ones too, and write to /workspace/NOTES.md all that a rebuild must get right: "
    "options, input and output formats, exit codes, messages.",
)
SDK_SOURCE = setting("OPENHANDS_SDK_SOURCE")
API_KEY = setting("LLM_API_KEY", secrets.token_hex(), ".+", "unset it to rehearse without an LLM.")
REHEARSAL = not {"LLM_API_KEY", "LLM_BASE_URL"} & os.environ.keys()
REAL_MODEL = setting("LLM_MODEL", "anthropic/claude-sonnet-4-5-20250929")
MODEL = "openai/rehearsal" if REHEARSAL else REAL_MODEL
PROVIDER, _, MODEL_NAME = MODEL.partition("/")
ORIGINS = {
    "anthropic": "https://api.anthropic.com",
    "openai": "https://api.openai.com/v1",
    "openhands": "https://llm-proxy.app.all-hands.dev",
}
BASE_URL = setting(
    "LLM_BASE_URL",
    "http://rehearsal/v1" if REHEARSAL else ORIGINS.get(PROVIDER, ""),
    r"https?://[\w.:\[\]-]+(/[\w./~-]*)?",
    f"set it to the address of the LLM API that serves {MODEL}, like https://host/v1.",
)
if REHEARSAL:
    print("LLM_API_KEY is not set: this is a rehearsal, a scripted model plays the agent.")

# LiteLLM would fetch a price list, with retries; the one that it ships with will do.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("OPENHANDS_SUPPRESS_BANNER", "1")

import aiohttp  # noqa: E402
import execnet  # noqa: E402
from aiohttp import web  # noqa: E402
from anyio.from_thread import BlockingPortal, start_blocking_portal  # noqa: E402
from execnet.gateway_base import Channel  # noqa: E402
from openhands.sdk import LLM, Conversation, get_logger  # noqa: E402
from openhands.sdk.conversation import ConversationExecutionStatus  # noqa: E402
from openhands.tools.preset.default import get_default_agent  # noqa: E402
from openhands.workspace import DockerDevWorkspace  # noqa: E402
from pydantic import BaseModel, Field, PrivateAttr, SecretStr, ValidationError  # noqa: E402

# ## 2. The image
#
# The SDK layers its agent server onto any base image, but it builds from a checkout of its own
# source, which nobody has who installed it with pip.

SDK_VERSION = version("openhands-sdk")
SDK_REPOSITORY = "https://github.com/OpenHands/software-agent-sdk.git"


def run(*command: str, stdin: str | None = None) -> str:
    """Return what a command prints; if it fails, end the script in the command's own words."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    except FileNotFoundError:
        fail(f"`{command[0]}` is not on the PATH: install it.")
    if done.returncode:
        fail(f"`{shlex.join(command)}` says: {(done.stderr or done.stdout).strip()[-3000:]}", 1)
    return done.stdout.strip()


def sdk_source() -> Path:
    """Return a checkout of the installed SDK, cloned into the user's cache if need be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "openhands"
    checkout = Path(SDK_SOURCE or cache / f"software-agent-sdk-{SDK_VERSION}").resolve()
    if not SDK_SOURCE and not checkout.exists():
        print(f"Cloning the OpenHands SDK {SDK_VERSION} into {cache} ...", flush=True)
        tag, scratch = f"--branch=v{SDK_VERSION}", f"{checkout}-{os.getpid()}"
        run("git", "clone", "--quiet", "--depth=1", tag, SDK_REPOSITORY, scratch)
        # The slower of two runs that start together finds the other's clone in place.
        with contextlib.suppress(OSError):
            os.rename(scratch, checkout)
        shutil.rmtree(scratch, ignore_errors=True)
    project = checkout / "openhands-sdk" / "pyproject.toml"
    if not project.is_file() or f'version = "{SDK_VERSION}"' not in project.read_text():
        fail(f"OPENHANDS_SDK_SOURCE: {checkout} is no checkout of OpenHands SDK {SDK_VERSION}.")
    return checkout


# The SDK's layer gives all of /workspace to its user, the reference binary included, so that
# the agent could `chmod u+r` it, and leaves an empty /workspace/project. The seal puts the
# binary back just as the task image ships it. It runs the agent server as the benchmark's
# user, `agent`, who owns nothing in /agent-server: root runs the Python that lies there. PID 1
# belongs to root and outlives the server, so a server that the agent kills loses no work, and
# stopping takes no time. Compiled bytecode halves the server's start.

AGENT_PYTHON = "/agent-server/.venv/bin/python"
SERVER_PORT, LLM_PORT = 8000, 4000
SEAL = f"""
FROM {TASK_IMAGE} AS task
FROM {{server_image}}
USER root
RUN {AGENT_PYTHON} -m compileall -qj0 -x /py2_ --invalidation-mode unchecked-hash /agent-server
RUN --mount=from=task,target=/task set -e; setpriv --version; cd /workspace; \
    id agent || useradd --create-home --shell /bin/bash agent; \
    rmdir --ignore-fail-on-non-empty project; chown -R agent: .; rm -f executable; \
    [ ! -e /task/workspace/executable ] || cp -a /task/workspace/executable .
ENV HOME=/home/agent LITELLM_LOCAL_MODEL_COST_MAP=True OPENHANDS_SUPPRESS_BANNER=1 \
    OH_CONVERSATIONS_PATH=/home/agent/conversations OH_BASH_EVENTS_DIR=/home/agent/bash_events
ENTRYPOINT ["tini", "--", "sh", "-c", "setpriv --reuid=agent --regid=agent --init-groups \
    --no-new-privs --inh-caps=-all --bounding-set=-all \
    {AGENT_PYTHON} -m openhands.agent_server $@; exec sleep infinity", "agent-server"]
"""


def cleanroom_image() -> str:
    """Return the tag of the sealed image: a digest of all that goes in, so never stale."""
    source = sdk_source()
    task = run("docker", "image", "inspect", "--format={{.Id}}", TASK_IMAGE)
    commit = run("git", "-C", f"{source}", "rev-parse", "HEAD")
    edits = run("git", "-C", f"{source}", "diff", "HEAD")
    digest = hashlib.sha256("\0".join((task, commit, edits, SEAL)).encode()).hexdigest()
    tag = f"programbench-cleanroom:{digest[:20]}"
    if run("docker", "image", "ls", "--quiet", tag):
        return tag
    print(f"Building the agent server onto {TASK_IMAGE} ...", flush=True)
    get_logger("openhands.agent_server.docker.build").setLevel("CRITICAL")
    os.environ |= {"SDK_SHA": commit, "SDK_REF": f"refs/tags/v{SDK_VERSION}"}
    # The build leaves a folder behind in the temp folder: let that be one of ours.
    with tempfile.TemporaryDirectory(prefix="cleanroom-") as tempfile.tempdir:
        try:
            with contextlib.chdir(source):
                from openhands.agent_server.docker.build import BuildOptions, build

                options = BuildOptions(base_image=TASK_IMAGE, target="source-minimal", push=False)
                options.install_acp_providers = ""  # three coding CLIs, 600 MB, not used here
                server_image = build(options)[0]
        except subprocess.CalledProcessError as error:
            fail(f"the agent server's image does not build:\n{error.stderr[-3000:]}", 1)
        finally:
            tempfile.tempdir = None
    seal = SEAL.format(server_image=server_image)
    run("docker", "buildx", "build", "--load", "--quiet", f"--tag={tag}", "-", stdin=seal)
    return tag


# ## 3. The pipe
#
# `docker exec -i` is one stream of bytes in and one out. execnet lays any number of channels
# over the two, and starts from nothing but a Python at the far end; these functions run at both
# ends and carry a TCP connection over each channel.

PIPE_IMPORTS = "import contextlib, itertools, os, signal, socket, struct, threading"
Connect = Callable[[], socket.socket]


def carry(channel: Channel, connect: Connect) -> None:
    """Carry a connection until both of its directions have ended, or one broke.

    Bytes are data, and no bytes end a direction. None lets one more chunk come: eight at most
    are under way, so a slow reader holds up only itself and memory stays bounded.
    """
    credit, ends = threading.Semaphore(8), itertools.count(1)

    def end() -> None:
        if next(ends) == 2:
            channel.close()

    def outward() -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 17):
                credit.acquire()
                channel.send(data)
            channel.send(b"")
            end()

    with contextlib.suppress(OSError), connect() as near:
        if near.family == socket.AF_INET:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=outward, daemon=True).start()
        for data in channel:
            if data is None:
                credit.release()
            elif data:
                near.sendall(data)
                channel.send(None)
            else:
                near.shutdown(socket.SHUT_WR)
                end()
        if next(ends) < 3:  # half an answer must not look like a whole one
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            near.shutdown(socket.SHUT_RD)
            credit.release()
    channel.close()


def serve(control: Channel, listener: socket.socket, connect: Connect) -> None:
    """Carry what is opened on either side, until the far end goes away."""

    def start(channel: Channel, connect: Connect) -> None:
        threading.Thread(target=carry, args=(channel, connect), daemon=True).start()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while near := listener.accept()[0]:
                control.send(channel := control.gateway.newchannel())
                start(channel, lambda near=near: near)

    threading.Thread(target=accept, daemon=True).start()
    for channel in control:
        if threading.active_count() < 1000:
            start(channel, connect)
        else:
            channel.close()


def container_end(control: Channel, server_port: int, llm_port: int) -> None:
    """Serve the container's end, as root: the agent can neither kill nor read it.

    When the host's end goes away, however it dies, `control` ends, and the container stops.
    """
    try:
        listener = socket.create_server(("127.0.0.1", llm_port), backlog=256)
        control.send("ready")
        serve(control, listener, lambda: socket.create_connection(("127.0.0.1", server_port)))
    finally:
        os.kill(1, signal.SIGTERM)


@contextlib.contextmanager
def open_pipe(container: str, connect: Connect) -> Generator[int]:
    """Lay the pipe; yields the port on this host that leads to the agent server."""
    # In a session of its own: Ctrl-C in a terminal must not cut it before the work is saved.
    session = "import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])"
    end = ["docker", "exec", "--interactive", "--user=root", container, AGENT_PYTHON, "-I"]
    group = execnet.Group()
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    try:
        far = group.makegateway(
            f"popen//python={shlex.join([sys.executable, '-c', session, *end])}"
        )
        parts = [PIPE_IMPORTS, *map(inspect.getsource, (carry, serve, container_end))]
        call = f"container_end(channel, {SERVER_PORT}, {LLM_PORT})"
        control = far.remote_exec("\n".join(["from __future__ import annotations", *parts, call]))
        control.receive(timeout=30)
        threading.Thread(target=serve, args=(control, listener, connect), daemon=True).start()
        yield listener.getsockname()[1]
        control.close()
    finally:
        listener.close()
        group.terminate(timeout=5)


# ## 4. The relay
#
# Whatever reaches the relay may come from the agent's own shell. It passes LLM calls on to one
# origin, with the real key in place of a placeholder that is worthless elsewhere, and refuses
# what would make the *provider* reach the internet: tools that run there are withheld, and
# media must be inline (the rule of Inspect's sandbox agent bridge). A request holds what is
# listed here and nothing else; to let more through, list it.

ENDPOINTS = {"anthropic": ["/v1/messages"]}.get(PROVIDER, ["/chat/completions", "/responses"])
FIELDS = """model messages input system instructions tools tool_choice parallel_tool_calls stream
    stream_options store include metadata user temperature top_p top_k n seed stop stop_sequences
    max_tokens max_completion_tokens max_output_tokens frequency_penalty presence_penalty text
    thinking reasoning reasoning_effort verbosity response_format output_config service_tier
    cache_control prompt_cache_key prompt_cache_retention safety_identifier""".split()
KEY_HEADERS = ("Authorization", "x-api-key", "api-key")
SENT_HEADERS = ("Accept", "User-Agent", "anthropic-version", "anthropic-beta")
RETURNED_HEADERS = ("Content-Type", "Retry-After", "retry-after-ms", "x-request-id")
MAX_BODY = 32 << 20
# What stands in an `image_url`: the image itself, or its detail.
Inline = Annotated[str, Field(pattern="^(data:|(auto|low|high)$)")]


class Block(BaseModel):
    """A message or a part of one, in any of the three API styles."""

    type: Literal[
        "message", "text", "input_text", "output_text", "refusal", "image_url", "input_image",
        "image", "document", "thinking", "redacted_thinking", "reasoning", "tool_use",
        "tool_result", "function_call", "function_call_output", "custom_tool_call",
        "custom_tool_call_output",
    ] = "message"  # fmt: skip
    content: str | list[Block] | None = None
    output: str | list[Block] | None = None
    image_url: Inline | dict[str, Inline] | None = None
    source: dict[Literal["type", "media_type", "data"], str] | None = None
    file_id: None = None


class Tool(BaseModel):
    """A tool that the agent itself runs; Anthropic leaves out the type of those."""

    type: Literal["function", "custom"] = "custom"


class Call(BaseModel):
    """What could reach out in the body of an LLM call."""

    model: Annotated[str, Field(pattern=f"^({re.escape(MODEL)}|{re.escape(MODEL_NAME)})$")]
    messages: list[Block] = []
    input: str | list[Block] = []
    system: str | list[Block] = []
    tools: list[Tool] = []


class Refused(Exception):
    """Says why the relay does not pass a request on."""


class Relay:
    """Forwards one run's LLM calls; knows the real key and keeps the ledger."""

    def __init__(self, ledger: IO[str]):
        self.ledger, self.counts = ledger, Counter[str]()
        self.placeholder = f"placeholder-{secrets.token_hex(16)}"
        url = urlsplit(BASE_URL.rstrip("/"))
        self.origin, self.path = f"{url.scheme}://{url.netloc}", url.path

    @contextlib.asynccontextmanager
    async def serving(self, portal: BlockingPortal) -> AsyncGenerator[Connect]:
        """Yield what connects to the relay: it has no address where others could reach it."""
        loop, timeout = asyncio.get_running_loop(), aiohttp.ClientTimeout(None, sock_read=600)
        server = web.Server(self.answer, keepalive_timeout=3600, access_log=None)

        def connect() -> socket.socket:
            near, far = socket.socketpair()
            portal.call(loop.connect_accepted_socket, server, far)
            return near

        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as self.client:
            yield connect
            await server.shutdown(timeout=0)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward or refuse one request, and note it in the ledger."""
        entry: dict[str, Any] = {"time": time.time(), "path": request.path[:200]}
        reply = web.StreamResponse()
        try:
            body = await self.admit(request)
            entry["model"] = body["model"]
            if REHEARSAL:
                reply = web.json_response(rehearse(body))
            else:
                await self.forward(request, body, reply)
        except Refused as refusal:
            entry["refused"] = str(refusal)
            reply = error_reply(403, f"Refused by the cleanroom's relay: {refusal}.")
        except (aiohttp.ClientError, OSError) as error:
            entry["error"] = f"{type(error).__name__}: {error}"
            if reply.prepared and request.transport:
                request.transport.abort()  # half an answer must not look like a whole one
            reply = error_reply(502, f"No answer from {self.origin}: {error}")
        self.counts["refused" if "refused" in entry else "forwarded"] += 1
        entry |= {"status": reply.status, "seconds": round(time.time() - entry["time"], 3)}
        print(json.dumps(entry), file=self.ledger, flush=True)
        return reply

    async def admit(self, request: web.BaseRequest) -> dict[str, Any]:
        """Return the body of a request that the policy lets through; raises Refused."""
        paths = [self.path + endpoint for endpoint in ENDPOINTS]
        if request.method != "POST" or request.raw_path not in paths:
            raise Refused(f"only POST to {' and '.join(paths)} is let through")
        if not any(self.placeholder in request.headers.get(name, "") for name in KEY_HEADERS):
            raise Refused("the request does not carry the run's placeholder for the key")
        raw = bytearray()
        while chunk := await request.content.readany():
            raw += chunk
            if len(raw) > MAX_BODY:
                raise Refused(f"the body is larger than {MAX_BODY} bytes")
        try:
            body: dict[str, Any] = json.loads(raw)
            Call.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise Refused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (ValueError, RecursionError):
            raise Refused("the body is not JSON") from None
        if unlisted := sorted(body.keys() - FIELDS):
            raise Refused(f"{', '.join(unlisted)}: not let through")
        return body

    async def forward(self, request: web.BaseRequest, body: Any, reply: web.StreamResponse):
        """Send what was checked, written anew, and pass the answer on as it comes."""
        headers = {name: request.headers[name] for name in SENT_HEADERS if name in request.headers}
        for name in KEY_HEADERS:
            if name in request.headers:
                headers[name] = request.headers[name].replace(self.placeholder, API_KEY)
        headers |= {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        url, data = self.origin + request.raw_path, json.dumps(body)
        call = self.client.post(url, data=data, headers=headers, allow_redirects=False)
        async with call as upstream:
            if upstream.status in range(300, 400):
                raise Refused(f"{self.origin} redirects elsewhere")
            reply.set_status(upstream.status)
            for name in RETURNED_HEADERS:
                if name in upstream.headers:
                    reply.headers[name] = upstream.headers[name].replace(API_KEY, "")
            await reply.prepare(request)
            # No answer gives the key away: an end that could be its beginning waits for more.
            key, held = API_KEY.encode(), b""
            async for chunk in upstream.content.iter_any():
                held = (held + chunk).replace(key, self.placeholder.encode())
                cut = len(held) - next(n for n in range(len(key))[::-1] if held.endswith(key[:n]))
                await reply.write(held[:cut])
                held = held[cut:]
            await reply.write_eof(held)


def error_reply(status: int, message: str) -> web.Response:
    """Return an error in a shape that the clients of all three styles read."""
    error = {"type": "permission_error", "message": message, "param": None, "code": None}
    return web.json_response({"type": "error", "error": error}, status=status)


SCRIPT = [
    ("terminal", "cd /workspace && ls -la && head -n 30 README*"),
    ("terminal", "./executable --help"),
    ("terminal", "(echo '# It says of itself'; ./executable --help 2>&1) > NOTES.md"),
    ("finish", "This was a rehearsal; NOTES.md holds what the binary says of itself."),
]


def rehearse(body: dict[str, Any]) -> dict[str, Any]:
    """Return the scripted model's next answer: look around, run, note, finish."""
    message: dict[str, Any] = {"role": "assistant", "content": "A rehearsal"}
    if "tools" in body:  # the SDK asks for a title without
        step = sum("tool_calls" in said for said in body["messages"])
        tool, text = SCRIPT[min(step, len(SCRIPT) - 1)]
        arguments = json.dumps({"message" if tool == "finish" else "command": text})
        function = {"name": tool, "arguments": arguments}
        message["tool_calls"] = [{"id": f"{step}", "type": "function", "function": function}]
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "", "object": "chat.completion", "model": body["model"], "choices": choices}


# ## 5. The workspace
#
# The SDK's own workspace runs the container. Two of its methods change: where the image comes
# from, and that the pipe is laid before anyone knocks at the server's door.


class CleanroomWorkspace(DockerDevWorkspace):
    """A `DockerDevWorkspace` without a network: the pipe is the only way in or out."""

    connect: Connect = Field(exclude=True)
    _pipe: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)

    def get_image(self) -> str:
        """Return the sealed image, built if need be."""
        return cleanroom_image()

    def _wait_for_health(self, *, timeout: float) -> None:
        """Lay the pipe, then wait for the agent server, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        try:
            port = self._pipe.enter_context(open_pipe(f"{self._container_id}", self.connect))
            object.__setattr__(self, "host", f"http://127.0.0.1:{port}")
            while not self.alive:
                if time.monotonic() > deadline:
                    logs = run("docker", "logs", "--tail=20", f"{self._container_id}")
                    fail(f"the agent server does not answer; its log ends:\n{logs}", 1)
                time.sleep(0.05)
        except BaseException:
            self.cleanup()
            raise

    def save(self) -> None:
        """Save the submission."""
        save_submission(f"{self._container_id}")

    def cleanup(self) -> None:
        """End the pipe, which stops the container, and wait until that is gone."""
        self._pipe.close()
        super().cleanup()


# ## 6. The submission
#
# A gzipped tar of /workspace, where `programbench eval` looks for it. The engine hands over the
# files, so this works whatever the agent did to its own tools; this side writes the archive
# anew, and only with files, folders and links that stay inside.


def belongs(member: tarfile.TarInfo, left_out: set[str]) -> bool:
    """Tell whether a file of /workspace is the agent's to submit.

    What only root can read is not: that is the reference binary, under whatever name, since
    the agent can move it but not copy it. Nor are links to it, devices, and ways out.
    """
    try:
        tarfile.data_filter(member, "/workspace")
    except tarfile.FilterError:
        return False
    secret = member.isreg() and member.uid == 0 and not member.mode & 0o044
    return not secret and not (member.islnk() and member.linkname in left_out)


def save_submission(container: str) -> None:
    """Save /workspace as `submission.tar.gz`, whole or not at all, and say what is in it.

    An older submission is kept, under the time of its last change.
    """
    path, partial = FOLDER / "submission.tar.gz", FOLDER / "submission.partial"
    entries, left_out, notes = 0, set[str](), b""
    command = ["docker", "cp", f"{container}:/workspace/.", "-"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as copy,
        tarfile.open(fileobj=copy.stdout, mode="r|") as workspace,
        tarfile.open(partial, "w:gz", compresslevel=6) as archive,
    ):
        for member in workspace:
            if not belongs(member, left_out):
                left_out.add(member.name)
                continue
            archive.addfile(member, workspace.extractfile(member) if member.isreg() else None)
            entries += 1
    if copy.returncode:
        fail("the engine does not hand over /workspace: the work is lost", 1)
    with tarfile.open(partial) as archive, contextlib.suppress(KeyError):
        if file := archive.extractfile("./NOTES.md"):
            notes = file.read(64 << 10)
    if path.exists():
        changed = time.strftime("%Y%m%dT%H%M%S", time.localtime(path.stat().st_mtime))
        path.rename(FOLDER / f"submission-{changed}.tar.gz")
    partial.rename(path)
    # The agent wrote this: nothing in it may move the cursor.
    text = "".join(c for c in notes.decode(errors="replace") if c.isprintable() or c in "\n\t")
    print(f"\nNOTES.md:\n\n{text}\n" if notes else "\nThe agent left no NOTES.md.\n")
    print(f"The submission has {entries} entries, {path.stat().st_size:,} bytes.")


# ## 7. The run


def main() -> int:
    """Run one task; returns 0 if the agent finished it."""
    for tool in ("docker", "docker buildx", "git", "uv"):
        run(*tool.split(), "version")
    if not run("docker", "image", "ls", "--quiet", TASK_IMAGE):
        print(f"Pulling {TASK_IMAGE} ...", flush=True)
        run("docker", "pull", "--quiet", "--platform=linux/amd64", TASK_IMAGE)
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Anyone on this host can connect to the pipe's port: this key keeps them out.
    os.environ["OH_SESSION_API_KEYS_0"] = secrets.token_hex(32)
    with (
        open(FOLDER / "llm_calls.jsonl", "w") as ledger,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager((relay := Relay(ledger)).serving(portal)) as connect,
    ):
        llm = LLM(
            usage_id="agent",
            model=MODEL,
            api_key=SecretStr(relay.placeholder),
            base_url=f"http://127.0.0.1:{LLM_PORT}{relay.path}",
        )
        workspace = CleanroomWorkspace(
            base_image=TASK_IMAGE,
            target="source-minimal",
            network="none",
            forward_env=["OH_SESSION_API_KEYS_0"],
            detach_logs=False,
            connect=connect,
        )
        with workspace:
            agent = get_default_agent(llm, cli_mode=True)
            conversation = Conversation(agent=agent, workspace=workspace)
            try:
                conversation.send_message(INSTRUCTION)
                conversation.run()
            finally:
                workspace.save()
                stats = conversation.conversation_stats.get_combined_metrics()
                status = conversation.state.execution_status
                conversation.close()
    print(f"LLM calls: {dict(relay.counts)}")
    print(f"SUBMISSION: {FOLDER / 'submission.tar.gz'}\nEXAMPLE_COST: {stats.accumulated_cost}")
    return 0 if status == ConversationExecutionStatus.FINISHED else 1


if __name__ == "__main__":
    sys.exit(main())
