"""The submission: all of the agent's files, and nothing that is not the agent's to submit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Cleanroom, environ, load_example, wait_until


@dataclass
class Work:
    """The agent's work in the session's cleanroom, and the folder where it is saved."""

    cleanroom: Cleanroom
    folder: Path

    @property
    def archive(self) -> Path:
        """Where the submission is."""
        return self.folder / "submission.tar.gz"

    def do(self, command: str) -> None:
        """Have the agent do something in /workspace."""
        result = self.cleanroom.shell(f"cd /workspace && {command}")
        assert result.exit_code == 0, result

    def as_root(self, command: str) -> str:
        """Do in /workspace what the agent cannot; returns what is printed."""
        done = self.cleanroom.root(f"cd /workspace && {command}")
        assert done.returncode == 0, done
        return done.stdout

    def save(self) -> dict[str, tarfile.TarInfo]:
        """Save the submission and return what is in it, by name."""
        load_example().save_submission(self.cleanroom.workspace, self.folder)
        with tarfile.open(self.archive) as archive:
            return {member.name.removeprefix("./"): member for member in archive}

    def content(self, name: str) -> bytes:
        """Return a file of the submission."""
        with tarfile.open(self.archive) as archive:
            file = archive.extractfile(f"./{name}")
            assert file
            return file.read()

    def has(self, name: str, text: str) -> bool:
        """Tell whether a file of the submission holds this, and is there at all."""
        if not self.archive.exists():
            return False
        with tarfile.open(self.archive) as archive:
            names = archive.getnames()
        return f"./{name}" in names and self.content(name).decode().strip() == text

    def contents(self) -> set[str]:
        """Return the digests of the files in the submission."""
        files = [name for name, member in self.save().items() if member.isreg()]
        return {hashlib.sha256(self.content(name)).hexdigest() for name in files}


@pytest.fixture
def work(cleanroom: Cleanroom, tmp_path: Path) -> Iterator[Work]:
    """The session's cleanroom, with /workspace as it was, before and after."""
    work = Work(cleanroom, tmp_path)
    work.as_root("rm -rf /keep && cp -a /workspace /keep")
    yield work
    # The folder itself stays: processes of the agent's stand in it.
    work.as_root("find . -mindepth 1 -delete; cp -a /keep/. . && rm -rf /keep")


def test_every_file_of_the_agents_is_submitted_as_it_is(work: Work):
    work.do("mkdir -p a/b && head -c 3000000 /dev/urandom >a/b/data")
    work.do(
        "printf '#!/bin/sh' >compile.sh && chmod +x compile.sh && ln -s a/b/data link"
    )
    work.do("ln compile.sh hard && touch .hidden && : >empty && ln -s README.md within")
    deep = "/".join(["d" * 100] * 20)
    work.do(f"mkdir -p {deep} && echo 1 >{deep}/file")
    members = work.save()
    digest = work.as_root("sha256sum a/b/data").split()[0]
    assert hashlib.sha256(work.content("a/b/data")).hexdigest() == digest
    assert members["compile.sh"].mode & 0o777 == 0o755
    assert members["link"].linkname == "a/b/data"
    assert work.content("hard") == b"#!/bin/sh"
    others = {
        ".hidden",
        "empty",
        "a",
        "README.md",
        ".git/HEAD",
        "within",
        f"{deep}/file",
    }
    assert others <= members.keys()


def test_what_gets_smaller_is_compressed_and_all_tools_read_it(tmp_path: Path):
    random, path = os.urandom(300_000), tmp_path / "archive.gz"
    blocks = [random, bytes(5_000_000), b"", b"text\n"]
    with open(path, "wb") as file, load_example().BlockGzip(file) as compressed:
        for block in blocks:
            compressed.write(block)
    assert len(random) < path.stat().st_size < len(random) + 10_000
    # Some read but the first member of a gzip file, so there must be one alone.
    reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    assert reader.decompress(path.read_bytes()) == b"".join(blocks)
    assert reader.eof
    assert not reader.unused_data


