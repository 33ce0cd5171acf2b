# /// script
# requires-python = ">=3.12"
# dependencies = [
#     "openhands-sdk==1.58.2",
#     "openhands-tools==1.58.2",
#     "openhands-workspace==1.58.2",
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
    | provider <- LLM relay       <-+--<          <--+-- 127.0.0.1:4999 <- litellm  |
    |         key, policy, ledger   |     (SSH)      |  /workspace/executable 0111  |
    +-------------------------------+                +------------------------------+

Run it with `python examples/12_programbench_cleanroom.py`. It needs Docker with buildx, git and
OpenSSH's client. Without LLM_API_KEY it rehearses with a scripted model, at no cost; the other
settings are in section 1. The last lines that it prints are

    SUBMISSION: submissions/abishekvashok__cmatrix.5c082c6/submission.tar.gz
    EXAMPLE_COST: 0.0123

Where the guarantee stops: a model may remember the original's source, and code that the agent
loads into the running binary with LD_PRELOAD sees the binary's memory, as in the benchmark.
"""

# The SDK leaves some types out.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
import contextlib
import gc
import json
import os
import re
import secrets
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Annotated, Any, Literal, NoReturn

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from anyio.from_thread import start_blocking_portal
from filelock import FileLock
from pydantic import AliasChoices, BaseModel, Field

# ## 1. Settings
#
# All of them come from the environment, so that one process is one task and any scheduler can
# run it. What is wrong with them, or with this host, shows before anything slow starts.


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
# The image of the instance <owner>__<repo>.<sha> is called <owner>_1776_<repo>.<sha>.
INSTANCE_ID = re.sub(r"^(.*/)?|[:@].*", "", TASK_IMAGE).replace("_1776_", "__")
# `programbench eval` looks for a run's submissions in folders that bear their instance ids.
FOLDER = Path(setting("PROGRAMBENCH_OUTPUT_DIR", "submissions")) / INSTANCE_ID
CHARACTERISE = """Characterise /workspace/executable, which you can run but not read, and write to
/workspace/NOTES.md all that a rebuild must get right. The docs are there too, a network is not."""
INSTRUCTION = setting("PROGRAMBENCH_INSTRUCTION", CHARACTERISE)
LIMIT = setting("PROGRAMBENCH_TIME_LIMIT", "3600", r"[1-9]\d{0,5}", "set it to whole seconds.")
# Read from a secret's file, the key may end in a newline.
API_KEY = setting("LLM_API_KEY", secrets.token_hex(), r"\s*\S.*", "unset it to rehearse.").strip()
# The pipe's sockets are in there: their paths must be short, and ssh has its own use for : and %.
setting("TMPDIR", tempfile.gettempdir(), r"/[^:%\s]{,79}", "set it to a short, plain path.")
REHEARSAL = not {"LLM_API_KEY", "LLM_BASE_URL"} & os.environ.keys()
MODEL = "openai/rehearsal" if REHEARSAL else setting("LLM_MODEL", "anthropic/claude-sonnet-4-5")
PROVIDER, _, MODEL_NAME = MODEL.partition("/")
ORIGINS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
URL = r"https?://[\w.:\[\]-]+(/[\w./~-]*)?"
BASE_URL = setting("LLM_BASE_URL", ORIGINS.get(PROVIDER, ""), URL, f"set it to {MODEL}'s API.")
SDK_VERSION, SDK_SOURCE = version("openhands-sdk"), setting("OPENHANDS_SDK_SOURCE")

# What may end a run from outside; SIGURG says that the pipe has ended (nothing else here sends it).
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGURG)


def stop(number: int, _: object) -> NoReturn:
    """End the work at the first signal, so that it is saved; a second one ends the script."""
    for each in STOPS:
        signal.signal(each, signal.SIG_DFL)
    gone = "the server, its container or the pipe has ended" if number == signal.SIGURG else ""
    print(f"\nThe run ended early: {gone or signal.Signals(number).name}.", file=sys.stderr)
    raise SystemExit(1 if gone else 128 + number)


BEGUN = time.monotonic()


def say(step: str) -> None:
    """Print what comes next, after the seconds since the start."""
    print(f"[{time.monotonic() - BEGUN:6.1f} s] {step}", flush=True)


def run(remedy: str, command: str, *arguments: str | Path, **options: Any) -> str:
    """Return what a command prints; if it fails, end with the remedy and its own words."""
    # In a process group of its own, so that all of it can be ended with the script.
    options |= {"stdout": PIPE, "stderr": PIPE, "text": True, "process_group": 0}
    try:
        with Popen([*command.split(), *arguments], **options) as process:
            try:
                output, words = process.communicate()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
    except OSError as error:
        fail(f"{error}: {remedy}.")
    if process.returncode:
        # The sentence has no more than the end of them.
        print(words if len(words) > 500 else "", end="", flush=True)
        fail(f"{remedy}; `{command}` says: {' '.join((words or output).split())[-500:]}")
    return output.strip()


# ## 2. The image
#
# The SDK layers its agent server onto any base image, but it builds from a checkout of its own
# source, which nobody has who installed it with pip.

SDK = "https://github.com/OpenHands/software-agent-sdk.git"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "openhands"


def sdk_source() -> Path:
    """Return a checkout of the installed SDK: as set, around this file, or a cached clone."""
    remedy = f"set OPENHANDS_SDK_SOURCE to a checkout of the SDK {SDK_VERSION}"
    clone = CACHE / f"software-agent-sdk-{SDK_VERSION}"
    for folder in [Path(SDK_SOURCE)] if SDK_SOURCE else [*Path(__file__).resolve().parents, clone]:
        project = folder / "openhands-sdk" / "pyproject.toml"
        if project.is_file() and f'"{SDK_VERSION}"' in project.read_text():
            return folder.resolve()
    if SDK_SOURCE:
        fail(f"OPENHANDS_SDK_SOURCE={SDK_SOURCE!r}: {remedy}.")
    say(f"Cloning the OpenHands SDK {SDK_VERSION} into {CACHE}")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        run(remedy, f"git clone --quiet --depth=1 --branch=v{SDK_VERSION} {SDK}", f"{scratch}/sdk")
        os.rename(f"{scratch}/sdk", clone)
    return clone


# The SDK's layer gives all of /workspace to its user, the reference binary included, so that
# the agent could `chmod u+r` it, and leaves an empty /workspace/project. The seal, written below
# the SDK's Dockerfile, puts the binary back just as the task image ships it. PID 1 is root's and
# outlives the agent server, so that a server that the agent kills loses no work; it waits 15 s
# for the pipe to be laid. Bytecode halves the server's start; it is compiled once for all tasks.

AGENT_PYTHON, SERVER_PORT, LLM_PORT = "/agent-server/.venv/bin/python", 8000, 4999
DOCKERFILE = "openhands-agent-server/openhands/agent_server/docker/Dockerfile"
SEAL = f"""
FROM builder AS bytecode
RUN {AGENT_PYTHON} -m compileall -qj0 -x /py2_ --invalidation-mode unchecked-hash /agent-server && \
    mkdir /tmp/b && find . -name __pycache__ -exec cp -rt /tmp/b --parents {{}} +
