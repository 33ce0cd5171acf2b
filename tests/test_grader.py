"""The benchmark's own grader: it finds what a run saves, builds it, and judges the rebuild."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment, load_example, open_cleanroom
from programbench.constants import TASKS_DIR, image_name_from_instance_id
from programbench.eval.eval_batch import run_eval_batch
from programbench.utils.load_data import load_all_instances
from runs import Run
from scripted_llm import ScriptedLLM, Step


INSTANCE = "testorg__calculator.abc1234"  # which the grader ships to try itself with
TAG: str = inspect.signature(run_eval_batch).parameters["image_tag"].default
IMAGE = f"{image_name_from_instance_id(INSTANCE)}:{TAG}"
PROGRAMBENCH = f"{Path(sys.executable).with_name('programbench')}"

# That task comes without a cleanroom image. This is one, on top of the image that the
# tests have anyway, with what the grader asks of an image: pytest and xdist.
DOCKERFILE = r"""
FROM {task_image} AS reference
USER root
RUN cat >/calculator.c <<'END' && gcc -O2 -s -o /calculator /calculator.c
{source}END

FROM {task_image}
USER root
RUN python3 -c 'import pytest, xdist' || {{ apt-get update \
 && apt-get install -y --no-install-recommends python3-pytest python3-pytest-xdist; }}
RUN rm -rf /workspace && install -d -o agent -g agent /workspace
USER agent
WORKDIR /workspace
RUN echo 'calculator A OPERATOR B prints A + B, A - B or A * B.' >README.md \
 && git init --quiet && git add --all \
 && git -c user.name=example -c user.email=example@example.invalid commit --quiet --message Docs
USER root
COPY --from=reference --chown=root:root --chmod=0111 /calculator /workspace/executable
"""
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
int main(int n, char **v) {
  if (n != 4) return fputs("usage: calculator A OPERATOR B\n", stderr), 2;
  long a = atol(v[1]), b = atol(v[3]);
  printf("%ld\n", *v[2] == '+' ? a + b : *v[2] == '-' ? a - b : a * b);
}
"""
COMPILE = "#!/bin/sh\nexec gcc -o executable calculator.c\n"
# Whatever of these reaches the grader, root runs there and puts in the rebuild's place.
SMUGGLED = "moved linked symbolic folder/linked .git/linked copied read unpacked"
SMUGGLE = f"""#!/bin/sh
tar -xf packed && mv executable unpacked
for file in {SMUGGLED}; do
  cp -L $file executable && chmod 755 executable && [ "$(./executable 1 + 1)" = 2 ] && exit
done
exit 1
"""


def shell(command: str) -> Step:
    """Return the step of an agent that runs a command in its workspace."""
    return "terminal", {"command": f"cd /workspace && {{ {command}; }}"}


def write(name: str, text: str) -> Step:
    """Return the step of an agent that writes a file."""
    return shell(f"printf %s {shlex.quote(text)} >{name}")


SCRIPTS: dict[str, list[Step]] = {
    "right": [
        shell("cat README.md; ./executable 2 + 3"),
        write("calculator.c", SOURCE),
        write("compile.sh", COMPILE),
    ],
    "wrong": [
        write("calculator.c", SOURCE.replace("a * b", "a / b")),
        write("compile.sh", COMPILE),
    ],
    "smuggled": [
        shell("mkdir folder; tar -cf packed executable; cp executable copied"),
        shell("cat executable >read; mv executable moved; ln -s moved symbolic"),
        shell("for to in . folder .git; do ln moved $to/linked; done; ls -l >listing"),
        write("compile.sh", SMUGGLE),
    ],
}


@dataclass
class Graded:
    """A run folder, and what the grader says of what is in it."""

    folder: Path
    result: dict[str, Any]

    @property
    def resolved(self) -> bool:
        """All tests passed, and there were some: what the grader calls solved."""
        tests = self.result["test_results"]
        return bool(tests) and all(test["status"] == "passed" for test in tests)

    def member(self, name: str) -> str:
        """Return the text of a file in the submission."""
        with tarfile.open(self.folder / INSTANCE / "submission.tar.gz") as archive:
            file = archive.extractfile(f"./{name}")
            assert file
            return file.read().decode()


