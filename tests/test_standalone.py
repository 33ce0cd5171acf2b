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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE, ROOT, clean_environment, image_unbuilt, instance_id, output_of
from scripted_llm import ScriptedLLM, Step

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
(VERSION,) = (
    pin.partition("==")[2]
    for pin in PROJECT["project"]["dependencies"]
    if pin.startswith("openhands-sdk==")
)
SDK = "https://github.com/OpenHands/software-agent-sdk.git"
# What git is told where nothing shall be had from there.
NO_GITHUB = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "url.file:///nowhere/.insteadOf",
    "GIT_CONFIG_VALUE_0": "https://github.com/",
}
MARKER = "the server of a developer's checkout"


def header() -> dict[str, Any]:
    """Return what the script itself says that it needs, as uv reads it."""
    block = re.search(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///$", EXAMPLE.read_text(), re.M)
    assert block
    return tomllib.loads(re.sub("^# ?", "", block[1], flags=re.M))


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
    """Settings with which no SDK is in the user's cache, while uv keeps the packages in its own."""
    folder = tmp_path / "cache"
    folder.mkdir()
    uv = os.environ.get("UV_CACHE_DIR") or output_of("uv", "cache", "dir").strip()
    return {"XDG_CACHE_HOME": f"{folder}", "UV_CACHE_DIR": uv}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Path]:
    """A copy of the script, under another name, with nothing beside it."""
    folder = tmp_path / "alone"
    folder.mkdir()
    script = folder / "cleanroom.py"
    shutil.copy(EXAMPLE, script)
    yield script
    # uv keeps an environment for each script that it ever ran; nobody will run this one again.
    find = ["uv", "python", "find", "--script", f"{script}"]
    python = subprocess.run(find, capture_output=True, text=True, timeout=120).stdout.strip()
    environment = Path(python).parent.parent
    if environment.name.startswith(f"{script.stem}-"):
        shutil.rmtree(environment)


@dataclass
class Checkout:
    """A checkout of the SDK, with the script among its examples."""

    folder: Path

    @property
    def script(self) -> Path:
        """The script, where the SDK has its like."""
        return self.folder / "examples" / "02_remote_agent_server" / EXAMPLE.name

    def edit(self, path: str, old: str, new: str) -> None:
        """Change one of its files, as a developer of the SDK does."""
        text = (self.folder / path).read_text()
        assert old in text
        (self.folder / path).write_text(text.replace(old, new, 1))


@pytest.fixture
def checkout(docker: None, tmp_path: Path) -> Checkout:
    """A checkout of the version that the project pins."""
    found = Checkout(tmp_path / "sdk")
    output_of(
        *["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth=1"],
        *[f"--branch=v{VERSION}", SDK, f"{found.folder}"],
    )
    found.script.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXAMPLE, found.script)
    return found


def test_the_script_names_the_requirements_of_the_project():
    stated, project = header(), PROJECT["project"]
    assert sorted(stated["dependencies"]) == sorted(project["dependencies"])
    assert stated["requires-python"] == project["requires-python"]


def test_the_script_and_the_project_take_packages_up_to_the_same_day():
    assert header()["tool"]["uv"]["exclude-newer"] == PROJECT["tool"]["uv"]["exclude-newer"]


def test_a_copy_with_nothing_beside_it_rehearses(
    task_image: str, alone: Path, empty_cache: dict[str, str], tmp_path: Path
):
    temp = tmp_path / "tmp"
    temp.mkdir()
    done = run("uv", "run", alone.name, cwd=alone.parent, TMPDIR=f"{temp}", **empty_cache)
    assert done.returncode == 0, done.stderr
    path = re.search(r"^SUBMISSION: (.+)\nEXAMPLE_COST: 0", done.stdout, re.M)
    assert path, done.stdout
    assert (alone.parent / path[1]).is_file()
    assert {entry.name for entry in alone.parent.iterdir()} == {alone.name, "submissions"}
    assert not [entry for entry in temp.iterdir() if not entry.name.startswith("uv-")]


def test_many_tasks_are_many_processes_with_one_output_folder(
    task_image: str, alone: Path, tmp_path: Path
):
    images, output = tmp_path / "images.txt", tmp_path / "out"
    task = ["env", "PROGRAMBENCH_TASK_IMAGE={}", "uv", "run", alone.name]
    with image_unbuilt() as one, image_unbuilt() as other:
        images.write_text(f"{one}\n{other}\n")
        command = ["xargs", f"--arg-file={images}", "-P2", "-I{}", *task]
        done = run(*command, cwd=alone.parent, PROGRAMBENCH_OUTPUT_DIR=f"{output}")
    assert done.returncode == 0, done.stderr
    instances = {instance_id(one), instance_id(other)}
    assert {path.name for path in output.iterdir()} == instances
    for instance in instances:
        assert f"SUBMISSION: {output}/{instance}/submission.tar.gz\n" in done.stdout
        with tarfile.open(output / instance / "submission.tar.gz") as archive:
            assert "./NOTES.md" in archive.getnames()


def test_in_the_sdks_repository_the_server_is_built_from_that_checkout(
    task_image: str, checkout: Checkout, empty_cache: dict[str, str], tmp_path: Path
):
    package = "openhands-agent-server/openhands/agent_server/__init__.py"
    checkout.edit(package, "", f"MARKER = {MARKER!r}\n")
    ask = "import openhands.agent_server; print(openhands.agent_server.MARKER)"
    python = "/agent-server/.venv/bin/python"
    command = f'cd / && {python} -c "{ask}" >/workspace/NOTES.md 2>&1'
    script: list[Step] = [("terminal", {"command": command})]
    with ScriptedLLM(script) as llm:
        done = run(
            *[sys.executable, f"{checkout.script.relative_to(checkout.folder)}"],
            cwd=checkout.folder,
            LLM_API_KEY="sk-x",
            LLM_MODEL="openai/x",
            LLM_BASE_URL=llm.base_url,
            PROGRAMBENCH_OUTPUT_DIR=f"{tmp_path / 'out'}",
            # There is no other source to be had.
            **empty_cache | NO_GITHUB,
        )
    assert done.returncode == 0, done.stderr
    assert f"\n{MARKER}\n" in done.stdout


def test_a_checkout_of_another_version_is_not_built_from(
    task_image: str, checkout: Checkout, empty_cache: dict[str, str], tmp_path: Path
):
    checkout.edit("openhands-sdk/pyproject.toml", f'"{VERSION}"', '"0.0.1"')
    done = run(
        *[sys.executable, f"{checkout.script.relative_to(checkout.folder)}"],
        cwd=checkout.folder,
        PROGRAMBENCH_OUTPUT_DIR=f"{tmp_path / 'out'}",
        **empty_cache | NO_GITHUB,
    )
    # It looks for the right one where it cannot be had.
    assert done.returncode in {1, 2}, done.stdout
    assert "git clone" in done.stderr
    assert "EXAMPLE_COST" not in done.stdout
