"""The benchmark's own grader: it finds what a run saves, builds it, and judges the rebuild."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLE, Run, clean_environment, environ
from programbench.constants import TASKS_DIR, image_name_from_instance_id
from programbench.eval.eval_batch import run_eval_batch
from programbench.utils.load_data import load_all_instances
from scripted_llm import ScriptedLLM, Step

INSTANCE = "testorg__calculator.abc1234"  # the task that the grader ships to try itself with
TAG: str = inspect.signature(run_eval_batch).parameters["image_tag"].default
RESULT = f"{INSTANCE}/{INSTANCE}.eval.json"
IMAGE = f"{image_name_from_instance_id(INSTANCE)}:{TAG}"

# That task comes without a cleanroom image. This is one, on top of the image that the tests have
# anyway, with what the grader asks of an image: pytest, and xdist for an option that it sets.
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


def write(name: str, text: str) -> Step:
    """Return the step of an agent that writes a file."""
    return "terminal", {"command": f"printf %s {shlex.quote(text)} >/workspace/{name}"}


SCRIPTS: dict[str, list[Step]] = {
    "right": [
        ("terminal", {"command": "cd /workspace && cat README.md && ./executable 2 + 3"}),
        write("calculator.c", SOURCE),
        write("compile.sh", COMPILE),
    ],
    "wrong": [
        write("calculator.c", SOURCE.replace("a * b", "a / b")),
        write("compile.sh", COMPILE),
    ],
    "smuggled": [
        ("terminal", {"command": "cd /workspace && mkdir folder && tar -cf packed executable"}),
        ("terminal", {"command": "cp executable copied; cat executable >read"}),
        ("terminal", {"command": "mv executable moved; ln -s moved symbolic"}),
        ("terminal", {"command": "for to in . folder .git; do ln moved $to/linked; done"}),
        ("terminal", {"command": "ls -l >listing"}),
        write("compile.sh", SMUGGLE),
    ],
}


@dataclass
class Graded:
    """A run that is over, and what the grader says of it."""

    run: Run
    result: dict[str, Any]

    @property
    def resolved(self) -> bool:
        """All tests passed, and there were some: what the grader calls solved."""
        tests = self.result["test_results"]
        return bool(tests) and all(test["status"] == "passed" for test in tests)

    def member(self, name: str) -> str:
        """Return the text of a file in the submission."""
        with tarfile.open(self.run.output / INSTANCE / "submission.tar.gz") as archive:
            file = archive.extractfile(f"./{name}")
            assert file
            return file.read().decode()


@pytest.fixture(scope="module")
def calculator(task_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the cleanroom image of the grader's own task."""
    env = os.environ | {"TMPDIR": f"{tmp_path_factory.mktemp('build')}"}  # buildx litters
    dockerfile = DOCKERFILE.format(task_image=task_image, source=SOURCE)
    command = ["docker", "buildx", "build", "--load", "--platform=linux/amd64", f"--tag={IMAGE}"]
    done = subprocess.run(
        [*command, "-"], input=dockerfile, capture_output=True, text=True, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return IMAGE


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hidden tests of the grader's own task, packed as the grader downloads those of others."""
    folder = tmp_path_factory.mktemp("blobs")
    packed = folder / INSTANCE / "tests"
    packed.mkdir(parents=True)
    # The task's list names its tests as they are called where `eval` is pytest's root folder.
    root = folder / "pytest.ini"
    root.write_text("[pytest]\n")
    for branch in (TASKS_DIR / INSTANCE / "tests").iterdir():
        with tarfile.open(packed / f"{branch.name}.tar.gz", "w:gz") as archive:
            archive.add(branch, ".")
            archive.add(root, "./eval/pytest.ini")
    return folder


@pytest.fixture(scope="module")
def graded(
    calculator: str, blobs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Graded]:
    """Three agents' runs, graded."""
    runs = dict[str, Run]()
    for name, script in SCRIPTS.items():
        runs[name] = Run(tmp_path_factory.mktemp(name))
        with ScriptedLLM(script) as llm:
            done = runs[name](
                PROGRAMBENCH_TASK_IMAGE=calculator,
                LLM_API_KEY="sk-x",
                LLM_MODEL="openai/x",
                LLM_BASE_URL=llm.base_url,
            )
        assert done.returncode == 0, done.stderr
        assert llm.script == []
    command = [f"{Path(sys.executable).with_name('programbench')}", "eval", "--docker-cpus=1"]
    subprocess.run(
        [*command, *(f"{run.output}" for run in runs.values())],
        env=clean_environment(PROGRAMBENCH_BLOB_DIR=f"{blobs}"),
        check=True,
        timeout=300,
    )
    return {
        name: Graded(run, json.loads(run.output.joinpath(RESULT).read_text()))
        for name, run in runs.items()
    }


def test_a_right_rebuild_is_resolved(graded: dict[str, Graded]):
    assert graded["right"].resolved, graded["right"].result


def test_a_wrong_rebuild_is_built_and_not_resolved(graded: dict[str, Graded]):
    result = graded["wrong"].result
    assert result["executable_hash"]
    statuses = {test["name"].rpartition("_")[2]: test["status"] for test in result["test_results"]}
    assert statuses == {"addition": "passed", "subtraction": "passed", "multiplication": "failure"}


def test_a_smuggled_reference_is_not_resolved(graded: dict[str, Graded]):
    # The agent did have it where it wanted it.
    assert re.search(r"^---x--x--x .* root .* moved$", graded["smuggled"].member("listing"), re.M)
    assert graded["smuggled"].result["error_code"] == "compile_failed"
    assert not graded["smuggled"].resolved


def settings(**environment: str) -> dict[str, Any]:
    """Return the example's names as they are once its settings are read, with no SDK."""
    names: dict[str, Any] = {"__name__": "settings", "__file__": f"{EXAMPLE}"}
    # The settings are all that comes before the second section.
    first = EXAMPLE.read_text().partition("\n# ## 2.")[0]
    code = compile(first, f"{EXAMPLE}", "exec", dont_inherit=True)
    variables = clean_environment() | environment
    if not environment:
        del variables["PROGRAMBENCH_TASK_IMAGE"]
    with environ(**variables):
        exec(code, names)
    return names


def test_the_example_calls_every_task_as_the_grader_does():
    tasks = load_all_instances(include_tests=False)
    assert len(tasks) > 100
    for task in tasks:
        image = f"{task['image_name']}:{TAG}"
        assert settings(PROGRAMBENCH_TASK_IMAGE=image)["INSTANCE_ID"] == task["instance_id"]


def test_the_default_task_is_one_of_the_graders():
    images = {f"{task['image_name']}:{TAG}" for task in load_all_instances(include_tests=False)}
    assert settings()["TASK_IMAGE"] in images
