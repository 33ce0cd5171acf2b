"""The submission: all of the agent's files, and nothing that is not the agent's to submit."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cleanroom

WORK = "/workspace"


@pytest.fixture
def work(cleanroom: Cleanroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The session's cleanroom, with /workspace as it was before and after, and a folder."""
    cleanroom.root(f"rm -rf /keep && cp -a {WORK} /keep").check_returncode()
    monkeypatch.setattr(cleanroom.module, "FOLDER", tmp_path)
    try:
        yield cleanroom
    finally:
        # The folder itself stays: processes of the agent's stand in it.
        restore = f"find {WORK} -mindepth 1 -delete; cp -a /keep/. {WORK}/; rm -rf /keep"
        cleanroom.root(restore).check_returncode()


def saved(work: Cleanroom) -> dict[str, tarfile.TarInfo]:
    """Save the submission and return what is in it, by name without the leading ./"""
    work.workspace.save(work.module.FOLDER, [])
    with tarfile.open(work.module.FOLDER / "submission.tar.gz") as archive:
        members = archive.getmembers()
    assert members
    return {member.name.removeprefix("./"): member for member in members}


def content(work: Cleanroom, name: str) -> bytes:
    """Return a file of the submission."""
    with tarfile.open(work.module.FOLDER / "submission.tar.gz") as archive:
        file = archive.extractfile(f"./{name}")
        assert file
        return file.read()


def do(work: Cleanroom, command: str) -> None:
    """Have the agent do something in /workspace."""
    result = work.shell(f"cd {WORK} && {command}")
    assert result.exit_code == 0, result


def test_every_file_of_the_agents_is_submitted_as_it_is(work: Cleanroom):
    do(work, "mkdir -p a/b && head -c 3000000 /dev/urandom > a/b/data && chmod 755 a/b/data")
    do(work, "printf '#!/bin/sh\\n' > compile.sh && chmod +x compile.sh && ln -s a/b/data link")
    do(work, "ln compile.sh hard && touch .hidden && : > empty")
    members = saved(work)
    expected = work.root(f"sha256sum {WORK}/a/b/data").stdout.split()[0]
    assert hashlib.sha256(content(work, "a/b/data")).hexdigest() == expected
    assert members["compile.sh"].mode & 0o777 == 0o755
    assert members["link"].linkname == "a/b/data"
    assert {".hidden", "empty", "hard", "a", "README.md", ".git/HEAD"} <= members.keys()
    assert content(work, "hard") == b"#!/bin/sh\n"


def test_the_reference_binary_is_not_submitted(work: Cleanroom):
    assert work.root(f"test -f {WORK}/executable").returncode == 0
    assert "executable" not in saved(work)


def reference(work: Cleanroom) -> bytes:
    """Return the reference binary, as only root can."""
    command = ["docker", "exec", "--user=root", work.container, "cat", f"{WORK}/executable"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_the_reference_binary_is_not_submitted_under_another_name(work: Cleanroom):
    binary = reference(work)
    do(work, "mkdir src && mv executable src/main.c && echo mine > executable")
    members = saved(work)
    assert "src/main.c" not in members
    # A program of this name is the agent's own.
    assert content(work, "executable") == b"mine\n"
    for name, member in members.items():
        if member.isreg():
            assert content(work, name) != binary


@pytest.mark.parametrize("name", ["aaa", "zzz", "executable0", "src/aaa"])
def test_a_hard_link_to_the_reference_binary_is_not_submitted(work: Cleanroom, name: str):
    binary = reference(work)
    # The kernel keeps the agent from making one; root makes it, wherever it comes in the tar.
    do(work, "mkdir src")
    work.root(f"ln {WORK}/executable {WORK}/{name}").check_returncode()
    members = saved(work)
    assert not {"executable", name} & members.keys()
    assert binary not in (work.module.FOLDER / "submission.tar.gz").read_bytes()


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "/workspace/../etc/passwd",
        "..",
        "../etc/passwd",
        "../../../../etc/passwd",
        "docs/../../etc/passwd",
    ],
)
def test_a_symbolic_link_that_leads_out_is_not_submitted(work: Cleanroom, target: str):
    do(work, f"ln -s {target} out && ln -s README.md in")
    members = saved(work)
    assert "out" not in members
    assert "in" in members


def test_nothing_below_a_link_that_leads_out_is_written(work: Cleanroom, tmp_path: Path):
    do(work, "ln -s /tmp away && mkdir -p x/y && ln -s ../.. x/y/up && ln -s x/y/up/.. up")
    saved(work)
    target = tmp_path / "unpacked"
    with tarfile.open(tmp_path / "submission.tar.gz") as archive:
        archive.extractall(target, filter="data")
    for path in target.rglob("*"):
        assert path.resolve().is_relative_to(target)


