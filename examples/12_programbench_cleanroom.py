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
"""An OpenHands agent in a ProgramBench cleanroom: no network, no root, one pipe.

ProgramBench hands an agent a compiled program with its documentation, and asks it to
rebuild the program without any network. An OpenHands agent runs *inside* the container,
behind an HTTP server, and calls its LLM from there: without a network nobody reaches
the server, nor the agent its LLM. This example lays one pipe in the network's place:

  host: this script                        container: --network none, no root process
 +----------------------------+ docker exec +----------------------------------------+
 | SDK client                 |    (SSH)    |                                        |
 |   -> 127.0.0.1:PORT -------+-->       >--+-> 127.0.0.1:8000 agent server  (agent) |
 |                            |             |      tools: shell, editor      (agent) |
 | LiteLLM <- LLM relay     <-+--<       <--+-- 127.0.0.1:4999 LLM, no key   (agent) |
 |  key, policy, cost, ledger |             |   PID 1, the pipe's end    (openhands) |
 +----------------------------+             |   executable, 0111  (root: no process) |
                                            +----------------------------------------+

Run `python examples/12_programbench_cleanroom.py` with Docker, its buildx, git and
OpenSSH's client. Unless LLM_MODEL, LLM_API_KEY or LLM_BASE_URL is set, it rehearses.

Where the guarantee stops: a model may remember the original's source. Code that the
agent loads into the running binary with LD_PRELOAD sees its memory. An agent that sets
oom_score_adj to 0 and fills the memory can end the container. The engine is trusted.
"""

# The SDK and LiteLLM leave some types out.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
import asyncio
import contextlib
import gc
import hashlib
import json
import logging
import math
import os
import pwd
import re
import secrets
import shutil
import signal
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
import warnings
import zlib
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from importlib.metadata import version
from io import BufferedWriter, RawIOBase
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import IO, Annotated, Any, Literal, LiteralString, NoReturn, Self, cast
from urllib.parse import urlsplit


if "openhands.sdk" not in sys.modules:  # These are read when it is imported.
    # LiteLLM ships with the price list that it would fetch over the network.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    # It would look for secrets in a long error for minutes. The relay masks them.
    os.environ["LITELLM_DISABLE_REDACT_SECRETS"] = "True"
    # Whoever takes the server's place cannot lead the SDK's event socket elsewhere.
    os.environ["WEBSOCKETS_MAX_REDIRECTS"] = "1"
    # What the SDK logs, it also raises, and this script tells it in a sentence.
    os.environ.setdefault("LOG_LEVEL", "CRITICAL")
    os.environ["OPENHANDS_SUPPRESS_BANNER"] = "1"
    try:
        Path.home()
    except RuntimeError:  # which the SDK's import would raise; check_user() tells of it
        os.environ["HOME"] = "/nowhere"

import httpx
import litellm
from fastapi import FastAPI, Request, Response
from filelock import FileLock
from litellm.caching.llm_caching_handler import LLMClientCache
from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError, from_json
from rich.console import Console
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from openhands.sdk import LLM, Conversation, Event, LLMConvertibleEvent
from openhands.sdk.conversation import BaseConversation, DefaultConversationVisualizer
from openhands.sdk.conversation.exceptions import WebSocketConnectionError
from openhands.sdk.event import ActionEvent, ObservationBaseEvent
from openhands.sdk.llm.call_context import LLMCallContext
from openhands.sdk.llm.options import chat_options, responses_options
from openhands.sdk.llm.utils.litellm_provider import LLMProvider
from openhands.sdk.llm.utils.model_features import get_features
from openhands.sdk.llm.utils.openhands_provider import litellm_call_kwargs
from openhands.tools.preset.default import get_default_agent
from openhands.workspace import DockerDevWorkspace
from openhands.workspace.docker.workspace import find_available_tcp_port


# ## Settings

CMATRIX = "programbench/abishekvashok_1776_cmatrix.5c082c6:task_cleanroom_v6"
INSTRUCTION = r"^(characterise|rebuild)$|\s"  # one other word is a slip
IMAGE_NAME = r"^(\w[\w.:-]*/)*[a-z0-9][\w.-]*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?$"


class Settings(
    BaseModel,
    alias_generator=str.upper,
    use_attribute_docstrings=True,
    str_strip_whitespace=True,
    str_min_length=1,
    allow_inf_nan=False,
):
    """All settings; each is the environment variable of its name in capitals."""

    llm_model: str = "anthropic/claude-sonnet-5-5"
    """the model in LiteLLM's notation, <provider>/<model>"""
    llm_api_key: SecretStr | None = None
    """the provider's key, which never enters the container"""
    llm_base_url: str | None = None
    """where calls to the LLM go, if not to the provider's own address"""
    llm_cost_limit: float | None = Field(None, gt=0)
    """the most that all calls to the LLM may cost together, in USD"""
    llm_input_cost_per_token: float | None = Field(None, ge=0)
    """the price of a token that the LLM reads, in USD, if LiteLLM does not know it"""
    llm_output_cost_per_token: float | None = Field(None, ge=0)
    """the price of a token that the LLM writes, in USD, if LiteLLM does not know it"""
    programbench_task_image: str = Field(CMATRIX, pattern=IMAGE_NAME)
    """the name of the task's cleanroom image"""
    programbench_output_dir: Path = Path("submissions")
    """the run folder, which gets a folder for each task"""
    programbench_instruction: str = Field("characterise", pattern=INSTRUCTION)
    """what the agent is to do: characterise, rebuild, or a text of several words"""
    programbench_time_limit: int | None = Field(None, gt=0, lt=1_000_000)
    """how long the agent may work, in whole seconds"""
    programbench_command_limit: int = Field(180, gt=0, lt=1_000_000)
    """how long a command of the agent's may run, in whole seconds"""
    programbench_step_limit: int | None = Field(None, gt=0, lt=1_000_000)
    """how many steps the agent may take, a whole number"""
    openhands_sdk_source: Path | None = None
    """a checkout of the OpenHands SDK, in the version that is installed"""


# ## The run


def main() -> int:
    """Run one task; returns the exit status, which is 0 if the agent finished."""
    settings = settings_from_environment()
    rehearsal = is_rehearsal(settings)
    job = job_of(settings)
    folder = results_folder(settings)
    say(f"{'A rehearsal' if rehearsal else settings.llm_model}, into {folder}")
    check_host(folder)
    llm = LLM(
        usage_id="agent",
        model="openai/rehearsal" if rehearsal else settings.llm_model,
        api_key=settings.llm_api_key,
        base_url=settings.llm_base_url,
        input_cost_per_token=settings.llm_input_cost_per_token,
        output_cost_per_token=settings.llm_output_cost_per_token,
    )
    if not rehearsal:
        check_provider(llm, settings.llm_cost_limit)
    set_older_results_aside(folder)
    with (
        Relay(
            llm,
            ledger=folder / "llm_calls.jsonl",
            cost_limit=settings.llm_cost_limit,
            call_limit=job.call_limit,
            rehearsal=rehearsal,
        ) as relay,
        Cleanroom(
            base_image=settings.programbench_task_image,
            target="source-minimal",
            network="none",
            relay_socket=relay.socket,
            sdk_source=settings.openhands_sdk_source,
        ) as workspace,
    ):
        audit(workspace)
        results = Results(folder, workspace, relay, job)
        command_limit = CommandLimit(workspace, settings.programbench_command_limit)
        conversation = Conversation(
            agent=get_default_agent(llm=relay.llm_for_the_box, cli_mode=True),
            workspace=workspace,
            max_iteration_per_run=job.step_limit,
            callbacks=[command_limit, results.note],
            visualizer=PlainVisualizer(),
            delete_on_close=False,
        )
        try:
            # Without a title of ours, the server would pay the LLM for one.
            conversation.set_title(folder.name)
            conversation.send_message(job.instruction)
            with results.checkpoints():
                conversation.run(timeout=job.time_limit)
            status = 0 if has_finished(conversation) else 1
        except (Exception, Stopped) as error:
            status = tell_early_end(error, workspace, relay)
        submission = results.save(conversation, status)
    conversation.close()  # sooner, it would wait five seconds for another event
    print_summary(workspace, relay, submission)
    print(f"EXAMPLE_COST: {relay.cost}", flush=True)
    return status if submission else 1


class CleanroomError(Exception):
    """What the user is told in one sentence; `status` is the script's exit status."""

    def __init__(self, sentence: str, status: int = 2):
        super().__init__(sentence)
        self.status = status


def settings_from_environment() -> Settings:
    """Read the settings; tells all that is wrong with them at once."""
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted({*os.environ} - known):
        if name.startswith("PROGRAMBENCH_"):
            say(f"Warning: {printable(name)} is no setting of this script")
    try:
        return Settings.model_validate(dict(os.environ))
    except ValidationError as error:
        problems: list[str] = []
        for problem in error.errors():
            name = str(problem["loc"][0])
            meaning = Settings.model_fields[name.lower()].description
            wrong = problem["msg"]
            if not os.environ[name].strip():
                wrong = "It is empty"
            elif problem["type"] == "string_pattern_mismatch":
                wrong = "It has another form"
            problems.append(f"{name}: {wrong}. Unset it, or set it to {meaning}.")
        raise CleanroomError("\nerror: ".join(problems)) from None


def is_rehearsal(settings: Settings) -> bool:
    """Whether a scripted model stands in, as nothing says which LLM to call."""
    return not settings.model_fields_set & {"llm_model", "llm_api_key", "llm_base_url"}


def results_folder(settings: Settings) -> Path:
    """Return the folder where `programbench eval` looks for the task's submission.

    It is named after the task: the image of <owner>__<repo>.<sha> is called
    <owner>_1776_<repo>.<sha>.
    """
    image = settings.programbench_task_image.split("/")[-1]
    instance_id = re.split("[:@]", image)[0].replace("_1776_", "__")
    return settings.programbench_output_dir / instance_id


def check_host(folder: Path) -> None:
    """Tell what this host lacks before anything slow starts."""
    if "Podman" in run(["docker", "version"], hint=ENGINE_HINT):
        raise CleanroomError("Podman is not supported: it has no BuildKit. Use Docker.")
    run(["docker", "buildx", "version"], hint="install Docker's buildx plugin")
    run(["git", "--version"], hint="install git")
    check_user()
    check_proxies()
    run(["ssh", "-V"], hint=SSH_HINT)
    check_writable(folder, setting="PROGRAMBENCH_OUTPUT_DIR")
    check_writable(CACHE, setting="XDG_CACHE_HOME")


def check_user() -> None:
    """Tell if nobody on this host has this process's user id: ssh runs for nobody."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        raise CleanroomError(
            f"The user id {os.getuid()} is nobody's on this host, and ssh does not run "
            "for nobody: give it an entry in /etc/passwd."
        ) from None


def check_proxies() -> None:
    """Tell if the environment names a proxy that httpx cannot use."""
    try:
        httpx.Client().close()
    except (ValueError, httpx.InvalidURL) as error:
        raise CleanroomError(
            f"{error}: mend http_proxy, https_proxy or all_proxy, or unset it."
        ) from None


def check_writable(folder: Path, setting: str) -> None:
    """Make a folder, and make sure that files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CleanroomError(
            f"{error}: set {setting} to a folder to write to."
        ) from None


class Job(BaseModel):
    """What the agent is to do, and within which limits."""

    instruction: str
    step_limit: int
    time_limit: int
    """seconds"""

    @property
    def call_limit(self) -> int:
        """The SDK's retries and its condenser make calls besides the steps."""
        return 3 * self.step_limit


def job_of(settings: Settings) -> Job:
    """Return the job that is asked for by its name, or in a text of the user's own.

    The limits of "rebuild", the benchmark's own task, are those of its harness.
    """
    name = settings.programbench_instruction
    rebuild = name == "rebuild"
    job = Job(
        instruction=name,
        step_limit=settings.programbench_step_limit or (1000 if rebuild else 500),
        time_limit=settings.programbench_time_limit or (21_600 if rebuild else 3600),
    )
    if name in ("characterise", "rebuild"):
        about_the_box = ABOUT_THE_BOX.format(
            command_limit=settings.programbench_command_limit,
            step_limit=job.step_limit,
            time_limit=job.time_limit,
        )
        job.instruction = (REBUILD if rebuild else CHARACTERISE) + about_the_box
    return job


CHARACTERISE = """\
/workspace holds a compiled program, `executable`, and its documentation. Characterise
the program: write to /workspace/NOTES.md all that a rebuild must get right, such as
options, formats of input and output, exit statuses and messages.
"""

REBUILD = """\
/workspace holds a compiled program, `executable`, and its documentation. Rebuild the
program from what you read there and see it do:
- Write its sources, in any language that can be built here, to /workspace.
- Write /workspace/compile.sh, which builds them and leaves the program as
  /workspace/executable. Move the reference aside first, or it is overwritten.
- Have a .gitignore leave out what is built, and commit the rest.
It is tested, by tests that you do not see, whether your program does the same as the
reference, to the byte of its output and its exit status. Try much of what the
documentation names, and errors too.
"""

