"""Runs the script in a process that has imported it: that alone takes ten seconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from conftest import ROOT, load_example


def start(environment: dict[str, str], stdout: Path, stderr: Path) -> ForkServerProcess:
    """Start the script with these variables and no others; returns its process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=run, args=[environment, stdout, stderr])
    process.start()
    return process


def run(environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Be the script."""
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    tempfile.tempdir = None  # the process that was forked had another
    example.STARTED = time.monotonic()
    sys.exit(example.script())


example = load_example()