def test_the_reference_binary_is_not_submitted_whatever_its_name(work: Work):
    digest = work.as_root("sha256sum executable").split()[0]
    assert digest not in work.contents()
    work.do("mkdir src && mv executable src/main.c && echo mine >executable")
    assert digest not in work.contents()
    # A program of this name is the agent's own.
    assert work.content("executable") == b"mine\n"
    assert "src/main.c" not in work.save()


@pytest.mark.parametrize("name", ["aaa", "zzz", "executable0", "src/aaa"])
def test_a_hard_link_to_the_reference_binary_is_not_submitted(work: Work, name: str):
    # The kernel keeps the agent from making one; root makes it, wherever the tar has it.
    work.do("mkdir src")
    work.as_root(f"ln executable {name}")
    assert not {"executable", name} & work.save().keys()


def test_links_that_lead_out_are_not_submitted(work: Work, tmp_path: Path):
    targets = "/etc/passwd /workspace/../etc/passwd .. ../x ../../../../x docs/../../x"
    for number, target in enumerate(targets.split()):
        work.do(f"ln -s {target} out{number}")
    work.do("ln -s $(head -c 4090 /dev/zero | tr '\\0' a) out-to-no-file")
    work.do("ln -s /tmp away; mkdir -p x/y; ln -s ../.. x/y/up; ln -s x/y/up/.. up")
    names = work.save().keys()
    assert not {name for name in names if name.startswith("out")} | {"away"} & names
    with tarfile.open(work.archive) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for path in (tmp_path / "unpacked").rglob("*"):
        assert path.resolve().is_relative_to(tmp_path / "unpacked")


def test_devices_pipes_and_sockets_are_not_submitted(work: Work):
    work.do("mkfifo pipe")
    work.do("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'")
    work.as_root("mknod null c 1 3 && mknod disk b 8 0 && chown agent null disk")
    assert not {"pipe", "sock", "null", "disk"} & work.save().keys()


def test_odd_names_are_submitted_and_not_printed(
    work: Work, capfd: pytest.CaptureFixture[str]
):
    names = [
        "a\nb",
        "a\x1b[31mb",
        "-rf",
        " ",
        "'\"$b",
        "\u00e9\u202eb",
        "\\",
        "x" * 255,
    ]
    for name in names:
        work.do(f"echo 1 >./{shlex.quote(name)}")
    work.do(r"""touch "$(printf '\377')" """)
    capfd.readouterr()
    assert {*names, "\udcff"} <= work.save().keys()
    load_example().print_submission(work.archive)
    printed = "".join(capfd.readouterr())
    assert {c for c in printed if not c.isprintable()} == {"\n"}


# What is written to NOTES.md, and what of it is printed.
NOTES = {
    b"It counts.\nOr so.\n": "It counts.\n  Or so.\n",
    b"a\x1b[2J\x1b]0;t\x07b\rc\x08d\x7f\xc2\x9b31me\n": "a[2J]0;tbcd31me\n",
    "\u00e9\u4e2d\U0001f600\t|\n".encode(): "\u00e9\u4e2d\U0001f600   |\n",
    "a\u202eb\u2066c\u2028d\n".encode(): "abcd\n",
    b"a\xff\xfeb\n": "a\ufffd\ufffdb\n",
}


def test_the_notes_are_printed_without_what_moves_the_cursor(
    work: Work, capfd: pytest.CaptureFixture[str]
):
    for written, printed in NOTES.items():
        octal = "".join(f"\\{byte:03o}" for byte in written)
        work.do(f"printf {shlex.quote(octal)} >NOTES.md")
        capfd.readouterr()
        work.save()
        load_example().print_submission(work.archive)
        assert f"\n\n  {printed}" in capfd.readouterr().out
        assert work.content("NOTES.md") == written


