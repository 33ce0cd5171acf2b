"""The script, end to end: a process, a real engine, and no LLM or one on loopback."""

from __future__ import annotations

import gzip
import json
import re
import secrets
import shlex
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import litellm
import psutil
import pytest
from conftest import TASK_IMAGE, in_memory, instance_id, output_of
from runs import Run
from scripted_llm import (
    Request,
    Response,
    ScriptedLLM,
    Step,
    json_response,
)


# What moves a terminal's cursor, in seven bits and in eight.
CONTROL = "\x1b]0;title\x07\x1b[31mred\x08\x9b31m\x7f\r"
# Lines that only the script itself may print, the second one where a terminal breaks it.
FORGED = f"EXAMPLE_COST: 0\n{'x' * 78}EXAMPLE_COST: 0\nyes  no key\n"
NOTES = f"It counts.\n{CONTROL}It rings no bell.\n{FORGED}"
OURS = (
    r"\[ *\d+\.\d s\] |(yes|NO ) |(submission|image|isolation|LLM calls|tokens|wall time)"
    r"  |NOTES.md:$|SUBMISSION: |EXAMPLE_COST: "
)
# The model decides how the SDK asks the relay, and how the relay asks the provider.
STYLES = {
    "openai/gpt-5-mini": ("/responses", "/v1/responses"),
    "anthropic/claude-haiku-4-5": ("/chat/completions", "/v1/messages"),
}
# In this one's run the container's files are searched too: over a gigabyte.
EXPORTED = "openai/gpt-5-mini"
SESSION_KEY = "OH_SESSION_API_KEYS_0=[0-9a-f]{64}"
INSPECT = ["docker", "image", "inspect"]
AUDITED = "yes  no key"
LEDGER = {"time", "endpoint", "model", "status", "tokens", "cost", "seconds"}


def script_with(secret: str) -> list[Step]:
    """Return what an agent does to whom the provider tells a secret."""
    notes = "".join(f"\\{byte:03o}" for byte in NOTES.encode())
    return [
        ("terminal", {"command": "cd /workspace && ls -la && ./executable --help"}),
        ("terminal", {"command": f"printf {shlex.quote(notes)} >/workspace/NOTES.md"}),
        ("terminal", {"command": "cat /workspace/NOTES.md"}),
        ("file_editor", {"command": "view", "path": "/workspace/NOTES.md"}),
        ("think", {"thought": f"So it is.{CONTROL}\n{FORGED}"}),
        ("terminal", {"command": f"mkdir src; echo '{secret}' >/workspace/src/a.c"}),
        ("finish", {"message": f"It is done.{CONTROL}\n{FORGED}"}),
    ]


@dataclass
class Played:
    """A run that is over, and what was seen of it shortly before."""

    run: Run
    done: subprocess.CompletedProcess[str]
    model: str = ""
    llm: ScriptedLLM = field(default_factory=ScriptedLLM)
    key: str = ""
    marker: str = ""
    seen: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def folder(self) -> Path:
        """Where the task's results are."""
        return self.run.output / instance_id(TASK_IMAGE)

    @property
    def printed(self) -> str:
        """All that the script printed."""
        return self.done.stdout + self.done.stderr

    def lines_of(self, name: str) -> list[dict[str, Any]]:
        """Return what a file of lines holds."""
        return list(map(json.loads, (self.folder / name).read_text().splitlines()))

    def submitted(self) -> dict[str, bytes]:
        """Return the files of the submission, by name."""
        files = dict[str, bytes]()
        with tarfile.open(self.folder / "submission.tar.gz") as archive:
            for member in archive:
                if content := archive.extractfile(member) if member.isreg() else None:
                    files[member.name.removeprefix("./")] = content.read()
        return files

    def cost(self) -> float:
        """Return the cost that the last line names; the one before names the result."""
        path = re.escape(f"{self.folder}/submission.tar.gz")
        last = rf"\nSUBMISSION: {path}\nEXAMPLE_COST: ([\d.e-]+)\n\Z"
        match = re.search(last, self.done.stdout)
        assert match, self.printed[-500:]
        return float(match[1])


