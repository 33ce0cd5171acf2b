"""The benchmark itself, in its short form: what it measures is for the one who runs it to judge."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import benchmark
import pytest
from conftest import ROOT, clean_environment

LEFT_OUT = {"cold build on a new task image, s"}  # takes minutes


@dataclass
class Measured:
    """What a short run found and printed."""

    found: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def measured(task_image: str, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """A short run."""
    found = tmp_path_factory.mktemp("benchmark") / "found.json"
    done = subprocess.run(
        [sys.executable, f"{ROOT / 'tests' / 'benchmark.py'}", "--short", "--json", f"{found}"],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return Measured(json.loads(found.read_text()), done.stdout)


@pytest.mark.parametrize("name", sorted(benchmark.figures().keys() - LEFT_OUT))
def test_every_figure_is_measured_on_both_sides(measured: Measured, name: str):
    figure = measured.found["figures"][name]
    assert figure["ours"]
    assert figure["plain"] or (figure["compare"] == "ours" and name.startswith("floor"))
    least = 0 if name == "LLM calls not the agent's" else 1e-9
    assert all(value >= least for value in figure["ours"] + figure["plain"])


def test_the_table_says_what_the_json_says(measured: Measured):
    lines = measured.printed.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    assert len(rows) == len(measured.found["figures"]) + 2
    for (name, figure), row in zip(measured.found["figures"].items(), rows[2:], strict=True):
        assert row[0] == name
        assert f"- {name}: {figure['counted']}." in lines
        for way, cell in (("ours", row[1]), ("plain", row[2])):
            numbers = [float(number) for number in cell.split()[:1]]
            medians = [statistics.median(figure[way])] if figure[way] else []
            assert numbers == pytest.approx(medians, rel=0.001)
        compared = row[3].removeprefix("x ")
        assert bool(compared) == (figure["compare"] != "ours")
        if compared:
            assert float(compared) == pytest.approx(figure["result"], rel=0.01)
        assert row[4] == figure["verdict"]