ABOUT_THE_BOX = """
The tests run a program without a terminal, and without TERM, LANG and LC_ALL. See what
they see with
    env -u TERM -u LANG -u LC_ALL timeout 5 ./executable </dev/null 2>&1 | cat
What a program does with a whole screen you see in a tmux of your own:
    tmux -L mine new-session -d -x 80 -y 24 ./executable
    tmux -L mine capture-pane -p

There is no network. A command that keeps printing is stopped after {command_limit}
seconds. You have {step_limit} steps and {time_limit} seconds. Give the terminal one
statement at a time, or several of them in ( ... ). Where your work is built and tested,
git, tmux and the programs of OpenSSH may be missing.

You may run the reference and read the documentation. You may not decompile, trace or
disassemble the reference, load code into it, or have your work call, contain or fetch
it or its sources. Work that does is disqualified.
"""


# Signals: the first one ends the agent's work, which is then saved; one that comes
# while the work is saved waits for that; another one ends the script at once. SIGURG
# says that the pipe or the agent server has ended: this script sends it to itself.

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGURG)


class Stopped(BaseException):
    """A signal says that the run is to end. No library must swallow it, as it might an
    Exception.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number
        if number == signal.SIGURG:
            self.args = ("the agent server, its container or the pipe has ended",)
            self.status = 1


def stop(number: int, _: object) -> NoReturn:
    """End what is being done; the next signal will end the script."""
    leave_at_next_signal()
    raise Stopped(number)


def leave_at_next_signal(*_: object) -> None:
    """Have the next signal do what it does to other programs."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def finish_before_stopping() -> None:
    """Let what comes now be finished, unless a second signal comes."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is stop:
            signal.signal(number, leave_at_next_signal)


class PlainVisualizer(DefaultConversationVisualizer):
    """The SDK's view of the conversation, without control characters of the agent's.

    They could move the cursor of the operator's terminal, or do worse. And all of it is
    indented: only this script's own lines, the audit's and the summary's among them,
    begin at the left edge.
    """

    def __init__(self):
        super().__init__()
        self._console.width -= len(INDENT)

    def on_event(self, event: Event) -> None:
        """Show an event."""
        plain = printable_values(event.model_dump(mode="json"))
        with self._console.capture() as captured:
            super().on_event(type(event).model_validate(plain))
        print_if_read(textwrap.indent(captured.get(), INDENT), end="")


def printable_values(value: Any) -> Any:
    """Return a value of JSON in which every text is fit for a terminal."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_values(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {printable(name): printable_values(members[name]) for name in members}
    return value


def has_finished(conversation: BaseConversation) -> bool:
    """Whether the agent said that it is done."""
    return conversation.state.execution_status.value == "finished"


def tell_early_end(error: BaseException, workspace: "Cleanroom", relay: "Relay") -> int:
    """Say why the run ended early; returns the exit status."""
    finish_before_stopping()
    cause = one_line(what_went_wrong(error), 200)
    if isinstance(error, Stopped):
        cause = workspace.cause_of_end() or cause
    else:
        last_call = one_line(relay.last, 200)
        cause += f" Last LLM call, to {relay.provider}: {last_call}"
    print_if_read(f"\nThe run ended early: {cause}", sys.stderr)
    return error.status if isinstance(error, Stopped) else 1


def what_went_wrong(error: BaseException) -> str:
    """Say what an exception says, and what the agent server said where it failed."""
    # What the SDK wraps in an error of its own, which says little more than an id.
    error = getattr(error, "original_exception", error)
    if isinstance(error, httpx.HTTPStatusError):
        words = " ".join(error.response.text.split())[:500]
        status = error.response.status_code
        return printable(f"The agent server answers with {status}: {words}")
    return printable(f"{error}" or type(error).__name__)


def print_summary(
    workspace: "Cleanroom", relay: "Relay", submission: Path | None
) -> None:
    """Print what the run was and what came of it."""
    if submission:
        print_submission(submission)
    if image := workspace.task_image:
        print(f"image       {image.name}, {image.id}")
    print("isolation   no network, no root, audited")
    print(f"LLM calls   {relay.calls}, {relay.refused} refused, to {relay.llm.model}")
    print(f"tokens      {relay.tokens_in:,} in, {relay.tokens_out:,} out")
    print(f"wall time   {time.monotonic() - STARTED:.1f} s")
    print(f"SUBMISSION: {submission}" if submission else "There is no submission.")


# ## The image
#
# It is made in three steps: the task image made plain, the SDK's own source-minimal
# layer, and the seal. What runs in the container is a few small scripts in the seal.

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "openhands"
SDK_VERSION = version("openhands-sdk")
SDK_REPOSITORY = "https://github.com/OpenHands/software-agent-sdk.git"
SDK_DOCKERFILE = "openhands-agent-server/openhands/agent_server/docker/Dockerfile"
IMAGE_SPACE = 5 << 30  # bytes of disk, for a pull as for a build

# A task image carries more than files: its user, its entrypoint and its variables would
# reach the agent server. The variables are for the agent's shells only.
PLAIN = r"""
ARG TASK_IMAGE
FROM ${TASK_IMAGE}
USER root
SHELL ["/bin/sh", "-c"]
WORKDIR /
RUN <<'EOF'
set -e
PATH=/usr/sbin:/usr/bin:/sbin:/bin
for kind in passwd group
do
    name=$(getent $kind 10001 | cut -d : -f 1)
    if [ "${name:-openhands}" != openhands ]
    then
        echo "$name has the id 10001 in /etc/$kind, which the agent server needs" >&2
        exit 1
    fi
done
if [ -L /workspace ]
then
    echo "/workspace is a symbolic link, not a folder" >&2
    exit 1
fi
if [ ! -d /workspace ]
then
    echo "there is no folder /workspace, as every cleanroom image has one" >&2
    exit 1
fi
chmod 1777 /tmp
if ! getent passwd agent
then
    getent group agent || groupadd agent
    useradd --create-home --shell /bin/bash --gid agent agent
fi
EOF

# The benchmark's harness and its grader use login shells. The agent's shells get the
# variables of one, but for those of a terminal and those that the SDK sets.
COPY <<'EOF' /cleanroom/show_variables
unset HOME USER LOGNAME SHELL SHLVL PWD OLDPWD TERM LANG LANGUAGE LC_ALL
unset PS1 PROMPT_COMMAND ENV BASH_ENV
# No proxy is in reach of the box. A build also has those of the Docker client, with
# what passwords they may hold.
unset http_proxy https_proxy ftp_proxy all_proxy no_proxy
unset HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY NO_PROXY
# Debian's /etc/profile replaces the PATH that the image sets.
PATH=$PATH:$IMAGE_PATH
unset IMAGE_PATH
export -p >&3
EOF
RUN <<'EOF'
set -e
cd /cleanroom
export HOME=/home/agent
export IMAGE_PATH="$PATH"
timeout --signal=KILL 20 \
    /usr/sbin/runuser -u agent -- /bin/bash -l show_variables 3>variables || :
# A start file that ends the shell, or waits, must not take the image's own along.
[ -s variables ] || /bin/bash -p show_variables 3>variables
{
    # Only in the first shell: what the agent then changes is not changed back.
    echo 'if [ -z "$TASK_VARIABLES" ]; then export TASK_VARIABLES=set'
    # As in the benchmark's harness: nothing waits for a key, or draws on the screen.
    echo 'export PAGER=cat MANPAGER=cat LESS=-R PIP_PROGRESS_BAR=off TQDM_DISABLE=1'
    # A shell is not to end while it waits, or where a command fails.
    grep -v -E ' (TMOUT|SHELLOPTS|BASHOPTS)=' variables
    echo fi
} >task_variables
touch /etc/bash.bashrc
sed -i '1i . /cleanroom/task_variables' /etc/bash.bashrc
rm show_variables variables
EOF

# A start file that ends the shell, or waits, would do so to the agent's terminal.
RUN <<'EOF'
export HOME=/home/agent
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
a_shell_works() {
    echo 'false; PROMPT_COMMAND=; exit 42' | timeout 20 runuser -u agent -- bash -i
    [ $? = 42 ]
}
a_shell_works || mv /home/agent/.bashrc /home/agent/.bashrc.unfit
a_shell_works || echo '. /cleanroom/task_variables' >/etc/bash.bashrc
EOF

HEALTHCHECK NONE
STOPSIGNAL SIGTERM
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""

# Written below the SDK's own Dockerfile, which has the stages `builder` and
# `source-minimal`.
SEAL = r"""
FROM builder AS bytecode
# With it, the agent server starts in half the time. It is of what the server imports
# until its first call: that of all its packages would take three times the space.
RUN <<'EOF'
#!/agent-server/.venv/bin/python -I
import os
import py_compile
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import openai.resources
import openhands.agent_server.__main__
import openhands.agent_server.api
import openhands.tools.browser_use.impl
import openhands.tools.preset.default

litellm.completion("litellm_proxy/a-model", [], mock_response="an answer")

sys.pycache_prefix = "/tmp/bytecode"
for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None)
    if path and path.endswith(".py"):
        # Not checked by the file's time, which a copy of it may not have.
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(path, invalidation_mode=unchecked)
EOF

FROM ${BASE_IMAGE} AS task

FROM builder AS searched
# A copy of the binary could be read. The builder's programs search for one, whatever
# the task image has.
USER root
RUN --mount=from=task,target=/task <<'EOF'
set -e
cd /task/workspace
if [ -L executable ]
then
    echo "/workspace/executable is a symbolic link, not the reference binary" >&2
    exit 1
fi
[ -e executable ] || exit 0
size=$(stat --format=%s executable)
copies=$(find /task -xdev -type f -size "${size}c" ! -path /task/workspace/executable \
    -exec cmp --silent executable {} \; -print)
if [ -n "$copies" ]
then
    echo "the reference binary is also at" $copies | sed 's: /task/: /:g' >&2
    exit 1
fi
if [ -e .git ] && git --git-dir=.git cat-file -e "$(git hash-object executable)"
then
    echo "the reference binary is also in /workspace/.git" >&2
    exit 1
fi
EOF

FROM source-minimal
USER root
COPY --from=bytecode /tmp/bytecode /cleanroom/bytecode
RUN <<'EOF'
set -e
apt-get update
DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends openssh-server
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
# These could change the terminal that the SDK's tools drive. Its first shell would be a
# login shell, for which the image's start files may hold something else again.
rm -rf /home/agent/.tmux.conf /home/agent/.config/tmux
echo 'set -g default-command /bin/bash' >/etc/tmux.conf
EOF

# The SDK's layer gives all of /workspace to its user, so that `chmod u+r` opens the
# reference binary. Now the work is the agent's, and the binary is root's again.
RUN --mount=from=task,target=/task --mount=from=searched,target=/searched <<'EOF'
set -e
cd /workspace
rmdir project || :
chown -R agent: .
if [ -e /task/workspace/executable ]
then
    rm -f executable
    cp /task/workspace/executable .
    chown root:root executable
    chmod 0111 executable
fi
install -d -o agent -g "$(id -g agent)" /home/agent /var/lib/agent-server
# Without an identity there is no commit.
git config --system user.name agent
git config --system user.email agent@localhost
EOF

# The first process and the pipe run as `openhands`, whose files these are. Its shell is
# one that reads no start file.
RUN <<'EOF'
set -e
install -d -o openhands -g openhands -m 0700 /cleanroom/pipe.d
usermod --shell /bin/sh openhands
EOF
USER openhands
RUN <<'EOF'
set -e
cd /cleanroom/pipe.d
ssh-keygen -q -t ecdsa -N '' -f host_key
mkfifo laid
EOF
USER root

COPY --chmod=0755 <<'EOF' /cleanroom/first_process
#!/bin/bash -p
# Where no pipe is laid within a minute, the script on the host has gone.
read -r -t 60 <>/cleanroom/pipe.d/laid || exit
exec /bin/sleep infinity
EOF

COPY <<'EOF' /cleanroom/sshd_config
HostKey /cleanroom/pipe.d/host_key
AuthorizedKeysFile /cleanroom/pipe.d/authorized_keys
# An SSH server that is not root's can do neither of these two.
UsePAM no
StrictModes no
EOF

COPY --chmod=0755 <<'EOF' /cleanroom/pipe
#!/bin/bash -p
# The container's end of the pipe: an SSH server for whoever holds this process's input
# and output, which is the script on the host. Its public key is the first argument.
echo "$1" >/cleanroom/pipe.d/authorized_keys
echo laid >/cleanroom/pipe.d/laid
# The agent can open so many connections to the relay at once.
ulimit -n 400
/usr/sbin/sshd -i -f /cleanroom/sshd_config
# The host's end has gone, however it died. It has ten seconds to save the work. Nothing
# is forked here, since the agent may have used up all processes: to read what nobody
# writes is to sleep, and `kill` is the shell's own.
read -r -t 10 <>/cleanroom/pipe.d/laid
kill -TERM 1
EOF

COPY --chmod=0755 <<'EOF' /cleanroom/pipe_session
#!/bin/bash -p
# Its input ends with the script on the host, however that ends. Then it ends the pipe,
# which else would stay for as long as the agent holds a connection through it.
while read -r
do
    :
done
kill "$PPID"
EOF

