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
import inspect
import json
import os
import queue
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
from collections.abc import AsyncGenerator, Callable, Generator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NoReturn

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


# The cleanroom image has the docs and the binary, which can be run but not read, in /workspace.
CMATRIX = "programbench/abishekvashok_1776_cmatrix.5c082c6:task_cleanroom_v6"
IMAGE = r"(\w[\w.:-]*/)?([a-z0-9][a-z0-9._-]*/)*[a-z0-9][a-z0-9._-]*(:[\w.-]+)?(@sha256:\w{64})?"
TASK_IMAGE = setting("PROGRAMBENCH_TASK_IMAGE", CMATRIX, IMAGE, "set it to an image's name.")
# ProgramBench calls the image of the task <owner>__<repo>.<sha> <owner>_1776_<repo>.<sha>.
INSTANCE_ID = re.sub(r"^(.*/)?|[:@].*", "", TASK_IMAGE).replace("_1776_", "__")
# `programbench eval` looks for a run's submissions in folders that bear their instance ids.
FOLDER = Path(setting("PROGRAMBENCH_OUTPUT_DIR", "submissions")) / INSTANCE_ID
CHARACTERISE = """Characterise /workspace/executable, which you can run but not read, and write to
/workspace/NOTES.md all that a rebuild must get right. The docs are there too, a network is not."""
INSTRUCTION = setting("PROGRAMBENCH_INSTRUCTION", CHARACTERISE)
SDK_VERSION, SDK_SOURCE = version("openhands-sdk"), setting("OPENHANDS_SDK_SOURCE")
project = Path(SDK_SOURCE, "openhands-sdk", "pyproject.toml")
if SDK_SOURCE and not (project.is_file() and f'"{SDK_VERSION}"' in project.read_text()):
    fail(f"OPENHANDS_SDK_SOURCE={SDK_SOURCE!r}: set it to a checkout of the SDK {SDK_VERSION}.")
API_KEY = setting("LLM_API_KEY", secrets.token_hex(), ".+", "unset it to rehearse without an LLM.")
REHEARSAL = not {"LLM_API_KEY", "LLM_BASE_URL"} & os.environ.keys()
MODEL = "openai/rehearsal" if REHEARSAL else setting("LLM_MODEL", "anthropic/claude-sonnet-4-5")
PROVIDER, _, MODEL_NAME = MODEL.partition("/")
ORIGINS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
URL = r"https?://[\w.:\[\]-]+(/[\w./~-]*)?"
BASE_URL = setting("LLM_BASE_URL", ORIGINS.get(PROVIDER, ""), URL, f"set it to {MODEL}'s API.")
print(f"Task {INSTANCE_ID}, {MODEL}", "(no LLM_API_KEY: a scripted model rehearses)" * REHEARSAL)

# LiteLLM would fetch a price list, with retries; the one that it ships with will do. And an agent
# that puts itself in its server's place must not redirect the SDK's event socket elsewhere.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENHANDS_SUPPRESS_BANNER": "1"}
os.environ["WEBSOCKETS_MAX_REDIRECTS"] = "1"

import aiohttp  # noqa: E402
import execnet  # noqa: E402
from aiohttp import web  # noqa: E402
from anyio.from_thread import BlockingPortal, start_blocking_portal  # noqa: E402
from openhands.sdk import LLM, Conversation  # noqa: E402
from openhands.sdk.conversation.exceptions import ConversationRunError  # noqa: E402
from openhands.tools.preset.default import get_default_agent  # noqa: E402
from openhands.workspace import DockerDevWorkspace  # noqa: E402
from pydantic import AliasChoices, BaseModel, Field  # noqa: E402

# ## 2. The image
#
# The SDK layers its agent server onto any base image, but it builds from a checkout of its own
# source, which nobody has who installed it with pip.

SDK = "https://github.com/OpenHands/software-agent-sdk.git"


