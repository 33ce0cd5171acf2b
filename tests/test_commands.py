"""A command that neither ends nor falls silent does not stall the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import load_example
from forty_commands import COMMANDS
from runs import Run
from scripted_llm import Request, Response, ScriptedLLM, Step, json_response


LIMIT = 4  # seconds
DEAF = """
import os, signal, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
for file in range(3):
    os.close(file)
time.sleep(600)
"""
STALLING = {
    "fills the screen": "yes",
    "is the reference, which fills the screen too": "./executable",
    "waits for input": "cat",
    "draws on the whole screen": "top",
    "edits": "vi README.md",
    "is shown by a tmux of the agent's own": (
        "env -u TMUX tmux -L shown new-session ./executable"
    ),
    "hears no signal and has closed its terminal": f"python3 -c '{DEAF}'",
    "is started again and again": "while :; do ./executable -V; done",
    "has no program": "while :; do echo again; done",
}
# In one answer of the model's. Each keeps printing for more than two seconds.
TWO = [f"for n in {{1..4}}; do echo {each}$n; sleep 0.55; done" for each in "ab"]
# What runs in the background is the agent's own affair.
LEFT_ALONE = [
    "sleep 601 &",
    "tmux -L mine new-session -d sleep 602",
]


@pytest.fixture(scope="module")
def observed(
    task_image: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the agent saw of each command in one run."""
    commands = [
        *TWO,
        *LEFT_ALONE,
        *STALLING.values(),
        "pgrep --full --list-full 'sleep 60[12]'",
        "git commit --quiet --allow-empty -m empty && git log -1 --format=%an",
        "echo pager=$PAGER",
        "sleep 8; echo slept",
    ]
    script: list[Step] = [("terminal", {"command": each}) for each in commands[2:]]
    # The agent itself may give a command more time.
    for _, arguments in script[-4:]:
        arguments["timeout"] = 60
    run = Run(tmp_path_factory.mktemp("commands"))
    with ScriptedLLM(script, respond=answer_with_two) as llm:
        done = run(PROGRAMBENCH_COMMAND_LIMIT=f"{LIMIT}", **llm.settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    (trajectory,) = run.output.glob("*/trajectory.jsonl")
    return dict(zip(commands, observations(trajectory), strict=False))


def answer_with_two(request: Request) -> Response | None:
    """Return the agent's first answer, which is two commands."""
    messages = request.body["messages"]
    if not request.body.get("tools") or any(
        each["role"] == "tool" for each in messages
    ):
        return None
    calls = [
        {"id": each, "type": "function", "function": {"name": "terminal"}}
        for each in ("call_a", "call_b")
    ]
    for call, command in zip(calls, TWO, strict=True):
        call["function"]["arguments"] = json.dumps({"command": command})
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    about = {"id": "chatcmpl-two", "object": "chat.completion", "created": 1}
    return json_response(
        about | {"model": request.body["model"], "choices": [choice], "usage": usage}
    )


def observations(trajectory: Path) -> list[str]:
    """Return what the terminal showed and told, command by command."""
    events = [json.loads(line) for line in trajectory.read_text().splitlines()]
    observed = [
        event["observation"]
        for event in events
        if event["kind"] == "ObservationEvent" and event["tool_name"] == "terminal"
    ]
    return [
        "".join(part["text"] for part in each["content"]) + each["metadata"]["suffix"]
        for each in observed
    ]


@pytest.mark.parametrize("kind", STALLING)
def test_a_command_is_stopped_at_the_limit(observed: dict[str, str], kind: str):
    seen = observed[STALLING[kind]]
    assert f"[Stopped after {LIMIT} seconds.]" in seen
    # The terminal tool has noticed, and does not wait for it any longer.
    assert "[The command completed with exit code" in seen


@pytest.mark.parametrize("command", TWO)
def test_commands_of_one_answer_have_their_times_together(
    observed: dict[str, str], command: str
):
    assert "4" in observed[command]
    assert "[Stopped after" not in observed[command]


def test_what_runs_in_the_background_is_left_alone(observed: dict[str, str]):
    (left,) = [seen for command, seen in observed.items() if "pgrep" in command]
    assert "sleep 601" in left
    assert "sleep 602" in left


def test_forty_commands_of_an_agent_that_rebuilds_go_through_without_a_stall(
    task_image: str, run_example: Run
):
    script: list[Step] = [("terminal", {"command": each}) for each in COMMANDS]
    with ScriptedLLM(script) as llm:
        done = run_example(PROGRAMBENCH_INSTRUCTION="rebuild", **llm.settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    (trajectory,) = run_example.output.glob("*/trajectory.jsonl")
    seen = dict(zip(COMMANDS, observations(trajectory), strict=True))
    for command, observation in seen.items():
        assert "Cannot execute multiple commands" not in observation, command
        assert "[Stopped after" not in observation, command
    assert seen[COMMANDS[-2]].startswith("built")
    assert seen[COMMANDS[-1]].splitlines()[1:2] == ["done"]


def test_a_time_that_the_agent_gives_a_command_holds(observed: dict[str, str]):
    assert observed["sleep 8; echo slept"].startswith("slept")


def test_git_has_an_identity(observed: dict[str, str]):
    (seen,) = [seen for command, seen in observed.items() if "git log" in command]
    assert "agent" in seen
    assert "Please tell me who you are" not in seen


def test_nothing_waits_in_a_pager(observed: dict[str, str]):
    assert "pager=cat" in observed["echo pager=$PAGER"]


@pytest.mark.parametrize(
    ("name", "steps", "seconds"),
    [("characterise", 500, 3600), ("rebuild", 1000, 21_600), ("my own", 500, 3600)],
)
def test_the_limits_go_with_the_instruction(name: str, steps: int, seconds: int):
    example = load_example()
    settings = {"PROGRAMBENCH_INSTRUCTION": name}
    job = example.job_of(example.Settings.model_validate(settings))
    assert (job.step_limit, job.time_limit) == (steps, seconds)
    if name == "my own":
        assert job.instruction == name
        return
    for word in ("env -u TERM", f"{steps} steps", "180 seconds", "disqualified"):
        assert word in " ".join(job.instruction.split())
    settings |= {"PROGRAMBENCH_STEP_LIMIT": "7", "PROGRAMBENCH_TIME_LIMIT": "8"}
    job = example.job_of(example.Settings.model_validate(settings))
    assert (job.step_limit, job.time_limit) == (7, 8)
