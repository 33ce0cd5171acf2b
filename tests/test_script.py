"""The script, end to end: a process, a real engine, and either no LLM or one on loopback."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import secrets
import shlex
import signal
import subprocess
import tarfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Run, in_memory, output_of
from scripted_llm import Request, Response, ScriptedLLM, Step, json_response

NOTES = r"It counts.\n\033[31mIt writes no \007bells.\n"
SCRIPT: list[Step] = [
    ("terminal", {"command": "cd /workspace && ls -la && ./executable --help"}),
    ("terminal", {"command": f"printf {shlex.quote(NOTES)} > /workspace/NOTES.md"}),
    ("terminal", {"command": "mkdir /workspace/src && echo 'int x;' > /workspace/src/a.c"}),
]
# The model decides which of the three API styles the SDK speaks.
STYLES = {
    "openai/gpt-4o-mini": "/v1/chat/completions",
    "openai/gpt-5-mini": "/v1/responses",
    "anthropic/claude-haiku-4-5": "/v1/messages",
}
# In this one's run the container's files are searched too: over a gigabyte, so once is enough.
EXPORTED = "openai/gpt-4o-mini"


def members_of(run: Run) -> dict[str, tarfile.TarInfo]:
    """Return what is in a run's submission, by name without the leading ./"""
    (path,) = run.output.glob("*/submission.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.removeprefix("./"): member for member in archive}


def ledger_of(run: Run) -> list[dict[str, Any]]:
    """Return a run's ledger."""
    (path,) = run.output.glob("*/llm_calls.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def documents_of(image: str) -> set[str]:
    """Return the names of the files that an image has in /workspace, without the binary."""
    command = ["docker", "run", "--rm", "--network=none", "--user=root", "--entrypoint=find"]
    found = output_of(*command, image, "/workspace", "-type", "f", "-printf", "%P\n")
    return set(found.splitlines()) - {"executable"}


def last_lines(stdout: str) -> tuple[str, float]:
    """Return the path and the cost that the last two lines name."""
    match = re.search(r"\nSUBMISSION: (.+)\nEXAMPLE_COST: ([\d.e-]+)\n\Z", stdout)
    assert match, stdout[-500:]
    return match[1], float(match[2])


@dataclass
class Seen:
    """What was seen of a container while it ran."""

    container: str
    details: dict[str, Any]
    files: set[str] = field(default_factory=set[str])
    memory: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


def look_at(container: str) -> Seen:
    """See how a container is made."""
    return Seen(container, json.loads(output_of("docker", "inspect", container))[0])


def look_into_files(seen: Seen, *needles: str) -> None:
    """See which of the needles are anywhere in the container's files."""
    with subprocess.Popen(["docker", "export", seen.container], stdout=subprocess.PIPE) as export:
        assert export.stdout
        tail = b""
        while chunk := export.stdout.read(1 << 20):
            window = tail + chunk  # a needle may lie across two chunks
            seen.files |= {needle for needle in needles if needle.encode() in window}
            tail = chunk[-100:]
    assert export.returncode == 0


@dataclass
class Played:
    """A run that is over."""

    run: Run
    done: subprocess.CompletedProcess[str]
    seen: Seen
    image: str


@pytest.fixture(scope="module")
def rehearsal(task_image: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """A run without any LLM settings."""
    run, seen = Run(tmp_path_factory.mktemp("rehearsal")), list[Seen]()

    def watch() -> None:
        while not stop.wait(0.1):
            for container in run.containers():
                with contextlib.suppress(subprocess.CalledProcessError):  # it is gone already
                    seen.append(look_at(container))

    stop = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run()
    finally:
        stop.set()
        watcher.join()
    assert seen, f"no container was seen:\n{done.stdout}\n{done.stderr}"
    return Played(run, done, seen[0], task_image)


@dataclass
class PlayedByLLM(Played):
    """A run that is over, and the endpoint that it had."""

    llm: ScriptedLLM
    key: str
    model: str
    marker: str


@pytest.fixture(scope="module", params=STYLES)
def played(
    request: pytest.FixtureRequest, task_image: str, tmp_path_factory: pytest.TempPathFactory
) -> PlayedByLLM:
    """A run with a scripted endpoint and a key."""
    model: str = request.param
    run = Run(tmp_path_factory.mktemp("played"))
    key, marker = f"sk-test-{secrets.token_hex(16)}", secrets.token_hex(16)
    seen = list[Seen]()

    def look(call: Request) -> None:
        """Look around when the agent is about to finish: all it will ever have is there."""
        if llm.script or seen or not call.body.get("tools"):
            return
        (container,) = run.containers()
        now = look_at(container)
        now.memory = in_memory(now.container, key, marker)
        if model == EXPORTED:
            look_into_files(now, key, marker)
        seen.append(now)

    with ScriptedLLM(SCRIPT, respond=look) as llm:
        done = run(
            LLM_API_KEY=key,
            LLM_MODEL=model,
            LLM_BASE_URL=llm.origin if model.startswith("anthropic/") else llm.base_url,
            PROGRAMBENCH_INSTRUCTION=f"Characterise the program, {marker}.",
        )
    assert seen, f"the script was not played to its end:\n{done.stdout}\n{done.stderr}"
    return PlayedByLLM(run, done, seen[0], task_image, llm, key, model, marker)


def test_a_rehearsal_needs_no_settings_and_succeeds(rehearsal: Played):
    assert rehearsal.done.returncode == 0, rehearsal.done.stderr
    assert "rehearsal" in rehearsal.done.stdout.splitlines()[0]


def test_the_last_lines_name_the_submission_and_the_cost(rehearsal: Played):
    path, cost = last_lines(rehearsal.done.stdout)
    assert path == f"{next(rehearsal.run.output.glob('*/submission.tar.gz'))}"
    assert cost == 0


def test_a_rehearsal_prints_the_notes_that_it_took(rehearsal: Played):
    help_text = output_of(
        *["docker", "run", "--rm", "--network=none", "--entrypoint=/workspace/executable"],
        *[rehearsal.image, "--help"],
    )
    assert help_text in rehearsal.done.stdout


def test_the_container_has_no_network(rehearsal: Played):
    assert rehearsal.seen.details["HostConfig"]["NetworkMode"] == "none"
    assert list(rehearsal.seen.details["NetworkSettings"]["Networks"]) == ["none"]


def test_the_container_has_no_extra_rights(rehearsal: Played):
    host = rehearsal.seen.details["HostConfig"]
    assert not host["Privileged"]
    assert not host["CapAdd"]
    assert not host["Binds"]


def test_a_run_leaves_no_container_process_or_file_behind(rehearsal: Played):
    container = rehearsal.seen.container
    assert container not in output_of("docker", "ps", "--all", "--quiet", "--no-trunc")
    for process in psutil.process_iter(["cmdline"]):
        assert container not in (process.info["cmdline"] or [])
    assert not rehearsal.run.leftovers()


def test_the_submission_is_the_documents_and_the_notes(rehearsal: Played):
    files = {name for name, member in members_of(rehearsal.run).items() if member.isreg()}
    assert files == documents_of(rehearsal.image) | {"NOTES.md"}


def test_every_call_of_a_rehearsal_is_in_the_ledger(rehearsal: Played):
    ledger = ledger_of(rehearsal.run)
    assert len(ledger) >= 4
    assert {entry["status"] for entry in ledger} == {200}
    assert {entry["path"] for entry in ledger} == {"/v1/chat/completions"}


def test_a_run_with_an_endpoint_succeeds(played: PlayedByLLM):
    assert played.done.returncode == 0, played.done.stderr
    assert played.llm.script == []


def test_the_agent_speaks_the_api_style_of_its_model(played: PlayedByLLM):
    assert {call.path for call in played.llm.requests} == {STYLES[played.model]}


def test_the_endpoint_sees_the_real_key_and_never_the_placeholder(played: PlayedByLLM):
    for call in played.llm.requests:
        headers = "\n".join(call.headers.values())
        assert played.key in headers
        assert "placeholder" not in headers
        assert b"placeholder-" not in call.raw


def test_the_cost_is_what_litellm_computes_from_the_usage(played: PlayedByLLM):
    import litellm

    assert len(played.llm.usages) >= len(SCRIPT) + 1
    expected = sum(
        sum(
            litellm.cost_per_token(  # pyright: ignore
                model=played.model, prompt_tokens=usage.prompt, completion_tokens=usage.completion
            )
        )
        for usage in played.llm.usages
    )
    assert expected > 0
    assert last_lines(played.done.stdout)[1] == pytest.approx(expected)


def test_only_the_agent_calls_the_llm(played: PlayedByLLM):
    assert all(call.body["tools"] for call in played.llm.requests)  # and nobody for a title


def test_a_run_ends_with_a_summary_for_a_report(played: PlayedByLLM):
    path, _ = last_lines(played.done.stdout)
    digest = output_of("docker", "image", "inspect", "--format={{.Id}}", played.image).strip()
    usages = played.llm.usages
    prompt, completion = (sum(getattr(u, n) for u in usages) for n in ("prompt", "completion"))
    files = f"{len(members_of(played.run))} entries, {Path(path).stat().st_size:,} bytes"
    expected = f"""
submission  {files}: ['.git', 'NOTES.md', 'README.md', 'docs', 'src']
image       {played.image}, {digest}
isolation   no network, audited
LLM calls   {len(played.llm.requests)}, 0 refused, to {played.model}
tokens      {prompt:,} in, {completion:,} out
wall time   """
    assert expected in played.done.stdout
    wall_time = played.done.stdout.rpartition(expected)[2].split()[0]
    assert 1 < float(wall_time) < 1000


def test_what_a_pipe_gets_has_no_codes_for_a_terminal(played: PlayedByLLM):
    assert "\x1b" not in played.done.stdout + played.done.stderr
    assert "\r" not in played.done.stdout + played.done.stderr


def test_the_key_is_not_in_how_the_container_was_made(played: PlayedByLLM):
    assert played.key not in json.dumps(played.seen.details)


def test_the_key_is_in_no_memory_of_the_container(played: PlayedByLLM):
    # The search does find what is there: the server holds the instruction.
    assert played.seen.memory.keys() == {played.marker}


@pytest.mark.parametrize("played", [EXPORTED], indirect=True)
def test_the_key_is_in_no_file_of_the_container(played: PlayedByLLM):
    assert played.seen.files == {played.marker}


def test_the_key_is_in_nothing_that_a_run_puts_out(played: PlayedByLLM):
    assert played.key not in played.done.stdout + played.done.stderr
    for path in played.run.output.rglob("*"):
        if path.is_file():
            opened = gzip.open if path.suffix == ".gz" else open
            with opened(path, "rb") as file:
                assert played.key.encode() not in file.read()  # pyright: ignore


def test_the_submission_holds_the_work_and_nothing_of_ours(played: PlayedByLLM):
    files = {name for name, member in members_of(played.run).items() if member.isreg()}
    assert files == documents_of(played.image) | {"NOTES.md", "src/a.c"}


def test_the_notes_are_printed_without_what_garbles_a_terminal(played: PlayedByLLM):
    assert "It counts.\n[31mIt writes no bells.\n" in played.done.stdout


def test_every_call_of_a_run_is_in_the_ledger_without_its_body(played: PlayedByLLM):
    ledger = ledger_of(played.run)
    assert len(ledger) == len(played.llm.requests)
    for entry in ledger:
        assert entry["path"] == STYLES[played.model]
        assert entry["status"] == 200
        assert played.marker not in json.dumps(entry)


def test_an_agent_that_does_not_finish_fails_the_run_and_its_work_is_saved(
    run_example: Run, task_image: str
):
    def refuse(call: Request) -> Response | None:
        error = {"type": "authentication_error", "message": "no credit left"}
        return None if llm.script else json_response({"error": error}, 401)

    with ScriptedLLM(SCRIPT, respond=refuse) as llm:
        done = run_example(LLM_API_KEY="sk-x", LLM_MODEL="openai/x", LLM_BASE_URL=llm.base_url)
    assert done.returncode == 1
    assert "AuthenticationError" in done.stderr
    assert "src/a.c" in members_of(run_example)


def test_nothing_outlives_a_script_that_is_killed(task_image: str, run_example: Run):
    containers, killed = set[str](), list[float]()

    def kill(call: Request) -> Response | None:
        containers.update(run_example.containers())
        assert run_example.process
        killed.append(time.monotonic())
        run_example.process.kill()

    with ScriptedLLM(SCRIPT, respond=kill) as llm:
        done = run_example(LLM_API_KEY="sk-x", LLM_MODEL="openai/x", LLM_BASE_URL=llm.base_url)
    assert done.returncode == -signal.SIGKILL
    (container,) = containers
    # It waits ten seconds for somebody who saves the work; the run above ends with its pipe.
    while container in output_of("docker", "ps", "--all", "--quiet", "--no-trunc"):
        assert time.monotonic() < killed[0] + 20, "the container still runs"
        time.sleep(0.2)
    assert time.monotonic() < killed[0] + 20