def run(*command: str, **options: Any) -> str:
    """Return what a command prints; if it fails, end the script in the command's own words."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        fail(f"{' '.join(command[:3])}: {(done.stderr or done.stdout).strip()[-3000:]}", 1)
    return done.stdout.strip()


def sdk_source() -> Path:
    """Return a checkout of the installed SDK, cloned into the user's cache if need be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "openhands"
    checkout = Path(SDK_SOURCE or cache / f"software-agent-sdk-{SDK_VERSION}").resolve()
    if not checkout.exists():
        print(f"Cloning the OpenHands SDK {SDK_VERSION} into {cache} ...", flush=True)
        tag, scratch = f"--branch=v{SDK_VERSION}", f"{checkout}-{os.getpid()}"
        run("git", "clone", "--quiet", "--depth=1", tag, SDK, scratch)
        # The slower of two runs that start together finds the other's clone in place.
        with contextlib.suppress(OSError):
            os.rename(scratch, checkout)
        shutil.rmtree(scratch, ignore_errors=True)
    return checkout


# The SDK's layer gives all of /workspace to its user, the reference binary included, so that
# the agent could `chmod u+r` it, and leaves an empty /workspace/project. The seal puts the
# binary back just as the task image ships it. It runs the agent server as the benchmark's
# user, `agent`, who owns nothing in /agent-server: root runs the Python that lies there. PID 1
# belongs to root and outlives the server, so a server that the agent kills loses no work, and
# stopping takes no time. Compiled bytecode halves the server's start.

# The coding CLIs of install_acp_providers would add 600 MB that nothing here runs.
BUILD = f"""from openhands.agent_server.docker.build import BuildOptions, build
options = dict(base_image="{TASK_IMAGE}", target="source-minimal", push=False)
print(build(BuildOptions(**options, install_acp_providers=""))[0])"""
AGENT_PYTHON, SERVER_PORT, LLM_PORT = "/agent-server/.venv/bin/python", 8000, 4000
SEAL = f"""FROM {TASK_IMAGE} AS task
FROM {{server_image}}
USER root
RUN {AGENT_PYTHON} -m compileall -qj0 -x /py2_ --invalidation-mode unchecked-hash /agent-server
RUN --mount=from=task,target=/task set -e; setpriv --version; cd /workspace; \
    id agent || useradd -ms /bin/bash agent; rmdir --ignore-fail-on-non-empty project; \
    chown -R agent: .; rm -f executable; T=/task/workspace/executable; [ ! -e $T ] || cp -a $T .
ENV HOME=/home/agent LITELLM_LOCAL_MODEL_COST_MAP=True OPENHANDS_SUPPRESS_BANNER=1 \
    OH_CONVERSATIONS_PATH=/home/agent/conversations OH_BASH_EVENTS_DIR=/home/agent/bash_events
ENTRYPOINT ["tini", "--", "sh", "-c", "setpriv --reuid=agent --regid=agent --init-groups \
    --no-new-privs --inh-caps=-all --bounding-set=-all \
    {AGENT_PYTHON} -m openhands.agent_server $@; exec sleep infinity", "agent-server"]"""


def cleanroom_image() -> str:
    """Return the tag of the sealed image: a digest of all that goes in, so never stale."""
    source = sdk_source()
    task = run("docker", "image", "inspect", "--format={{.Id}}", TASK_IMAGE)
    commit = run("git", "-C", f"{source}", "rev-parse", "HEAD")
    inputs = "\0".join((task, commit, SEAL, run("git", "-C", f"{source}", "diff", "HEAD")))
    tag = f"programbench-cleanroom:{run('git', 'hash-object', '--stdin', input=inputs)}"
    if run("docker", "image", "ls", "--quiet", tag):
        return tag
    print(f"Building the agent server onto {TASK_IMAGE} ...", flush=True)
    # Both builds leave things behind in the temp folder: let that be one of ours.
    with tempfile.TemporaryDirectory(prefix="cleanroom-") as scratch:
        env = os.environ | {"TMPDIR": scratch, "SDK_SHA": commit, "SDK_REF": f"v{SDK_VERSION}"}
        built = run(sys.executable, "-c", BUILD, cwd=source, env=env).splitlines()[-1]
        build = ("docker", "buildx", "build", "--load", f"--tag={tag}", "-")
        run(*build, input=SEAL.format(server_image=built), env=env)
    return tag


