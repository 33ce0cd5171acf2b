"""Many tasks under a scheduler that people have: the README's Slurm job, on one machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import (
    EXAMPLE,
    ROOT,
    TASK_IMAGE,
    clean_environment,
    instance_id,
    missing,
    output_of,
)


README = (ROOT / "README.md").read_text()
# Both daemons, their state and their logs in one folder; two tasks at a time.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cluster of this machine alone; the variables that its clients want."""
    programs = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
    if os.getuid() or not all(shutil.which(each) for each in programs):
        missing("Slurm and munge are missing, or this is not root")
    folder = tmp_path / "slurm"
    for name in ("", "state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    file = folder / "slurm.conf"
    file.write_text(CONFIGURATION.format(folder=folder, host=host))
    output_of("mungekey", f"--keyfile={folder}/key")
    files = [f"--socket={folder}/munge.socket", f"--key-file={folder}/key"]
    files += [f"--{each}-file={folder}/munge.{each}" for each in ("log", "pid", "seed")]
    commands = (
        ["munged", "--foreground", "--force", *files],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D"],
    )
    variables = {"SLURM_CONF": f"{file}"}
    with contextlib.ExitStack() as exits:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as out:
                process = exits.enter_context(
                    subprocess.Popen(
                        command, stdout=out, stderr=out, env=os.environ | variables
                    )
                )
            exits.callback(process.terminate)
            time.sleep(1)
        yield variables


def job() -> str:
    """Return the job that the README shows."""
    match = re.search(
        r"^(    #!/bin/bash\n    #SBATCH(?:.*\n)+?)\n(?!    )", README, re.M
    )
    assert match
    return re.sub("^    ", "", match[1], flags=re.M)


def test_the_readmes_job_does_many_tasks_each_once(
    slurm: dict[str, str], task_image: str, tmp_path: Path
):
    shutil.copy(EXAMPLE, tmp_path)
    images = [re.sub("(?=:)", f"{n}", TASK_IMAGE, count=1) for n in range(3)]
    (tmp_path / "images.txt").write_text("\n".join(images) + "\n")
    (tmp_path / "job").write_text(job())
    environment = clean_environment(**slurm)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def submit() -> str:
        command = ["sbatch", "--wait", "--array=1-3", "--output=log-%a", "job"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        logs = "".join(path.read_text() for path in sorted(tmp_path.glob("log-*")))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        return logs

    for image in images:
        output_of("docker", "tag", TASK_IMAGE, image)
    try:
        assert submit().count("EXAMPLE_COST: 0.0\n") == 3
        assert "EXAMPLE_COST" not in submit()
    finally:
        output_of("docker", "image", "rm", *images)
    for image in images:
        folder = tmp_path / "submissions" / instance_id(image)
        assert (folder / "submission.tar.gz").exists()
        trajectory = json.loads((folder / f"{folder.name}.traj.json").read_text())
        assert trajectory["info"]["exit_status"] == "Submitted"