@pytest.fixture(scope="module")
def calculator(task_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the cleanroom image of the grader's own task."""
    dockerfile = DOCKERFILE.format(task_image=task_image, source=SOURCE)
    folder = tmp_path_factory.mktemp("build")
    (folder / "Dockerfile").write_text(dockerfile)
    command = ["docker", "build", f"--tag={IMAGE}", f"{folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return IMAGE


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hidden tests of the task, packed as the grader downloads those of others."""
    folder = tmp_path_factory.mktemp("blobs")
    packed = folder / INSTANCE / "tests"
    packed.mkdir(parents=True)
    # The task's list names its tests as they are called from pytest's root folder.
    root = folder / "pytest.ini"
    root.write_text("[pytest]\n")
    for branch in (TASKS_DIR / INSTANCE / "tests").iterdir():
        with tarfile.open(packed / f"{branch.name}.tar.gz", "w:gz") as archive:
            archive.add(branch, ".")
            archive.add(root, "./eval/pytest.ini")
    return folder


def play(script: list[Step], image: str, run: Run) -> Path:
    """Run the script with an agent that does this; returns its run folder."""
    with ScriptedLLM(script) as llm:
        done = run(
            PROGRAMBENCH_TASK_IMAGE=image,
            PROGRAMBENCH_INSTRUCTION="rebuild",
            **llm.settings,
        )
    assert done.returncode == 0, done.stderr
    assert llm.script == []
    return run.output


@pytest.fixture(scope="module")
def graded(
    calculator: str, blobs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Graded]:
    """What the grader says of three agents' work, of a whole run and of two saves."""
    folders = {name: tmp_path_factory.mktemp(name) for name in SCRIPTS}
    folders["right"] = play(SCRIPTS["right"], calculator, Run(folders["right"]))
    with (
        ScriptedLLM() as llm,
        open_cleanroom(llm, tmp_path_factory.mktemp("room"), calculator) as room,
    ):
        for name in ("wrong", "smuggled"):
            for _, arguments in SCRIPTS[name]:
                room.shell(arguments["command"])
            (folders[name] / INSTANCE).mkdir()
            load_example().save_submission(room.workspace, folders[name] / INSTANCE)
    command = [PROGRAMBENCH, "eval", "--docker-cpus=1", "--workers=3"]
    subprocess.run(
        [*command, "--branch-workers=3", *map(str, folders.values())],
        env=clean_environment(PROGRAMBENCH_BLOB_DIR=f"{blobs}"),
        check=True,
        timeout=300,
    )
    result = f"{INSTANCE}/{INSTANCE}.eval.json"
    return {
        name: Graded(folder, json.loads((folder / result).read_text()))
        for name, folder in folders.items()
    }


def test_a_right_rebuild_is_resolved(graded: dict[str, Graded]):
    assert graded["right"].resolved, graded["right"].result


def test_a_wrong_rebuild_is_built_and_not_resolved(graded: dict[str, Graded]):
    result = graded["wrong"].result
    assert result["executable_hash"]
    statuses = {
        test["name"].rpartition("_")[2]: test["status"]
        for test in result["test_results"]
    }
    assert statuses == {
        "addition": "passed",
        "subtraction": "passed",
        "multiplication": "failure",
    }


def test_a_smuggled_reference_is_not_resolved(graded: dict[str, Graded]):
    # The agent did have it where it wanted it.
    assert re.search(
        r"^---x--x--x .* root .* moved$", graded["smuggled"].member("listing"), re.M
    )
    assert graded["smuggled"].result["error_code"] == "compile_failed"
    assert not graded["smuggled"].resolved


def test_a_graded_run_folder_can_be_packaged_and_verified_as_it_is(
    graded: dict[str, Graded], tmp_path: Path
):
    # The grader's own task is none of the leaderboard's: the folder gets the name of one.
    shutil.copytree(graded["right"].folder, tmp_path / "run")
    instance = load_all_instances(include_tests=False)[0]["instance_id"]
    for path in sorted((tmp_path / "run").rglob(f"{INSTANCE}*"), reverse=True):
        path.rename(path.with_name(path.name.replace(INSTANCE, instance)))
    for command in ("package", "verify"):
        subprocess.run(
            [PROGRAMBENCH, "submit", command, f"{tmp_path / 'run'}"], check=True
        )


def test_the_results_of_every_task_go_where_the_grader_looks_for_them():
    example, tasks = load_example(), load_all_instances(include_tests=False)
    assert len(tasks) > 100
    for task in tasks:
        image = {"PROGRAMBENCH_TASK_IMAGE": f"{task['image_name']}:{TAG}"}
        folder = example.results_folder(example.Settings.model_validate(image))
        assert folder.name == task["instance_id"]


def test_the_default_task_is_one_of_the_graders():
    tasks = load_all_instances(include_tests=False)
    default = load_example().Settings.model_validate({}).programbench_task_image
    assert default in {f"{task['image_name']}:{TAG}" for task in tasks}