# ## 3. The pipe
#
# `docker exec -i` is one stream of bytes in and one out. execnet lays any number of channels
# over the two, and starts from nothing but a Python at the far end; these functions run at both
# ends and carry a TCP connection over each channel.

IMPORTS = """from __future__ import annotations
import contextlib, os, queue, signal, socket, struct, threading"""
Connect = Callable[[], socket.socket]


def carry(channel: execnet.Channel, connect: Connect) -> None:
    """Carry a connection until both of its directions have ended, or one broke.

    Bytes are data, and no bytes end a direction. None lets one more chunk come: eight at most
    are under way, so a slow reader holds up only itself and memory stays bounded.
    """
    credit, ended, lock = threading.Semaphore(8), list[bool](), threading.Lock()

    def end(last: Callable[[], None]) -> None:
        with lock:  # nobody may learn of an end before it counts
            last()
            ended.append(True)
            if len(ended) == 2:
                channel.close()

    def outward() -> None:
        try:
            while data := near.recv(1 << 17):
                credit.acquire()
                channel.send(data)
            end(lambda: channel.send(b""))
        except OSError:
            with contextlib.suppress(OSError):
                channel.close()  # without an end: the far side passes on the reset

    with contextlib.suppress(OSError), contextlib.closing(channel), connect() as near:
        with contextlib.suppress(OSError):
            if near.family == socket.AF_INET:
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=outward, daemon=True).start()
            inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
            # No credit may wait behind data.
            channel.setcallback(lambda x: inbox.put(x) if x is not None else credit.release(), 0)
            for data in iter(inbox.get, 0):
                if data:
                    near.sendall(data)
                    with contextlib.suppress(OSError):  # the far end may have all it needs
                        channel.send(None)
                else:
                    end(lambda: near.shutdown(socket.SHUT_WR))
        with lock:
            if len(ended) < 2:  # half an answer must not look like a whole one
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        credit.release()
        near.shutdown(socket.SHUT_RD)  # wakes the other thread: all is over


def serve(control: execnet.Channel, listener: socket.socket, connect: Connect) -> None:
    """Carry what is opened on either side, until the far end goes away."""

    def start(channel: execnet.Channel, connect: Connect) -> None:
        if threading.active_count() < 1000:  # one too many is let go of, which closes it
            threading.Thread(target=carry, args=(channel, connect), daemon=True).start()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while near := listener.accept()[0]:
                control.send(channel := control.gateway.newchannel())
                start(channel, lambda near=near: near)

    threading.Thread(target=accept, daemon=True).start()
    for channel in control:
        start(channel, connect)


def container_end(control: execnet.Channel, server_port: int, llm_port: int) -> None:
    """Serve the container's end, as root: the agent can neither kill nor read it.

    When the host's end goes away, however it dies, `control` ends, and the container stops.
    """
    try:
        listener = socket.create_server(("127.0.0.1", llm_port), backlog=256)
        control.send("ready")
        serve(control, listener, lambda: socket.create_connection(("127.0.0.1", server_port)))
    finally:
        os.kill(1, signal.SIGTERM)


def open_pipe(container: str, connect: Connect, exits: contextlib.ExitStack) -> int:
    """Lay the pipe, until `exits`; returns the port on this host that is the agent server's."""
    # In a session of its own: Ctrl-C in a terminal must not cut it before the work is saved.
    session = "import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])"
    end = ["docker", "exec", "--interactive", "--user=root", container, AGENT_PYTHON, "-I"]
    python = shlex.join([sys.executable, "-c", session, *end])
    exits.callback((group := execnet.Group()).terminate, timeout=5)
    code = [IMPORTS, *map(inspect.getsource, (carry, serve, container_end))]
    code.append(f"container_end(channel, {SERVER_PORT}, {LLM_PORT})")
    control = group.makegateway(f"popen//python={python}").remote_exec("\n".join(code))
    control.receive(timeout=30)
    listener = exits.enter_context(socket.create_server(("127.0.0.1", 0), backlog=256))
    exits.callback(listener.shutdown, socket.SHUT_RD)
    threading.Thread(target=serve, args=(control, listener, connect), daemon=True).start()
    return listener.getsockname()[1]