COPY --chmod=0755 <<'EOF' /cleanroom/serve
#!/bin/bash -p
# The agent server. Its session key comes on standard input: everyone can read a
# process's arguments.
read -r OH_SESSION_API_KEYS_0
export OH_SESSION_API_KEYS_0
export HOME=/home/agent
export USER=agent
export LOGNAME=agent
export SHELL=/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LANG=C.UTF-8
export LC_ALL=C.UTF-8
export LITELLM_LOCAL_MODEL_COST_MAP=True
export OH_PRELOAD_TOOLS=false
export OH_ENABLE_VSCODE=false
# What it says is shown if it ends: not each request that it answers.
export LOG_LEVEL=WARNING
export LOG_JSON=true
export OPENHANDS_SUPPRESS_BANNER=1
# Left below /workspace, these would be in the submission.
export OH_CONVERSATIONS_PATH=/var/lib/agent-server/conversations
export OH_BASH_EVENTS_DIR=/var/lib/agent-server/bash_events

# When the memory is full, the kernel ends one of the agent's processes, not the pipe.
echo 1000 >/proc/self/oom_score_adj
ulimit -c 0
cd /

end_when_the_disk_is_full() {
    # The server would hang, and the run with it.
    while sleep 3
    do
        blocks=$(stat --file-system --format=%a /var/lib/agent-server)
        if [ "$blocks" -lt 1000 ]
        then
            kill -KILL "$1"
            echo "the disk is full"
        fi
    done
}
end_when_the_disk_is_full $$ &

exec /agent-server/.venv/bin/python -I -u -X pycache_prefix=/cleanroom/bytecode \
    /cleanroom/agent_server --host 127.0.0.1 --port 8000 </dev/null
EOF

COPY <<'EOF' /cleanroom/agent_server
# To look for garbage among what is imported takes an eighth of the server's start.
import gc
import runpy

gc.disable()
import openhands.agent_server.api

gc.freeze()
gc.enable()
runpy.run_module("openhands.agent_server", run_name="__main__", alter_sys=True)
EOF

COPY --chmod=0755 <<'EOF' /cleanroom/stop_command
#!/bin/bash -p
# Stops the command that blocks a terminal of the agent server's, as `agent`. $1 is for
# how many seconds it ran. A tmux of the agent's own, and what runs in the background,
# is left alone.
shopt -s nullglob

foreground() {
    # The process group in the foreground of a shell's terminal. A process's name can
    # hold anything, the end of a line too: what follows its last parenthesis cannot.
    stat=$(<"/proc/$1/stat")
    read -r -a fields <<<"${stat##*) }"
    echo "${fields[5]}"
}

stop() {
    shell=$1
    terminal=$2
    told="[Stopped after $3 seconds.]"
    second_screen=$4
    # Off the second screen of a full-screen program. On the first one, this would lead
    # the cursor back to where it once was, over what the terminal tool looks for.
    [ "$second_screen" = 0 ] || printf '\033[?1049l' >"$terminal"
    # With cursor and plain colours.
    printf '\033[?25h\033[0m\n' >"$terminal"
    echo "$told" >"$terminal"
    # As Ctrl-C would, the shell's own loop included.
    kill -INT -- "-$(foreground "$shell")"
    for _ in {1..30}
    do
        sleep 0.1
        [ "$(foreground "$shell")" != "$shell" ] || break
    done
    # Then for good, and what the shell starts in its place.
    for _ in {1..10}
    do
        group=$(foreground "$shell")
        [ "$group" != "$shell" ] || break
        # Once more: what it wrote meanwhile may have pushed the first line out.
        echo "$told" >"$terminal"
        kill -KILL -- "-$group"
        kill -INT "$shell"
        sleep 0.1
    done
    stty sane <"$terminal"
}

for socket in /tmp/openhands-agent-server-*/tmux-*/openhands-*
do
    tmux -S "$socket" list-panes -a -F '#{pane_pid} #{pane_tty} #{alternate_on}' |
        while read -r shell terminal alternate
        do
            stop "$shell" "$terminal" "$1" "$alternate"
        done
done
EOF

COPY --chmod=0755 <<'EOF' /cleanroom/audit
#!/bin/bash -p
# Run by the agent's own shell before the first token is spent. Prints a line for each
# claim: "yes" or "NO", and the claim.
cd /workspace
scratch=$(mktemp --directory --tmpdir=/workspace)
trap 'rm -rf "$scratch"' EXIT

claim() {
    if "${@:2}" >/dev/null 2>&1
    then
        echo "yes $1"
    else
        echo "NO $1"
    fi
}

