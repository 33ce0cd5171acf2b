"""The script is one file: it works alone, and among the SDK's own examples."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    EXAMPLE,
    ROOT,
    clean_environment,
    clone_sdk,
    image_unbuilt,
    instance_id,
    output_of,
)
from scripted_llm import ScriptedLLM, Step


# What git is told where nothing shall be had from there.
NO_GITHUB = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "url.file:///nowhere/.insteadOf",
    "GIT_CONFIG_VALUE_0": "https://github.com/",
}
SERVER = "openhands-agent-server/openhands/agent_server/__init__.py"
MARKER = "the server of a developer's checkout"


def run(*command: str, cwd: Path, **environment: str) -> Any:
    """Return what becomes of a command, in a folder and with settings of its own."""
    variables = clean_environment(**environment)
    variables.pop("OPENHANDS_SDK_SOURCE", None)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=variables,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=300)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.fixture
def empty_cache(tmp_path: Path) -> dict[str, str]:
    """Settings of a user's cache with no SDK; uv keeps the packages in its own."""
    (tmp_path / "cache").mkdir()
    uv = os.environ.get("UV_CACHE_DIR") or output_of("uv", "cache", "dir").strip()
    return {"XDG_CACHE_HOME": f"{tmp_path / 'cache'}", "UV_CACHE_DIR": uv}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Path]:
    """A copy of the script, under another name, with nothing beside it."""
    script = tmp_path / "alone" / "cleanroom.py"
    script.parent.mkdir()
    shutil.copy(EXAMPLE, script)
    yield script
    # uv keeps an environment for each script that it ever ran, this one's too.
    find = ["uv", "python", "find", "--script", f"{script}"]
    python = subprocess.run(find, capture_output=True, text=True, timeout=120).stdout
    environment = Path(python.strip()).parent.parent
    if environment.name.startswith(f"{script.stem}-"):
        shutil.rmtree(environment)


@pytest.fixture
def in_checkout(docker: None, tmp_path: Path) -> Path:
    """The script in a checkout of the SDK, where the SDK has its like."""
    folder = clone_sdk(tmp_path / "sdk") / "examples" / "02_remote_agent_server"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(EXAMPLE, folder))


def run_in_checkout(script: Path, **environment: str) -> Any:
    """Run the script from the checkout's root, where no other source can be had."""
    root = script.parents[2]
    environment |= {"PROGRAMBENCH_OUTPUT_DIR": f"{root.parent / 'out'}"} | NO_GITHUB
    path = f"{script.relative_to(root)}"
    return run(sys.executable, path, cwd=root, **environment)


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


def test_a_copy_with_nothing_beside_it_does_many_tasks_as_many_processes(
    task_image: str, alone: Path, empty_cache: dict[str, str], tmp_path: Path
):
    images, temp = tmp_path / "images.txt", tmp_path / "tmp"
    temp.mkdir()
    task = ["env", "PROGRAMBENCH_TASK_IMAGE={}", "uv", "run", alone.name]
    command = ["xargs", f"--arg-file={images}", "-P2", "-I{}", *task]
    with image_unbuilt() as another_image:
        images.write_text(f"{task_image}\n{another_image}\n")
        done = run(*command, cwd=alone.parent, TMPDIR=f"{temp}", **empty_cache)
    assert done.returncode == 0, done.stdout + done.stderr
    output = alone.parent / "submissions"
    instances = {instance_id(task_image), instance_id(another_image)}
    assert {path.name for path in output.iterdir()} == instances
    for instance in instances:
        assert f"SUBMISSION: submissions/{instance}/submission.tar.gz\n" in done.stdout
        with tarfile.open(output / instance / "submission.tar.gz") as archive:
            assert "./NOTES.md" in archive.getnames()
    assert {path.name for path in alone.parent.iterdir()} == {alone.name, output.name}
    assert not [path for path in temp.iterdir() if not path.name.startswith("uv-")]


def test_in_the_sdks_repository_the_server_is_built_from_that_checkout(
    task_image: str, in_checkout: Path, empty_cache: dict[str, str]
):
    with open(in_checkout.parents[2] / SERVER, "a") as server:
        server.write(f"\nMARKER = {MARKER!r}\n")
    ask = "import openhands.agent_server; print(openhands.agent_server.MARKER)"
    python = "cd / && /agent-server/.venv/bin/python"
    command = f'{python} -c "{ask}" >/workspace/NOTES.md 2>&1'
    script: list[Step] = [("terminal", {"command": command})]
    with ScriptedLLM(script) as llm, image_unbuilt() as image:
        settings = {"LLM_MODEL": "openai/x", "LLM_API_KEY": "sk-x"}
        settings |= {"LLM_BASE_URL": llm.base_url, "PROGRAMBENCH_TASK_IMAGE": image}
        done = run_in_checkout(in_checkout, **settings, **empty_cache)
    assert done.returncode == 0, done.stderr
    assert f"\n{MARKER}\n" in done.stdout


def test_a_checkout_of_another_version_is_not_built_from(
    task_image: str, in_checkout: Path, empty_cache: dict[str, str]
):
    project = in_checkout.parents[2] / "openhands-sdk" / "pyproject.toml"
    other = project.read_text().replace(f'"{version("openhands-sdk")}"', '"0.0.1"')
    project.write_text(other)
    done = run_in_checkout(in_checkout, **empty_cache)
    # It looks for the right one where it cannot be had.
    assert done.returncode == 2, done.stdout
    assert "git clone" in done.stderr
    assert "EXAMPLE_COST" not in done.stdout
