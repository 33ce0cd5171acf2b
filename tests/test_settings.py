"""Settings, and what else the user must mend: each is told in a sentence, with status 2."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    EXAMPLE,
    ROOT,
    TASK_IMAGE,
    clean_environment,
    environ,
    image_built,
    image_unbuilt,
    load_example,
    missing,
    output_of,
    run_script,
)
from runs import Run

from openhands.sdk import LLM
from openhands.sdk.llm.utils.verified_models import VERIFIED_MODELS


KEY = "sk-test-0123456789abcdef"
SDK_VERSION = version("openhands-sdk")
DIGEST = "@sha256:" + "0123456789abcdef" * 4
NO_WHOLE_NUMBER = "0|-1|1.5|1h|an hour|nan|inf|0x10|\u0661|1000000".split("|")
NO_AMOUNT = "-1|nan|inf|-inf|1e999|a dollar|$1|0,5".split("|")
NO_IMAGE = (
    ".|..|/|a/..|../x|a/../b|/a/b|a/|a//b|UPPER|owner/UPPER_1776_x.1:tag|a b|a b:tag|"
    "a\nb|a:|a:tag:tag|a:t ag|a@sha256:123|-a|--help|a;b|a$b|a'b|a\"b|a\\b|a\x1b[31m|"
    f"https://registry.example/a:tag|\u00e1|\u0661|a:tag{DIGEST}0"
).split("|")
BAD = {
    "PROGRAMBENCH_TIME_LIMIT": NO_WHOLE_NUMBER,
    "PROGRAMBENCH_COMMAND_LIMIT": NO_WHOLE_NUMBER,
    "PROGRAMBENCH_STEP_LIMIT": NO_WHOLE_NUMBER,
    "LLM_COST_LIMIT": [*NO_AMOUNT, "0"],
    "LLM_INPUT_COST_PER_TOKEN": NO_AMOUNT,
    "LLM_OUTPUT_COST_PER_TOKEN": NO_AMOUNT,
    "PROGRAMBENCH_TASK_IMAGE": NO_IMAGE,
    "PROGRAMBENCH_INSTRUCTION": ["rebuld", "characterize", "Rebuild", "rebuild."],
}
GOOD = {
    "PROGRAMBENCH_TIME_LIMIT": {"1": 1, " 60 ": 60, "999999": 999_999},
    "PROGRAMBENCH_COMMAND_LIMIT": {"1": 1, "180": 180},
    "PROGRAMBENCH_STEP_LIMIT": {"1": 1, "1000": 1000},
    "LLM_COST_LIMIT": {"0.5": 0.5, "1e-3": 0.001, "200": 200},
    "LLM_INPUT_COST_PER_TOKEN": {"0": 0, "3e-6": 3e-6},
    "LLM_OUTPUT_COST_PER_TOKEN": {"0": 0, "0.000015": 0.000015},
    "PROGRAMBENCH_OUTPUT_DIR": {"a b/c": Path("a b/c")},
}
INSTANCES = {
    "programbench/abishekvashok_1776_cmatrix.5c082c6": "abishekvashok__cmatrix.5c082c6",
    f"programbench/a_1776_b.1a2b3c4{DIGEST}": "a__b.1a2b3c4",
    f"programbench/a_1776_b.1a2b3c4:task{DIGEST}": "a__b.1a2b3c4",
    "registry.example:5000/programbench/a_1776_b.1a2b3c4:task": "a__b.1a2b3c4",
    "localhost:5000/a_1776_b.1a2b3c4": "a__b.1a2b3c4",
    "a_1776_b-c.d.1a2b3c4:task": "a__b-c.d.1a2b3c4",
}

example = load_example()


def settings(**environment: str) -> Any:
    """Return what the example makes of these environment variables."""
    return example.Settings.model_validate(environment)


def complaints(**environment: str) -> dict[str, str]:
    """Return what the example says of bad settings, by the variable that it names."""
    with environ(**environment), pytest.raises(example.CleanroomError) as raised:
        example.settings_from_environment()
    assert raised.value.status == 2
    lines = f"{raised.value}".split("\nerror: ")
    for line in lines:
        assert line.isprintable()
        assert re.fullmatch(r"[A-Z_]+: .+\. Unset it, or set it to .+\.", line), line
    named = {line.split(":")[0]: line for line in lines}
    assert len(named) == len(lines)
    return named


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_told_in_one_sentence_that_names_it(name: str):
    for value in BAD[name]:
        assert complaints(**{name: value}).keys() == {name}, repr(value)


def test_all_bad_settings_are_told_together_and_no_secret_with_them():
    bad = {name: values[-1] for name, values in BAD.items()}
    told = complaints(LLM_API_KEY=KEY, LLM_BASE_URL=f"http://{KEY}@127.0.0.1", **bad)
    assert told.keys() == BAD.keys()
    assert KEY not in f"{told}{settings(LLM_API_KEY=KEY)!r}"


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_a_setting_that_is_empty_is_told_and_not_taken_for_unset(nothing: str):
    names = {name.upper() for name in example.Settings.model_fields}
    assert complaints(**dict.fromkeys(names, nothing)).keys() == names


def test_a_variable_that_is_no_setting_is_told(capsys: pytest.CaptureFixture[str]):
    with environ(PROGRAMBENCH_TIMELIMIT="60", PROGRAMBENCH_TIME_LIMIT="60"):
        example.settings_from_environment()
    (line,) = capsys.readouterr().out.splitlines()
    assert "PROGRAMBENCH_TIMELIMIT is no setting" in line


@pytest.mark.parametrize("name", GOOD)
def test_a_good_setting_is_taken(name: str):
    for text, value in GOOD[name].items():
        assert getattr(settings(**{name: text}), name.lower()) == value


def test_the_results_folder_is_named_as_the_benchmark_names_the_instance():
    for image, instance in INSTANCES.items():
        chosen = settings(PROGRAMBENCH_TASK_IMAGE=image, PROGRAMBENCH_OUTPUT_DIR="out")
        assert example.results_folder(chosen) == Path("out", instance)


def test_without_a_word_of_an_llm_a_run_is_a_rehearsal():
    assert example.is_rehearsal(settings(PROGRAMBENCH_TIME_LIMIT="60"))
    for name in ("LLM_MODEL", "LLM_API_KEY", "LLM_BASE_URL"):
        assert not example.is_rehearsal(settings(**{name: "x"}))


# What is asked for, and the limits of steps and seconds that come with it.
JOBS = {
    "characterise": ({}, 500, 3600),
    "rebuild": ({}, 1000, 21_600),  # as the benchmark's own harness has it
    "Count its words.": ({}, 500, 3600),
    "rebuild ": ({"PROGRAMBENCH_STEP_LIMIT": "7"}, 7, 21_600),
    "characterise ": ({"PROGRAMBENCH_TIME_LIMIT": "9"}, 500, 9),
}


@pytest.mark.parametrize("asked", JOBS)
def test_a_job_is_asked_for_by_its_name_or_in_a_text_of_ones_own(asked: str):
    limits, steps, seconds = JOBS[asked]
    job = example.job_of(settings(PROGRAMBENCH_INSTRUCTION=asked, **limits))
    assert (job.step_limit, job.time_limit) == (steps, seconds)
    if " " in asked.strip():
        assert job.instruction == asked
    else:
        for told in (
            "/workspace",
            "no network",
            f"{steps} steps",
            f"{seconds} seconds",
        ):
            assert told in job.instruction


def test_the_default_model_is_one_that_the_sdk_verified():
    provider, _, model = settings(LLM_API_KEY=KEY).llm_model.partition("/")
    assert model in VERIFIED_MODELS[provider]


def test_the_readme_lists_the_settings_that_there_are():
    listed = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(), re.M)
    assert {*listed} == {name.upper() for name in example.Settings.model_fields}


def test_the_tests_that_the_readme_names_are_there():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    defined = {*re.findall(r"^def (test_\w+)", tests, re.M)}
    named = {*re.findall(r"`(test_\w+)`", (ROOT / "README.md").read_text())}
    assert named
    assert named <= defined


# Python tells a hook of these before it does them.
IMPORT = """
import runpy, sys, threading
EVENTS = ("subprocess.", "os.fork", "os.posix_spawn", "os.system", "os.exec", "os.kill",
          "signal.", "socket.connect", "socket.getaddrinfo", "socket.gethostby")
