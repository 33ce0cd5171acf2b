"""An engine elsewhere, named by DOCKER_HOST: its published ports are out of reach here.

It also gives containers user ids of its own (userns-remap).
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import (
    TASK_IMAGE,
    another_engine,
    bring_images,
    clean_environment,
    environ,
    output_of,
    plain_workspace,
    wait_until,
)
from runs import Run
from scripted_llm import Request, ScriptedLLM, Step


NOTES = "It counts what it is given."
WORK: Step = (
    "terminal",
    {"command": f"cd /workspace; mv executable moved; echo {NOTES} >NOTES.md"},
)
KNOCK = "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)"


@dataclass
class Elsewhere:
    """The engine elsewhere."""

    url: str
    pid: int

    def docker(self, *arguments: str) -> list[str]:
        """Return the words that a `docker` command prints there."""
        return output_of("docker", f"--host={self.url}", *arguments).split()

    def containers(self) -> set[str]:
        """Return the containers there."""
        return {*self.docker("ps", "--all", "--quiet", "--no-trunc")}

    def leftovers(self) -> set[str]:
        """Return what is there and was not from the beginning."""
        networks = {*self.docker("network", "ls", "--format={{.Name}}")}
        volumes = {*self.docker("volume", "ls", "--quiet")}
        return self.containers() | networks - {"bridge", "host", "none"} | volumes

    def answers(self, url: str) -> bool:
        """Tell whether somebody answers there."""
        there = ["nsenter", f"--net=/proc/{self.pid}/ns/net"]
        knock = [*there, sys.executable, "-c", KNOCK, url]
        environment = clean_environment(no_proxy="*")
        return not subprocess.run(knock, stderr=-1, env=environment).returncode


@pytest.fixture(scope="module")
def elsewhere(
    task_image: str, sealed_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Elsewhere]:
    """An engine that has the task's image, and the sealed one."""
    settings = {"userns-remap": "nobody:nogroup"}
    with another_engine(settings, tmp_path_factory) as (url, pid):
        engine = Elsewhere(url, pid)
        bring_images(url, task_image, sealed_image)
        yield engine
        assert not engine.leftovers()


def test_a_whole_run_needs_no_port_of_its_engine(
    elsewhere: Elsewhere, run_example: Run
):
    def respond(_: Request) -> None:
        assert run_example.containers() == elsewhere.containers()

    with ScriptedLLM([WORK], respond=respond) as llm:
        done = run_example(DOCKER_HOST=elsewhere.url, **llm.settings)
    assert done.returncode == 0, done.stderr
    assert not llm.script
    (path,) = run_example.output.glob("*/submission.tar.gz")
    with tarfile.open(path) as archive:
        notes = archive.extractfile("./NOTES.md")
        assert notes and notes.read().decode() == f"{NOTES}\n"
    # Its owner is not root where the engine gives the ids.
    assert not {"executable", "moved"} & run_example.submission().keys()
    assert not elsewhere.leftovers()


# Answers as the agent server would, at once.
SERVER = """FROM {}
WORKDIR /tmp
RUN touch health
ENTRYPOINT ["sh", "-c", "exec /agent-server/.venv/bin/python -m http.server 8000"]
"""


def test_a_port_that_is_published_elsewhere_is_refused_here(
    elsewhere: Elsewhere, sealed_image: str, tmp_path: Path
):
    (tmp_path / "Dockerfile").write_text(SERVER.format(sealed_image))
    elsewhere.docker("build", "--quiet", "--tag=plain", f"{tmp_path}")
    with environ(**clean_environment(DOCKER_HOST=elsewhere.url)):
        # The SDK's own way. While the error is held, so is the workspace's container.
        with pytest.raises(RuntimeError, match="healthy in time") as _failure:
            plain_workspace("plain", health_check_timeout=10)
        (container,) = elsewhere.containers()
        (address,) = elsewhere.docker("port", container, "8000")
        try:
            wait_until(lambda: elsewhere.answers(f"http://{address}/health"), 60)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(address.split(":")[1])))
        finally:
            elsewhere.docker("rm", "--force", container)


def test_the_disk_of_this_host_is_not_taken_for_that_engines(
    elsewhere: Elsewhere, run_example: Run, tmp_path: Path
):
    image = "programbench/tests_1776_elsewhere.1a2b3c4:task_cleanroom_v6"
    (tmp_path / "Dockerfile").write_text(f"FROM {TASK_IMAGE}\nLABEL of-the-tests=yes\n")
    elsewhere.docker("build", "--quiet", f"--tag={image}", f"{tmp_path}")
    small = 'mount -t tmpfs -o size=100m tmpfs /var/lib/docker && exec "$@"'
    run_example.prefix = ["unshare", "--mount", "sh", "-c", small, "sh"]
    done = run_example(DOCKER_HOST=elsewhere.url, PROGRAMBENCH_TASK_IMAGE=image)
    # There is no network for the build over there, so it goes no further.
    assert "Building" in done.stdout, done.stderr