FROM source-minimal
USER root
COPY --from=bytecode /tmp/b /agent-server
RUN --mount=from={TASK_IMAGE},target=/task set -e; setpriv -V; apt-get update; apt-get install \
    -y --no-install-recommends openssh-server; rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    cd /workspace; id agent || useradd -ms /bin/bash agent; rmdir project || :; chown -R agent: .; \
    rm -f executable; T=/task/workspace/executable; [ ! -e $T ] || cp -a $T .
ENV HOME=/home/agent LITELLM_LOCAL_MODEL_COST_MAP=True OH_PRELOAD_TOOLS=false \
    OH_CONVERSATIONS_PATH=/home/agent/conversations OH_BASH_EVENTS_DIR=/home/agent/bash_events
ENTRYPOINT ["tini", "--", "sh", "-c", "sleep 15; [ -e /run/pipe ] && exec sleep infinity"]
"""
# The checkout's commit, and what was changed since in the files that git knows.
STATE = "commit=$(git rev-parse HEAD) && echo $commit-$(git diff HEAD | git hash-object --stdin)"


def cleanroom_image() -> str:
    """Return the tag of the sealed image, a digest of all that goes in; build it if need be."""
    engine = "install Docker and start it, or set DOCKER_HOST to an engine that lets you in"
    remedy = f"set PROGRAMBENCH_TASK_IMAGE, now {TASK_IMAGE}, to a linux/amd64 image that is there"
    if not run(engine, "docker image ls --quiet", TASK_IMAGE):
        say(f"Pulling {TASK_IMAGE}")
        run(remedy, "docker pull --platform=linux/amd64", TASK_IMAGE)
    task = run(remedy, "docker image inspect --format={{.Architecture}}-{{.Id}}", TASK_IMAGE)
    if not task.startswith("amd64-"):
        fail(f"the image is for {task.split('-')[0]}: {remedy}.")
    if (machine := os.uname().machine) != "x86_64":
        say(f"Warning: this is {machine}, where ProgramBench's amd64 images run slowly, if at all")
    with FileLock(CACHE / "cleanroom.lock"), tempfile.TemporaryDirectory() as scratch:
        dockerfile, sdk = Path(scratch, "Dockerfile"), sdk_source()
        state = run("install git, and let it read OPENHANDS_SDK_SOURCE", "sh -c", STATE, cwd=sdk)
        dockerfile.write_text((sdk / DOCKERFILE).read_text() + f"{SEAL}LABEL of={task} sdk={state}")
        tag = "programbench-cleanroom:" + run("install git", "git hash-object", dockerfile)
        if run(engine, "docker image ls --quiet", tag):
            return tag
        run("install Docker's buildx plugin", "docker buildx version")
        root, host = run(engine, "docker info --format={{.DockerRootDir}}|{{.Name}}").split("|")
        space = '[ "$1" != "$(uname -n)" ] || [ $(df --output=avail "$0" | tail -n 1) -ge 5242880 ]'
        run(f"free 5 GiB of disk in {root}, or set DOCKER_HOST", "sh -c", space, root, host)
        say(f"Building the agent server onto {TASK_IMAGE}, and sealing it")
        remedy = "PROGRAMBENCH_TASK_IMAGE must have setpriv and the package manager apt"
        # The coding CLIs of INSTALL_ACP_PROVIDERS would add 600 MB that nothing here runs.
        args = f"--build-arg=INSTALL_ACP_PROVIDERS= --build-arg=BASE_IMAGE={TASK_IMAGE} --tag={tag}"
        run(remedy, f"docker buildx build --load --platform=linux/amd64 {args} -f", dockerfile, sdk)
    return tag


# What is wrong shows, and the image is built, before the SDK's import, which takes seconds.
if __name__ == "__main__":
    for number in STOPS:
        signal.signal(number, stop)
    say(f"{INSTANCE_ID}: " + ("a rehearsal, as there is no LLM_API_KEY" if REHEARSAL else MODEL))
    if SDK_SOURCE:
        sdk_source()
    check = 'for d in "$0" "$1"; do mkdir -p "$d" && rm "$(mktemp -p "$d")" || exit; done'
    run("make PROGRAMBENCH_OUTPUT_DIR and XDG_CACHE_HOME writable", "sh -c", check, FOLDER, CACHE)
    run("install OpenSSH's client", "ssh -V")
    cleanroom_image()

# LiteLLM would fetch a price list, and where it cannot, its import fails now and then; the list
# that it ships with will do. An agent that puts itself in its server's place must not redirect the
# SDK's event socket elsewhere: one attempt is no redirect. What ends a run, the SDK raises too.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENHANDS_SUPPRESS_BANNER": "1"}
os.environ |= {"WEBSOCKETS_MAX_REDIRECTS": "1", "LOG_LEVEL": os.getenv("LOG_LEVEL", "CRITICAL")}
gc.set_threshold(50_000)  # looking for garbage less often than Python does, it imports faster

from openhands.sdk import LLM, Conversation  # noqa: E402
from openhands.sdk.conversation.exceptions import ConversationRunError  # noqa: E402
from openhands.tools.preset.default import get_default_agent  # noqa: E402
from openhands.workspace import DockerDevWorkspace  # noqa: E402

# ## 3. The pipe
#
# `docker exec -i` is one stream of bytes in and one out. SSH lays any number of connections over
# the two, both ways: the SDK's to the agent server, and LLM calls to the relay. Only who holds
# the stream can talk to this SSH server, which is root's: the agent can neither kill nor read it.
# When the host's end goes away, however it dies, the container stops; if it was just the pipe
# that broke, there is time to save the work.

CONTAINER_END = """mkdir -p /run/sshd; rm -f /run/key; ssh-keygen -qt ed25519 -N '' -f /run/key
sed -i 's/^root:!/root:*!/' /etc/shadow; exec /usr/sbin/sshd -i -f /dev/null -h /run/key \
    -oUsePAM=no -oAuthorizedKeysCommandUser=nobody -o"AuthorizedKeysCommand=/bin/echo $0" """
# The session's command, line by line: say that the pipe is laid, and read the key to the agent
# server's door; when the host's end has gone, wait 10 s, for it may still save the work, and stop
# the container; say when the server listens; end it when its disk is full, since it would hang; run
# it as the benchmark's user, `agent`, who owns nothing in /agent-server. Looking for garbage less
# often than Python does saves a tenth of its start.
SERVER = f"""touch /run/pipe; cd /; read -r OH_SESSION_API_KEYS_0; export OH_SESSION_API_KEYS_0
exec 2>/dev/null 3<&0; (cat <&3; sleep 10; kill 1) >/dev/null &
(timeout 120 bash -c 'until : </dev/tcp/127.0.0.1/{SERVER_PORT}; do sleep .05; done'; echo) &
(while [ $(stat -fc %a ~agent) -gt 999 ]; do sleep 3; done; kill $PPID) &
xargs -0 sh -c 'exec env "$@" setpriv --reuid=agent --regid=agent --init-groups \
    --no-new-privs --inh-caps=-all --bounding-set=-all {AGENT_PYTHON} -c "import gc; \
    gc.set_threshold(50_000); from openhands.agent_server.__main__ import main; main()" \
    --port={SERVER_PORT}' - </proc/1/environ >/proc/1/fd/1 2>&1 3<&-; kill $PPID"""


def open_pipe(container: str, port: int | None, scratch: Path, key: str) -> Popen[str]:
    """Lay the pipe and start the agent server; returns once it listens, or after 120 s.

    The pipe leads from `port` on this host's loopback to the server, and from LLM_PORT in the
    container to the socket `scratch`/relay; `key` is for the server's door. Should the pipe end,
    now or later, SIGURG comes.
    """
    proxy = f'-oProxyCommand=docker exec -iu0 {container} sh -c "$SH" "$(cat {scratch}/id.pub)"'
    ssh = f"""ssh -F/dev/null -oBatchMode=yes -oIdentitiesOnly=yes -oStrictHostKeyChecking=no -lroot
        -oUserKnownHostsFile=/dev/null -oExitOnForwardFailure=yes -oLogLevel=ERROR -i{scratch}/id
        -oPermitLocalCommand=yes -oLocalCommand=>{scratch}/laid
        -L127.0.0.1:{port}:127.0.0.1:{SERVER_PORT} -R127.0.0.1:{LLM_PORT}:{scratch}/relay box"""
    # In a session of its own: Ctrl-C in a terminal must not cut it before the work is saved.
    # An agent that opens connections without end must not use up what this script may open.
    # A busy engine now and then fails to `exec` in a container that it has just started.
    lay = """ulimit -n 400; export SHELL=/bin/sh SH="$1"; shift; ssh-keygen -qted25519 -N "" -f$0/id
    for s in 0 1 3; do [ -e $0/laid ] || { sleep $s; "$@"; }; done; rm -r $0; kill -URG $PPID"""
    shell = ["sh", "-c", lay, scratch, CONTAINER_END, *ssh.split(), proxy, SERVER]
    pipe = Popen(shell, stdin=PIPE, stdout=PIPE, text=True, start_new_session=True)
    print(key, file=pipe.stdin, flush=True)
    return pipe if pipe.stdout and pipe.stdout.readline() else fail("there is no agent server", 1)


# ## 4. The relay
#
# Whatever reaches the relay may come from the agent's own shell. It passes LLM calls on to one
# origin, with the real key in place of a placeholder that is worthless elsewhere, and refuses
# what would make the *provider* reach the internet: tools that run there are withheld, and
# media must be inline (the rule of Inspect's sandbox agent bridge). A call, a message and a part
# of one hold what is listed here and nothing else; to let more through, list it.

ENDPOINTS = {"anthropic": ["/v1/messages"]}.get(PROVIDER, ["/chat/completions", "/responses"])
FIELDS = """(?x)^(model|messages|input(_schema)?|system|instructions|text|thinking|id|tools|store
    |reasoning(_effort|_content)?|tool_choice|(parallel_)?tool_calls|stream(_options)?|include|role
    |metadata|seed|temperature|top_[pk]|max_(completion_|output_)?tokens|stop(_sequences)?|verbosity
    |response_format|output_config|cache_control|prompt_cache_(key|retention)|user|type|name|strict
    |safety_identifier|description|parameters|(tool_)?call_id|tool_use_id|status|is_error|arguments
    |function(_call)?|data|detail|title|refusal|summary|encrypted_content|signature|annotations)$"""
KINDS = """^(system|developer|user|assistant|message|refusal|document|reasoning|tool(_use|_result)?\
|(redacted_)?thinking|((in|out)put_)?(text|image(_url)?)|(function|custom_tool)_call(_output)?)$"""
# Headers of a request that hold the key, or are passed on as they are, and those of an answer. The
# SDK takes the cost of a call from what a LiteLLM proxy says of it.
KEYS, SENT = {"authorization", "x-api-key", "api-key"}, {"anthropic-version", "anthropic-beta"}
RETURNED = r"content-type|retry-after(-ms)?|(x-)?request-id|x-litellm-response-cost"
# What stands in an `image_url`: the image itself, or its detail.
Inline = Annotated[str, Field(pattern="^(data:|(auto|low|high)$)")]


class Listed(BaseModel, extra="allow"):
    """What may hold listed fields only; below it says what may be in those that could reach out."""

    __pydantic_extra__: dict[Annotated[str, Field(pattern=FIELDS)], Any]  # pyright: ignore


class Block(Listed):
    """A message or a part of one, in any of the three API styles; its type or else its role."""

    kind: str = Field(validation_alias=AliasChoices("type", "role"), pattern=KINDS)
    content: "str | list[Block] | None" = None
    output: "str | list[Block] | None" = None
    thinking_blocks: "list[Block] | None" = None
    image_url: Inline | dict[str, Inline] | None = None
    source: dict[Literal["type", "media_type", "data"], str] | None = None


class Tool(Listed):
    """A tool that the agent itself runs; Anthropic leaves out the type of those."""

    type: Literal["function", "custom"] = "custom"


class Call(Listed):
    """The body of an LLM call."""

    model: Annotated[str, Field(pattern=f"^({re.escape(MODEL)}|{re.escape(MODEL_NAME)})$")]
    messages: list[Block] = []
    input: str | list[Block] = []
    system: str | list[Block] = []
    instructions: str | None = None
    tools: list[Tool] = []


class Relay:
    """Forwards one run's LLM calls; knows the real key and keeps the ledger.

    `refusals` has for each call whether it was refused, `last` says how the last one went, and
    `room` is how many bytes the bodies of all calls under way may still have.
    """

    def __init__(self, ledger: IO[str]):
        self.ledger, self.refusals, self.last, self.room = ledger, list[bool](), "none", 256 << 20
        self.placeholder = f"placeholder-{secrets.token_hex(16)}"
        self.origin = "/".join(BASE_URL.split("/")[:3])
        self.path = BASE_URL.removeprefix(self.origin).rstrip("/")

    @contextlib.asynccontextmanager
    async def serving(self, path: Path) -> AsyncGenerator[None]:
        """Answer at a socket in the file system, which only this user can reach."""
        front = web.ServerRunner(web.Server(self.answer, auto_decompress=False), shutdown_timeout=1)
        async with ClientSession(timeout=ClientTimeout(sock_read=600), trust_env=True) as self.http:
            await front.setup()
            await web.UnixSite(front, path).start()
            yield
            await front.cleanup()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward or refuse one request, and note it in the ledger."""
        entry: dict[str, Any] = {"time": time.time(), "method": request.method}
        entry |= {"path": request.path[:200], "bytes": (size := request.content_length or 0)}
        reply = web.StreamResponse()
        self.room -= size
        try:
            entry["model"], body = await self.admit(request)
            reply = rehearse(body) if REHEARSAL else await self.forward(request, body, reply)
        except (ClientError, OSError, ValueError) as error:
            code = 403 if isinstance(error, PermissionError) else 502
            entry["refused" if code == 403 else "failed"] = f"{type(error).__name__}: {error}"
            if reply.prepared and request.transport:
                request.transport.abort()  # half an answer must not look like a whole one
            # A shape of error that the clients of all three API styles read.
            why = {"type": "permission_error", "message": f"The cleanroom's relay: {error}"}
            reply = web.json_response({"type": "error", "error": why}, status=code)
        self.room += size
        entry |= {"status": reply.status, "answered": reply.body_length}
        self.refusals.append("refused" in entry)
        self.last = f"{self.origin}: {entry.get('failed') or reply.status}"
        print(json.dumps(entry), file=self.ledger, flush=True)
        return reply

    async def admit(self, request: web.BaseRequest) -> tuple[str, str]:
        """Return the model and the body, written anew, of a call that the policy lets through.

        Raises PermissionError for any other. A parsed body takes many times its size in memory,
        so only its text is returned: an agent must not use up this host's memory.
        """
        paths = [self.path + endpoint for endpoint in ENDPOINTS]
        if request.method != "POST" or request.raw_path not in paths:
            raise PermissionError(f"only POST to {' and '.join(paths)} is let through")
        if not 0 < (request.content_length or 0) < 32 << 20 or self.room < 0:
            raise PermissionError("the body is empty, of hidden length, or over 32 MiB (all: 256)")
        try:
            body: dict[str, Any] = json.loads(await request.content.read())
            Call.model_validate(body)
        except (ValueError, RecursionError) as error:
            # Where, but not what: the ledger holds no value of a body, and little of its names.
            raise PermissionError(re.sub("\n  .*|\n", " ", f"{error}")[:500]) from None
        return body["model"], json.dumps(body)

    async def forward(self, request: web.BaseRequest, body: str, reply: web.StreamResponse):
        """Send what was checked, and pass the answer on as it comes; returns `reply`."""
        sent = {name: request.headers.get(name, "") for name in KEYS | SENT}
        keys = {n for n in KEYS if sent[n].removeprefix("Bearer ") == self.placeholder}
        if not keys:
            raise PermissionError("the request does not carry the run's placeholder for the key")
        headers = {n: sent[n].replace(self.placeholder, API_KEY) for n in keys}
        headers |= {n: sent[n] for n in SENT if sent[n]} | {"content-type": "application/json"}
        url = self.origin + request.raw_path
        async with self.http.post(url, data=body, headers=headers, allow_redirects=False) as up:
            if up.status in range(300, 400):
                raise PermissionError(f"{self.origin} redirects elsewhere")
            reply.set_status(up.status)
            returned = {n: v for n, v in up.headers.items() if re.fullmatch(RETURNED, n.lower())}
            reply.headers.update({n: v.replace(API_KEY, "") for n, v in returned.items()})
            await reply.prepare(request)
            # No answer gives the key away: an end that could be its beginning waits for more. What
            # is too short to be a secret is a local server's dummy, and may well be in an answer.
            key, held = (API_KEY if len(API_KEY) > 15 else self.placeholder).encode(), b""
            async for chunk in up.content.iter_any():
                held = (held + chunk).replace(key, self.placeholder.encode())
                cut = len(held) - next(n for n in range(len(key))[::-1] if held.endswith(key[:n]))
                await reply.write(held[:cut])
                held = held[cut:]
            await reply.write_eof(held)
            return reply


