"""Any host gives a run, or one sentence that names what is wrong with it.

The hosts are odd in the ways of public bug reports. (What else the user must mend:
see test_settings.)
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import (
    TASK_IMAGE,
    another_engine,
    bring_images,
    clean_environment,
    environ,
    image_built,
    image_unbuilt,
    load_example,
    missing,
    output_of,
    run_script,
    sealed_tag,
)
from runs import Run
from scripted_llm import Request, ScriptedLLM, Step


example = load_example()
Done = subprocess.CompletedProcess[str]


# ## A host on which all is odd


class OddHost(Run):
    """A run where everything names a proxy, nothing can pause and FIPS 140 is obeyed.

    Nobody answers at the proxy. There is a netrc file too, and a long temp folder.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.prefix = ["env"]
        self.temp = folder / ("a long name" * 10)
        home, programs = folder / "home", folder / "programs"
        for each in (self.temp, home / ".docker", programs):
            each.mkdir(parents=True)
        write(home / ".netrc", f"default login alice password {PASSWORD}", 0o600)
        write(home / ".docker" / "config.json", json.dumps(CLIENT_PROXIES))
        for name, script in PROGRAMS.items():
            write(programs / name, f"#!/bin/sh\n{script}", 0o755)
        self.environment = (
            PROXIES
            | ODD_VARIABLES
            | {
                "NO_PROXY": "",
                "HOME": f"{home}",
                "XDG_CACHE_HOME": f"{example.CACHE.parent}",
                "PATH": f"{programs}:{os.environ['PATH']}",
                "TMPDIR": f"{self.temp}",
            }
        )
        steps: list[Step] = [
            ("terminal", {"command": "env"}),
            ("terminal", {"command": "echo mine >/workspace/mine.txt"}),
        ]
        self.llm = ScriptedLLM(steps, respond=self.look)
        self.seen = ""  # of the container's variables, and of the terminal's

    def look(self, call: Request) -> None:
        """Note what the container and the agent's shell have of this host."""
        self.seen += f"{call.body['messages']}"
        for container in self.containers():
            self.seen += output_of("docker", "inspect", container)

    def play(self) -> OddHost:
        """Run it to its end."""
        with self.llm:
            # Its key is in a header of its own: a library could add netrc's password.
            anthropic = {
                "LLM_MODEL": "anthropic/claude-haiku-4-5",
                "LLM_BASE_URL": self.llm.origin,
            }
            self.done = self(
                PROGRAMBENCH_TASK_IMAGE=f"docker.io/{TASK_IMAGE}",
                **self.llm.settings | anthropic | self.environment,
            )
        return self