def test_devices_pipes_and_sockets_are_not_submitted(work: Cleanroom):
    do(work, "mkfifo pipe")
    do(work, "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'")
    work.root(f"cd {WORK} && mknod null c 1 3 && mknod disk b 8 0 && chown agent null disk")
    assert not {"pipe", "sock", "null", "disk"} & saved(work).keys()


def test_odd_names_are_submitted_and_not_printed(
    work: Cleanroom, capfd: pytest.CaptureFixture[str]
):
    names = ["a\nb", "a\x1b[31mb", "-rf", " ", "a'\"$b", "\u00e9\u202eb", "\\", "x" * 255]
    for name in names:
        do(work, f"echo 1 > ./{shlex.quote(name)}")
    do(work, r"""touch "$(printf '\377')" """)
    capfd.readouterr()
    assert {*names, "\udcff"} <= saved(work).keys()
    printed = "".join(capfd.readouterr())
    assert "\x1b" not in printed
    assert "\u202e" not in printed


def test_long_and_deep_paths_are_submitted(work: Cleanroom):
    deep = "/".join(["d" * 100] * 20)
    do(work, f"mkdir -p {deep} && echo 1 > {deep}/file")
    assert f"{deep}/file" in saved(work)


NOTES = {
    "plain": (b"It counts.\nOr so.\n", "It counts.\nOr so.\n"),
    "escape codes": (b"a\x1b[2J\x1b]0;t\x07b\rc\x08d\x7f\xc2\x9b31me\n", "a[2J]0;tbcd31me\n"),
    "letters": ("\u00e9\u4e2d\U0001f600\t|\n".encode(), "\u00e9\u4e2d\U0001f600\t|\n"),
    "direction": ("a\u202eb\u2066c\u2028d\n".encode(), "abcd\n"),
    "not UTF-8": (b"a\xff\xfeb\n", "a\ufffd\ufffdb\n"),
}


@pytest.mark.parametrize(("written", "printed"), NOTES.values(), ids=NOTES.keys())
def test_the_notes_are_printed_without_what_moves_the_cursor(
    work: Cleanroom, written: bytes, printed: str, capfd: pytest.CaptureFixture[str]
):
    octal = "".join(f"\\{byte:03o}" for byte in written)
    do(work, f"printf {shlex.quote(octal)} > NOTES.md")
    capfd.readouterr()
    assert "NOTES.md" in saved(work)
    assert f"\n{printed}" in capfd.readouterr().out
    assert content(work, "NOTES.md") == written


@pytest.mark.parametrize(
    "command",
    [
        "rm -f NOTES.md",
        ": > NOTES.md",
        "mkdir NOTES.md",
        "ln -s nowhere NOTES.md",
        "ln -s NOTES.md NOTES.md",
        "ln -s /etc/passwd NOTES.md",
        "ln -s docs NOTES.md",
        "ln -s README.md NOTES.md",
        "ln README.md NOTES.md",
        "mv executable NOTES.md",
        "mkfifo NOTES.md",
        "head -c 3000000 /dev/zero > NOTES.md",
    ],
)
def test_no_notes_keep_the_submission_from_being_saved(work: Cleanroom, command: str):
    do(work, command)
    assert "README.md" in saved(work)


def test_an_older_submission_is_kept(work: Cleanroom):
    folder: Path = work.module.FOLDER
    do(work, "echo 1 > version")
    saved(work)
    first = (folder / "submission.tar.gz").read_bytes()
    time.sleep(1.1)  # it is kept under its time, in seconds
    do(work, "echo 2 > version")
    saved(work)
    assert content(work, "version") == b"2\n"
    older = [path for path in folder.glob("*.tar.gz") if path.name != "submission.tar.gz"]
    assert [path.read_bytes() for path in older] == [first]


def test_saving_leaves_no_other_file(work: Cleanroom):
    saved(work)
    names = {path.name for path in work.module.FOLDER.iterdir()}
    assert names == {"submission.tar.gz", "trajectory.jsonl"}


def test_a_submission_that_cannot_be_had_ends_in_a_sentence_and_spoils_no_older_one(
    work: Cleanroom, capfd: pytest.CaptureFixture[str]
):
    saved(work)
    before = (work.module.FOLDER / "submission.tar.gz").read_bytes()
    capfd.readouterr()
    container = work.container
    work.workspace._container_id = "0" * 64
    try:
        assert work.workspace.save(work.module.FOLDER, []) is None
    finally:
        work.workspace._container_id = container
    assert "error: " in capfd.readouterr().err
    assert (work.module.FOLDER / "submission.tar.gz").read_bytes() == before
