"""Bad settings end the script at once, in one line; good ones name the instance."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import (
    EXAMPLE,
    TASK_IMAGE,
    Run,
    image_built,
    image_unbuilt,
    instance_id,
    missing,
    output_of,
)

KEY = "sk-test-0123456789abcdef"
DIGEST = "@sha256:" + "0123456789abcdef" * 4
IMAGES = [
    "",
    " ",
    ".",
    "..",
    "/",
    "a/..",
    "../x",
    "a/../b",
    "/a/b",
    "a/",
    "a//b",
    "UPPER",
    "owner/UPPER_1776_x.1:tag",
    "a b",
    "a b:tag",
    "a\n",
    "a\nb",
    "\na",
    "a:",
    "a:tag:tag",
    "a:t ag",
    "a:tag\n",
    "a@sha256:123",
    f"a:tag{DIGEST}0",
    "-a",
    "--help",
    "a;b",
    "a$b",
    "a'b",
    'a"b',
    "a\\b",
    "https://registry.example/a:tag",
    "\N{LATIN SMALL LETTER A WITH ACUTE}",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "a\x1b[31m",
]
BASE_URLS = [
    "",
    " ",
    "127.0.0.1:4000",
    "127.0.0.1/v1",
    "ftp://127.0.0.1/v1",
    "file:///v1",
    "http://",
    "http:///v1",
    "https//127.0.0.1",
    "http://127.0.0.1/v 1",
    "http://127.0.0.1/v1\n",
    " http://127.0.0.1/v1",
    "http://127.0.0.1/v1?key=x",
    "http://127.0.0.1/v1#x",
    "http://user:password@127.0.0.1/v1",
]
TIME_LIMITS = ["", " ", "0", "-1", "1h", "an hour", "nan", "inf", "0x10", "60\n", "\u0661"]
BAD = [
    *(("PROGRAMBENCH_TIME_LIMIT", {"PROGRAMBENCH_TIME_LIMIT": limit}) for limit in TIME_LIMITS),
    *(("PROGRAMBENCH_TASK_IMAGE", {"PROGRAMBENCH_TASK_IMAGE": image}) for image in IMAGES),
    *(("LLM_BASE_URL", {"LLM_API_KEY": KEY, "LLM_BASE_URL": url}) for url in BASE_URLS),
    ("LLM_API_KEY", {"LLM_API_KEY": ""}),
    ("LLM_API_KEY", {"LLM_API_KEY": "", "LLM_BASE_URL": "http://127.0.0.1:1/v1"}),
    ("LLM_BASE_URL", {"LLM_API_KEY": KEY, "LLM_MODEL": "gemini/gemini-2.5-pro"}),
    ("LLM_BASE_URL", {"LLM_API_KEY": KEY, "LLM_MODEL": "no-provider"}),
    ("LLM_BASE_URL", {"LLM_API_KEY": KEY, "LLM_MODEL": ""}),
    *(("TMPDIR", {"TMPDIR": d}) for d in ("/" + 80 * "x", "/a:b", "/a%b", "/a b", "tmp")),
    ("OPENHANDS_SDK_SOURCE", {"OPENHANDS_SDK_SOURCE": "/nowhere"}),
    ("OPENHANDS_SDK_SOURCE", {"OPENHANDS_SDK_SOURCE": f"{Path(__file__).parent}"}),
]


@pytest.mark.parametrize(("name", "environment"), BAD, ids=repr)
def test_a_bad_setting_ends_the_script_with_one_line_that_names_it(
    name: str, environment: dict[str, str], run_example: Run
):
    done = run_example("-X", "importtime", timeout=60, **environment)
    assert done.returncode == 2, done.stderr[-500:]
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    (line,) = lines
    assert line.startswith("error: ")
    assert name in line
    assert line.isprintable()
    assert KEY not in done.stdout + done.stderr
    # The check comes before the import that takes seconds.
    assert " json" in done.stderr
    assert " openhands" not in done.stderr
    assert not run_example.output.exists()


def test_the_readme_lists_the_settings_that_there_are():
    read = set(re.findall(r'setting\("(\w+)"', EXAMPLE.read_text())) - {"TMPDIR"}
    readme = (EXAMPLE.parents[1] / "README.md").read_text()
    assert {*re.findall(r"^\| `([A-Z_]+)` \|", readme, re.MULTILINE)} == read


INSTANCES = {
    "programbench/abishekvashok_1776_cmatrix.5c082c6:task_cleanroom_v6": (
        "abishekvashok__cmatrix.5c082c6"
    ),
    "programbench/abishekvashok_1776_cmatrix.5c082c6": "abishekvashok__cmatrix.5c082c6",
    f"programbench/a_1776_b.1a2b3c4{DIGEST}": "a__b.1a2b3c4",
    f"programbench/a_1776_b.1a2b3c4:task{DIGEST}": "a__b.1a2b3c4",
    "registry.example:5000/programbench/a_1776_b.1a2b3c4:task": "a__b.1a2b3c4",
    "localhost:5000/a_1776_b.1a2b3c4": "a__b.1a2b3c4",
    "a_1776_b-c.d.1a2b3c4:task": "a__b-c.d.1a2b3c4",
    "programbench/testorg_1776_calculator.abc1234:task": "testorg__calculator.abc1234",
}
# Runs only the first section, and says what the instance is called.
SETTINGS_ONLY = """
import sys
source = open(sys.argv[1]).read().partition("\\n# ## 2.")[0]
exec(compile(source, "settings", "exec"), names := {"__name__": "settings"})
print(names["INSTANCE_ID"])
"""


@pytest.mark.parametrize(("image", "instance"), INSTANCES.items())
def test_the_instance_is_named_as_the_benchmark_names_it(image: str, instance: str):
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS_ONLY, f"{EXAMPLE}"],
        env={"PROGRAMBENCH_TASK_IMAGE": image},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == instance


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a script says whose user can mend what is wrong."""
    assert done.returncode == 2, done.stdout[-1000:] + done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    (line,) = lines
    assert line.startswith("error: ")
    assert line.isprintable()
    # A sentence that a user reads to its end.
    assert len(line) < 1000
    return line


