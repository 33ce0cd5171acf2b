# /// script
# requires-python = ">=3.12"
# dependencies = [
#     "openhands-sdk==1.58.0",
#     "openhands-tools==1.58.0",
#     "openhands-workspace==1.58.0",
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
from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from importlib.metadata import version
from pathlib import Path
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
# ProgramBench calls the image of the task <owner>__<repo>.<sha> <owner>_1776_<repo>.<sha>.
INSTANCE_ID = re.sub(r"^(.*/)?|[:@].*", "", TASK_IMAGE).replace("_1776_", "__")
# `programbench eval` looks for a run's submissions in folders that bear their instance ids.
FOLDER = Path(setting("PROGRAMBENCH_OUTPUT_DIR", "submissions")) / INSTANCE_ID
CHARACTERISE = """Characterise /workspace/executable, which you can run but not read, and write to
/workspace/NOTES.md all that a rebuild must get right. The docs are there too, a network is not."""
INSTRUCTION = setting("PROGRAMBENCH_INSTRUCTION", CHARACTERISE)
LIMIT = setting("PROGRAMBENCH_TIME_LIMIT", "3600", r"[1-9]\d{0,5}", "set it to whole seconds.")
API_KEY = setting("LLM_API_KEY", secrets.token_hex(), ".+", "unset it to rehearse without an LLM.")
setting("TMPDIR", "/tmp", r"[^:%\s]{,80}", "set it to a short path, without : or % or spaces.")
REHEARSAL = not {"LLM_API_KEY", "LLM_BASE_URL"} & os.environ.keys()
MODEL = "openai/rehearsal" if REHEARSAL else setting("LLM_MODEL", "anthropic/claude-sonnet-4-5")
PROVIDER, _, MODEL_NAME = MODEL.partition("/")
ORIGINS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
URL = r"https?://[\w.:\[\]-]+(/[\w./~-]*)?"
BASE_URL = setting("LLM_BASE_URL", ORIGINS.get(PROVIDER, ""), URL, f"set it to {MODEL}'s API.")
SDK_VERSION, SDK_SOURCE = version("openhands-sdk"), setting("OPENHANDS_SDK_SOURCE")

# What may end a run from outside; the pipe's own end raises SIGURG, which no one else does here.
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGURG)


def stop(number: int, _: object) -> NoReturn:
    """End the work at the first signal, so that it is saved; a second one ends the script."""
    for end in ENDS:
        signal.signal(end, signal.SIG_DFL)
    gone = "the agent server, its container or the pipe has ended" * (number == signal.SIGURG)
    print(f"\nThe run ended early: {gone or signal.Signals(number).name}.", file=sys.stderr)
    raise SystemExit(1 if gone else 128 + number)


BEGUN = time.monotonic()


def say(step: str) -> None:
    """Print what comes next, after the seconds since the start."""
    print(f"[{time.monotonic() - BEGUN:6.1f} s] {step}", flush=True)


def run(remedy: str, command: str, *arguments: str | Path, **options: Any) -> str:
    """Return what a command prints; if it fails, end with the remedy and its own words."""
    # In a process group of its own, so that nothing of it outlives the script.
    options |= {"stdout": -1, "stderr": -1, "text": True, "process_group": 0}
    try:
        with subprocess.Popen([*command.split(), *arguments], **options) as process:
            try:
                output, words = process.communicate()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
    except OSError as error:
        fail(f"{error}: {remedy}.")
    if process.returncode:
        print(words * (len(words) > 500), end="", flush=True)  # the sentence holds but its end
        fail(f"{remedy}; `{command}` says: {' '.join((words or output).split())[-500:]}")
    return output.strip()


# ## 2. The image
#
# The SDK layers its agent server onto any base image, but it builds from a checkout of its own
# source, which nobody has who installed it with pip.

