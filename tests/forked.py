"""Runs the script in a process that has imported it: that alone takes ten seconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest
from conftest import ROOT, load_example


CONTEXT = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Start the process that imports the script, and from which others are forked."""
    CONTEXT.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        # Where it finds this module; what it does not find, it leaves out in silence.
        patch.setenv("PYTHONPATH", f"{Path(__file__).parent}")
        ensure_running()


def start(environment: dict[str, str], stdout: Path, stderr: Path) -> ForkServerProcess:
    """Start the script with these variables and no others; returns its process."""
    process = CONTEXT.Process(target=run, args=[environment, stdout, stderr])
    process.start()
    return process


def run(environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Be the script."""
    assert os.getpid() != IMPORTED_IN
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    tempfile.tempdir = None  # the process that was forked had another
    example.STARTED = time.monotonic()
    sys.exit(example.script())


IMPORTED_IN = os.getpid()
example = load_example()
