"""The script is one file: it works alone, and among the SDK's own examples."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    EXAMPLE,
    ROOT,
    TASK_IMAGE,
    clean_environment,
    image_unbuilt,
    instance_id,
    load_example,
    missing,
    output_of,
    sdk_with_example,
    sealed_tag,
)
from scripted_llm import ScriptedLLM


example = load_example()
# What git is told where nothing shall be had from there.
NO_GITHUB = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "url.file:///nowhere/.insteadOf",
    "GIT_CONFIG_VALUE_0": "https://github.com/",
}
README = (ROOT / "README.md").read_text()
# Both daemons, their state and their logs in one folder; two tasks at a time.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def empty_cache(tmp_path: Path) -> dict[str, str]:
    """Settings of a user's cache with no SDK; uv keeps the packages in its own."""
    (tmp_path / "cache").mkdir()
    uv = os.environ.get("UV_CACHE_DIR") or output_of("uv", "cache", "dir").strip()
    return {"XDG_CACHE_HOME": f"{tmp_path / 'cache'}", "UV_CACHE_DIR": uv}


def test_the_script_asks_uv_for_what_the_project_asks_for():
    lines = re.search(
        r"^# /// script\n((?:# ?.*\n)+?)# ///$", EXAMPLE.read_text(), re.M
    )
    assert lines
    asked: dict[str, Any] = tomllib.loads(re.sub("^# ?", "", lines[1], flags=re.M))
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, uv = pyproject["project"], pyproject["tool"]["uv"]
    assert sorted(asked["dependencies"]) == sorted(project["dependencies"])
    assert asked["requires-python"] == project["requires-python"]
    assert asked["tool"]["uv"]["exclude-newer"] == uv["exclude-newer"]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cluster of this machine alone; the variables that its clients want."""
    programs = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
    if os.getuid() or not all(shutil.which(each) for each in programs):
        missing("Slurm and munge are missing, or this is not root")
    folder = tmp_path / "slurm"
    for name in ("", "state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    file = folder / "slurm.conf"
    file.write_text(CONFIGURATION.format(folder=folder, host=host))
    output_of("mungekey", f"--keyfile={folder}/key")
    files = [f"--socket={folder}/munge.socket", f"--key-file={folder}/key"]
    files += [f"--{each}-file={folder}/munge.{each}" for each in ("log", "pid", "seed")]
    commands = (
        ["munged", "--foreground", "--force", *files],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D"],
    )
    variables = {"SLURM_CONF": f"{file}"}
    with contextlib.ExitStack() as exits:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as out:
                process = exits.enter_context(
                    subprocess.Popen(
                        command, stdout=out, stderr=out, env=os.environ | variables
                    )
                )
            exits.callback(process.terminate)
            time.sleep(1)
        yield variables


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    """A model that has nothing to do."""
    with ScriptedLLM() as llm:
        yield llm


def job() -> str:
    """Return the job that the README shows."""
    match = re.search(
        r"^(    #!/bin/bash\n    #SBATCH(?:.*\n)+?)\n(?!    )", README, re.M
    )
    assert match
    return re.sub("^    ", "", match[1], flags=re.M)


def test_a_copy_with_nothing_beside_it_does_many_tasks_under_slurm_each_once(
    slurm: dict[str, str],
    task_image: str,
    empty_cache: dict[str, str],
    tmp_path: Path,
    llm: ScriptedLLM,
):
    shutil.copy(EXAMPLE, tmp_path)
    images = [re.sub("(?=:)", f"{n}", TASK_IMAGE, count=1) for n in range(2)]
    (tmp_path / "images.txt").write_text("\n".join(images) + "\n")
    (tmp_path / "job").write_text(job())
    environment = clean_environment(**slurm, **empty_cache, **llm.settings)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def trajectory_of(image: str) -> Path:
        name = instance_id(image)
        return tmp_path / "submissions" / name / f"{name}.traj.json"

    def submit() -> str:
        command = ["sbatch", "--wait", "--array=1-2", "--output=log-%a", "job"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        logs = "".join(path.read_text() for path in sorted(tmp_path.glob("log-*")))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        return logs

    for image in images:
        output_of("docker", "tag", TASK_IMAGE, image)
    rehearsed = trajectory_of(images[0])
    rehearsed.parent.mkdir(parents=True)
    rehearsed.write_text('"exit_status": "Rehearsed"')
    try:
        costs = re.findall(r"^EXAMPLE_COST: ([\d.e-]+)$", submit(), re.M)
        assert [float(cost) > 0 for cost in costs] == 2 * [True]
        assert "EXAMPLE_COST" not in submit()
    finally:
        output_of("docker", "image", "rm", *images)
    for image in images:
        path = trajectory_of(image)
        assert (path.parent / "submission.tar.gz").exists()
        info = json.loads(path.read_text())["info"]
        assert info["exit_status"] == "Submitted"
        assert info["config"]["agent"]["step_limit"] == 1000


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the SDK that has the script, where no other source can be had."""
    folder = tmp_path / "sdk"
    monkeypatch.setattr(example, "__file__", f"{sdk_with_example(folder)}")
    monkeypatch.setattr(example, "CACHE", tmp_path)
    for name, value in NO_GITHUB.items():
        monkeypatch.setenv(name, value)
    return folder


def test_in_the_sdks_repository_the_server_is_built_from_that_checkout(
    task_image: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
):
    def note(_tag: str, _dockerfile: str, *context: Path, **_: str) -> None:
        contexts.append(context)

    contexts = list[tuple[Path, ...]]()
    monkeypatch.setattr(example, "build", note)
    with image_unbuilt() as image:
        example.cleanroom_image(example.inspect_task_image(image), None)
    # The plain base needs none; the agent server comes from the second.
    assert contexts == [(), (checkout.resolve(),)]


def test_a_checkout_of_another_version_is_not_built_from(checkout: Path):
    project = checkout / "openhands-sdk" / "pyproject.toml"
    other = project.read_text().replace(f'"{version("openhands-sdk")}"', '"0.0.1"')
    project.write_text(other)
    # It looks for the right one where it cannot be had.
    with pytest.raises(example.CleanroomError, match="git clone"):
        example.sdk_checkout(None)


def test_each_change_of_a_checkout_makes_another_image(task_image: str, checkout: Path):
    server = checkout / "openhands-agent-server" / "openhands" / "agent_server"
    tags = [sealed_tag(task_image)]
    for name in ("__init__.py", "new.py", "new.py"):
        with open(server / name, "a") as file:
            file.write("CHANGED = True\n")
        tags.append(sealed_tag(task_image))
    assert len({*tags}) == 4
