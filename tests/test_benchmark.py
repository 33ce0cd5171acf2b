"""The benchmark in its short form: what it measures is for the one who runs it to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import benchmark
import pytest
from conftest import ROOT, clean_environment


def test_every_figure_is_measured_on_both_sides_and_printed(
    task_image: str, tmp_path: Path
):
    found = tmp_path / "found.json"
    command = [sys.executable, f"{ROOT / 'tests' / 'benchmark.py'}", "--short"]
    done = subprocess.run(
        [*command, "--json", f"{found}"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    figures = json.loads(found.read_text())
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert figures.keys() == benchmark.figures().keys() == {row[0] for row in rows}
    for name, ours, plain, *_ in rows:
        values = figures[name]["ours"] + figures[name]["plain"]
        assert [float(cell) for cell in (ours, plain) if cell] == pytest.approx(
            values, 0.01
        )
        assert min(values) > 0
        assert len(values) == (1 if name.startswith("saving") else 2)