# ## 4. The relay
#
# Whatever reaches the relay may come from the agent's own shell. It passes LLM calls on to one
# origin, with the real key in place of a placeholder that is worthless elsewhere, and refuses
# what would make the *provider* reach the internet: tools that run there are withheld, and
# media must be inline (the rule of Inspect's sandbox agent bridge). A request holds what is
# listed here and nothing else; to let more through, list it.

ENDPOINTS = {"anthropic": ["/v1/messages"]}.get(PROVIDER, ["/chat/completions", "/responses"])
FIELDS = """model messages input system instructions tools tool_choice parallel_tool_calls stream
    stream_options store include metadata temperature top_p top_k seed stop stop_sequences text
    max_tokens max_completion_tokens max_output_tokens thinking reasoning reasoning_effort
    verbosity response_format output_config cache_control prompt_cache_key prompt_cache_retention
    user safety_identifier type function name description parameters input_schema strict""".split()
KEYS, SENT = {"authorization", "x-api-key", "api-key"}, {"anthropic-version", "anthropic-beta"}
RETURNED = ("content-type", "retry-after", "retry-after-ms", "x-request-id", "request-id")
KIND = """(?x)^(system|developer|user|assistant|tool|message|text|input_text|output_text|refusal
    |image|image_url|input_image|document|reasoning|thinking|redacted_thinking|tool_use|tool_result
    |function_call|function_call_output|custom_tool_call|custom_tool_call_output)$"""
# What stands in an `image_url`: the image itself, or its detail.
Inline = Annotated[str, Field(pattern="^(data:|(auto|low|high)$)")]


class Block(BaseModel):
    """A message or a part of one, in any of the three API styles; its type or else its role."""

    kind: str = Field(validation_alias=AliasChoices("type", "role"), pattern=KIND)
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
    instructions: str | None = None
    tools: list[Tool] = []