def in_task_image(program: str, *arguments: str) -> str:
    """Return what a program of the task image's prints."""
    run = ["docker", "run", "--rm", "--network=none", f"--entrypoint={program}"]
    return output_of(*run, TASK_IMAGE, *arguments)


def documents() -> set[str]:
    """Return the names of the files that the task image has in /workspace."""
    found = in_task_image("find", "/workspace", "-type", "f", "-printf", "%P\n")
    return set(found.splitlines()) - {"executable"}


@pytest.fixture(scope="module")
def rehearsal(task_image: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """A run without any LLM settings, with a temp folder of a long and odd name."""
    run = Run(tmp_path_factory.mktemp("rehearsal"))
    run.prefix = ["env"]  # as a user starts it
    run.temp = run.temp / ("a b%c:d'" + 90 * "x")
    run.temp.mkdir()
    return Played(run, run())


def test_a_rehearsal_needs_no_settings_and_succeeds(rehearsal: Played):
    assert rehearsal.done.returncode == 0, rehearsal.printed
    assert "to openai/rehearsal\n" in rehearsal.done.stdout
    assert rehearsal.done.stderr == ""
    assert rehearsal.cost() == 0
    assert not rehearsal.run.leftovers()


def test_a_rehearsal_takes_and_prints_notes(rehearsal: Played):
    files, said = (
        rehearsal.submitted(),
        in_task_image("/bin/sh", "-c", "cd /workspace; ./executable --help 2>&1"),
    )
    assert files.keys() == documents() | {"NOTES.md"}
    assert files["NOTES.md"].decode() == said
    printed = " ".join(rehearsal.done.stdout.split())
    assert f"NOTES.md: {' '.join(said.split())}" in printed


def test_every_call_of_a_rehearsal_is_in_the_ledger(rehearsal: Played):
    ledger = rehearsal.lines_of("llm_calls.jsonl")
    assert [(line["status"], line["cost"]) for line in ledger] == 4 * [(200, 0)]


def test_a_rehearsal_is_not_taken_for_a_submission(rehearsal: Played):
    (path,) = rehearsal.folder.glob("*.traj.json")
    assert json.loads(path.read_text())["info"]["exit_status"] == "Rehearsed"


def words_in_files(container: str, *words: str) -> set[str]:
    """Return which of the words are anywhere in a container's files."""
    found = set[str]()
    export = ["docker", "export", container]
    with subprocess.Popen(export, stdout=subprocess.PIPE) as exported:
        assert exported.stdout
        tail = b""
        while chunk := exported.stdout.read(1 << 20):
            window = tail + chunk  # a word may lie across two chunks
            found |= {word for word in words if word.encode() in window}
            tail = chunk[-100:]
    assert exported.returncode == 0
    return found


@pytest.fixture(scope="module", params=STYLES)
def played(
    request: pytest.FixtureRequest,
    task_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Played:
    """A run with a key and a scripted provider, which tells the key to the agent."""
    model: str = request.param
    run, seen = Run(tmp_path_factory.mktemp("played")), dict[str, Any]()
    key, marker = f"sk-test-{secrets.token_hex(16)}", secrets.token_hex(16)

    def look(_: Request) -> Response | None:
        """Look around before the agent finishes: all it will ever have is there."""
        if len(llm.script) != 1 or seen:
            return
        (container,) = run.containers()
        (seen["container"],) = json.loads(output_of("docker", "inspect", container))
        seen["memory"] = in_memory(container, key, marker, SESSION_KEY)
        if model == EXPORTED:
            seen["files"] = words_in_files(container, key, marker)
        assert run.process
        seen["processes"] = run.process.children(recursive=True)

    with ScriptedLLM(script_with(key), respond=look) as llm:
        done = run(
            LLM_API_KEY=key,
            LLM_MODEL=model,
            LLM_BASE_URL=llm.origin,
            PROGRAMBENCH_INSTRUCTION=f"Characterise the program, {marker}.",
        )
    assert seen, f"the script was not played to its end:\n{done.stdout}\n{done.stderr}"
    return Played(run, done, model, llm, key, marker, seen)


def test_a_run_with_an_llm_succeeds(played: Played):
    assert played.done.returncode == 0, played.printed
    assert played.llm.script == []
    assert all(call.body["tools"] for call in played.llm.requests)  # none for a title


def test_the_provider_is_asked_in_its_own_style_with_the_real_key(played: Played):
    for call in played.llm.requests:
        assert call.path == STYLES[played.model][1]
        assert played.key in "\n".join(call.headers.values())


def test_the_container_has_no_network_and_no_extra_rights(played: Played):
    host = played.seen["container"]["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert [*played.seen["container"]["NetworkSettings"]["Networks"]] == ["none"]
    for extra in ("Privileged", "CapAdd", "Binds", "Devices", "PidMode"):
        assert not host[extra]


def test_a_run_leaves_no_container_process_or_file_behind(played: Played):
    container = played.seen["container"]["Id"]
    assert container not in output_of("docker", "ps", "--all", "--quiet", "--no-trunc")
    assert played.seen["processes"]
    _, running = psutil.wait_procs(played.seen["processes"], timeout=5)
    assert not running
    assert not played.run.leftovers()
    for process in psutil.process_iter(["cmdline"]):
        assert container not in " ".join(process.info["cmdline"] or [])


def test_the_key_is_in_no_memory_file_or_setting_of_the_container(played: Played):
    # The search does find what is there: the server holds the instruction.
    assert {word for word in played.seen["memory"] if "=" not in word} == {
        played.marker
    }
    if played.model == EXPORTED:
        assert played.seen["files"] == {played.marker}
    assert played.key not in json.dumps(played.seen["container"])


def test_no_key_is_in_anything_that_a_run_puts_out(played: Played):
    (session_key,) = {w for w in played.seen["memory"] if "=" in w}
    put_out = [played.printed.encode(), *played.submitted().values()]
    for path in played.folder.iterdir():
        data = path.read_bytes()
        put_out.append(gzip.decompress(data) if path.suffix == ".gz" else data)
    for secret in (played.key, session_key.partition("=")[2]):
        assert not any(secret.encode() in data for data in put_out)
    # What the provider told the agent was masked, and the SDK masks its own field.
    assert played.submitted()["src/a.c"] == b"***\n"
    assert '"api_key":"**********"' in (played.folder / "trajectory.jsonl").read_text()


def test_the_trajectory_holds_the_conversation(played: Played):
    events = played.lines_of("trajectory.jsonl")
    actions = [event for event in events if event["kind"] == "ActionEvent"]
    assert len(actions) == len(script_with(""))
    assert played.marker in json.dumps(events)


def test_the_leaderboards_scripts_find_cost_calls_and_tokens(played: Played):
    path = played.folder / f"{played.folder.name}.traj.json"
    trajectory = json.loads(path.read_text())
    info, messages = trajectory["info"], trajectory["messages"]
    stats = info["model_stats"]
    assert stats["instance_cost"] == pytest.approx(played.cost())
    assert stats["api_calls"] == len(played.llm.usages)
    # As the submissions' scripts do, at one place for each answer of the LLM's.
    usages = [m["extra"]["response"]["usage"] for m in messages if "extra" in m]
    assert [usage["completion_tokens"] for usage in usages] == [
        usage.completion for usage in played.llm.usages
    ]
    assert [usage["prompt_tokens"] for usage in usages] == [
        usage.prompt for usage in played.llm.usages
    ]
    # They belong to what the agent said then.
    assert all(m.get("tool_calls") for m in messages if "extra" in m)
    assert info["exit_status"] == "Submitted"
    image = info["config"]["environment"]
    assert image["image"] == TASK_IMAGE
    assert image["image_id"] in played.done.stdout
    assert image["repo_digests"] == json.loads(
        output_of(*INSPECT, "--format={{json .RepoDigests}}", TASK_IMAGE)
    )


def test_every_call_is_in_the_ledger_with_its_cost_and_without_its_body(played: Played):
    ledger, usages = played.lines_of("llm_calls.jsonl"), played.llm.usages
    for line, usage in zip(ledger, usages, strict=True):
        counts = usage.prompt, usage.completion
        price = sum(litellm.cost_per_token(played.model, *counts))
        tokens = {"in": usage.prompt, "cached": 0, "out": usage.completion}
        assert line.keys() == LEDGER
        assert line["endpoint"] == STYLES[played.model][0]
        assert (line["model"], line["status"]) == (played.model, 200)
        assert line["tokens"] == tokens
        assert line["cost"] == pytest.approx(price) != 0
    assert played.cost() == pytest.approx(sum(line["cost"] for line in ledger))


def test_a_run_ends_with_a_summary_for_a_report(played: Played):
    path, usages = played.folder / "submission.tar.gz", played.llm.usages
    with tarfile.open(path) as archive:
        entries = len(archive.getmembers())
    image = output_of("docker", "image", "inspect", "--format={{.Id}}", TASK_IMAGE)
    prompt, completion = (
        sum(getattr(u, n) for u in usages) for n in ("prompt", "completion")
    )
    size, top = path.stat().st_size, ".git NOTES.md README.md docs src"
    expected = f"""
submission  {entries} entries, {size:,} bytes:
  {top}
image       {TASK_IMAGE}, {image.strip()}
isolation   no network, no root, audited
LLM calls   {len(usages)}, 0 refused, to {played.model}
tokens      {prompt:,} in, {completion:,} out
wall time   """
    assert expected in played.done.stdout
    wall_time = played.done.stdout.rpartition(expected)[2].split()[0]
    assert 1 < float(wall_time) < 1000


def test_no_control_byte_of_the_agents_reaches_the_terminal(played: Played):
    assert {c for c in played.printed if not c.isprintable()} <= {"\n", "\t"}
    # The texts themselves do.
    assert "It counts.\n  ]0;title[31mred31mIt rings no bell.\n" in played.done.stdout
    assert "So it is." in played.done.stdout
    assert "It is done." in played.done.stdout


def test_no_line_of_the_agents_looks_like_the_scripts_own(played: Played):
    lines = [line for line in played.done.stdout.splitlines() if line]
    at_the_edge = [line for line in lines if not line.startswith("  ")]
    assert [line for line in at_the_edge if not re.match(OURS, line)] == []
    for forged in FORGED.replace("x", "").splitlines():
        assert f"  {forged}" in [line.rstrip() for line in lines]
        assert lines.count(forged) <= (forged in AUDITED)


def test_the_submission_holds_the_work_and_nothing_of_ours(played: Played):
    assert played.submitted().keys() == documents() | {"NOTES.md", "src/a.c"}
    assert played.submitted()["NOTES.md"] == NOTES.encode()


def test_a_run_that_fails_saves_its_work_and_keeps_older_results(rehearsal: Played):
    def refuse(_: Request) -> Response | None:
        error = {"type": "authentication_error", "message": "no such user"}
        return None if llm.script else json_response({"error": error}, 401)

    older = {path.name: path.read_bytes() for path in rehearsal.folder.iterdir()}
    with ScriptedLLM(script_with("x")[-2:-1], respond=refuse) as llm:
        run = rehearsal.run
        done = run(**llm.settings)
    failed = Played(run, done)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert re.match("The run ended early: .*no such user", line)
    assert failed.submitted()["src/a.c"] == b"x\n"
    assert [each["status"] for each in failed.lines_of("llm_calls.jsonl")] == [200, 401]
    for name, data in older.items():
        (kept,) = failed.folder.glob(f"older/*-{name}")
        assert kept.read_bytes() == data
    # What `programbench submit publish` adds: all but what git is told to ignore.
    output_of("git", "init", "--quiet", f"{failed.folder}")
    in_folder = ["git", "-C", f"{failed.folder}"]
    output_of(*in_folder, "add", "--all")
    assert "older" not in output_of(*in_folder, "ls-files")
