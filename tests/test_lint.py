"""The example's text: upstream's rules among upstream's examples, and its own shape."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path
from statistics import mean

import pytest
from conftest import EXAMPLE, ROOT, sdk_with_example


SOURCE = EXAMPLE.read_text()
MODULE = ast.parse(SOURCE)
NO_CODE = {
    *[tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT],
    *[tokenize.DEDENT, tokenize.ENDMARKER],
}
# The rules of the SDK's own repository.
RUFF = """
target-version = "py313"
line-length = 88
lint.select = ["E", "F", "I", "UP", "ARG", "B006", "B008", "B039", "RUF012"]
lint.isort.known-first-party = ["openhands"]
lint.isort.combine-as-imports = true
lint.isort.lines-after-imports = 2
"""
PYRIGHT = {"typeCheckingMode": "standard", "pythonVersion": "3.13"}
PINS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
PYCODESTYLE = [
    *["uv", "tool", "run", f"--exclude-newer={PINS['exclude-newer']}"],
    *[f"--python={sys.executable}", "pycodestyle", "--max-line-length=88"],
    "--ignore=E203,W503,E704",
]
CHECKS = {
    "ruff check": ["ruff", "check", "--config=ruff.toml"],
    "ruff format": ["ruff", "format", "--check", "--config=ruff.toml"],
    "pycodestyle": PYCODESTYLE,
    "pyright": ["pyright", f"--pythonpath={sys.executable}", "--project=pyright.json"],
}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example among the SDK's own ones, in a checkout of the SDK."""
    folder = tmp_path_factory.mktemp("upstream") / "sdk"
    path = sdk_with_example(folder)
    (folder / "ruff.toml").write_text(RUFF)
    include = {"include": [f"{path.relative_to(folder)}"]}
    (folder / "pyright.json").write_text(json.dumps(PYRIGHT | include))
    return path


@pytest.mark.parametrize("check", CHECKS)
def test_upstreams_rules_find_nothing(check: str, script: Path):
    program, *arguments = CHECKS[check]
    beside = Path(sys.executable).with_name(program)
    command = [f"{beside}" if beside.exists() else program, *arguments]
    if check != "pyright":  # which has it in its settings
        command.append(f"{script}")
    done = subprocess.run(
        command, cwd=script.parents[2], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_main_is_near_the_beginning_and_fits_on_a_screen():
    (main,) = [
        node
        for node in MODULE.body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    ]
    assert main.end_lineno
    assert main.lineno < 160
    assert main.end_lineno - main.lineno + 1 <= 60


def docstring_lines() -> set[int]:
    """Return the numbers of the lines that docstrings take."""
    numbers = set[int]()
    for node in ast.walk(MODULE):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            if ast.get_docstring(node, clean=False) is not None:
                text = node.body[0]
                assert text.end_lineno
                numbers |= {*range(text.lineno, text.end_lineno + 1)}
    return numbers


def code_lines() -> set[int]:
    """Return the numbers of the lines that hold more than comments and docstrings."""
    numbers = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(SOURCE).readline):
        if token.type not in NO_CODE:
            numbers |= {*range(token.start[0], token.end[0] + 1)}
    return numbers - docstring_lines()


def test_lines_are_short():
    lines = SOURCE.splitlines()
    assert max(map(len, lines)) <= 88
    assert mean(len(lines[number - 1].strip()) for number in code_lines()) <= 45


def test_no_check_is_silenced_in_a_line():
    for silencer in ("noqa", "type: ignore", "pyright: ignore"):
        assert silencer not in SOURCE