SDK = "https://github.com/OpenHands/software-agent-sdk.git"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "openhands"


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
RUN (apt-get update && apt-get install -y --no-install-recommends openssh-server && rm -rf \
    /var/lib/apt/lists/* /var/cache/apt/*) || apk add openssh || dnf install -y openssh-server
RUN --mount=from={TASK_IMAGE},target=/task set -e; setpriv --version; cd /workspace; \
    id agent || useradd -ms /bin/bash agent; rmdir --ignore-fail-on-non-empty project; \
    chown -R agent: .; rm -f executable; T=/task/workspace/executable; [ ! -e $T ] || cp -a $T .
ENV HOME=/home/agent LITELLM_LOCAL_MODEL_COST_MAP=True OH_PRELOAD_TOOLS=false \
    OH_CONVERSATIONS_PATH=/home/agent/conversations OH_BASH_EVENTS_DIR=/home/agent/bash_events
ENTRYPOINT ["tini", "--", "sh", "-c", "sleep 15; [ -e /run/pipe ] && exec sleep infinity"]
"""
STATE = "commit=$(git rev-parse HEAD) && echo $commit-$(git diff HEAD | git hash-object --stdin)"


def cleanroom_image() -> str:
    """Return the tag of the sealed image: a digest of all that goes in, so never stale."""
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
        remedy = "install git, and let it read OPENHANDS_SDK_SOURCE"
        label = f"LABEL task={task} sdk=" + run(remedy, "sh -c", STATE, cwd=sdk)
        dockerfile.write_text((sdk / DOCKERFILE).read_text() + SEAL + label)
        tag = "programbench-cleanroom:" + run(remedy, "git hash-object", dockerfile)
        if run(remedy, "docker image ls --quiet", tag):
            return tag
        run("install Docker's buildx plugin", "docker buildx version")
        root, host = run(remedy, "docker info --format={{.DockerRootDir}}|{{.Name}}").split("|")
        space = '[ "$1" != "$(uname -n)" ] || [ $(df --output=avail "$0" | tail -n 1) -ge 5242880 ]'
        run(f"free 5 GiB of disk in {root}, or set DOCKER_HOST", "sh -c", space, root, host)
        say(f"Building the agent server onto {TASK_IMAGE}, and sealing it")
        remedy = "PROGRAMBENCH_TASK_IMAGE must have setpriv and a package manager (apt, apk or dnf)"
        # The coding CLIs of INSTALL_ACP_PROVIDERS would add 600 MB that nothing here runs.
        args = f"--build-arg=INSTALL_ACP_PROVIDERS= --build-arg=BASE_IMAGE={TASK_IMAGE} --tag={tag}"
        run(remedy, f"docker buildx build --load --platform=linux/amd64 {args} -f", dockerfile, sdk)
    return tag


if __name__ == "__main__":
    for end in ENDS:
        signal.signal(end, stop)
    say(f"{INSTANCE_ID}: " + ("a rehearsal, as there is no LLM_API_KEY" if REHEARSAL else MODEL))
    if SDK_SOURCE:
        sdk_source()
    writable = 'mkdir -p "$0" && rm "$(mktemp -p "$0")"'
    run("set PROGRAMBENCH_OUTPUT_DIR to a folder that can be written", "sh -c", writable, FOLDER)
    run("install OpenSSH's client", "ssh -V")
    cleanroom_image()

# LiteLLM would fetch a price list, with retries; the one that it ships with will do. And an agent
# that puts itself in its server's place must not redirect the SDK's event socket elsewhere.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENHANDS_SUPPRESS_BANNER": "1"}
os.environ |= {"LOG_LEVEL": "ERROR"} | os.environ | {"WEBSOCKETS_MAX_REDIRECTS": "1"}

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

CONTAINER_END = """mkdir -p /run/sshd; ssh-keygen -qt ed25519 -N '' -f /run/key
sed -i 's/^root:!/root:*!/' /etc/shadow; exec /usr/sbin/sshd -i -f /dev/null -h /run/key \
    -oUsePAM=no -oAuthorizedKeysCommandUser=nobody -o"AuthorizedKeysCommand=/bin/echo $0" """
# When the disk is full, the server hangs: better it ends.
# The agent server runs as the benchmark's user, `agent`, who owns nothing in /agent-server, with
# the image's environment and, from this host, the key to its door. Looking for garbage less often
# than Python does saves a quarter of its start.
SERVER = f"""touch /run/pipe; cd /; read -r OH_SESSION_API_KEYS_0; export OH_SESSION_API_KEYS_0
exec 2>/dev/null 3<&0; (cat <&3; sleep 10; kill 1) >/dev/null &
(timeout 120 bash -c 'until : </dev/tcp/127.0.0.1/{SERVER_PORT}; do sleep .05; done'; echo) &
(while [ $(stat -fc %a ~agent) -gt 999 ]; do sleep 3; done; kill $PPID) &
xargs -0 sh -c 'exec env "$@" setpriv --reuid=agent --regid=agent --init-groups \
    --no-new-privs --inh-caps=-all --bounding-set=-all {AGENT_PYTHON} -c "import gc; \
    gc.set_threshold(50_000); from openhands.agent_server.__main__ import main; main()" \
    --port={SERVER_PORT}' - </proc/1/environ >/proc/1/fd/1 2>&1 3<&-; kill $PPID"""


def open_pipe(container: str, port: int | None, scratch: Path, key: str) -> subprocess.Popen[str]:
    """Lay the pipe, from `port` here and to `scratch`/relay; it runs the agent server."""
    run("install OpenSSH", "ssh-keygen -qt ed25519 -C cleanroom -N", "", f"-f{scratch}/key")
    end = f"docker exec -i --user=root {container} sh -c".split()
    proxy = shlex.join((*end, CONTAINER_END, (scratch / "key.pub").read_text().strip()))
    ssh = f"""ssh -F/dev/null -oBatchMode=yes -oIdentitiesOnly=yes -oStrictHostKeyChecking=no -lroot
        -oUserKnownHostsFile=/dev/null -oExitOnForwardFailure=yes -oLogLevel=ERROR -i{scratch}/key
        -L127.0.0.1:{port}:127.0.0.1:{SERVER_PORT} -R127.0.0.1:{LLM_PORT}:{scratch}/relay box"""
    # In a session of its own: Ctrl-C in a terminal must not cut it before the work is saved.
    # An agent that opens connections without end must not use up what this script may open.
    work = 'ulimit -n 400; SHELL=/bin/sh "$@"; rm -rf "$0"; kill -URG $PPID'
    shell = ["sh", "-c", work, f"{scratch}", *ssh.split(), f"-oProxyCommand={proxy}", SERVER]
    pipe = subprocess.Popen(shell, stdin=-1, stdout=-1, text=True, start_new_session=True)
    print(key, file=pipe.stdin, flush=True)
    return pipe if pipe.stdout and pipe.stdout.readline() else fail("there is no agent server", 1)


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
    max_tokens max_completion_tokens max_output_tokens thinking reasoning reasoning_effort verbosity
    response_format output_config cache_control prompt_cache_key prompt_cache_retention user
    safety_identifier type function name description parameters input_schema strict""".split()
KEYS, SENT = {"authorization", "x-api-key", "api-key"}, {"anthropic-version", "anthropic-beta"}
# The SDK takes the cost of a call from what a LiteLLM proxy says of it.
RETURNED = r"content-type|retry-after(-ms)?|(x-)?request-id|x-litellm-response-cost"
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
            if REHEARSAL:
                reply = web.json_response(rehearse(json.loads(body)))
            else:
                await self.forward(request, body, reply)
        except (ClientError, OSError) as error:
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

        Raises PermissionError for any other. A body that is read takes many times its size, so
        that none is kept so: an agent must not use up the memory of this script.
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
            # Where and why, but not what: the ledger holds nothing of a body.
            raise PermissionError(" ".join(str(error).split("[type=")[0].split())) from None
        names = {*body, *(name for tool in body.get("tools", ()) for name in tool)}
        if unlisted := sorted(names - {*FIELDS}):
            raise PermissionError(f"{', '.join(unlisted)}: not let through")
        return body["model"], json.dumps(body)

    async def forward(self, request: web.BaseRequest, body: str, reply: web.StreamResponse):
        """Send what was checked, and pass the answer on as it comes."""
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
    return {"choices": [{"message": {"role": "assistant", "tool_calls": [call]}}]}


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


def fresh(path: Path) -> Path:
    """Return a path where nothing is: what an older run left there is kept, under its time."""
    if path.exists():
        path.rename(path.with_name(f"{path.stat().st_mtime:.0f}-{path.name}"))
    return path


class CleanroomWorkspace(DockerDevWorkspace):
    """A `DockerDevWorkspace` without a network: the pipe is the only way in or out."""

    base_image: str | None = TASK_IMAGE
    network: str | None = "none"
    forward_env: list[str] = Field(default=[])
    detach_logs: bool = False
    scratch: Path
    exits: Any = Field(exclude=True)

    def get_image(self) -> str:
        """Return the sealed image, built if need be."""
        return cleanroom_image()

    def _wait_for_health(self, *, timeout: float) -> None:
        """Lay the pipe, then wait for the agent server, at most `timeout` seconds."""
        self.exits.callback(self.cleanup)
        pipe = open_pipe(f"{self._container_id}", self.host_port, self.scratch, f"{self.api_key}")
        # It may have ended, but `pipe` is kept and never waited for, so that its id stays its own.
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
                subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as handed,
                tarfile.open(fileobj=handed.stdout, mode="r|") as files,
                tarfile.open(f"{scratch}/part", "w:gz", compresslevel=6) as archive,
            ):
                for member in submittable(files):
                    archive.addfile(member, files.extractfile(member) if member.isreg() else None)
            if handed.returncode:
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
    "no interface but loopback": "[ $(ls /sys/class/net) = lo ] && ! grep -v Iface /proc/net/route",
    "not root": "[ $(id -u) != 0 ] && ! grep 'Cap.*:.*[1-9a-f]' /proc/self/status",
    "no way to root": f"grep NoNew.*1 /proc/self/status && ! [ -w {AGENT_PYTHON} ]",
    "no setuid shell": "! find / -xdev -perm -4000 -exec grep -q OPTIND {} \\; -print | grep .",
    "no key": "! env | grep -iE 'api_?key|token'",
    "a binary of root's that can be run": "[ -x executable ] && [ $(stat -c %u executable) = 0 ]",
    "no way to read the executable": "! (cat executable || chmod u+r executable)",
    "no way to link to the executable": "! ln executable linked",
    "no way to trace the executable": "sleep 1 | ./executable & sleep .2; ! cat /proc/$!/maps",
}


def audit(workspace: CleanroomWorkspace) -> None:
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
        with contextlib.redirect_stdout(null):  # the SDK's echoes of Docker
            workspace = CleanroomWorkspace(target="source-minimal", scratch=scratch, exits=exits)
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
            # What comes first after this does not interrupt the saving.
            for end in [end for end in ENDS if signal.getsignal(end) is stop]:
                signal.signal(end, signal.SIG_IGN)
            try:
                path = workspace.save(FOLDER, conversation.state.events)
            except OSError as error:
                say(f"{error}: saving to the temp folder instead")
                path = workspace.save(Path(tempfile.mkdtemp()), conversation.state.events)
            stats = conversation.conversation_stats.get_combined_metrics()
            used = (u := stats.accumulated_token_usage) and (u.prompt_tokens, u.completion_tokens)
            with contextlib.redirect_stdout(null):
                exits.close()
            print(f"image       {TASK_IMAGE}, {digest}\nisolation   no network, audited")
            print(f"LLM calls   {len(relay.refusals)}, {sum(relay.refusals)} refused, to {MODEL}")
            print(f"tokens      {used}, in and out\nwall time   {time.monotonic() - BEGUN:.1f} s")
            submission = f"SUBMISSION: {path}\n" * bool(path)
            print(f"{submission}EXAMPLE_COST: {stats.accumulated_cost}", flush=True)
    return 0 if path and conversation.state.execution_status.value == "finished" else 1


if __name__ == "__main__":
    os._exit(main())  # all is closed: Python would take 1.5 s more to free what it imported