PASSWORD = "wonderland"  # of the proxies, and in the netrc file
CLOSED = f"http://alice:{PASSWORD}@127.0.0.1:9"
PROXIES = {
    name: value
    for lower, value in {
        "http_proxy": CLOSED,
        "https_proxy": CLOSED,
        "all_proxy": f"socks5://alice:{PASSWORD}@127.0.0.1:9",
    }.items()
    for name in (lower, lower.upper())
}
CLIENT_PROXIES = {
    "proxies": {
        "default": dict.fromkeys(
            ["httpProxy", "httpsProxy", "ftpProxy", "allProxy", "noProxy"], CLOSED
        )
    }
}
# Texts are ASCII there, a hook of git's is the caller, Docker is another processor's,
# and LiteLLM was told to trust what proxies and passwords the host has.
ODD_VARIABLES = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "GIT_DIR": "/nowhere",
    "GIT_INDEX_FILE": "/nowhere/index",
    "DOCKER_DEFAULT_PLATFORM": "linux/arm64",
    "AIOHTTP_TRUST_ENV": "True",
}
# Programs of the odd host's, which run the real ones.
REAL = 'PATH=${PATH#*:} exec "${0##*/}" "$@"'
PROGRAMS = {
    "docker": f'[ "$1" != pause ] || exit 1\n{REAL}',
    "ssh-keygen": f"""case " $* " in
*' -t ecdsa '* | *' -t rsa '*) {REAL} ;;
esac
echo 'This key type is not allowed in FIPS mode.' >&2
exit 1""",
}


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file."""
    path.write_text(f"{text}\n")
    path.chmod(mode)


@pytest.fixture(scope="module")
def odd_host(sealed_image: str, tmp_path_factory: pytest.TempPathFactory) -> OddHost:
    """A run on that host that is over."""
    return OddHost(tmp_path_factory.mktemp("odd")).play()


def test_loopback_is_not_looked_for_behind_a_proxy(odd_host: OddHost):
    assert odd_host.done.returncode == 0, odd_host.done.stdout + odd_host.done.stderr
    assert not odd_host.llm.script


def test_a_name_with_its_registry_is_found_and_not_pulled(odd_host: OddHost):
    assert "Pulling" not in odd_host.done.stdout


def test_nothing_of_a_proxy_is_in_the_box(odd_host: OddHost):
    assert "PWD=/workspace" in odd_host.seen
    assert '"Env": [' in odd_host.seen
    assert PASSWORD not in odd_host.seen
    assert not re.search('[a-z]_proxy=[^"]', odd_host.seen, re.IGNORECASE)


def test_nothing_of_a_netrc_file_is_sent(odd_host: OddHost):
    for request in odd_host.llm.requests:
        assert request.headers["x-api-key"] == "sk-x"
        assert "Authorization" not in request.headers


def test_the_work_is_saved_from_an_engine_that_cannot_pause(odd_host: OddHost):
    assert "mine.txt" in odd_host.submission()


def test_nothing_stays_in_a_temp_folder_with_a_long_name(odd_host: OddHost):
    assert not odd_host.leftovers()


def test_what_a_build_is_given_of_proxies_does_not_stay_in_the_image(
    task_image: str, tmp_path: Path
):
    write(tmp_path / "config.json", json.dumps(CLIENT_PROXIES))
    with image_unbuilt() as image:
        tag = f"{image}-plain"
        with environ(**os.environ | {"DOCKER_CONFIG": f"{tmp_path}"}):
            example.build(tag, example.PLAIN, TASK_IMAGE=image)
        command = ["docker", "run", "--rm", "--network=none", tag]
        variables = output_of(*command, "cat", "/cleanroom/task_variables")
    assert "PATH=" in variables
    assert PASSWORD not in variables


def test_an_image_that_is_named_by_its_id_is_built_from_and_not_looked_for(
    task_image: str, monkeypatch: pytest.MonkeyPatch
):
    class Built(Exception):
        """It was looked at enough."""

    def build_and_stop(tag: str, dockerfile: str, *_: object, **arguments: str) -> None:
        build(f"{tag}-of-the-tests", "ARG TASK_IMAGE\nFROM ${TASK_IMAGE}", **arguments)
        output_of("docker", "image", "rm", f"{tag}-of-the-tests")
        raise Built

    build = example.build
    monkeypatch.setattr(example, "build", build_and_stop)
    with image_unbuilt() as image:
        identity = example.inspect_task_image(image).id
        with pytest.raises(Built):
            example.cleanroom_image(example.inspect_task_image(identity), None)


def test_a_build_takes_the_engines_own_builder_and_amd64_whatever_the_defaults(
    docker: None, tmp_path: Path
):
    tag = "programbench-cleanroom:of-the-tests"
    defaults = {
        "BUILDX_CONFIG": f"{tmp_path}",
        "BUILDX_BUILDER": "other",
        "DOCKER_DEFAULT_PLATFORM": "linux/arm64",
    }
    with environ(**os.environ | defaults):
        # It would need an image that cannot be had here.
        other = ["--name=other", "--driver=docker-container", "--use"]
        output_of("docker", "buildx", "create", *other)
        example.build(tag, "FROM scratch\nLABEL of-the-tests=yes\n")
    inspect = ["docker", "image", "inspect", "--format={{.Architecture}}"]
    assert output_of(*inspect, tag).strip() == "amd64"
    output_of("docker", "image", "rm", tag)


# ## Hosts that lack something


@dataclass
class Lack:
    """What a host lacks, and the words that must name it."""

    words: list[str]
    prefix: str = "env"  # a command that runs Python in other circumstances
    environment: dict[str, str] = field(default_factory=dict[str, str])
    programs: dict[str, str] = field(default_factory=dict[str, str])


NOBODY = "unshare --user --map-user=12345 --map-group=12345"
LACKS = {
    "a name and a home": Lack(
        ["12345", "/etc/passwd"],
        f"{NOBODY} env --unset=HOME --unset=XDG_CACHE_HOME",
    ),
    "a proxy of a kind that is known": Lack(
        ["socks://127.0.0.1:9", "all_proxy"],
        environment={"all_proxy": "socks://127.0.0.1:9"},
    ),
    "Docker itself": Lack(
        ["Podman is not supported"], programs={"docker": 'exec podman "$@"'}
    ),
}


@pytest.fixture(scope="module")
def lacking(
    docker: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Done]]]:
    """What becomes of the example there."""

    def run(lack: Lack) -> Done:
        folder = tmp_path_factory.mktemp("lack")
        for name, script in lack.programs.items():
            write(folder / name, f"#!/bin/sh\n{script}", 0o755)
        start = Run(folder)
        start.prefix = lack.prefix.split()
        path = f"{folder}:{os.environ['PATH']}"
        return start(**{"PATH": path} | lack.environment)

    with ThreadPoolExecutor(2) as threads:
        yield {name: threads.submit(run, lack) for name, lack in LACKS.items()}


@pytest.mark.parametrize("name", LACKS)
def test_what_a_host_lacks_is_told_in_one_sentence(
    name: str, lacking: dict[str, Future[Done]]
):
    if LACKS[name].programs and not shutil.which("podman"):
        missing("there is no podman")
    done = lacking[name].result()
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    for word in LACKS[name].words:
        assert word in line
    assert "Building" not in done.stdout


# ## What ends a start


BUILDS = {
    "no system": ("FROM scratch\nCOPY Dockerfile /\n", "unable to find user root"),
    "no packages": (
        f"FROM {TASK_IMAGE}\nRUN rm -rf /etc/apt/sources.list*\n",
        "Unable to locate package",
    ),
}


@pytest.mark.parametrize("name", BUILDS)
def test_a_build_that_fails_is_told_with_the_last_words_of_its_step(
    name: str, task_image: str
):
    dockerfile, words = BUILDS[name]
    with image_built(dockerfile) as image, pytest.raises(example.CleanroomError) as e:
        example.cleanroom_image(example.inspect_task_image(image), None)
    assert re.search(words, f"{e.value}")
    assert f"{e.value}".isprintable()


# What breaks the sealed image, and the last words of what then fails.
SERVER = "/agent-server/.venv/lib/python3.*/site-packages/openhands/agent_server"
STARTS = {
    "a container that cannot start": ('ENTRYPOINT ["/nowhere"]', "/nowhere: no such"),
    "a container that ends": (
        r"RUN printf '#!/bin/sh\necho its last words; exit 3' >/cleanroom/first_process",
        "`docker run --rm` says: its last words",
    ),
    "the pipe": ("RUN rm /usr/sbin/sshd", "/usr/sbin/sshd: No such file"),
    "the agent server": (
        f"RUN rm {SERVER}/api.py",
        "The agent server has ended: .*openhands.agent_server.api",
    ),
    "a task of the agent server's": (
        "RUN chown root /var/lib/agent-server",
        "The agent server .*: .*Permission denied: '/var/lib/agent-server",
    ),
    "an answer": (
        r"RUN printf '#!/bin/sh\necho its last words; sleep 99' >/cleanroom/serve",
        "The agent server does not answer: its last words",
    ),
    "the conversation": (
        "RUN mkdir /var/lib/agent-server/conversations",
        "The agent server answers with 500: .*Permission denied",
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_start_that_fails_is_told_with_the_last_words_of_what_failed(
    name: str,
    sealed_image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    line, words = STARTS[name]
    patience = 20 if name == "an answer" else 120
    impatient = functools.partial(example.Cleanroom, health_check_timeout=patience)
    monkeypatch.setattr(example, "Cleanroom", impatient)
    settings = {"PROGRAMBENCH_OUTPUT_DIR": f"{tmp_path}"}
    dockerfile = f"FROM {sealed_image}\nUSER root\n{line}\nUSER openhands\n"
    with image_built(dockerfile) as image, environ(**clean_environment(**settings)):
        monkeypatch.setattr(example, "cleanroom_image", lambda *_: image)
        status = run_script(example)
    (error,) = capsys.readouterr().err.splitlines()
    assert re.search(words, error)
    assert error.isprintable()
    assert len(error) < 1000
    assert status in (1, 2)


# ## Other engines

ROOTLESS = {"rootless": True, "features": {"containerd-snapshotter": True}}


class Elsewhere(Run):
    """A run with another engine, which a Docker context names."""

    def play(self, address: str, sealed: str, config: Path) -> None:
        """Run it to its end; `config` is the folder of a Docker client of its own."""
        steps: list[Step] = [
            ("terminal", {"command": "echo mine >/workspace/mine.txt"}),
        ]
        config.mkdir()
        write(config / "config.json", json.dumps(CLIENT_PROXIES))
        with ScriptedLLM(steps) as llm:
            with environ(**os.environ | {"DOCKER_CONFIG": f"{config}"}):
                image = self.bring(address, sealed)
            self.done = self(
                DOCKER_CONFIG=f"{config}",
                PROGRAMBENCH_TASK_IMAGE=image,
                **llm.settings,
            )

    def bring(self, address: str, sealed: str) -> str:
        """Make that engine the default, and bring the images there.

        Returns the task image's name there, with its digest where the store has one.
        """
        bring_images(address, TASK_IMAGE, sealed)
        output_of("docker", "context", "create", "there", f"--docker=host={address}")
        output_of("docker", "context", "use", "there")
        # Each kind of store has its own id of the task image, from which the tag is.
        output_of("docker", "tag", sealed, sealed_tag(TASK_IMAGE))
        fields = "--format={{range .RepoDigests}}{{.}}{{end}}"
        digest = output_of("docker", "image", "inspect", fields, TASK_IMAGE)
        image = "@".join([TASK_IMAGE, *digest.strip().split("@")[1:]])
        return image


def test_a_run_works_with_a_rootless_engine_that_a_context_names_and_containerds_store(
    sealed_image: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    run = Elsewhere(tmp_path)
    with another_engine(ROOTLESS, tmp_path_factory) as (address, _):
        run.play(address, sealed_image, tmp_path / "client")
    assert run.done.returncode == 0, run.done.stdout + run.done.stderr
    assert "mine.txt" in run.submission()