only_loopback_is_up() {
    # The lowest bit of an interface's flags says that it is up.
    for interface in /sys/class/net/*
    do
        read -r flags <"$interface/flags"
        [ "$interface" = /sys/class/net/lo ] || [ $((flags & 1)) = 0 ] || return 1
    done
}

no_privileges() {
    [ "$(id -u)" != 0 ] &&
        grep 'NoNewPrivs:.*1' /proc/self/status &&
        ! grep -E 'Cap(Inh|Prm|Eff|Amb):.*[1-9a-f]' /proc/self/status
}

nothing_gives_privileges() {
    [ -z "$(find / -xdev -type f -perm /6000)" ]
}

no_process_of_root() {
    # Of a process that has ended meanwhile there is nothing to see.
    for process in /proc/[0-9]*
    do
        [ "$(stat --format=%u "$process")" != 0 ] || return 1
    done
}

only_root_writes_what_others_run() {
    # Their scripts, their programs and the libraries of those, with all parent folders.
    programs="/usr/bin/tini /bin/bash /bin/sleep /usr/sbin/sshd /usr/bin/env
        /usr/bin/setpriv /usr/lib/openssh/* /agent-server/.venv/bin/python"
    for path in /cleanroom /cleanroom/* /etc /etc/ld.so* /etc/passwd $programs \
        $(ldd $programs | grep -o '/[^ :]*')
    do
        while [ "$path" != / ]
        do
            [ ! -w "$path" ] || return 1
            path=$(dirname "$path")
        done
    done
    [ ! -w / ]
}

no_key() {
    ! env | grep -i -E 'api_?key|token|secret'
}

a_binary_that_can_be_run() {
    [ -f executable ] && [ -x executable ] && [ "$(stat --format=%u executable)" = 0 ]
}

no_reading() {
    ! cat executable && ! chmod u+r executable && ! cp executable "$scratch/copy"
}

no_linking() {
    ! ln executable "$scratch/link"
}

no_tracing() {
    /agent-server/.venv/bin/python -I - <<'PYTHON'
import ctypes
import os
import signal

PTRACE_TRACEME = 0
process = os.fork()
if process == 0:
    if ctypes.CDLL(None).ptrace(PTRACE_TRACEME, 0, 0, 0) == 0:
        os.execv("executable", ["executable"])
    os._exit(0)
# Traced by its parent, it stops before its first instruction, however soon it ends.
_, status = os.waitpid(process, 0)
if os.WIFSTOPPED(status):
    try:
        maps = open(f"/proc/{process}/maps").read()
    except PermissionError:
        maps = ""
    os.kill(process, signal.SIGKILL)
    assert not maps
PYTHON
}

claim "nothing is up but loopback" only_loopback_is_up
claim "not root, and no privileges" no_privileges
claim "no file gives privileges" nothing_gives_privileges
claim "no process of root's" no_process_of_root
claim "no process of another user runs what the agent can write" \
    only_root_writes_what_others_run
claim "no key" no_key
claim "a binary of root's that can be run" a_binary_that_can_be_run
claim "no way to read the executable" no_reading
claim "no way to link to the executable" no_linking
claim "no way to trace the executable" no_tracing
echo "audited"
EOF

# No file gives privileges, and only root can write what other users' processes run.
RUN <<'EOF'
#!/agent-server/.venv/bin/python -I
import os

CAPABILITIES = "security.capability"

for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = set(folders) - {"dev", "proc", "sys"}
    for path in (os.path.join(folder, file) for file in files):
        if not os.path.islink(path) and CAPABILITIES in os.listxattr(path):
            os.removexattr(path, CAPABILITIES)
EOF
RUN <<'EOF'
set -e
find / -xdev -type f -perm /6000 -exec chmod ug-s {} +
system="/bin /etc /lib /sbin /usr/bin /usr/lib /usr/libexec /usr/local/lib /usr/sbin"
for folder in $system
do
    if [ -d $folder ]
    then
        find $folder -xdev -user agent -exec chown root {} +
        find $folder -xdev ! -type l -perm /022 -exec chmod go-w {} +
    fi
done
chown root / /usr /usr/local
chmod go-w / /usr /usr/local
EOF

ENTRYPOINT ["/usr/bin/tini", "--", "/cleanroom/first_process"]
USER openhands
"""


class TaskImage(BaseModel):
    """What the engine says of the task image."""

    name: str
    id: str
    repo_digests: list[str]
    """where it was pulled from, and what was there then: a tag moves"""
    variables: list[str]
    """the names of its environment variables"""


def cleanroom_image(task_image: TaskImage, sdk_source: Path | None) -> str:
    """Return the tag of the sealed image, which is built if it is not there.

    The tag is a digest of all that this host puts in: the image is never stale.
    """
    cleared = [f'ENV {name}=""' for name in task_image.variables if name != "PATH"]
    plain = PLAIN + "\n".join(cleared)
    with FileLock(CACHE / "cleanroom.lock"):
        sdk = sdk_checkout(sdk_source)
        hint = "set OPENHANDS_SDK_SOURCE to a checkout that git can read"
        commit = run(["git", "rev-parse", "HEAD"], hint=hint, cwd=sdk)
        changes = run(["git", "diff", "HEAD"], hint=hint, cwd=sdk)
        new_files = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
        names = run([*new_files, "openhands-*"], cwd=sdk).split("\0")[:-1]
        contents = run(["git", "hash-object", "--", *names], cwd=sdk)
        changes += "\n".join([*names, contents])
        sealed = (sdk / SDK_DOCKERFILE).read_text(encoding="utf-8") + SEAL
        content = "\n".join([task_image.id, commit, changes, plain, sealed])
        digest = hashlib.sha256(content.encode()).hexdigest()
        tag = f"programbench-cleanroom:{digest[:40]}"
        if image_exists(tag):
            return tag
        check_disk_space()
        say(f"Building the agent server onto {task_image.name}, and sealing it")
        # By a name of our own: an image that is named by its digest or its id would be
        # looked for in a registry.
        task_tag, plain_tag = f"{tag}-task", f"{tag}-plain"
        run(["docker", "tag", task_image.id, task_tag], hint=ENGINE_HINT)
        try:
            build(plain_tag, plain, TASK_IMAGE=task_tag)
            # The SDK's coding CLIs would add 600 MB that nothing here runs.
            build(tag, sealed, sdk, BASE_IMAGE=plain_tag, INSTALL_ACP_PROVIDERS="")
        finally:
            succeeds(["docker", "image", "rm", task_tag, plain_tag])
    return tag


def image_exists(name: str) -> bool:
    """Whether the engine has an image of this name."""
    return succeeds(["docker", "image", "inspect", name])


def inspect_task_image(name: str) -> TaskImage:
    """Return what the engine says of an image, which it pulls if need be."""
    hint = f"set PROGRAMBENCH_TASK_IMAGE, now {name}, to an image for linux/amd64 "
    hint += "that the engine has or can pull"
    if not image_exists(name):
        check_disk_space()
        say(f"Pulling {name}")
        run(["docker", "pull", "--platform=linux/amd64", name], hint=hint)
    fields = "{{.Id}}\n{{.Architecture}}\n{{json .RepoDigests}}\n{{json .Config.Env}}"
    command = ["docker", "image", "inspect", f"--format={fields}", name]
    identity, architecture, digests, variables = run(command, hint=hint).split("\n")
    if architecture != "amd64":
        raise CleanroomError(f"{name} is an image for {architecture}: {hint}.")
    environment: list[str] = json.loads(variables) or []
    names = [variable.split("=")[0] for variable in environment]
    return TaskImage(
        name=name,
        id=identity,
        repo_digests=json.loads(digests) or [],
        variables=names,
    )


def sdk_checkout(sdk_source: Path | None) -> Path:
    """Return a checkout of the installed SDK: the one that is set, or the one around
    this file, or a clone in the user's cache.

    The SDK builds its agent server from its own source, which nobody has who installed
    it with pip.
    """
    hint = f"set OPENHANDS_SDK_SOURCE to a checkout of the SDK {SDK_VERSION}"
    clone = CACHE / f"software-agent-sdk-{SDK_VERSION}"
    candidates = (
        [sdk_source] if sdk_source else [*Path(__file__).resolve().parents, clone]
    )
    for folder in candidates:
        project = folder / "openhands-sdk" / "pyproject.toml"
        if project.is_file() and f'"{SDK_VERSION}"' in project.read_text(
            encoding="utf-8"
        ):
            return folder.resolve()
    if sdk_source:
        raise CleanroomError(f"{sdk_source} is not one: {hint}.")
    say(f"Cloning the OpenHands SDK {SDK_VERSION} into {CACHE}")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        options = ["--quiet", "--depth=1", f"--branch=v{SDK_VERSION}"]
        run(["git", "clone", *options, SDK_REPOSITORY, f"{scratch}/sdk"], hint=hint)
        Path(scratch, "sdk").rename(clone)
    return clone


def check_disk_space() -> None:
    """Tell if there is no room for an image, where the engine's disk is this host's."""
    command = ["docker", "info", "--format={{.Name}} {{.DockerRootDir}}"]
    host, root = run(command, hint=ENGINE_HINT).split(maxsplit=1)
    if host != os.uname().nodename or not Path(root).is_dir():
        return
    free = shutil.disk_usage(root).free
    if free < IMAGE_SPACE:
        raise CleanroomError(
            f"An image needs {IMAGE_SPACE >> 30} GiB of disk, and {root} has "
            f"{free >> 20} MiB: see what takes it with `docker system df`, free some "
            "with `docker builder prune` and `docker image rm`, or set DOCKER_HOST."
        )


def build(
    tag: str, dockerfile: str, context: Path | None = None, **arguments: str
) -> None:
    """Build an image with the engine's own builder, whatever builder is the default."""
    builder = run(["docker", "context", "show"], hint=ENGINE_HINT)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "Dockerfile")
        file.write_text(dockerfile, encoding="utf-8")
        command = ["docker", "buildx", "build", f"--builder={builder}", "--load"]
        command += ["--platform=linux/amd64", "--progress=plain"]
        command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        command += [f"--tag={tag}", f"--file={file}", f"{context or scratch}"]
        try:
            run(command)
        except CommandFailed as error:
            print(printable(error.words), flush=True)
            raise CleanroomError(f"The image was not built: {error.step()}") from None


# ## The container

PROXY_VARIABLES = [
    spelled
    for kind in ("http", "https", "ftp", "all", "no")
    for spelled in (f"{kind}_proxy", f"{kind}_proxy".upper())
]


def free_port() -> int:
    """Return a port for the pipe's end on this host, which takes it seconds later.

    Of the SDK's own range, a system gives most ports to clients: another program's
    connection could have it by then.
    """
    return find_available_tcp_port(10_000, 29_999)


class Cleanroom(DockerDevWorkspace):
    """A `DockerDevWorkspace` without a network: the pipe is the only way in or out.

    `relay_socket` is the unix socket on this host where calls to the LLM go, and
    `sdk_source` a checkout of the SDK. Raises CleanroomError if it cannot be started.
    """

    forward_env: list[str] = Field(default=PROXY_VARIABLES)
    detach_logs: bool = False
    host_port: int | None = Field(default_factory=free_port)
    relay_socket: Path
    sdk_source: Path | None = None
    task_image: TaskImage | None = None
    _limited: bool = False
    _pipe: "Companion | None" = None
    _server: "Companion | None" = None

    @property
    def container(self) -> str:
        """The id of the running container."""
        assert self._container_id
        return self._container_id

    def __enter__(self) -> Self:
        """Return the workspace, which runs already."""
        return self

    def get_image(self) -> str:
        """Return the sealed image, built if need be."""
        self.task_image = inspect_task_image(f"{self.base_image}")
        return cleanroom_image(self.task_image, self.sdk_source)

    def _start_container(self, image: str, context: object) -> None:
        """Start the container, without the SDK's echoes of what Docker says."""
        say("Starting the container, in which a shell tries what must not work")
        # Everyone on this host can reach the pipe's port. The SDK takes this key along.
        os.environ["OH_SESSION_API_KEYS_0"] = secrets.token_hex(32)
        try:
            with quiet(), without_proxies():
                super()._start_container(image, context)
        except RuntimeError as error:
            raise CleanroomError(one_line(f"{error}", 500), 1) from None
        if not self._limited:
            say("Warning: this engine cannot limit what the container uses.")

    def _wait_for_health(self, *, timeout: float) -> None:
        """Lay the pipe, start the agent server, and wait until it answers."""
        try:
            wait_for_engine(self.container, f"{self._image_name}")
            self._limited = limit_resources(self.container)
            # Not in TMPDIR, whose name may hold what ssh has a meaning for.
            with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
                self._pipe = lay_pipe(
                    self.container, self.host_port, self.relay_socket, Path(scratch)
                )
                self._server = start_agent_server(self.container, f"{self.api_key}")
                self._wait_for_answer(timeout)
        except BaseException:
            cause = self.cause_of_end()
            self.cleanup()
            if cause:
                raise CleanroomError(cause, 1) from None
            raise

    def _wait_for_answer(self, timeout: float) -> None:
        """Wait `timeout` seconds at most for an answer through the pipe."""
        deadline = time.monotonic() + timeout
        # One client: each one that is made reads all certificates, which takes longer
        # than a question.
        with httpx.Client(timeout=1, trust_env=False) as client:
            while time.monotonic() < deadline and not self._ended():
                if answers(client, f"http://127.0.0.1:{self.host_port}/health"):
                    return
                time.sleep(0.1)
        words = self._server.last_words() if self._server else ""
        cause = self.cause_of_end() or f"The agent server does not answer: {words}"
        raise CleanroomError(cause, 1)

    def _ended(self) -> "list[Companion]":
        """Return what has ended of the pipe and the agent server."""
        return [each for each in (self._pipe, self._server) if each and each.ended]

    def cause_of_end(self) -> str:
        """Say which part of the cleanroom has ended, if any, with its last words."""
        if not self._ended():
            return ""
        time.sleep(0.5)  # what ended it may end the other
        ended = self._ended()
        if len(ended) > 1:  # whose words are the container's end, if not its cause
            return f"{what_became_of(self.container)} {ended[0].last_words()}"
        return f"{ended[0].name} has ended: {ended[0].last_words()}"

    def cleanup(self) -> None:
        """End the pipe, and stop and remove the container."""
        for companion in (self._pipe, self._server):
            if companion:
                companion.end()
        with quiet():
            super().cleanup()


@contextlib.contextmanager
def without_proxies() -> Generator[None]:
    """Have the variables that name a proxy set, and empty.

    The Docker client gives a container the proxies of its own configuration, with what
    passwords they may hold, but for variables that it is told to hand on.
    """
    before = {name: os.environ.get(name) for name in PROXY_VARIABLES}
    os.environ.update(dict.fromkeys(PROXY_VARIABLES, ""))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Show nothing of what Docker says, which the SDK would echo."""
    with open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


def wait_for_engine(container: str, image: str) -> None:
    """Wait until the engine runs commands in the container.

    A busy engine now and then fails to, right after it has started the container.
    """
    command = ["docker", "exec", container, "/bin/true"]
    for pause in (0, 1, 3):
        time.sleep(pause)
        if succeeds(command):
            return
    if not succeeds(["docker", "top", container]):
        # It has ended. The engine removed it with what it said: have it say that again.
        run(["docker", "run", "--rm", "--network=none", image])
    run(command)


def limit_resources(container: str) -> bool:
    """Give the container what the benchmark's harness gives, or what the engine has;
    returns whether the engine can.

    A fork bomb, or who hoards memory, then ends in the box, and not on this host.
    """
    fields = "--format={{.NCPU}} {{.MemTotal}}"
    processors, memory = run(["docker", "info", fields], hint=ENGINE_HINT).split()
    most_memory = min(60 << 30, int(memory) * 9 // 10)
    command = ["docker", "update", f"--cpus={min(20, int(processors))}"]
    command += [f"--memory={most_memory}", f"--memory-swap={most_memory}"]
    command += ["--pids-limit=4096", container]
    return succeeds(command)


def what_became_of(container: str) -> str:
    """Say why the engine no longer leads to the container."""
    if not succeeds(["docker", "version"]):
        return "The engine does not answer."
    if not succeeds(["docker", "top", container]):
        return "The container has ended."
    return "The engine has cut the connection to the container."


def answers(client: httpx.Client, url: str) -> bool:
    """Whether a server answers at this address."""
    try:
        return client.get(url).is_success
    except httpx.HTTPError:
        return False


class Companion:
    """A process that is beside the script for as long as the container runs.

    If it ends by itself, so does the run: this sends SIGURG to the script.
    """

    OUTPUT_KEPT = 65536  # bytes; the agent can write any number to its server's output

    def __init__(self, name: str, command: list[str], first_line: str = ""):
        self.name = name
        self.ended = False
        self._unwanted = False
        self._output = b""
        self._process = Popen(
            command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            # ssh runs its ProxyCommand with the user's shell.
            env=os.environ | {"SHELL": "/bin/sh"},
            # Else Ctrl-C would end it before the work is saved.
            start_new_session=True,
        )
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: that shows below
            self._process.stdin.write(f"{first_line}\n".encode())
            self._process.stdin.flush()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Keep the last of what the process says, until it ends."""
        assert self._process.stdout
        output = self._process.stdout.fileno()
        while chunk := os.read(output, 65536):
            self._output = (self._output + chunk)[-self.OUTPUT_KEPT :]
        self._process.wait()
        self.ended = True
        if not self._unwanted:
            os.kill(os.getpid(), signal.SIGURG)

    def last_words(self) -> str:
        """Return the end of what the process said, in one line fit for a terminal."""
        lines = self._output.decode(errors="replace").splitlines()[-20:]
        words = " ".join(plain_line(line) for line in lines).split()
        said = printable(" ".join(words)[-300:]) or "it said nothing"
        status = f" (exit status {self._process.returncode})" if self.ended else ""
        return f"{said}{status}"

    def end(self) -> None:
        """End the process."""
        self._unwanted = True
        self._process.terminate()


def plain_line(line: str) -> str:
    """Return what a line of a log says, and of a traceback the exception."""
    try:
        entry = json.loads(line)
        level, said = entry["levelname"], [entry["message"], entry.get("exc_info")]
    except (ValueError, LookupError, TypeError, RecursionError):  # no log of its own
        return line
    if level == "INFO":  # each request that was answered
        return ""
    return " ".join(f"{text}".strip().rpartition("\n")[2] for text in said if text)


# ## The pipe
#
# `docker exec -i` is one stream of bytes in and one out. SSH lays any number of
# connections over the two, both ways: the SDK's to the agent server, and calls to the
# LLM to the relay. Only who holds the stream can talk to this SSH server, which is
# another user's than the agent, who can neither kill nor read it.

SSH_CONFIG = """\
Host cleanroom
    User openhands
    ProxyCommand docker exec -i -u openhands {container} /cleanroom/pipe "{public_key}"
    LocalForward 127.0.0.1:{port} 127.0.0.1:8000
    RemoteForward 127.0.0.1:4999 {relay_socket}
    ExitOnForwardFailure yes
    RemoteCommand exec /cleanroom/pipe_session
    IdentityFile {private_key}
    IdentitiesOnly yes
    BatchMode yes
    LogLevel ERROR
    # The engine leads to the right container: there is no other host to mistake for it.
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
"""


def lay_pipe(
    container: str, port: int | None, relay_socket: Path, scratch: Path
) -> Companion:
    """Lay the pipe: from `port` on this host's loopback to the agent server, and from
    port 4999 in the container to the relay.

    `scratch` is a folder for its key and its configuration. When the pipe ends, the
    container stops after ten seconds.
    """
    key = scratch / "key"
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "", "-f", f"{key}"]
    run(command, hint=SSH_HINT)
    config = scratch / "ssh_config"
    config.write_text(
        SSH_CONFIG.format(
            container=container,
            port=port,
            relay_socket=relay_socket,
            private_key=key,
            public_key=key.with_suffix(".pub").read_text().strip(),
        )
    )
    return Companion("The pipe", ["ssh", "-F", f"{config}", "cleanroom"])


def start_agent_server(container: str, session_key: str) -> Companion:
    """Start the agent server as the benchmark's user, who can gain no privilege."""
    command = [*as_agent(container), "/cleanroom/serve"]
    return Companion("The agent server", command, first_line=session_key)


def as_agent(container: str) -> list[str]:
    """Return how a command begins that this host runs as the benchmark's user: with no
    environment, and no way to gain a privilege.
    """
    command = ["docker", "exec", "--interactive", "--user=agent", container]
    return [*command, "/usr/bin/env", "-i", "/usr/bin/setpriv", "--no-new-privs"]


# ## The limit on a command
#
# The SDK's terminal tool waits for as long as the screen changes, so that a program
# which fills it for ever would stall the run. The time is taken here, out of the
# agent's reach; what stops the command runs as the agent.


class CommandLimit:
    """A callback of the conversation that stops a command after `seconds`.

    A command for which the agent itself gave a time has that, up to `LONGEST`. The
    commands of one answer have their times together: the SDK runs one after the other,
    and tells when the last one has ended.
    """

    LONGEST = 1800
    # So long may the terminal tool take to notice the time that the agent gave, and to
    # tell that a command was stopped. Then it is stopped again.
    GRACE = 10

    def __init__(self, workspace: Cleanroom, seconds: float):
        self._container = workspace.container
        self._seconds = seconds
        self._time_for = dict[str, float]()  # by the ids of the commands that run
        self._timer: threading.Timer | None = None

    def __call__(self, event: Event) -> None:
        """Take note of a command, and of its end."""
        if isinstance(event, ActionEvent) and event.tool_name == "terminal":
            own: float | None = getattr(event.action, "timeout", None)
            time_for = min(own, self.LONGEST) + self.GRACE if own else self._seconds
            self._time_for[event.tool_call_id] = time_for
        elif isinstance(event, ObservationBaseEvent):
            self._time_for.pop(event.tool_call_id, None)
        else:
            return
        if self._timer:
            self._timer.cancel()
        if self._time_for:
            time_for = sum(self._time_for.values())
            self._stop_after(time_for, time_for)

    def _stop_after(self, seconds: float, time_for: float) -> None:
        """Stop the command that runs in so many seconds; it had `time_for` in all."""
        self._timer = threading.Timer(seconds, self._stop, [time_for])
        self._timer.daemon = True
        self._timer.start()

    def _stop(self, time_for: float) -> None:
        """Stop the command that runs, and do so again if it does not end."""
        commands = list(self._time_for)
        command = [*as_agent(self._container), "/usr/bin/timeout", "30"]
        succeeds([*command, "/cleanroom/stop_command", f"{time_for:.0f}"])
        if commands and commands == list(self._time_for):
            # Of several, the next one runs now.
            pause = self.GRACE if len(commands) == 1 else self._seconds
            self._stop_after(pause, time_for)


# ## The relay's policy
#
# Whatever reaches the relay may come from the agent's own shell. A call holds what
# these models list and nothing else: messages, and tools that the agent runs itself.
# Nothing in them names a thing that the provider or this host would fetch, or a tool
# that runs at the provider. How the model is asked (its name, its limits, its effort)
# is the run's and not the call's: those fields are let through and not used.

MEBIBYTE = 1 << 20
MAX_BODY = 32 * MEBIBYTE  # bytes of one body
MAX_WIDE_BODY = 16 * MEBIBYTE  # where a character may take four bytes of memory
MAX_BODIES = 256 * MEBIBYTE  # bytes of all bodies under way
# What expands where LiteLLM reads it. A thousand steps of three calls each are within.
MAX_NODES = 200_000  # values in one body, and in the arguments of its tool calls
MAX_MESSAGES = 7_000
MAX_TOOL_CALLS = 3_000
MAX_TOOL_CALLS_AT_ONCE = 128
MAX_TOOLS = 64
MAX_SCHEMA_NODES = 500  # values in the parameters of one tool
MAX_SCHEMA_DEPTH = 20
MAX_NAME = 256  # characters


# A string of JSON: possessive, so that the pattern remembers no place to return to.
JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def values_in(body: bytes | bytearray) -> int:
    """Return how many values a text of JSON holds, or more as long as that is few."""
    values = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    if values <= MAX_NODES:
        return values
    outside = JSON_STRING.sub(b"", body)
    return sum(outside.count(mark) for mark in (b",", b"[", b"{"))


def refusal(kind: LiteralString) -> PydanticCustomError:
    """Return an error of validation whose type says what is wrong."""
    return PydanticCustomError(kind, kind)


def plain_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a function if they are small and refer to nothing."""
    level: list[Any] = [schema]
    nodes = 0
    for _ in range(MAX_SCHEMA_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                members = cast("dict[str, Any]", value)
                for name in members:
                    # LiteLLM writes out what these refer to, each time.
                    if name.startswith("$") or name == "definitions":
                        raise refusal("schema_with_references")
                    if len(name) > MAX_NAME:
                        raise refusal("schema_with_long_names")
                below.extend(members.values())
            elif isinstance(value, list):
                below.extend(cast("list[Any]", value))
            elif isinstance(value, float) and not math.isfinite(value):
                raise refusal("finite_number")
        nodes += len(below)
        if nodes > MAX_SCHEMA_NODES:
            raise refusal("schema_too_large")
        if not below:
            return schema
        level = below
    raise refusal("schema_too_deep")


Name = Annotated[str, Field(max_length=MAX_NAME)]
# Gemini puts signatures of several kilobytes into the ids of tool calls.
Identifier = Annotated[str, Field(max_length=MEBIBYTE)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
IMAGE = r"^data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}$"
Image = Annotated[str, Field(pattern=IMAGE)]
Parameters = Annotated[dict[str, Any], AfterValidator(plain_schema)]


class Listed(BaseModel, extra="forbid", strict=True, allow_inf_nan=False):
    """What has the fields that are listed, and no other."""


class CacheControl(Listed):
    """Where the provider may cut what it caches."""

    type: Literal["ephemeral"]


class TextPart(Listed):
    """A text in a message of /chat/completions."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


class ImageUrl(Listed):
    """An image, itself and not its address."""

    url: Image


class ImagePart(Listed):
    """An image in a message of /chat/completions."""

    type: Literal["image_url"]
    image_url: ImageUrl
    cache_control: CacheControl | None = None


class ThinkingBlock(Listed):
    """What the model thought, as it signed it."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Listed):
    """What the model thought, encrypted."""

    type: Literal["redacted_thinking"]
    data: str


class CalledFunction(Listed):
    """The function of a tool call."""

    name: Name
    arguments: str


class ToolCall(Listed):
    """A call of a tool that the agent runs."""

    id: Identifier
    type: Literal["function"]
    function: CalledFunction


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Thought = Annotated[ThinkingBlock | RedactedThinkingBlock, Field(discriminator="type")]


class SystemMessage(Listed):
    """The system prompt."""

    role: Literal["system"]
    content: str | list[TextPart]


class UserMessage(Listed):
    """What the user says."""

    role: Literal["user"]
    content: str | list[Part]


class AssistantMessage(Listed):
    """What the model said."""

    role: Literal["assistant"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[Thought] = []
    tool_calls: list[ToolCall] = []


class ToolMessage(Listed):
    """What a tool answered."""

    role: Literal["tool"]
    content: str | list[Part]
    tool_call_id: Identifier
    name: Name
    cache_control: CacheControl | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]


def finite(number: str) -> float:
    """Return a number that JSON can hold."""
    if not math.isfinite(float(number)):
        raise ValueError
    return float(number)


def plain_json(arguments: str) -> str:
    """Return arguments as JSON that any parser reads; raises ValueError for others.

    A model may leave line breaks in its strings, which the SDK bears. The parser of
    pydantic bears neither those nor half a character, nor more than 200 levels.
    """
    value = json.loads(
        arguments, strict=False, parse_float=finite, parse_constant=finite
    )
    try:
        from_json(arguments)
    except ValueError:
        arguments = json.dumps(value)
        from_json(arguments)
    return arguments


def check_arguments(calls: Sequence[CalledFunction]) -> None:
    """Check that the arguments of tool calls are JSON, and not too much of it.

    LiteLLM parses them. It tries to repair what is no JSON, for minutes if it is long.
    The SDK replaces such arguments itself.
    """
    if len(calls) > MAX_TOOL_CALLS:
        raise refusal("too_many_tool_calls")
    if sum(values_in(call.arguments.encode()) for call in calls) > MAX_NODES:
        raise refusal("arguments_too_large")
    for call in calls:
        try:
            if call.arguments.strip():
                call.arguments = plain_json(call.arguments)
        except (ValueError, RecursionError):
            raise refusal("arguments_no_json") from None


def plain_messages(messages: list[Message]) -> list[Message]:
    """Return the messages if their tool calls are no more than LiteLLM bears."""
    calls: list[CalledFunction] = []
    at_once = 0
    for message in messages:
        if not isinstance(message, AssistantMessage):
            at_once = 0
            continue
        at_once += len(message.tool_calls)
        if at_once > MAX_TOOL_CALLS_AT_ONCE:
            raise refusal("too_many_tool_calls")
        calls.extend(call.function for call in message.tool_calls)
    check_arguments(calls)
    return messages


def has_cache_control(message: Message) -> bool:
    """Whether the provider is to cache what a message holds."""
    if isinstance(message, ToolMessage) and message.cache_control:
        return True
    parts = message.content if isinstance(message.content, list) else []
    return any(part.cache_control for part in parts)


class Function(Listed):
    """A function that the agent runs."""

    name: Name
    description: str = ""
    parameters: Parameters
    strict: bool | None = None


class ChatTool(Listed):
    """A tool of /chat/completions."""

    type: Literal["function"]
    function: Function


class Thinking(Listed):
    """How much the model may think."""

    type: Literal["enabled"]
    budget_tokens: Count


class ChatCall(Listed):
    """The body of a call to /chat/completions."""

    messages: Annotated[
        list[Message], Field(max_length=MAX_MESSAGES), AfterValidator(plain_messages)
    ]
    tools: Annotated[list[ChatTool], Field(max_length=MAX_TOOLS)] = []
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    # Not used: these are the run's.
    model: Name
    reasoning_effort: Name | None = None
    thinking: Thinking | None = None
    prompt_cache_key: Name | None = None
    prompt_cache_retention: Name | None = None
    temperature: float | None = None
    top_p: float | None = None
    tool_choice: Literal["auto"] | None = None


class InputText(Listed):
    """A text in an item of /responses."""

    type: Literal["input_text", "output_text"]
    text: str


class InputImage(Listed):
    """An image in an item of /responses."""

    type: Literal["input_image"]
    image_url: Image
    detail: Literal["auto", "low", "high"] = "auto"


InputPart = Annotated[InputText | InputImage, Field(discriminator="type")]


class MessageItem(Listed):
    """A message in a call to /responses."""

    type: Literal["message"]
    role: Literal["user", "assistant"]
    content: list[InputPart]


class Summary(Listed):
    """A part of a summary of what the model thought."""

    type: Literal["summary_text"]
    text: str


class Reasoning(Listed):
    """A part of what the model thought."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Listed):
    """What the model thought, as the provider encrypted it."""

    type: Literal["reasoning"]
    id: Identifier
    summary: list[Summary]
    content: list[Reasoning] | None = None
    encrypted_content: str | None = None
    status: Name | None = None


class FunctionCallItem(CalledFunction):
    """A call of a tool that the agent runs."""

    type: Literal["function_call"]
    id: Identifier
    call_id: Identifier


class FunctionOutputItem(Listed):
    """What a tool answered."""

    type: Literal["function_call_output"]
    call_id: Identifier
    output: str | list[InputPart]


Item = Annotated[
    MessageItem | ReasoningItem | FunctionCallItem | FunctionOutputItem,
    Field(discriminator="type"),
]


def plain_items(items: list[Item]) -> list[Item]:
    """Return the items if their tool calls are no more than LiteLLM bears."""
    check_arguments([item for item in items if isinstance(item, FunctionCallItem)])
    return items


class ResponsesTool(Function):
    """A tool of /responses."""

    type: Literal["function"]


class Effort(Listed):
    """How much the model may think."""

    effort: Name
    summary: Name | None = None


class ResponsesCall(Listed):
    """The body of a call to /responses."""

    input: Annotated[
        list[Item], Field(max_length=MAX_MESSAGES), AfterValidator(plain_items)
    ]
    instructions: str | None = None
    tools: Annotated[list[ResponsesTool], Field(max_length=MAX_TOOLS)] | None = None
    max_output_tokens: Count | None = None
    # Not used: these are the run's.
    model: Name
    include: list[Literal["reasoning.encrypted_content"]] = []
    prompt_cache_key: Name | None = None
    prompt_cache_retention: Name | None = None
    reasoning: Effort | None = None
    store: Literal[False] | None = None
    temperature: float | None = None
    tool_choice: Literal["auto"] | None = None


class Refused(Exception):
    """Raised for a call that the relay does not make."""

    def __init__(self, reason: str, *, field: str | None = None, status: int = 403):
        super().__init__(reason)
        self.field = field
        self.status = status


def admit(kind: type[ChatCall] | type[ResponsesCall], body: bytearray) -> Any:
    """Return the call that a body holds; raises `Refused` for what is not listed."""
    if values_in(body) > MAX_NODES:
        raise Refused(f"the body has more than {MAX_NODES} values")
    wide = b"\\u" in body or not body.isascii()
    if wide and len(body) > MAX_WIDE_BODY:
        raise Refused(f"the body is larger than {MAX_WIDE_BODY} bytes, and not ASCII")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    # The error that lies deepest names the field best. Its type says what is wrong,
    # and its message could hold the value.
    deepest = max(errors, key=lambda error: len(error["loc"]))
    field = one_line(".".join(str(step) for step in deepest["loc"]), 200) or "body"
    raise Refused(f"{field}: {deepest['type']}", field=field)


def one_line(text: str, length: int) -> str:
    """Return the beginning of a text, in one line and without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:length])


# ## The relay's provider
#
# The user's settings make an ordinary `LLM` of the SDK. What cannot work with them is
# told before anything slow starts.

ENDPOINTS = ("/chat/completions", "/responses", "/v1/messages", "/messages")
# What the base URL of a provider ends in, for LiteLLM; people leave it out.
USUAL_PATHS = {
    "gemini": "/v1beta",
    "moonshot": "/v1",
    "openai": "/v1",
    "openrouter": "/api/v1",
}


def plain_base_url(base_url: str | None, provider: str | None) -> str | None:
    """Return a base URL as LiteLLM wants it, from one as people write it."""
    if not base_url:
        return None
    base_url = base_url.rstrip("/")
    for endpoint in ENDPOINTS:
        base_url = base_url.removesuffix(endpoint)
    if provider == "anthropic":
        return base_url.removesuffix("/v1")
    if provider == "gemini":
        base_url = base_url.partition("/models")[0]
    url = httpx.URL(base_url)
    usual_path = USUAL_PATHS.get(provider or "", "")
    if usual_path.startswith(url.path.rstrip("/")):
        return str(url.copy_with(path=usual_path))
    return base_url


def provider_of(llm: LLM) -> LLMProvider:
    """Return where LiteLLM finds the model, and under which name."""
    route = litellm_call_kwargs(llm.model, llm.base_url)
    return LLMProvider.from_model(model=route["model"], api_base=route["api_base"])


def key_of(llm: LLM) -> str | None:
    """Return the key that is set."""
    key = llm.api_key
    return key.get_secret_value() if isinstance(key, SecretStr) else key


def with_own_limits(llm: LLM) -> LLM:
    """Return the LLM with the limits that the SDK gives it where no base URL is set.

    With a base URL the SDK caps what a model may answer at 16,384 tokens, but for
    LiteLLM's own proxies, which it asks for the limits.
    """
    route = litellm_call_kwargs(llm.model, llm.base_url)
    if route["model"].startswith("litellm_proxy/"):
        update = {"model": route["model"], "base_url": route["api_base"]}
    else:
        update = {"base_url": None}
    uncapped = llm.model_copy(update=update) if llm.base_url else llm
    limits = {
        "max_input_tokens": uncapped.effective_max_input_tokens,
        "max_output_tokens": uncapped.effective_max_output_tokens,
    }
    return llm.model_copy(update=limits)


SERVICE_TIERS = ("_batches", "_flex", "_priority", "_ultrafast", "_decisions")


def model_info(llm: LLM) -> dict[str, Any]:
    """Return what LiteLLM lists of the model: its limits and prices."""
    return cast("dict[str, Any]", llm.model_info or {})


def highest_prices(llm: LLM) -> tuple[float, float] | None:
    """Return the highest price of a token in and out in USD, or None if unknown."""
    if llm.input_cost_per_token is not None and llm.output_cost_per_token is not None:
        return llm.input_cost_per_token, llm.output_cost_per_token
    highest = {"in": 0.0, "out": 0.0}
    for name, price in model_info(llm).items():
        if name.endswith(SERVICE_TIERS) or not isinstance(price, int | float):
            continue
        if name.startswith(("input_cost_per_token", "cache_creation_input_token_cost")):
            highest["in"] = max(highest["in"], price)
        if name.startswith(
            ("output_cost_per_token", "output_cost_per_reasoning_token")
        ):
            highest["out"] = max(highest["out"], price)
    if not highest["in"] or not highest["out"]:
        return None
    return highest["in"], highest["out"]


def check_provider(llm: LLM, cost_limit: float | None) -> None:
    """Tell what cannot work with the provider before anything slow starts."""
    if llm.base_url:
        check_base_url(llm.base_url)
    provider = provider_of(llm)
    if provider.name is None:
        raise CleanroomError(
            f"LLM_MODEL={one_line(llm.model, 200)}: LiteLLM knows no such provider; "
            "write it as <provider>/<model>, like anthropic/claude-sonnet-5-5."
        )
    check_key(llm, provider)
    if cost_limit is None:
        return
    if highest_prices(llm) is None:
        raise CleanroomError(
            f"LLM_COST_LIMIT cannot hold, as the prices of {llm.model} are not known: "
            "set LLM_INPUT_COST_PER_TOKEN and LLM_OUTPUT_COST_PER_TOKEN, or unset it."
        )
    if with_own_limits(llm).effective_max_output_tokens is None:
        raise CleanroomError(
            f"LLM_COST_LIMIT cannot hold, as it is not known how much {llm.model} "
            "answers at most: unset it, or choose another model."
        )


def check_base_url(base_url: str) -> None:
    """Tell if a base URL is none."""
    remedy = "write it as https://host/v1, or unset it for the provider's own."
    try:
        url = urlsplit(base_url)
        port_is_valid = url.port != 0
    except ValueError:
        raise CleanroomError(f"LLM_BASE_URL is no address: {remedy}") from None
    if url.scheme not in ("http", "https") or not url.hostname or not port_is_valid:
        raise CleanroomError(f"LLM_BASE_URL is no address: {remedy}")
    if not base_url.isprintable() or " " in base_url:
        raise CleanroomError(f"LLM_BASE_URL has white space in it: {remedy}")
    if url.username or url.query or url.fragment:
        raise CleanroomError(
            f"LLM_BASE_URL has more than an address and a path: {remedy}"
        )


def check_key(llm: LLM, provider: LLMProvider) -> None:
    """Tell if the provider's key is missing, or is none."""
    key = key_of(llm)
    if key and not (key.isascii() and key.isprintable()):
        raise CleanroomError(
            "LLM_API_KEY has a character that no key has: copy it anew."
        )
    # A server of one's own may want none, but LiteLLM insists for two providers.
    if key or (llm.base_url and provider.name not in ("anthropic", "gemini")):
        return
    if llm.model.startswith(("openhands/", "digitalocean/")):
        raise CleanroomError(f"{llm.model} needs a key: set LLM_API_KEY.")
    environment = cast("Any", litellm.validate_environment(llm.model))
    for name in environment["missing_keys"]:
        # Amazon's, Google's and Microsoft's clients look in more places.
        if name.endswith("_API_KEY") and name not in os.environ:
            raise CleanroomError(
                f"{llm.model} needs a key: set LLM_API_KEY, or {name}."
            )


CREDENTIALS = ("API_KEY", "ACCESS_KEY", "SECRET_KEY", "TOKEN", "PASSWORD")


def known_secrets(llm: LLM) -> list[str]:
    """Return what nobody in the box may read, the longest first."""
    values = [key_of(llm) or ""]
    values += [
        value for name, value in os.environ.items() if name.endswith(CREDENTIALS)
    ]
    # What is shorter is a local server's dummy.
    return sorted({value for value in values if len(value) > 7}, key=len, reverse=True)


# ## The relay

BOX_URL = "http://127.0.0.1:4999"
MAX_CONNECTIONS = 128  # on which the box is to send something
MAX_REQUESTS = 64  # that came whole, and wait for their answer
MAX_CALLS_AT_ONCE = 4
MAX_REFUSALS_NOTED = 1_000
BODY_SECONDS = 60
TOKENS_OF_AN_IMAGE = 50_000  # at most, with any provider
TOKENS_OF_A_CALL = 2_000  # that a provider adds to what is sent

REHEARSAL = [
    ("terminal", {"command": "ls -la; head -n 30 README*"}),
    ("terminal", {"command": "./executable --help"}),
    ("terminal", {"command": "./executable --help >NOTES.md 2>&1"}),
    ("finish", {"message": "NOTES.md has what the binary says of itself."}),
]


class HttpClients(LLMClientCache):
    """LiteLLM's HTTP clients: none of them follows a redirect.

    The provider's key and the call would go wherever the redirect leads.
    """

    def set_cache(self, key: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Keep a client, once it follows no redirect."""
        for each in (value, getattr(value, "_client", None)):
            if hasattr(each, "follow_redirects"):
                setattr(each, "follow_redirects", False)
        super().set_cache(key, value, *args, **kwargs)


class Connection(H11Protocol):
    """A connection from the box: of too many, those that wait longest are closed."""

    opened = 0.0

    def connection_made(self, transport: Any) -> None:
        """Take a new connection in."""
        super().connection_made(transport)
        self.opened = self.loop.time()
        connections = cast("set[Connection]", self.connections)
        if len(connections) > 2 * MAX_CONNECTIONS:
            waiting = [each for each in connections if each.is_waiting()]
            waiting.sort(key=lambda each: each.opened)
            for each in waiting[:-MAX_CONNECTIONS]:
                each.transport.abort()

    def is_waiting(self) -> bool:
        """Return whether the box is to send something."""
        cycle = cast("Any", self.cycle)
        answering = cycle and not cycle.more_body and not cycle.response_complete
        return not answering and not self.transport.is_closing()


def quiet_litellm() -> None:
    """Let LiteLLM print nothing, and call the provider as this host's settings say."""
    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "asyncio", "httpx"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", message="Cost calculation failed")
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
    # OpenAI's own client takes 0.5 ms for each message, LiteLLM's a tenth of that.
    os.environ["EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER"] = "True"
    # httpx reads no netrc, and knows every kind of proxy.
    litellm.disable_aiohttp_transport = True
    litellm.in_memory_llm_clients_cache = HttpClients()
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    own_bundle = bundle and not os.environ.get("SSL_CERT_FILE")
    litellm.ssl_verify = bundle if own_bundle else True


class Relay:
    """Makes one run's LLM calls on the host, and counts what they cost.

    The box reaches it through a socket in the file system, which no other user of this
    host can open. The provider's credentials stay here.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        ledger: Path,
        call_limit: int,
        cost_limit: float | None = None,
        rehearsal: bool = False,
    ):
        self.llm = with_own_limits(llm)
        self.ledger = ledger
        self.call_limit = call_limit
        self.cost_limit = cost_limit
        self.rehearsal = rehearsal
        self.socket = Path()
        self.cost = 0.0
        self.calls = 0
        self.refused = 0
        self.tokens_in = 0
        self.tokens_cached = 0
        self.tokens_out = 0
        self.last = "there was none"
        self.usages = dict[str, dict[str, Any]]()  # tokens and cost, by answers' ids
        self._prices = highest_prices(self.llm) or (0.0, 0.0)
        self._secrets = known_secrets(llm)
        self._session = LLMCallContext().for_conversation(secrets.token_hex(16))
        self._reserved = 0.0  # USD for the calls under way
        self._requests = 0  # under way
        self._bytes = 0  # of the bodies under way
        self._slots = asyncio.Semaphore(MAX_CALLS_AT_ONCE)

    @property
    def provider(self) -> str:
        """Where the calls go: the host that is set, or else the model's provider."""
        if self.llm.base_url:
            return urlsplit(self.llm.base_url).netloc
        return self.llm.model.split("/")[0]

    @property
    def llm_for_the_box(self) -> LLM:
        """The agent's LLM: this relay, with what the SDK on this host knows of it."""
        name = self.llm.model_canonical_name or self.llm.model
        features = get_features(
            name,
            model_info=model_info(self.llm) or None,
            overrides=self.llm.capability_overrides,
        )
        known = {
            name: value for name, value in vars(features).items() if value is not None
        }
        route = litellm_call_kwargs(name, None)
        return LLM(
            usage_id="agent",
            model=f"litellm_proxy/{self.llm.model}",
            # With this name the SDK does not ask the relay for the model's limits.
            model_canonical_name=route["model"].removeprefix("litellm_proxy/"),
            capability_overrides=known,
            base_url=BOX_URL,
            api_key=SecretStr("the-host-has-the-key"),
            max_input_tokens=self.llm.effective_max_input_tokens,
            max_output_tokens=self.llm.effective_max_output_tokens,
        )

    def __enter__(self) -> Self:
        """Open the ledger, and serve at the socket."""
        quiet_litellm()
        self._folder = tempfile.mkdtemp(prefix="relay-", dir="/tmp")
        self.socket = Path(self._folder, "s")
        self._file: IO[str] = open(self.ledger, "w", encoding="utf-8")
        config = Config(
            self._app(),
            uds=str(self.socket),
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            backlog=256,
            timeout_graceful_shutdown=0,
        )
        self._server = Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        if not self._server.started:
            raise RuntimeError(f"the relay cannot serve at {self.socket}")
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving; calls under way are given up."""
        os.environ.pop("EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER", None)
        self._server.should_exit = True
        self._thread.join(timeout=3)
        with contextlib.suppress(OSError):  # told when the line was written
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _app(self) -> FastAPI:
        """Return the app that the box talks to."""
        app = FastAPI(openapi_url=None, redirect_slashes=False)
        app.add_api_route("/chat/completions", self._chat, methods=["POST"])
        app.add_api_route("/responses", self._responses, methods=["POST"])
        app.add_exception_handler(HTTPException, self._no_such_route)
        return app

    async def _chat(self, request: Request) -> Response:
        """Answer a call in the older of OpenAI's two styles."""
        return await self._answer(request, ChatCall)

    async def _responses(self, request: Request) -> Response:
        """Answer a call in the newer of OpenAI's two styles."""
        return await self._answer(request, ResponsesCall)

    async def _no_such_route(self, request: Request, _: Exception) -> Response:
        """Refuse what is no LLM call."""
        if request.method == "GET" and request.url.path.endswith("/model/info"):
            # The SDK asks a proxy for this, and does without.
            return error_response(404, "there is no such page", "not_found_error")
        refusal = Refused("only POST to /chat/completions and /responses is served")
        return self._refuse(request, refusal)

    def _refuse(self, request: Request, refusal: Refused) -> Response:
        """Note a refusal, and return it as an error."""
        self.refused += 1
        self.last = f"{refusal.status}: {refusal}"
        if self.refused <= MAX_REFUSALS_NOTED:
            entry = self._entry(request) | {"status": refusal.status}
            self._note(entry | {"refused": str(refusal)})
        kind = "permission_error" if refusal.status == 403 else "limit_error"
        message = f"The relay refuses this call: {refusal}"
        response = error_response(refusal.status, message, kind, refusal.field)
        response.headers["Connection"] = "close"
        return response

    def _entry(self, request: Request) -> dict[str, Any]:
        """Return the beginning of a line of the ledger."""
        endpoint = one_line(f"{request.method} {request.url.path}", 100)
        if request.url.path in ("/chat/completions", "/responses"):
            endpoint = request.url.path
        return {"time": time.time(), "endpoint": endpoint, "model": self.llm.model}

    def _note(self, entry: dict[str, Any]) -> None:
        """Write a line of the ledger."""
        write_line(self._file, json.dumps(entry))

    async def _answer(
        self, request: Request, kind: type[ChatCall] | type[ResponsesCall]
    ) -> Response:
        """Make a call, or refuse it."""
        size = 0
        try:
            body = await self._read(request)
            size = len(body)
            async with self._turn():
                call = admit(kind, body)
                self._check(call)
                price = self._highest_price(body)
                body.clear()
                return await self._make(request, call, price)
        except Refused as refusal:
            return self._refuse(request, refusal)
        except ClientDisconnect:
            return Response(status_code=400)
        finally:
            self._bytes -= size

    async def _read(self, request: Request) -> bytearray:
        """Return the body of a call, unless it or all of them are too large."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    self._bytes += len(chunk)
                    if len(body) > MAX_BODY:
                        raise Refused(f"the body is larger than {MAX_BODY} bytes")
                    if self._bytes > MAX_BODIES:
                        raise Refused("the bodies under way are too large", status=429)
        except BaseException as error:
            self._bytes -= len(body)
            if isinstance(error, TimeoutError):
                raise Refused("the body came too slowly") from None
            raise
        return body

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        """Wait until few calls are under way."""
        if self._requests >= MAX_REQUESTS:
            raise Refused("too many calls are under way", status=429)
        self._requests += 1
        try:
            async with self._slots:
                yield
        finally:
            self._requests -= 1

    def _check(self, call: ChatCall | ResponsesCall) -> None:
        """Refuse a call in the wrong style, and any after the last one allowed."""
        if isinstance(call, ResponsesCall) != self.llm.uses_responses_api():
            raise Refused("the model of this run is asked at the other endpoint")
        if isinstance(call, ChatCall) and not self.llm.is_caching_prompt_active():
            # For Gemini, LiteLLM would store such a text at the provider, which costs.
            if any(has_cache_control(message) for message in call.messages):
                raise Refused("the model of this run is sent no cache_control")
        if self.calls >= self.call_limit:
            raise Refused(f"{self.call_limit} calls have been made", status=402)

    def _highest_price(self, body: bytearray) -> float:
        """Return what a call costs at most; refuse it if the limit cannot bear that."""
        if self.cost_limit is None:
            return 0.0
        # A token is at least a byte.
        images = body.count(b"data:image/")
        tokens_in = len(body) + images * TOKENS_OF_AN_IMAGE + TOKENS_OF_A_CALL
        context = model_info(self.llm).get("max_input_tokens")
        if isinstance(context, int):
            tokens_in = min(tokens_in, context)
        tokens_out = self.llm.effective_max_output_tokens or 0
        price = tokens_in * self._prices[0] + tokens_out * self._prices[1]
        if self.cost + self._reserved + price > self.cost_limit:
            raise Refused(
                f"${self.cost:.4f} of ${self.cost_limit} are spent,"
                f" and this call could cost ${price:.4f}",
                status=402,
            )
        return price

    async def _make(
        self, request: Request, call: ChatCall | ResponsesCall, price: float
    ) -> Response:
        """Make a call, and note it; its highest price is set aside meanwhile."""
        entry = self._entry(request)
        began = time.monotonic()
        self.calls += 1
        self._reserved += price
        # What holds if the run ends while the call is under way.
        entry["status"] = 499
        entry["cost"] = price
        try:
            answer = await self._ask(call)
            self._count(entry, answer)
            return self._success(answer, entry)
        except Exception as error:  # LiteLLM's exceptions have no base of their own
            if is_free(error):
                entry["cost"] = 0.0
            return self._failure(error, entry)
        finally:
            self._reserved -= price
            self.cost += entry["cost"]
            self.last = f"{entry['status']} {entry.get('error', '')}".strip()
            self._note(entry | {"seconds": round(time.monotonic() - began, 3)})

    async def _ask(self, call: ChatCall | ResponsesCall) -> Any:
        """Ask the provider as the SDK does, and return LiteLLM's answer."""
        provider = provider_of(self.llm)
        options: dict[str, Any] = {
            **provider.as_litellm_call_kwargs(api_key=key_of(self.llm)),
            "api_base": plain_base_url(provider.api_base, provider.name),
            "api_version": self.llm.api_version,
            "timeout": self.llm.timeout,
            "drop_params": True,
        }
        if provider.name == "azure":
            options["max_retries"] = 0  # its client retries, and the SDK does
        if isinstance(call, ResponsesCall):
            return await litellm.aresponses(**options, **self._responses_options(call))
        options |= self._chat_options(call)
        if self.rehearsal:
            options["mock_tool_calls"] = [rehearse(call)]
        return await litellm.acompletion(**options)

    def _chat_options(self, call: ChatCall) -> dict[str, Any]:
        """Return what the SDK on this host would ask of the model."""
        said = call.model_dump(include={"messages", "tools"}, exclude_unset=True)
        has_tools = bool(call.tools)
        options = chat_options.select_chat_options(
            self.llm, said, has_tools=has_tools, call_context=self._session
        )
        # The SDK in the box leaves room for what it says.
        for name in ("max_completion_tokens", "max_tokens"):
            if name in options:
                options[name] = min(options[name], getattr(call, name) or math.inf)
        return options

    def _responses_options(self, call: ResponsesCall) -> dict[str, Any]:
        """Return what the SDK on this host would ask of the model."""
        said = call.model_dump(
            include={"input", "instructions", "tools"}, exclude_unset=True
        )
        options = responses_options.select_responses_options(
            self.llm, {}, include=None, store=None, call_context=self._session
        )
        return options | said

    def _count(self, entry: dict[str, Any], answer: Any) -> None:
        """Add an answer's tokens and cost to a line of the ledger, as the SDK does."""
        # Each call's alone: the SDK copies all that it has counted at each call.
        self.llm.reset_metrics()
        self.llm.telemetry.on_request(None)
        metrics = self.llm.telemetry.on_response(answer)
        if metrics.costs and math.isfinite(metrics.accumulated_cost):
            entry["cost"] = metrics.accumulated_cost
        tokens = {"in": 0, "cached": 0, "out": 0}
        for usage in metrics.token_usages:
            tokens["in"] = usage.prompt_tokens
            tokens["cached"] = usage.cache_read_tokens
            tokens["out"] = usage.completion_tokens
        self.usages[f"{getattr(answer, 'id', None) or self.calls}"] = {
            "prompt_tokens": tokens["in"],
            "prompt_tokens_details": {"cached_tokens": tokens["cached"]},
            "completion_tokens": tokens["out"],
            "cost": entry["cost"],
        }
        self.tokens_in += tokens["in"]
        self.tokens_cached += tokens["cached"]
        self.tokens_out += tokens["out"]
        entry["tokens"] = tokens

    def _success(self, answer: Any, entry: dict[str, Any]) -> Response:
        """Return an answer of the provider's, with its cost for the SDK in the box."""
        entry["status"] = 200
        text = json.dumps(answer.model_dump(mode="json", exclude_none=True))
        # A password that is a word may well be in an answer.
        text = self._mask(text, longer_than=15)
        headers = {"x-litellm-response-cost": str(entry["cost"])}
        return Response(text, media_type="application/json", headers=headers)

    def _failure(self, error: Exception, entry: dict[str, Any]) -> Response:
        """Return what went wrong in a way that the SDK in the box understands."""
        status = getattr(error, "status_code", None)
        if not isinstance(status, int) or not 400 <= status < 600:
            status = 502
        text = str(getattr(error, "message", "") or error)[:20_000]
        # LiteLLM in the box makes of this name an error that the SDK tries again.
        text = text.removeprefix("litellm.APIError: ")
        answer = answer_of(error)
        if answer is not None and answer.is_redirect:
            text = "the provider redirects: set LLM_BASE_URL to where it leads"
        if status == 404 and self.llm.base_url:
            text += " (or LLM_BASE_URL is not the address of its API)"
        text = text.partition("Traceback (most recent call last)")[0]
        text = HOST_PATH.sub("<path>", self._mask(text))
        text = text.encode(errors="replace")[:2_000].decode(errors="ignore")
        # LiteLLM in the box would take this word for a broken connection.
        text = text.replace("APIError", "error")
        entry["status"] = status
        entry["error"] = one_line(text, 300)
        say(f"An LLM call failed with {status}: {entry['error'][:100]}")
        response = error_response(status, text, "provider_error")
        if answer is not None and "retry-after" in answer.headers:
            wait = one_line(answer.headers["retry-after"], 100)
            response.headers["Retry-After"] = wait
        return response

    def _mask(self, text: str, longer_than: int = 0) -> str:
        """Return a text without the credentials of this host."""
        for secret in self._secrets:
            if len(secret) > longer_than:
                text = text.replace(secret, "***")
        return text


# A path of this host's, but not a part of a URL.
HOST_PATH = re.compile(r"(?<![\w/:.])(/[\w.@+-]+){2,}")


def error_response(
    status: int, message: str, kind: str, field: str | None = None
) -> Response:
    """Return an error as OpenAI's clients know it."""
    error = {"message": message, "type": kind, "param": field, "code": str(status)}
    text = json.dumps({"error": error})
    return Response(text, status, media_type="application/json")


def causes(error: BaseException | None) -> Generator[BaseException]:
    """Yield an exception, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_free(error: Exception) -> bool:
    """Whether the provider charges nothing: it did not get the call, or answered with
    an error. It may charge for an answer that LiteLLM cannot read.
    """
    not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
    chain = list(causes(error))
    if any(isinstance(each, not_sent) for each in chain):
        return True
    response = getattr(chain[-1], "response", None)
    return isinstance(response, httpx.Response) and not response.is_success


def answer_of(error: Exception) -> httpx.Response | None:
    """Return what the provider answered where that led to an exception."""
    answer = None
    for each in causes(error):
        response = getattr(each, "response", None)
        if isinstance(response, httpx.Response):
            # The first cause has the provider's; LiteLLM makes others up.
            answer = response
    return answer


def rehearse(call: ChatCall) -> dict[str, Any]:
    """Return the next tool call of the rehearsal: look around, run, note, finish."""
    step = sum(isinstance(message, ToolMessage) for message in call.messages)
    name, arguments = REHEARSAL[min(step, len(REHEARSAL) - 1)]
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{step}", "type": "function", "function": function}


# ## The results
#
# They are written as they come, so that little is lost however a run ends. The
# submission is a gzipped tar of /workspace, where `programbench eval` looks for it. The
# engine hands over the files, so this works whatever the agent did to its own tools,
# and this side writes the archive anew.


class Results:
    """The folder of a task's results: what the agent did, and what came of it."""

    CHECKPOINT = 600  # seconds from one saving of the work to the next

    def __init__(self, folder: Path, workspace: Cleanroom, relay: "Relay", job: Job):
        self.folder = folder
        self.workspace = workspace
        self.relay = relay
        self.job = job
        self.began = time.monotonic()
        self.submission: Path | None = None
        self._events: IO[str] = open(folder / "trajectory.jsonl", "w", encoding="utf-8")

    def note(self, event: Event) -> None:
        """Write down an event of the conversation; the SDK masks the secrets."""
        # The others say how the conversation's state changes, at length.
        if isinstance(event, LLMConvertibleEvent) and not self._events.closed:
            write_line(self._events, event.model_dump_json())

    @contextlib.contextmanager
    def checkpoints(self) -> Generator[None]:
        """Save the work now and then, as the script or its machine may end at once."""
        over = threading.Event()
        thread = threading.Thread(target=self._save_now_and_then, args=[over])
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _save_now_and_then(self, over: threading.Event) -> None:
        """Say how far the run is, and save the work, until it is over."""
        while not over.wait(self.CHECKPOINT):
            time_left = self.began + self.job.time_limit - time.monotonic()
            say(f"{self.spent()}, {time_left:.0f} s left")
            try:
                self._save_submission()
            except OSError as error:
                say(f"Warning: the work was not saved: {error}")

    def spent(self) -> str:
        """Say what the run has taken so far."""
        relay = self.relay
        tokens = f"{relay.tokens_in:,} tokens in, {relay.tokens_out:,} out"
        return f"{relay.calls} LLM calls, {tokens}, ${relay.cost:.2f}"

    def save(self, conversation: BaseConversation, status: int) -> Path | None:
        """Save all there is to save; returns the submission's path.

        `status` is the script's exit status.

        All goes to the temp folder if the folder takes no files. Returns None if the
        engine no longer has the work, and there is no checkpoint.
        """
        finish_before_stopping()
        try:
            self._save_all(conversation, status)
        except OSError as error:
            say(f"{error}: saving to the temp folder instead")
            self.folder = Path(tempfile.mkdtemp(), self.folder.name)
            self.folder.mkdir()
            self._save_all(conversation, status)
        return self.submission

    def _save_all(self, conversation: BaseConversation, status: int) -> None:
        """Save the submission and the trajectory."""
        self._save_submission()
        self._events.close()
        events = list(conversation.state.events)
        with open(self.folder / "trajectory.jsonl", "w", encoding="utf-8") as file:
            file.writelines(f"{event.model_dump_json()}\n" for event in events)
        trajectory = self._trajectory(events, status)
        path = self.folder / f"{self.folder.name}.traj.json"
        path.write_text(json.dumps(trajectory, indent=1))

    def _save_submission(self) -> None:
        """Save the work, in place of the last checkpoint."""
        if path := save_submission(self.workspace, self.folder):
            self.submission = path

    def _trajectory(self, events: Iterable[Event], status: int) -> dict[str, Any]:
        """Return what the run was and did, laid out as the benchmark's harness does.

        The leaderboard's scripts look here for the cost, the calls and the tokens.
        """
        image = self.workspace.task_image
        assert image
        usages = dict(self.relay.usages)
        finished = "Rehearsed" if self.relay.rehearsal else "Submitted"
        messages: list[dict[str, Any]] = []
        for event in events:
            if isinstance(event, LLMConvertibleEvent):
                response = str(getattr(event, "llm_response_id", ""))
                messages.append(chat_message(event, usages.pop(response, None)))
        # Calls of the agent's own, of which the conversation knows nothing.
        messages += [usage_message(usage) for usage in usages.values()]
        return {
            "trajectory_format": "openhands-cleanroom-1",
            "info": {
                "exit_status": "EndedEarly" if status else finished,
                "model_stats": {
                    "instance_cost": self.relay.cost,
                    "api_calls": self.relay.calls,
                },
                "config": {
                    "agent": {
                        "openhands_sdk": SDK_VERSION,
                        "instruction": self.job.instruction,
                        "step_limit": self.job.step_limit,
                        "wall_time_limit_seconds": self.job.time_limit,
                        "cost_limit": self.relay.cost_limit,
                    },
                    "model": {"model_name": self.relay.llm.model},
                    "environment": {
                        "image": image.name,
                        "image_id": image.id,
                        "repo_digests": image.repo_digests,
                        "network": "none",
                    },
                },
                "wall_time_seconds": round(time.monotonic() - self.began, 1),
            },
            "messages": messages,
        }


def chat_message(
    event: LLMConvertibleEvent, usage: dict[str, Any] | None
) -> dict[str, Any]:
    """Return an event as a message of /chat/completions, with what its call took."""
    message = event.to_llm_message().to_chat_dict(
        cache_enabled=False,
        vision_enabled=False,
        function_calling_enabled=True,
        force_string_serializer=True,
        send_reasoning_content=True,
    )
    if usage:
        message |= usage_message(usage)
    return message | {"timestamp": event.timestamp}


def usage_message(usage: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a message that says what the call to the LLM took."""
    return {"role": "assistant", "extra": {"response": {"usage": usage}}}


def write_line(file: IO[str], line: str) -> None:
    """Add a line to a file, at once. A full disk must not end the run."""
    try:
        file.write(f"{line}\n")
        file.flush()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        print_if_read(f"A line of {file.name} is lost: {error}", sys.stderr)


ATTEMPTS = 5  # at a copy that is cut short


def save_submission(workspace: Cleanroom, folder: Path) -> Path | None:
    """Save /workspace as `submission.tar.gz`, whole or not at all; returns its path."""
    problem = ""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        part = Path(scratch, "submission.tar.gz")
        for _ in range(ATTEMPTS):
            try:
                problem = copy_workspace(workspace.container, part)
                break
            except tarfile.ReadError as error:
                problem = f"what it sends is cut short: {error}"
        if not problem:
            return part.replace(folder / part.name)
    print_if_read(
        f"error: the engine does not hand over the work: {problem}", sys.stderr
    )
    return None


def copy_workspace(container: str, archive_path: Path) -> str:
    """Write what is to be submitted of a container's /workspace to an archive.

    Returns why the engine does not hand it over, or "". Raises tarfile.ReadError if it
    sends a part of it, and takes that for all: a file has shrunk meanwhile.
    """
    command = ["docker", "cp", f"{container}:/workspace/.", "-"]
    cut: tarfile.ReadError | None = None
    with paused(container), tempfile.TemporaryFile() as words:
        with Popen(command, stdout=PIPE, stderr=words, process_group=0) as engine:
            assert engine.stdout
            try:
                write_submission(engine.stdout, archive_path)
            except tarfile.ReadError as error:
                cut = error
        words.seek(0)
        said = words.read().decode(errors="replace").strip()
    if engine.returncode:
        return said or f"`docker cp` ends with status {engine.returncode}"
    if cut:
        raise cut
    return ""


def write_submission(workspace: IO[bytes], path: Path) -> None:
    """Write a gzipped tar of what is to be submitted of a tar of /workspace.

    Raises tarfile.ReadError if that one is not whole.
    """
    with (
        tarfile.open(fileobj=workspace, mode="r|", bufsize=tarfile.BLOCKSIZE) as files,
        open(path, "wb") as file,
        BufferedWriter(BlockGzip(file), BlockGzip.BLOCK) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as archive,
    ):
        for member in submittable(files):
            content = files.extractfile(member) if member.isreg() else None
            archive.addfile(member, content)
    # Two blocks of zeros end a tar. Python stops at the first, or where there is none.
    if not workspace.read():
        raise tarfile.ReadError("it has no end")


class BlockGzip(RawIOBase):
    """Writes gzip (RFC 1952), and compresses each block by itself.

    A block that looks random, such as one of an archive, is stored: zlib would take
    twenty times as long for it.
    """

    BLOCK = 256 << 10  # bytes
    HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate, no time, no system
    LAST_BLOCK = b"\x03\x00"  # which is empty

    def __init__(self, file: IO[bytes]):
        super().__init__()
        self._file = file
        self._checksum = 0
        self._size = 0
        self._file.write(self.HEADER)

    def writable(self) -> bool:
        """Whether this can be written to."""
        return True

    def write(self, block: Any, /) -> int:
        """Write a block of bytes."""
        content = bytes(block)
        sample = content[::61]
        shrinks = len(zlib.compress(sample)) < 0.9 * len(sample)
        deflate = zlib.compressobj(level=6 if shrinks else 0, wbits=-zlib.MAX_WBITS)
        self._file.write(deflate.compress(content))
        # Up to a whole byte, where the next block can begin.
        self._file.write(deflate.flush(zlib.Z_FULL_FLUSH))
        self._checksum = zlib.crc32(content, self._checksum)
        self._size += len(content)
        return len(content)

    def close(self) -> None:
        """Write the end of the file."""
        if not self.closed:
            self._file.write(self.LAST_BLOCK)
            self._file.write(self._checksum.to_bytes(4, "little"))
            self._file.write((self._size % (1 << 32)).to_bytes(4, "little"))
        super().close()


@contextlib.contextmanager
def paused(container: str) -> Generator[None]:
    """Freeze the container: a file that shrinks while it is copied breaks the copy.

    An engine that cannot freeze it hands over the files as they come.
    """
    # It ends the pause at the end of its input, however this script ends: a frozen
    # container could not notice that.
    command = ["sh", "-c", 'read -r _; exec docker unpause "$0"', container]
    with Popen(
        command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
    ):
        for _ in range(4):
            if succeeds(["docker", "pause", container]):
                break
            time.sleep(1)
        yield


MAX_LINK = 1000  # bytes; nobody can follow a much longer one


def submittable(files: tarfile.TarFile) -> Generator[tarfile.TarInfo]:
    """Yield the members of /workspace that are the agent's to submit.

    What nobody may read is not: that is the reference binary, under whatever name, as
    the agent can move it but neither copy it nor change its mode. Nor are hard links to
    it, devices, and whatever leads out of /workspace.
    """
    left_out = set[str]()
    for member in files:
        unreadable = member.isreg() and not member.mode & 0o444
        # Two links may lead out together where each stays inside: `..` may only come
        # first.
        winding = "/../" in f"{member.linkname.lstrip('./')}/"
        if unreadable or winding or member.linkname in left_out or leads_out(member):
            left_out.add(member.name)
        else:
            yield member


def leads_out(member: tarfile.TarInfo) -> bool:
    """Whether a member is a device, or a link out of /workspace, or to no file at all.

    Python's own filter for this would look at the files of this host.
    """
    if member.isreg() or member.isdir():
        return False
    if not member.islnk() and not member.issym():
        return True
    folder = os.path.dirname(member.name) if member.issym() else ""
    target = os.path.normpath(os.path.join(folder, member.linkname))
    too_long = member.issym() and len(os.fsencode(member.linkname)) > MAX_LINK
    return too_long or target.split("/")[0] in ("", "..")


def set_older_results_aside(folder: Path) -> None:
    """Move what an older run left to the folder `older`, under its time.

    It is a folder from which `programbench submit publish` takes nothing.
    """
    names = ["submission.tar.gz", f"{folder.name}.traj.json"]
    names += ["trajectory.jsonl", "llm_calls.jsonl"]
    found = [folder / name for name in names if (folder / name).exists()]
    if found:
        older = folder / "older"
        older.mkdir(exist_ok=True)
        (older / ".gitignore").write_text("*\n")
        ended = max(path.stat().st_mtime for path in found)
        for path in found:
            path.rename(older / f"{ended:.0f}-{path.name}")


def print_submission(path: Path) -> None:
    """Print the agent's notes and what lies at the top of the submission."""
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        for member in members:
            if member.name != "./NOTES.md" or not member.isreg():
                continue
            if notes := archive.extractfile(member):
                print("\nNOTES.md:\n")
                show(notes.read(64 << 10).decode(errors="replace"))
    print(f"submission  {len(members)} entries, {path.stat().st_size:,} bytes:")
    top = {member.name.split("/")[1] for member in members if "/" in member.name}
    show(" ".join(sorted(top))[:1000])


# ## The audit


def audit(workspace: Cleanroom) -> None:
    """Have the agent's own shell try what must not work, before any token is spent.

    Raises CleanroomError, with status 3, unless everything holds.
    """
    answer = workspace.execute_command("/cleanroom/audit", timeout=60)
    *lines, last = answer.stdout.splitlines() or [""]
    broken = list[str]()
    for line in lines:
        verdict, claim = line.split(maxsplit=1)
        print(f"{verdict:<3}  {claim}", flush=True)
        if verdict != "yes":
            broken.append(claim)
    if last != "audited":
        broken.append(f"the audit itself: {answer.stderr[-200:]}")
    if broken:
        image = workspace.base_image
        broken_claims = "; ".join(broken)
        raise CleanroomError(
            f"No LLM was called: {image}, or the engine, breaks {broken_claims}.", 3
        )


# ## Saying and doing

STARTED = time.monotonic()
ENGINE_HINT = (
    "start Docker, join the group that may use it, or set DOCKER_HOST to an engine "
    "that answers"
)
SSH_HINT = "install OpenSSH's client"
INDENT = "  "  # before what the agent has to do with


def say(step: str) -> None:
    """Print what comes next, after the seconds since the start."""
    print_if_read(f"[{time.monotonic() - STARTED:6.1f} s] {step}")


def print_if_read(text: str, stream: IO[str] | None = None, end: str = "\n") -> None:
    """Print at once. Where nobody can read it any more, the run goes on without.

    The reader of a pipe may end, or the disk of a log file be full.
    """
    out = stream or sys.stdout
    try:
        print(text, end=end, file=out, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())  # what is still to be printed goes there
        os.close(nowhere)


def show(text: str) -> None:
    """Print a text of the agent's, indented, in lines that no terminal breaks."""
    console = Console(width=Console().width - len(INDENT), highlight=False)
    with console.capture() as captured:
        console.print(printable(text), markup=False, emoji=False)
    print(textwrap.indent(captured.get(), INDENT), end="")


def printable(text: str) -> str:
    """Return a text without what could move the cursor: it may be the agent's."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


class CommandFailed(CleanroomError):
    """A command failed; `words` is what it said."""

    def __init__(self, command: list[str], words: str, hint: str):
        last_words = printable(" ".join(words.split())[-500:])
        remedy = f"; {hint}." if hint else ""
        super().__init__(f"`{' '.join(command[:3])}` says: {last_words}{remedy}")
        self.words = words

    def step(self) -> str:
        """Return what the failed step of a build said.

        BuildKit repeats it between two lines of dashes, below the step's name.
        """
        parts = self.words.split("\n------\n")
        said = parts[-2].partition("\n")[2] if len(parts) > 2 else ""
        if not said.strip():  # it did not even start: BuildKit itself says why
            said = self.words
        lines = [re.sub(r"^\d+\.\d+ ", "", line) for line in said.splitlines()]
        return printable(" ".join(lines).strip()[-500:])


def run(command: list[str], *, hint: str = "", cwd: Path | None = None) -> str:
    """Return what a command prints; raises CommandFailed with its words and a hint."""
    try:
        # In a process group of its own, so that all of it ends with this script.
        process = Popen(
            command,
            stdout=PIPE,
            stderr=PIPE,
            encoding="utf-8",
            errors="replace",
            cwd=cwd,
            process_group=0,
        )
    except OSError as error:
        raise CleanroomError(f"{error}: {hint or ENGINE_HINT}.") from None
    with process:
        try:
            output, words = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        raise CommandFailed(command, words or output, hint)
    return output.strip()


def succeeds(command: list[str]) -> bool:
    """Whether a command succeeds; what it prints does not matter."""
    with Popen(command, stdout=DEVNULL, stderr=DEVNULL, process_group=0) as process:
        return process.wait() == 0


def forget_the_callers_repository() -> None:
    """Have git look at the SDK's checkout, also where a hook of git's is the caller."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        os.environ.pop(name, None)


def exempt_loopback_from_proxies() -> None:
    """Have no library look for this host's own loopback behind a proxy."""
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = f"{exempt},127.0.0.1,localhost".strip(",")


def script() -> int:
    """Run `main()`; whatever ends it is told in one sentence."""
    exempt_loopback_from_proxies()
    forget_the_callers_repository()
    for stream in (sys.stdout, sys.stderr):
        # It may know ASCII alone, and is None where it is closed.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    try:
        return main()
    except CleanroomError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except (httpx.HTTPError, WebSocketConnectionError) as error:
        print(f"error: {what_went_wrong(error)}", file=sys.stderr)
        return 1
    except OSError as error:  # of this host's: a disk that is full, and the like
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"\nThe run ended early: {stopped}.", file=sys.stderr)
        return stopped.status


if __name__ == "__main__":
    # What is imported stays. Else Python looks through it for garbage at the end, for
    # more than a second.
    gc.freeze()
    sys.exit(script())