SCRIPT = ["ls -la; head -n 30 README*", "./executable --help", "./executable --help >NOTES.md 2>&1"]


def rehearse(body: str) -> web.Response:
    """Answer as the scripted model, with one tool call: look around, run, note, finish."""
    step = sum("tool_calls" in message for message in json.loads(body)["messages"])
    tool, name = ("finish", "message") if step >= len(SCRIPT) else ("terminal", "command")
    arguments = json.dumps({name: [*SCRIPT, "NOTES.md has what the binary says of itself."][step]})
    use = {"id": f"{step}", "type": "function", "function": {"name": tool, "arguments": arguments}}
    return web.json_response({"choices": [{"message": {"role": "assistant", "tool_calls": [use]}}]})


# ## 5. The workspace and the submission
#
# The SDK's own workspace runs the container. Two of its methods change: where the image comes
# from, and that the pipe is laid before anyone knocks at the server's door. The submission is
# a gzipped tar of /workspace, where `programbench eval` looks for it, only with files, folders
# and links that stay inside.


def submittable(files: tarfile.TarFile) -> Generator[tarfile.TarInfo]:
    """Yield the members of /workspace that are the agent's to submit.

    What only root can read is not: that is the reference binary, under whatever name, since
    the agent can move it but not copy it. Nor are hard links to it, devices, and ways out.
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


def fresh(path: Path) -> Path:
    """Return a path where nothing is: what an older run left there is kept, under its time."""
    if path.exists():
        path.rename(path.with_name(f"{path.stat().st_mtime:.0f}-{path.name}"))
    return path


class Cleanroom(DockerDevWorkspace):
    """A `DockerDevWorkspace` without a network: the pipe is the only way in or out."""

    base_image: str | None = TASK_IMAGE
    network: str | None = "none"
    forward_env: list[str] = Field(default=[])  # else all see the key in `docker inspect`
    detach_logs: bool = False
    scratch: Path
    exits: Any = Field(exclude=True)  # what to undo in the end, even if a step below fails

    def get_image(self) -> str:
        """Return the sealed image, built if need be."""
        return cleanroom_image()

    def _wait_for_health(self, *, timeout: float) -> None:
        """Lay the pipe, then wait for the agent server to be ready, at most `timeout` seconds."""
        self.exits.callback(self.cleanup)
        pipe = open_pipe(f"{self._container_id}", self.host_port, self.scratch, f"{self.api_key}")
        # Never waited for, it stays a zombie when it has ended, so that its id stays its own.
        self.exits.callback(lambda: os.killpg(pipe.pid, signal.SIGTERM))
        super()._wait_for_health(timeout=timeout)

    def save(self, folder: Path, events: Iterable[BaseModel]) -> Path | None:
        """Save the trajectory, and /workspace as `submission.tar.gz`; say what is in that.

        The engine hands over the files, so this works whatever the agent did to its own tools;
        this side writes the archive anew. Returns None if the engine does not have them.
        """
        with open(fresh(folder / "trajectory.jsonl"), "w") as file:
            file.writelines(f"{event.model_dump_json()}\n" for event in events)
        # Frozen for the copy: a file that shrinks under it would break the engine's archive.
        copy = """exec 3>&1 >/dev/null; trap 'docker unpause $0' EXIT; for try in 1 2 3 4; do
            docker pause $0 && break; sleep 1; done 2>/dev/null; docker cp $0:/workspace/. - >&3"""
        command = ["sh", "-c", copy, f"{self._container_id}"]
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            with (
                contextlib.suppress(tarfile.ReadError),  # then the engine's status tells
                Popen(command, stdout=PIPE, process_group=0) as handed,
                tarfile.open(fileobj=handed.stdout, mode="r|") as files,
                tarfile.open(f"{scratch}/part", "w:gz", compresslevel=6) as archive,
            ):
                for member in submittable(files):
                    archive.addfile(member, files.extractfile(member) if member.isreg() else None)
            if handed.returncode:
                # (None is what `print` returns.)
                return print("error: the engine does not hand over the work", file=sys.stderr)
            path = Path(scratch, "part").rename(fresh(folder / "submission.tar.gz"))
        with tarfile.open(path) as archive:
            kept = archive.getmembers()
            notes = [archive.extractfile(m) for m in kept if m.name == "./NOTES.md" and m.isreg()]
            text = b"".join(file.read(64 << 10) for file in notes if file).decode(errors="replace")
        # The agent wrote this: nothing in it may move the cursor.
        print("\nNOTES.md:\n\n" + "".join(c for c in text if c.isprintable() or c in "\n\t") + "\n")
        top = sorted({member.name.split("/")[1] for member in kept if "/" in member.name})
        print(f"submission  {len(kept)} entries, {path.stat().st_size:,} bytes: {top}")
        return path


# ## 6. The audit
#
# Before the first token is spent, the agent's own shell tries what must not work.

AUDIT = {
    "nothing up but loopback": "cd /sys/class/net; [ $(grep -l '[13579bdf]$' */flags) = lo/flags ]",
    "not root": "[ $(id -u) != 0 ] && ! grep 'Cap.*:.*[1-9a-f]' /proc/self/status",
    "no way to root": f"grep NoNew.*1 /proc/self/status && ! [ -w {AGENT_PYTHON} ]",
    "no setuid shell": "! find / -xdev -path /agent-server -prune -o -perm -4000 "
    "-exec grep -l OPTIND {} + | grep .",
    "no key": "! env | grep -iE 'api_?key|token'",
    "a binary of root's that can be run": "[ -x executable ] && [ $(stat -c %u executable) = 0 ]",
    "no way to read the executable": "! (cat executable || chmod u+r executable)",
    "no way to link to the executable": "! ln executable linked",
    "no way to trace the executable": "sleep 1 | ./executable & sleep .2; ! cat /proc/$!/maps",
}


def audit(workspace: Cleanroom) -> None:
    """Let the agent's shell try; ends the script, with status 3, unless everything holds."""
    ask = "; ".join(f"({t}) >/dev/null 2>&1 && echo yes || echo NO" for t in AUDIT.values())
    answers = workspace.execute_command(ask, cwd="/workspace").stdout.split()
    verdicts = dict.fromkeys(AUDIT, "NO") | dict(zip(AUDIT, answers, strict=False))
    print("\n".join(f"{verdict:>12}  {claim}" for claim, verdict in verdicts.items()), flush=True)
    if broken := [claim for claim, verdict in verdicts.items() if verdict != "yes"]:
        fail(f"no LLM was called: {TASK_IMAGE}, or the engine, breaks {broken}.", 3)