def one_line_at_once(run: Run, **environment: str) -> str:
    """Return what the script says before the SDK's import, which takes seconds."""
    done = run("-X", "importtime", timeout=60, **environment)
    line = one_line(done)
    assert " json" in done.stderr
    assert " openhands" not in done.stderr
    assert "Building" not in done.stdout
    return line


@pytest.fixture(scope="module")
def unbuilt(task_image: str) -> Iterator[str]:
    """A task image that no agent server was built onto yet."""
    with image_unbuilt() as image:
        yield image


def apart(*commands: str) -> list[str]:
    """Return a prefix that runs a command in a view of the file system of its own."""
    prefix = ["unshare", "--mount", "sh", "-c", " && ".join([*commands, 'exec "$@"']), "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        missing("a view of the file system can only be made by root")
    return prefix


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder of all that is on the PATH, from which single tools can be taken."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for place in os.environ["PATH"].split(":"):
        for tool in Path(place).glob("*"):
            with contextlib.suppress(FileExistsError):  # the first on the PATH counts
                (folder / tool.name).symlink_to(tool)
    return folder


@pytest.mark.parametrize("tool", ["docker", "git", "ssh"])
def test_a_missing_tool_is_named_at_once(tool: str, tools: Path, unbuilt: str, run_example: Run):
    for program in tools.glob(f"{tool}*"):
        program.unlink()
    line = one_line_at_once(run_example, PATH=f"{tools}", PROGRAMBENCH_TASK_IMAGE=unbuilt)
    assert re.search(rf"\b{tool}\b", line)
    assert "install" in line.lower()


def test_a_docker_without_buildx_is_told_at_once(unbuilt: str, run_example: Run):
    plugins = "{{range .ClientInfo.Plugins}}{{.Name}} {{.Path}}\n{{end}}"
    (path,) = re.findall("^buildx (.+)$", output_of("docker", "info", f"--format={plugins}"), re.M)
    run_example.prefix = apart(f"mount -t tmpfs tmpfs {Path(path).parent}")
    line = one_line_at_once(run_example, PROGRAMBENCH_TASK_IMAGE=unbuilt)
    assert "buildx" in line
    assert "install" in line.lower()


def test_an_engine_that_does_not_answer_is_told_at_once(
    task_image: str, run_example: Run, tmp_path: Path
):
    line = one_line_at_once(run_example, DOCKER_HOST=f"unix://{tmp_path}/nobody.sock")
    assert "docker" in line.lower()
    assert f"{tmp_path}/nobody.sock" in line


def test_an_image_that_cannot_be_had_is_told_at_once_in_the_engines_words(
    task_image: str, run_example: Run
):
    image = "programbench/nobody_1776_nothing.1a2b3c4:task_cleanroom_v6"
    line = one_line_at_once(run_example, PROGRAMBENCH_TASK_IMAGE=image)
    words = subprocess.run(["docker", "pull", image], capture_output=True, text=True).stderr
    assert "PROGRAMBENCH_TASK_IMAGE" in line
    assert image in line
    # The last of the engine's words may name a port or an address, which differ.
    assert words.split(":")[0] in line
    assert words.strip()[-25:] in line


def test_an_image_of_another_platform_is_told_at_once(task_image: str, run_example: Run):
    with image_built("FROM scratch\nLABEL of-the-tests=yes\n", "--platform=linux/arm64") as image:
        line = one_line_at_once(run_example, PROGRAMBENCH_TASK_IMAGE=image)
    assert "PROGRAMBENCH_TASK_IMAGE" in line
    assert "arm64" in line
    assert "linux/amd64" in line


def test_an_image_without_a_package_manager_is_told(task_image: str, run_example: Run):
    with image_built(f"FROM {TASK_IMAGE}\nUSER root\nRUN rm -f /usr/bin/apt-get\n") as image:
        done = run_example(PROGRAMBENCH_TASK_IMAGE=image)
    line = one_line(done)
    assert "no known package manager found" in done.stdout  # the whole log, on failure
    assert "PROGRAMBENCH_TASK_IMAGE" in line
    assert "package manager" in line
    assert "apt" in line


def sdk_folder(folder: Path, number: str) -> str:
    """Make what looks like an SDK of this version, and return its path."""
    project = folder / "sdk" / "openhands-sdk" / "pyproject.toml"
    project.parent.mkdir(parents=True)
    project.write_text(f'[project]\nname = "openhands-sdk"\nversion = "{number}"\n')
    return f"{folder / 'sdk'}"


def test_an_sdk_of_another_version_is_told_at_once(run_example: Run, tmp_path: Path):
    line = one_line_at_once(run_example, OPENHANDS_SDK_SOURCE=sdk_folder(tmp_path, "1.0.0"))
    assert "OPENHANDS_SDK_SOURCE" in line
    assert installed() in line


def installed() -> str:
    """Return the SDK's version."""
    return version("openhands-sdk")


def test_an_sdk_that_is_no_repository_is_told_at_once(
    task_image: str, run_example: Run, tmp_path: Path
):
    source = sdk_folder(tmp_path, installed())
    assert "OPENHANDS_SDK_SOURCE" in one_line_at_once(run_example, OPENHANDS_SDK_SOURCE=source)


def test_an_sdk_that_cannot_be_cloned_is_told_at_once(
    task_image: str, run_example: Run, tmp_path: Path
):
    url = "https://github.com/OpenHands/software-agent-sdk"
    nowhere = {"KEY_0": f"url.file://{tmp_path}/nowhere.insteadOf", "VALUE_0": url, "COUNT": "1"}
    settings = {f"GIT_CONFIG_{name}": value for name, value in nowhere.items()}
    line = one_line_at_once(run_example, XDG_CACHE_HOME=f"{tmp_path}/cache", **settings)
    assert "OPENHANDS_SDK_SOURCE" in line
    assert "clone" in line.lower()
    assert f"{tmp_path}/nowhere" in line
    # Half a clone would be taken for a whole one.
    assert not list(tmp_path.glob("cache/*/*/*"))


def test_a_disk_too_small_for_the_build_is_told_at_once(unbuilt: str, run_example: Run):
    root = output_of("docker", "info", "--format={{.DockerRootDir}}").strip()
    # The engine itself does not see the small disk.
    run_example.prefix = apart(f"mount -t tmpfs -o size=100m tmpfs {root}")
    line = one_line_at_once(run_example, PROGRAMBENCH_TASK_IMAGE=unbuilt)
    assert re.search("space|disk", line)
    assert root in line


def unwritable(kind: str, folder: Path) -> Path:
    """Make an output folder in which nothing can be written, by root neither."""
    if kind == "a file":
        (folder / "file").touch()
        return folder / "file"
    if kind == "below a file":
        (folder / "file").touch()
        return folder / "file" / "out"
    return Path("/sys/kernel")


@pytest.mark.parametrize("kind", ["a file", "below a file", "not for anyone"])
def test_an_output_folder_that_cannot_be_written_is_told_at_once(
    kind: str, task_image: str, run_example: Run, tmp_path: Path
):
    folder = unwritable(kind, tmp_path)
    line = one_line_at_once(run_example, PROGRAMBENCH_OUTPUT_DIR=f"{folder}")
    assert "PROGRAMBENCH_OUTPUT_DIR" in line


def test_a_cache_folder_that_cannot_be_written_is_told_at_once(
    task_image: str, run_example: Run, tmp_path: Path
):
    folder = unwritable("a file", tmp_path)
    assert "XDG_CACHE_HOME" in one_line_at_once(run_example, XDG_CACHE_HOME=f"{folder}")


def test_an_output_folder_that_turned_read_only_is_told_at_once(
    task_image: str, run_example: Run, tmp_path: Path
):
    folder = tmp_path / "read-only"
    instance = instance_id(TASK_IMAGE)
    (folder / instance).mkdir(parents=True)
    if os.getuid():
        (folder / instance).chmod(0o555)
    else:  # whom no mode keeps out
        output_of("mount", "--bind", "--options=ro", f"{folder}", f"{folder}")
    try:
        line = one_line_at_once(run_example, PROGRAMBENCH_OUTPUT_DIR=f"{folder}")
    finally:
        if not os.getuid():
            output_of("umount", f"{folder}")
    assert "PROGRAMBENCH_OUTPUT_DIR" in line


def test_a_host_that_is_not_amd64_is_warned_and_not_refused(task_image: str, run_example: Run):
    # As such a machine, this one's kernel names another one's processor.
    other = ["setarch", "i686", "--"]
    if subprocess.run([*other, "true"], capture_output=True).returncode:
        missing("this kernel has but one name for its processor")
    run_example.prefix = other
    done = run_example()
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = re.findall(".*warning.*", done.stdout + done.stderr, re.IGNORECASE)
    assert "amd64" in line
    assert "slow" in line
