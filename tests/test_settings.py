"""Bad settings end the script at once, in one line; good ones name the instance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLE, Run

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
BAD = [
    *(("PROGRAMBENCH_TASK_IMAGE", {"PROGRAMBENCH_TASK_IMAGE": image}) for image in IMAGES),
    *(("LLM_BASE_URL", {"LLM_API_KEY": KEY, "LLM_BASE_URL": url}) for url in BASE_URLS),
    ("LLM_API_KEY", {"LLM_API_KEY": ""}),
    ("LLM_API_KEY", {"LLM_API_KEY": "", "LLM_BASE_URL": "http://127.0.0.1:1/v1"}),
    ("LLM_BASE_URL", {"LLM_API_KEY": KEY, "LLM_MODEL": "gemini/gemini-2.5-pro"}),
    ("LLM_BASE_URL", {"LLM_API_KEY": KEY, "LLM_MODEL": "no-provider"}),
    ("LLM_BASE_URL", {"LLM_API_KEY": KEY, "LLM_MODEL": ""}),
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
# Runs only what comes before the SDK's import, and says what the instance is called.
SETTINGS_ONLY = """
import sys
source = open(sys.argv[1]).read().partition("\\nimport aiohttp")[0]
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