class Relay:
    """Forwards one run's LLM calls; knows the real key and keeps the ledger."""

    def __init__(self, ledger: IO[str]):
        self.ledger = ledger
        self.placeholder = f"placeholder-{secrets.token_hex(16)}"
        self.origin = "/".join(BASE_URL.split("/")[:3])
        self.path = BASE_URL.removeprefix(self.origin).rstrip("/")

    @contextlib.asynccontextmanager
    async def serving(self, portal: BlockingPortal) -> AsyncGenerator[Connect]:
        """Yield what connects to the relay: it has no address where others could reach it."""
        loop, timeout = asyncio.get_running_loop(), aiohttp.ClientTimeout(None, sock_read=600)
        server = web.Server(self.answer, auto_decompress=False, access_log=None)

        def connect() -> socket.socket:
            near, far = socket.socketpair()
            portal.call(loop.connect_accepted_socket, server, far)
            return near

        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as self.client:
            yield connect
            await server.shutdown(timeout=0.1)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward or refuse one request, and note it in the ledger."""
        entry = {"time": time.time(), "path": request.path[:200], "bytes": request.content_length}
        reply = web.StreamResponse()
        try:
            body = await self.admit(request)
            entry["model"] = str(body["model"])
            if REHEARSAL:
                reply = web.json_response(rehearse(body))
            else:
                await self.forward(request, body, reply)
        except (aiohttp.ClientError, OSError) as error:
            code = 403 if isinstance(error, PermissionError) else 502
            entry["refused" if code == 403 else "failed"] = f"{type(error).__name__}: {error}"
            if reply.prepared and request.transport:
                request.transport.abort()  # half an answer must not look like a whole one
            # A shape of error that the clients of all three API styles read.
            why = {"type": "permission_error", "message": f"The cleanroom's relay: {error}"}
            reply = web.json_response({"type": "error", "error": why}, status=code)
        entry["status"] = reply.status
        print(json.dumps(entry), file=self.ledger, flush=True)
        return reply

    async def admit(self, request: web.BaseRequest) -> dict[str, Any]:
        """Return the body of a request that the policy lets through; raises PermissionError."""
        paths = [self.path + endpoint for endpoint in ENDPOINTS]
        if request.method != "POST" or request.raw_path not in paths:
            raise PermissionError(f"only POST to {' and '.join(paths)} is let through")
        if not 0 < (request.content_length or 0) < 32 << 20:
            raise PermissionError("the body is empty, hides its length, or is over 32 MiB")
        try:
            body: dict[str, Any] = json.loads(await request.content.read())
            Call.model_validate(body)
        except (ValueError, RecursionError) as error:
            # Where and why, but not what: the ledger holds nothing of a body.
            raise PermissionError(" ".join(str(error).split("[type=")[0].split())) from None
        if unlisted := sorted(
            {*body, *(key for tool in body.get("tools", ()) for key in tool)} - {*FIELDS}
        ):
            raise PermissionError(f"{', '.join(unlisted)}: not let through")
        return body

    async def forward(self, request: web.BaseRequest, body: Any, reply: web.StreamResponse):
        """Send what was checked, written anew, and pass the answer on as it comes."""
        headers = {"Content-Type": "application/json"}
        for name, value in request.headers.items():
            if name.lower() in SENT:
                headers[name] = value
            elif name.lower() in KEYS and value.removeprefix("Bearer ") == self.placeholder:
                headers[name] = value.replace(self.placeholder, API_KEY)
        if API_KEY not in " ".join(headers.values()):
            raise PermissionError("the request does not carry the run's placeholder for the key")
        url, data = self.origin + request.raw_path, json.dumps(body)
        async with self.client.post(url, data=data, headers=headers, allow_redirects=False) as up:
            if up.status in range(300, 400):
                raise PermissionError(f"{self.origin} redirects elsewhere")
            reply.set_status(up.status)
            returned = {n: v for n, v in up.headers.items() if n.lower() in RETURNED}
            reply.headers.update({n: v.replace(API_KEY, "") for n, v in returned.items()})
            await reply.prepare(request)
            # No answer gives the key away: an end that could be its beginning waits for more.
            key, held = API_KEY.encode(), b""
            async for chunk in up.content.iter_any():
                held = (held + chunk).replace(key, self.placeholder.encode())
                cut = len(held) - next(n for n in range(len(key))[::-1] if held.endswith(key[:n]))
                await reply.write(held[:cut])
                held = held[cut:]
            await reply.write_eof(held)


SCRIPT = ["ls -la; head -n 30 README*", "./executable --help", "./executable --help >NOTES.md 2>&1"]


def rehearse(body: dict[str, Any]) -> dict[str, Any]:
    """Return the scripted model's next answer: look around, run, note, finish."""
    step = sum("tool_calls" in said for said in body["messages"])
    tool, said = ("finish", "message") if step >= len(SCRIPT) else ("terminal", "command")
    arguments = json.dumps({said: [*SCRIPT, "NOTES.md has what the binary says of itself."][step]})
    call = {"id": f"{step}", "type": "function", "function": {"name": tool, "arguments": arguments}}
    # The SDK also asks for a title of the conversation, and gives no tools.
    message = {"tool_calls": [call]} if "tools" in body else {"content": "A rehearsal"}
    choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}]
    return {"id": "", "object": "chat.completion", "model": MODEL_NAME, "choices": choices}


# ## 5. The workspace and the submission
#
# The SDK's own workspace runs the container. Two of its methods change: where the image comes
# from, and that the pipe is laid before anyone knocks at the server's door. The submission is
# a gzipped tar of /workspace, where `programbench eval` looks for it, only with files, folders
# and links that stay inside.


