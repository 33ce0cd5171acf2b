"""Any task image gives a run, or one sentence that names what is wrong with it.

The images are odd in the ways of public bug reports. Oddities that cannot hide behind
each other share an image, and all tests of an image look at one run of the example.
(The ones that are told before the agent server is built: see test_settings.)
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    TASK_IMAGE,
    Cleanroom,
    image_built,
    load_example,
    output_of,
    sealed_tag,
)
from runs import Run
from scripted_llm import Request, ScriptedLLM, Step


example = load_example()


@dataclass
class Image:
    """An odd image, and what must come of it."""

    dockerfile: str
    answers: dict[str, str]  # in what the agent's terminal says to these commands
    saved: dict[str, int]  # names and sizes in the submission
    left_out: tuple[str, ...] = ()


# A file of the libraries', a module of Python's, and a program that ends a terminal.
FOREIGN = r"""RUN mkdir -p /opt/image/bin /opt/profile/bin /opt/foreign \
 && printf '#!/bin/sh\necho from the image\n' >/opt/image/bin/by_image \
 && printf '#!/bin/sh\necho from the profile\n' >/opt/profile/bin/by_profile \
 && chmod +x /opt/image/bin/* /opt/profile/bin/* \
 && gcc -shared -o /opt/foreign/libcrypto.so.3 -xc /dev/null \
 && echo 'raise SystemExit("foreign")' | tee /typing.py >/opt/foreign/typing.py \
 && echo 'set -g default-command /bin/false' >/etc/tmux.conf"""

IMAGES = {
    # Whatever an image's configuration can hold, and the start files of everyone.
    "it carries more than files": Image(
        rf"""
USER root
{FOREIGN}
RUN echo 'PATH=$PATH:/opt/profile/bin' >/etc/profile.d/toolchain.sh \
 && printf 'umask 077\nreadonly TMOUT=3\nexport TMOUT\n' >>/etc/profile \
 && usermod --home /nowhere agent \
 && rm -r /home/agent
ENV PATH=/opt/image/bin:/usr/local/bin:/usr/bin:/bin \
    LD_LIBRARY_PATH=/opt/foreign PYTHONPATH=/opt/foreign PYTHONHOME=/opt/foreign \
    SSL_CERT_FILE=/nonexistent http_proxy=http://127.0.0.1:1 GOPATH=/go \
    TERM=dumb LC_ALL=ja_JP.UTF-8 PROMPT_COMMAND="echo prompt"
VOLUME /workspace
STOPSIGNAL SIGWINCH
SHELL ["/bin/bash", "-lc"]
HEALTHCHECK --interval=1s CMD touch /tmp/checked
ENTRYPOINT ["/bin/false"]
CMD ["/bin/false"]
USER agent
""",
        {
            "by_image": "from the image",
            "by_profile": "from the profile",
            "echo $GOPATH:$http_proxy:$TMOUT:": "/go:::",
            # A terminal's own, and not the image's.
            "echo $TERM $LC_ALL": "-256color C.UTF-8",
            "sleep 3; ls /tmp/checked": "No such file",
        },
        {"mine.txt": 5},
    ),
    # No user `agent`, but its group, which may write to / and /usr; nobody to /tmp, and
    # a login shell waits.
    "it has no user agent": Image(
        r"""
USER root
RUN userdel --remove agent \
 && useradd --uid 1000 --create-home ubuntu \
 && groupadd --gid 4242 agent \
 && chgrp agent / /usr \
 && chmod g+w / /usr \
 && usermod --shell /usr/sbin/nologin root \
 && echo 'exec /bin/false' | tee -a /root/.bashrc >>/etc/skel/.bashrc \
 && echo 'exec sleep 600' >>/etc/skel/.profile \
 && chmod 0755 /tmp
WORKDIR /workspace
RUN echo kept >"$(printf 'two\nlines')" \
 && echo 'nobody can read it' >unreadable \
 && chmod 000 unreadable
""",
        {
            "echo $(id -un) $(id -gn)": "agent agent",
            "echo $HOME": "/home/agent",
            "head --bytes=300M /dev/urandom >/workspace/random": "exit code 0",
        },
        {"mine.txt": 5, "two\nlines": 5, "random": 300 << 20},
        ("unreadable",),
    ),
    # Its `agent` lives in /workspace, with a group that others have too, and start
    # files that talk, fail and end the shell.
    "its agent lives elsewhere": Image(
        r"""
USER root
RUN groupadd team \
 && usermod --home /workspace --gid team agent \
 && groupdel agent \
 && printf 'echo noise\nnonsense(\n' >>/home/agent/.bashrc \
 && printf 'echo noise\nfalse\nexec /bin/false\n' \
    | tee /workspace/.bashrc >/workspace/.profile
ENV GOPATH=/go SHELLOPTS=errexit:nounset BASHOPTS=nullglob
""",
        {"echo $(id -un) $(id -gn)": "agent team", "echo $GOPATH": "/go"},
        {"mine.txt": 5},
    ),
}


class Played(Run):
    """One run of the example with an image, and what was seen of it."""

    def __init__(self, image: Image, folder: Path):
        super().__init__(folder)
        self.image = image
        commands = [*image.answers, "echo mine >/workspace/mine.txt"]
        steps: list[Step] = [("terminal", {"command": each}) for each in commands]
        self.llm = ScriptedLLM(steps, respond=self.note)
        self.said = list[str]()  # by the terminal
        self.statuses = list[str]()  # with which its containers ended

    def note(self, call: Request) -> None:
        """Note what the terminal said."""
        messages: list[dict[str, Any]] = call.body["messages"]
        self.said = [
            f"{each['content']}" for each in messages if each["role"] == "tool"
        ]

    def play(self) -> Played:
        """Run it to its end."""
        dockerfile = f"FROM {TASK_IMAGE}\n{self.image.dockerfile}"
        begin = int(time.time())
        with self.llm, image_built(dockerfile) as image:
            self.done = self(
                PROGRAMBENCH_TASK_IMAGE=image,
                **self.llm.settings,
            )
            # Not "0s", which leaves out the second that is under way.
            times = [f"--since={begin}", f"--until={time.time():.6f}"]
            ends = ["docker", "events", *times]
            ends += ["--filter=event=die", f"--filter=image={sealed_tag(image)}"]
            status = '--format={{index .Actor.Attributes "exitCode"}}'
            self.statuses = output_of(*ends, status).split()
        return self


@pytest.fixture(scope="module")
def plays(
    task_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Played]]]:
    """The runs, two of them at a time: one builds while another runs."""
    with ThreadPoolExecutor(2) as threads:
        yield {
            name: threads.submit(Played(image, tmp_path_factory.mktemp("image")).play)
            for name, image in IMAGES.items()
        }


@pytest.fixture(params=IMAGES)
def play(request: pytest.FixtureRequest, plays: dict[str, Future[Played]]) -> Played:
    """A run that is over."""
    return plays[request.param].result()


def test_an_odd_image_gives_a_run_with_all_guarantees(play: Played):
    assert play.done.returncode == 0, play.done.stdout[-2000:] + play.done.stderr
    assert len(re.findall("^yes  ", play.done.stdout, re.M)) >= 10


def test_the_terminal_has_what_a_login_shell_of_the_image_has(play: Played):
    for (command, answer), said in zip(play.image.answers.items(), play.said):
        assert answer in said, command


def test_the_work_is_saved_whatever_lies_beside_it(play: Played):
    sizes = play.submission()
    assert sizes | play.image.saved == sizes
    assert not sizes.keys() & {"executable", *play.image.left_out}


def test_an_image_with_a_stop_signal_of_its_own_stops_at_once(
    plays: dict[str, Future[Played]],
):
    play = plays["it carries more than files"].result()
    # An engine kills a container that its stop signal does not end, ten seconds later:
    # its status would be 137.
    assert play.statuses == [f"{128 + signal.SIGTERM}"]


# ## Images that are refused

COPIES = ["/tmp/_inject_exe", "/opt/readable", "/workspace/docs/unreadable"]
COMMIT = "git -c user.name=a -c user.email=a@b commit --quiet --message"
# Each with what must be named.
LEAKS: dict[str, tuple[str, list[str]]] = {
    "copies of the binary": (
        "".join(f"RUN cp /workspace/executable {copy}\n" for copy in COPIES)
        + f"RUN chmod 0644 {COPIES[1]} && chmod 0000 {COPIES[2]}\n",
        COPIES,
    ),
    "a link to the binary": (
        "USER root\nRUN cd /workspace && mv executable /opt/it && ln -s /opt/it executable\n",
        ["/workspace/executable is a symbolic link"],
    ),
    "the binary in the history": (
        f"""USER root
RUN git config --global --add safe.directory /workspace
WORKDIR /workspace
RUN cp executable once && git add once && {COMMIT} once \
 && git rm --quiet once && {COMMIT} gone && git gc --quiet
""",
        ["/workspace/.git"],
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_an_image_that_leaks_the_binary_is_refused_with_the_place(
    name: str, task_image: str
):
    dockerfile, places = LEAKS[name]
    with (
        image_built(f"FROM {TASK_IMAGE}\n{dockerfile}") as image,
        pytest.raises(example.CleanroomError) as raised,
    ):
        example.cleanroom_image(example.inspect_task_image(image), None)
    for place in places:
        assert place in f"{raised.value}"
    assert f"{raised.value}".isprintable()


def test_the_agent_server_starts_from_bytecode(cleanroom: Cleanroom):
    python = (
        "/agent-server/.venv/bin/python -I -v -X pycache_prefix=/cleanroom/bytecode"
    )
    imported = cleanroom.shell(f"{python} -c 'import openhands.agent_server.api' 2>&1")
    code = re.findall("code object from '(.*)'", imported.stdout)
    compiled = [path for path in code if path.endswith(".py")]
    assert len(code) > 1000
    assert len(compiled) < 10, compiled
