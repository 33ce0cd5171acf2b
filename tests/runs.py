"""Runs of the example as a user's: each is a process of its own.

It is forked from one that has imported the script, as that alone takes ten seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import psutil
import pytest
from conftest import EXAMPLE, ROOT, clean_environment, load_example


LONGEST = 240  # seconds of a run
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def start(environment: dict[str, str], stdout: Path, stderr: Path) -> ForkServerProcess:
    """Start the script with these variables and no others; returns its process."""
    with pytest.MonkeyPatch.context() as patch:
        # Where the process that imports the script finds this module; what it does not
        # find, it leaves out in silence.
        patch.setenv("PYTHONPATH", f"{Path(__file__).parent}")
        ensure_running()
    process = CONTEXT.Process(target=be_the_script, args=[environment, stdout, stderr])
    process.start()
    return process


def be_the_script(environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Do what Python does when it is given the script, but for the imports."""
    assert os.getpid() != IMPORTED_IN
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    tempfile.tempdir = None  # the process that was forked had another
    example.STARTED = time.monotonic()
    sys.exit(example.script())


IMPORTED_IN = os.getpid()
example = load_example()


def members(path: Path) -> dict[str, int]:
    """Return the names and sizes in an archive, which is read to its end."""
    with tarfile.open(path) as archive:
        return {each.name.removeprefix("./"): each.size for each in archive}


class Run:
    """Runs the example with folders of its own."""

    def __init__(self, folder: Path):
        self.output, self.temp = folder / "out", folder / "tmp"
        self.temp.mkdir()
        self.process: psutil.Process | None = None
        # A command that runs Python in other circumstances. If there is one, this is
        # not forked.
        self.prefix = list[str]()

    def variables(self, **settings: str) -> dict[str, str]:
        """Return the variables of a run with these settings, and its own folders."""
        folders = {
            "PROGRAMBENCH_OUTPUT_DIR": f"{self.output}",
            "TMPDIR": f"{self.temp}",
        }
        return clean_environment(**folders | settings)

    def __call__(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Return what became of it."""
        environment = self.variables(**settings)
        if self.prefix:
            return self.started_anew(environment)
        stdout, stderr = (self.temp.with_name(name) for name in ("stdout", "stderr"))
        process = start(environment, stdout, stderr)
        self.process = psutil.Process(process.pid)
        try:
            process.join(LONGEST)
        finally:
            if late := process.exitcode is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        texts = stdout.read_text(), stderr.read_text()
        assert not late, texts
        return subprocess.CompletedProcess("", process.exitcode or 0, *texts)

    def started_anew(
        self, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Return what became of it as a process of the prefix's."""
        command = [*self.prefix, sys.executable, f"{EXAMPLE}"]
        self.process = process = psutil.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=LONGEST)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def submission(self) -> dict[str, int]:
        """Return the names and sizes in the submission."""
        (path,) = self.output.glob("*/submission.tar.gz")
        return members(path)

    def containers(self) -> set[str]:
        """Return the containers that the running example has a pipe to."""
        found = set[str]()
        with contextlib.suppress(psutil.Error):
            for child in self.process.children(recursive=True) if self.process else ():
                with contextlib.suppress(psutil.Error):
                    if (command := child.cmdline())[:2] == ["docker", "exec"]:
                        found |= {
                            word
                            for word in command
                            if re.fullmatch("[0-9a-f]{64}", word)
                        }
        return found

    def leftovers(self) -> list[str]:
        """Return what lies in the temp folder; uv's own lock files do not count."""
        return [
            path.name for path in self.temp.iterdir() if not path.name.startswith("uv-")
        ]