sys.addaudithook(lambda event, _: print(event) if event.startswith(EVENTS) else None)
runpy.run_path(sys.argv[1], run_name="imported")
print(*threading.enumerate()[1:], end="")
"""


def test_importing_the_file_does_nothing(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT, EXAMPLE],
        cwd=tmp_path,
        env=dict.fromkeys(["HOME", "TMPDIR"], f"{tmp_path}")
        | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_the_relays_socket_has_a_short_plain_path_whatever_the_temp_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    temp = tmp_path / ("a b%c:d'\"" + 90 * "x")
    temp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", f"{temp}")
    llm, ledger = LLM(model="openai/rehearsal"), tmp_path / "ledger"
    with example.Relay(llm, ledger=ledger, call_limit=1, rehearsal=True) as relay:
        assert relay.socket.is_socket()
        # A unix socket's path has 107 bytes at most; ssh's configuration has this one.
        assert len(os.fsencode(relay.socket)) < 100
        assert re.fullmatch(r"[\w./-]+", f"{relay.socket}")
    assert not relay.socket.parent.exists()
    assert not list(temp.iterdir())


def test_an_image_that_is_there_is_not_pulled_whatever_it_is_called(
    task_image: str, capsys: pytest.CaptureFixture[str]
):
    names = task_image, f"docker.io/{task_image}"
    assert len({example.inspect_task_image(name).id for name in names}) == 1
    assert "Pulling" not in capsys.readouterr().out


def refusal(act: Callable[[], object]) -> str:
    """Return the sentence with which the example refuses to do something."""
    with pytest.raises(example.CleanroomError) as raised:
        act()
    assert raised.value.status == 2
    assert f"{raised.value}".isprintable()
    assert len(f"{raised.value}") < 1000
    return f"{raised.value}"


def seal(image: str) -> None:
    """Build the sealed image onto a task image."""
    example.cleanroom_image(example.inspect_task_image(image), None)


def test_a_disk_too_small_for_an_image_is_told(
    task_image: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(example, "IMAGE_SPACE", 1 << 60)
    with image_unbuilt() as image:
        sentence = refusal(lambda: seal(image))
    root = output_of("docker", "info", "--format={{.DockerRootDir}}").strip()
    assert re.search(rf"disk.* {root}", sentence)


# What is wrong with an image, and what names the cause.
UNFIT = {
    "RUN rm -f /usr/bin/apt-get": r"package manager|\bapt\b",
    "RUN useradd --uid 10001 taken": "taken has the id 10001",
    "RUN groupadd --gid 10001 taken": "taken has the id 10001",
    "RUN mv /workspace /w && ln -s /w /workspace": "/workspace is a symbolic link",
    "RUN rm -r /workspace": "there is no folder /workspace",
}


@pytest.mark.parametrize(("line", "cause"), UNFIT.items())
def test_an_image_that_the_server_cannot_be_built_onto_is_told_with_the_cause(
    line: str, cause: str, task_image: str
):
    with image_built(f"FROM {TASK_IMAGE}\nUSER root\n{line}\n") as image:
        assert re.search(cause, refusal(lambda: seal(image)))


def test_an_sdk_that_cannot_be_cloned_is_told_and_leaves_no_half_of_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(example, "CACHE", tmp_path)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/nowhere.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", example.SDK_REPOSITORY)
    sentence = refusal(lambda: example.sdk_checkout(None))
    for word in ("OPENHANDS_SDK_SOURCE", "git clone", f"{tmp_path}/nowhere"):
        assert word in sentence
    assert not list(tmp_path.iterdir())


NOBODYS = "programbench/nobody_1776_nothing.1a2b3c4:task_cleanroom_v6"


def tools_without(name: str) -> Callable[[Path], dict[str, str]]:
    """Have all programs but those whose names begin like this."""

    def settings(folder: Path) -> dict[str, str]:
        for place in os.environ["PATH"].split(":"):
            for path in Path(place).glob("*"):
                if not path.name.startswith(name):
                    with contextlib.suppress(FileExistsError):
                        (folder / path.name).symlink_to(path)
        return {"PATH": f"{folder}"}

    return settings


def is_a_file(setting: str) -> Callable[[Path], dict[str, str]]:
    """Have a file where the setting names a folder."""

    def settings(folder: Path) -> dict[str, str]:
        (folder / "file").touch()
        return {setting: f"{folder / 'file'}"}

    return settings


def sdk(version: str, act: Callable[[Path], object] = Path.exists) -> Any:
    """Have something like a checkout of the SDK, to which something was done."""

    def settings(folder: Path) -> dict[str, str]:
        (folder / "openhands-sdk").mkdir()
        project = folder / "openhands-sdk" / "pyproject.toml"
        project.write_text(f'version = "{version}"')
        act(folder)
        return {"OPENHANDS_SDK_SOURCE": f"{folder}"}

    return settings


def give_away(folder: Path) -> None:
    """Have a repository that is another user's."""
    if os.getuid():
        missing("only root can give a file away")
    output_of("git", "init", "--quiet", f"{folder}")
    output_of("chown", "--recursive", "nobody", f"{folder}")