def submittable(files: tarfile.TarFile) -> Generator[tarfile.TarInfo]:
    """Yield the members of /workspace that are the agent's to submit.

    What only root can read is not: that is the reference binary, under whatever name, since
    the agent can move it but not copy it. Nor are links to it, devices, and ways out.
    """
    left_out = set[str]()
    for member in files:
        secret = member.isreg() and member.uid == 0 and not member.mode & 0o044
        # Two links may lead out together where each stays inside: `..` may only come first.
        winding = "/../" in f"{member.linkname.lstrip('./')}/"
        with contextlib.suppress(tarfile.FilterError):
            tarfile.data_filter(member, "/workspace")
            if not (secret or winding or member.linkname in left_out):
                yield member
                continue
        left_out.add(member.name)


class CleanroomWorkspace(DockerDevWorkspace):
    """A `DockerDevWorkspace` without a network: the pipe is the only way in or out."""

    base_image: str | None = TASK_IMAGE
    network: str | None = "none"
    detach_logs: bool = False
    connect: Connect = Field(exclude=True)
    exits: Any = Field(exclude=True)

    def get_image(self) -> str:
        """Return the sealed image, built if need be."""
        return cleanroom_image()

    def _wait_for_health(self, *, timeout: float) -> None:
        """Lay the pipe, then wait for the agent server, at most `timeout` seconds."""
        self.exits.callback(self.cleanup)
        port = open_pipe(f"{self._container_id}", self.connect, self.exits)
        object.__setattr__(self, "host", f"http://127.0.0.1:{port}")
        super()._wait_for_health(timeout=timeout)

    def save(self) -> None:
        """Save /workspace as `submission.tar.gz`, whole or not at all, and say what is in it.

        The engine hands over the files, so this works whatever the agent did to its own tools;
        this side writes the archive anew. An older one is kept, under its time.
        """
        path, partial = FOLDER / "submission.tar.gz", FOLDER / "submission.partial"
        # Frozen for the copy: a file that shrinks under it would break the engine's archive.
        copy = "trap 'docker unpause $0 >&2' EXIT; docker pause $0 >&2; docker cp $0:/workspace/. -"
        command = ["sh", "-c", copy, f"{self._container_id}"]
        with (
            contextlib.suppress(tarfile.ReadError),  # then the engine's status tells
            subprocess.Popen(command, stdout=subprocess.PIPE) as handed,
            tarfile.open(fileobj=handed.stdout, mode="r|") as files,
            tarfile.open(partial, "w:gz", compresslevel=6) as archive,
        ):
            for member in submittable(files):
                archive.addfile(member, files.extractfile(member) if member.isreg() else None)
        if handed.returncode:
            fail("the engine does not hand over /workspace: the work is lost", 1)
        if path.exists():
            path.rename(FOLDER / f"submission-{path.stat().st_mtime:.0f}.tar.gz")
        partial.rename(path)
        with tarfile.open(path) as archive:
            kept = archive.getmembers()
            notes = [archive.extractfile(m) for m in kept if m.name == "./NOTES.md" and m.isreg()]
            text = b"".join(file.read(64 << 10) for file in notes if file).decode(errors="replace")
        # The agent wrote this: nothing in it may move the cursor.
        print("\nNOTES.md:\n\n" + "".join(c for c in text if c.isprintable() or c in "\n\t") + "\n")
        print(f"The submission has {len(kept)} entries, {path.stat().st_size:,} bytes.")


# ## 6. The audit
#
# Before the first token is spent, the agent's own shell tries what must not work.