# ## 7. The run


def main() -> int:
    """Run one task; returns 0 if the agent finished it."""
    # Anyone on this host can connect to the pipe's port: this key keeps them out.
    os.environ["OH_SESSION_API_KEYS_0"] = secrets.token_hex(32)
    with contextlib.ExitStack() as exits, open(os.devnull, "w") as null:
        scratch = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="cleanroom-")))
        relay = Relay(exits.enter_context(open(fresh(FOLDER / "llm_calls.jsonl"), "w")))
        portal = exits.enter_context(start_blocking_portal())
        exits.enter_context(portal.wrap_async_context_manager(relay.serving(scratch / "relay")))
        digest = run("start Docker", "docker image inspect --format={{.Id}}", TASK_IMAGE)
        say("Starting the container, where the agent's own shell tries what must not work")
        try:
            with contextlib.redirect_stdout(null):  # the SDK's echoes of Docker
                workspace = Cleanroom(target="source-minimal", scratch=scratch, exits=exits)
        except RuntimeError as error:
            fail(" ".join(f"{error}".split()))
        audit(workspace)
        base_url = f"http://127.0.0.1:{LLM_PORT}{relay.path}"
        llm = LLM(usage_id="agent", model=MODEL, api_key=relay.placeholder, base_url=base_url)
        agent = get_default_agent(llm, cli_mode=True)
        conversation = Conversation(agent=agent, workspace=workspace, delete_on_close=False)
        try:
            conversation.set_title(INSTANCE_ID)  # else the server asks the LLM for one
            conversation.send_message(INSTRUCTION)
            conversation.run(timeout=int(LIMIT))
        except ConversationRunError as error:
            print(f"The run ended early: {error} Last LLM call: {relay.last}", file=sys.stderr)
        finally:
            # From here on a first signal does not interrupt the saving; a second one ends all.
            for each in [each for each in STOPS if signal.getsignal(each) is stop]:
                signal.signal(each, lambda number, _: signal.signal(number, signal.SIG_DFL))
            try:
                path = workspace.save(FOLDER, conversation.state.events)
            except OSError as error:
                say(f"{error}: saving to the temp folder instead")
                path = workspace.save(Path(tempfile.mkdtemp()), conversation.state.events)
            stats = conversation.conversation_stats.get_combined_metrics()
            u = stats.accumulated_token_usage
            tokens = f"{u.prompt_tokens:,} in, {u.completion_tokens:,} out" if u else "none"
            with contextlib.redirect_stdout(null):
                exits.close()
            print(f"image       {TASK_IMAGE}, {digest}\nisolation   no network, audited")
            print(f"LLM calls   {len(relay.refusals)}, {sum(relay.refusals)} refused, to {MODEL}")
            print(f"tokens      {tokens}\nwall time   {time.monotonic() - BEGUN:.1f} s")
            print(f"SUBMISSION: {path}" if path else "There is no submission.")
            print(f"EXAMPLE_COST: {stats.accumulated_cost}", flush=True)
    return 0 if path and conversation.state.execution_status.value == "finished" else 1


if __name__ == "__main__":
    os._exit(main())  # all is closed: Python would take 1.5 s more to free what it imported