# What is set in an empty folder, and how the script tells it.
TO_MEND: dict[str, tuple[Callable[[Path], dict[str, str]], str]] = {
    "no docker": (tools_without("docker"), "docker.*[:;] start Docker"),
    "no git": (tools_without("git"), "git.*[:;] install"),
    "no ssh": (tools_without("ssh"), "ssh.*[:;] install"),
    "no engine": (
        lambda _: {"DOCKER_HOST": "unix:///nowhere/nobody.sock"},
        "/nowhere/nobody.sock.* DOCKER_HOST",
    ),
    "an image that is nowhere": (
        lambda _: {"PROGRAMBENCH_TASK_IMAGE": NOBODYS},
        f"PROGRAMBENCH_TASK_IMAGE.*{NOBODYS}",
    ),
    "an output folder that is a file": (
        is_a_file("PROGRAMBENCH_OUTPUT_DIR"),
        "PROGRAMBENCH_OUTPUT_DIR",
    ),
    "an output folder that takes no files": (
        lambda _: {"PROGRAMBENCH_OUTPUT_DIR": "/sys/nowhere"},
        "PROGRAMBENCH_OUTPUT_DIR",
    ),
    "an SDK of another version": (sdk("1.0.0"), f"SDK_SOURCE.* {SDK_VERSION}"),
    "an SDK without git": (
        sdk(SDK_VERSION),
        "not a git repository.* OPENHANDS_SDK",
    ),
    "another user's SDK": (
        sdk(SDK_VERSION, give_away),
        "dubious ownership.* OPENHANDS_SDK_SOURCE",
    ),
    "a bad address": (
        lambda _: {"LLM_API_KEY": KEY, "LLM_BASE_URL": KEY},
        "LLM_BASE_URL",
    ),
}