AUDIT = {
    "no interface but loopback": "[ $(ls /sys/class/net) = lo ] && ! grep -v Iface /proc/net/route",
    "not root": "[ $(id -u) != 0 ] && ! grep 'Cap.*:.*[1-9a-f]' /proc/self/status",
    "no way to root": f"grep NoNew.*1 /proc/self/status && ! [ -w {AGENT_PYTHON} ]",
    "no setuid shell": "! find / -xdev -perm -4000 -exec grep -q OPTIND {} \\; -print | grep .",
    "no key": "! env | grep -iE 'api_?key|token'",
    "an executable that can be run": "[ -x executable ]",
    "an executable that belongs to root": "[ $(stat -c %u executable) = 0 ]",
    "no way to read the executable": "! (cat executable || chmod u+r executable)",
    "no way to link to the executable": "! ln executable linked",
    "no way to trace the executable": "sleep 1 | ./executable & sleep .2; ! cat /proc/$!/maps",
}


def audit(workspace: CleanroomWorkspace) -> None:
    """Let the agent's shell try; ends the script, with status 3, unless everything holds."""
    ask = "; ".join(f"({t}) >/dev/null 2>&1 && echo yes || echo NO" for t in AUDIT.values())
    answers = workspace.execute_command(ask, cwd="/workspace").stdout.split()
    verdicts = dict.fromkeys(AUDIT, "NO") | dict(zip(AUDIT, answers, strict=False))
    print("\n".join(f"{verdict:>5}  {claim}" for claim, verdict in verdicts.items()))
    if broken := [claim for claim, verdict in verdicts.items() if verdict != "yes"]:
        fail(f"no LLM was called: {TASK_IMAGE}, or the engine, breaks {broken}.", 3)
    print(f"The cleanroom holds in all {len(AUDIT)} points.", flush=True)


# ## 7. The run


def main() -> int:
    """Run one task; returns 0 if the agent finished it."""
    if missing := [tool for tool in ("docker", "git", "uv") if not shutil.which(tool)]:
        fail(f"{' and '.join(missing)} must be on the PATH: install what is missing.")
    run("docker", "buildx", "version")
    if not run("docker", "image", "ls", "--quiet", TASK_IMAGE):
        print(f"Pulling {TASK_IMAGE} ...", flush=True)
        run("docker", "pull", "--quiet", "--platform=linux/amd64", TASK_IMAGE)
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Anyone on this host can connect to the pipe's port: this key, which the SDK hands on under
    # either name, keeps them out.
    os.environ |= dict.fromkeys(("SESSION_API_KEY", "OH_SESSION_API_KEYS_0"), secrets.token_hex(32))
    with contextlib.ExitStack() as exits:
        relay = Relay(exits.enter_context(open(FOLDER / "llm_calls.jsonl", "w")))
        portal = exits.enter_context(start_blocking_portal())
        connect = exits.enter_context(portal.wrap_async_context_manager(relay.serving(portal)))
        workspace = CleanroomWorkspace(target="source-minimal", connect=connect, exits=exits)
        audit(workspace)
        base_url = f"http://127.0.0.1:{LLM_PORT}{relay.path}"
        llm = LLM(usage_id="agent", model=MODEL, api_key=relay.placeholder, base_url=base_url)
        agent = get_default_agent(llm, cli_mode=True)
        conversation = Conversation(agent=agent, workspace=workspace, delete_on_close=False)
        try:
            conversation.send_message(INSTRUCTION)
            conversation.run()
        except ConversationRunError as error:
            print(f"The run ended early: {error}", file=sys.stderr)
        finally:
            workspace.save()
            with open(FOLDER / "trajectory.jsonl", "w") as file:
                file.writelines(f"{e.model_dump_json()}\n" for e in conversation.state.events)
            stats = conversation.conversation_stats.get_combined_metrics()
    calls = (FOLDER / "llm_calls.jsonl").read_text().splitlines()
    refused = [call for call in calls if '"refused":' in call]
    print(f"LLM calls: {len(calls)}, of which the relay refused {len(refused)}.")
    print(f"SUBMISSION: {FOLDER / 'submission.tar.gz'}\nEXAMPLE_COST: {stats.accumulated_cost}")
    return 0 if conversation.state.execution_status.value == "finished" else 1


if __name__ == "__main__":
    sys.exit(main())