NO_NOTES = """
rm -f NOTES.md
: >NOTES.md
mkdir NOTES.md
ln -s nowhere NOTES.md
ln -s NOTES.md NOTES.md
ln -s /etc/passwd NOTES.md
ln -s docs NOTES.md
ln -s README.md NOTES.md
ln README.md NOTES.md
mv executable NOTES.md
mkfifo NOTES.md
head -c 3000000 /dev/zero >NOTES.md
"""


def test_no_notes_keep_the_submission_from_being_saved(work: Work):
    for command in NO_NOTES.strip().splitlines():
        work.do(f"rm -rf NOTES.md && {command}")
        assert "README.md" in work.save(), command
        load_example().print_submission(work.archive)
        if command.startswith("mv"):
            work.do("mv NOTES.md executable")


@contextlib.contextmanager
def container_gone(work: Work) -> Iterator[None]:
    """Have the engine know no such container."""
    workspace = work.cleanroom.workspace
    container, workspace._container_id = workspace._container_id, "0" * 64
    try:
        yield
    finally:
        workspace._container_id = container


def results_of(work: Work) -> Any:
    """Return what saves a run's results in the folder."""
    example = load_example()
    job = example.job_of(example.Settings())
    room = work.cleanroom
    return example.Results(work.folder, room.workspace, room.relay, job)


def test_the_work_is_saved_now_and_then_and_older_work_is_kept(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    work.save()
    older = work.archive.read_bytes()
    monkeypatch.setattr(load_example().Results, "CHECKPOINT", 0.5)
    load_example().set_older_results_aside(work.folder)
    assert not work.archive.exists()
    results = results_of(work)
    with results.checkpoints():
        for version in ("2", "3"):
            work.do(f"echo {version} >version")
            wait_until(partial(work.has, "version", version), 30)
    assert re.search(
        r"\d LLM calls, .* tokens in, .*\$0.00, \d+ s left", capsys.readouterr().out
    )
    # The last checkpoint is what remains if the container is gone.
    last = work.archive.read_bytes()
    with container_gone(work):
        results._save_submission()
    assert results.submission == work.archive
    assert work.archive.read_bytes() == last
    (kept,) = (work.folder / "older").glob("*.tar.gz")
    assert kept.read_bytes() == older
    assert {path.name for path in work.folder.iterdir()} == {
        "older",
        "submission.tar.gz",
        "trajectory.jsonl",
    }


@contextlib.contextmanager
def cut_short(end: str, condition: str = "true") -> Iterator[None]:
    """Have what the real `docker cp` sends cut short, if something holds.

    So it is where nothing can pause, and a file shrinks. `end` is how the program ends.
    """
    path = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        docker = Path(folder, "docker")
        docker.write_text(
            f"""#!/bin/sh
export PATH='{path}'
[ "$1" = cp ] && {condition} || exec docker "$@"
docker "$@" | head --bytes=20000
{end}
"""
        )
        docker.chmod(0o755)
        with environ(**os.environ | {"PATH": f"{folder}:{path}"}):
            yield


TROUBLES: dict[str, Callable[[Work], contextlib.AbstractContextManager[None]]] = {
    "No such container": container_gone,
    "cut short": lambda _: cut_short("exit 0"),
    "status -9": lambda _: cut_short("kill -KILL $$"),
}


@pytest.mark.parametrize("words", TROUBLES)
def test_a_submission_that_cannot_be_had_is_told_and_spoils_no_older_one(
    work: Work, words: str, capfd: pytest.CaptureFixture[str]
):
    work.save()
    older = work.archive.read_bytes()
    capfd.readouterr()
    example, workspace = load_example(), work.cleanroom.workspace
    with TROUBLES[words](work):
        assert example.save_submission(workspace, work.folder) is None
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert [path.read_bytes() for path in work.folder.iterdir()] == [older]


def test_a_copy_that_is_cut_short_is_made_again(
    work: Work, tmp_path_factory: pytest.TempPathFactory
):
    first = tmp_path_factory.mktemp("first")
    with cut_short("exit 0", condition=f"rmdir {first} 2>/dev/null"):
        assert "README.md" in work.save()
    assert not first.exists()