@pytest.mark.parametrize("name", TO_MEND)
def test_what_the_user_must_mend_is_told_in_one_sentence_with_status_2(
    name: str, task_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings, told = TO_MEND[name]
    (tmp_path / "empty").mkdir()
    default = {"PROGRAMBENCH_OUTPUT_DIR": f"{tmp_path / 'out'}"}
    with environ(**clean_environment(**default | settings(tmp_path / "empty"))):
        status = run_script(example)
    printed = capsys.readouterr()
    check_refusal(status, printed.out, printed.err, told)


def check_refusal(status: int, stdout: str, stderr: str, told: str) -> None:
    """Check how the script tells what the user must mend."""
    assert status == 2, stdout[-1000:] + stderr[-3000:]
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()
    assert len(line) < 1000  # so that a user reads it to its end
    assert re.search(told, line)
    # Before anything slow or dear.
    assert "Building" not in stdout
    assert "EXAMPLE_COST" not in stdout
    assert KEY not in stdout + stderr


PLUGINS = "{{range .ClientInfo.Plugins}}{{println .Name .Path}}{{end}}"
# What needs a process of its own: what a shell does before, and how the script tells it.
PROCESSES = {
    "no buildx": (
        f"path=$(docker info --format='{PLUGINS}' | grep -oP '(?<=buildx ).*(?=/)')\n"
        "mount -t tmpfs tmpfs $path",
        "buildx.*[:;] install",
    ),
    "a cache folder that is a file": (
        "touch file; export XDG_CACHE_HOME=$PWD/file",
        "XDG_CACHE_HOME",
    ),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_starts_with_what_must_be_mended_ends_with_status_2(
    name: str, docker: None, run_example: Run, tmp_path: Path
):
    shell, told = PROCESSES[name]
    if os.getuid():
        missing("only root can mount")
    before = f'set -e; cd {tmp_path}; {shell}\ncd {ROOT}; exec "$@"'
    run_example.prefix = ["unshare", "--mount", "bash", "-c", before, "bash"]
    done = run_example()
    check_refusal(done.returncode, done.stdout, done.stderr, told)


def test_an_image_for_another_platform_is_told(docker: None):
    text = "FROM scratch\nLABEL of-the-tests=yes"
    with image_built(text, "--platform=linux/arm64") as image:
        sentence = refusal(lambda: example.inspect_task_image(image))
    assert re.search("arm64.* PROGRAMBENCH_TASK_IMAGE.*linux/amd64", sentence)
