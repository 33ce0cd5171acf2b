"""Everything at once through the one pipe: LLM calls, a large download, events, in flat memory.

`SOAK=long` makes it 1,000 calls and a gigabyte; without it, a fifth of both.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest
from conftest import Cleanroom
from scripted_llm import Request, Response, json_response
from websockets.sync.client import connect

MEGABYTE = 1 << 20
CALLS, FILE_SIZE = (1000, 1 << 30) if os.environ.get("SOAK") == "long" else (200, 200 * MEGABYTE)
AT_ONCE = 16
PIECES, PIECE = 20, 4000
# Above what they held after a warm-up. The pipe may have a megabyte under way for each of 18
# connections, and it needs about that in pieces once more; a fifth of the file does not fit.
GROWTH = 40 * MEGABYTE
FILE = "/tmp/soak"
# For the agent server's Python, in the agent's shell. Each call has a connection of its own, every
# other one is streamed, and each answer must be what only this call's nonce gives.
DRIVER = r"""
import hashlib, http.client, json, os, pathlib, secrets, sys, threading
from concurrent.futures import ThreadPoolExecutor

port, path, placeholder, calls, at_once, pieces, piece = sys.argv[1:]

def expected(nonce):
    size = int(pieces) * int(piece)
    return hashlib.shake_256(nonce.encode()).hexdigest(size // 2)

def call(number):
    nonce, stream = secrets.token_hex(16), number % 2 == 0
    said = [{"role": "user", "content": nonce}]
    body = json.dumps({"model": "gpt-4o-mini", "messages": said, "stream": stream})
    headers = {"Authorization": "Bearer " + placeholder, "Content-Type": "application/json"}
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        connection.request("POST", path + "/chat/completions", body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if stream:
            *events, last = text.removesuffix("\n\n").split("\n\n")
            assert last == "data: [DONE]", text[-80:]
        else:
            events = json.loads(text)["events"]
        got = [json.loads(event.removeprefix("data: ")) for event in events]
        assert {event["nonce"] for event in got} == {nonce}, "an answer to another call"
        assert "".join(event["piece"] for event in got) == expected(nonce), "other bytes"
    except Exception as error:
        return {"nonce": nonce, "wrong": f"{number}: {error!r}"}
    return {"nonce": nonce}

def pipes_memory():
    # What runs an SSH server is the pipe's end.
    total = 0
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if fields["Name"].startswith("sshd") and "VmRSS" in fields:
            total += int(fields["VmRSS"].split()[0]) * 1024
    return total

def sample():
    while not over.wait(0.05):
        memory.append(pipes_memory())

over, memory = threading.Event(), [pipes_memory()]
sampler = threading.Thread(target=sample)
sampler.start()
with ThreadPoolExecutor(int(at_once)) as threads:
    results = list(threads.map(call, range(int(calls))))
over.set()
sampler.join()
memory.append(pipes_memory())
wrong = [result["wrong"] for result in results if "wrong" in result]
digest = hashlib.sha256("\n".join(sorted(result["nonce"] for result in results)).encode())
found = {"wrong": wrong[:5], "calls": len(results), "nonces": digest.hexdigest()}
print(json.dumps(found | {"before": memory[0], "peak": max(memory)}))
"""


def echo(request: Request) -> Response:
    """Answer with what only this request's nonce gives, in pieces, streamed if asked to."""
    nonce = request.body["messages"][0]["content"]
    text = hashlib.shake_256(nonce.encode()).hexdigest(PIECES * PIECE // 2)
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    events = [f"data: {json.dumps({'nonce': nonce, 'piece': piece})}" for piece in pieces]
    if not request.body["stream"]:
        return json_response({"events": events})

    def stream() -> Iterator[bytes]:
        for event in [*events, "data: [DONE]"]:
            time.sleep(0.005)
            yield f"{event}\n\n".encode()

    return Response(headers={"Content-Type": "text/event-stream"}, body=stream())


@dataclass
class Soak:
    """What became of it."""

    calls: dict[str, Any] = field(default_factory=dict[str, Any])
    nonces: Counter[str] = field(default_factory=Counter[str])
    forwarded: int = 0
    refused_or_failed: list[str] = field(default_factory=list[str])
    digests: tuple[str, str] = ("", "")
    calls_during_the_download: int = 0
    commands: int = 0
    events: list[str] = field(default_factory=list[str])
    memory: list[int] = field(default_factory=list[int])


def drive(cleanroom: Cleanroom, calls: int) -> dict[str, Any]:
    """Make calls from the agent's shell, many at once, and return what came back."""
    pipe = [cleanroom.module.LLM_PORT, cleanroom.relay.path, cleanroom.relay.placeholder]
    arguments = [f"{argument}" for argument in (*pipe, calls, AT_ONCE, PIECES, PIECE)]
    command = shlex.join(["/agent-server/.venv/bin/python", "-c", DRIVER, *arguments])
    result = cleanroom.shell(command, timeout=500)
    assert result.exit_code == 0, result
    return json.loads(result.stdout)


def download(cleanroom: Cleanroom, size: int) -> tuple[str, str]:
    """Download a new file of this size; returns its hash there and here."""
    there = cleanroom.root(
        f"head -c {size} /dev/urandom | tee {FILE} | sha256sum; chmod 644 {FILE}"
    )
    here = hashlib.sha256()
    workspace = cleanroom.workspace
    with httpx.stream(
        "GET",
        f"{workspace.host}/api/file/download",
        params={"path": FILE},
        headers={"X-Session-API-Key": workspace.api_key},
        timeout=60,
        trust_env=False,
    ) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_raw(1 << 18):
            here.update(chunk)
    cleanroom.root(f"rm {FILE}").check_returncode()
    return there.stdout.split()[0], here.hexdigest()


def talk(cleanroom: Cleanroom, soak: Soak, over: Callable[[], bool]) -> None:
    """Have commands run by WebSocket, one after the other, and keep what their events say."""
    address = cleanroom.workspace.host.replace("http", "ws", 1)
    with connect(f"{address}/sockets/bash-events", proxy=None, open_timeout=30) as socket:
        key = {"type": "auth", "session_api_key": cleanroom.workspace.api_key}
        socket.send(json.dumps(key))
        while not over():
            socket.send(json.dumps({"command": f"echo said {soak.commands}"}))
            soak.commands += 1
            while True:
                event = json.loads(socket.recv(timeout=30))
                # The driver's own end is an event too.
                if event["kind"] == "BashOutput" and f"{event['stdout']}".startswith("said "):
                    break
            soak.events.append(event["stdout"].strip())


@pytest.fixture(scope="module")
def soak(cleanroom: Cleanroom) -> Soak:
    """All of it at once, after a warm-up of each kind."""
    soak, arrived = Soak(), list[float]()

    def answer(request: Request) -> Response:
        arrived.append(time.monotonic())
        soak.nonces[request.body["messages"][0]["content"]] += 1
        return echo(request)

    def sample() -> None:
        while not sampled.wait(0.05):
            soak.memory.append(memory_of_this_end())

    sampled, over = threading.Event(), threading.Event()
    before, cleanroom.llm.respond = cleanroom.llm.respond, answer
    try:
        with ThreadPoolExecutor(4) as threads:
            for warm_up in (threads.submit(drive, cleanroom, 2 * AT_ONCE),):
                download(cleanroom, 20 * MEGABYTE)
                warm_up.result()
            soak.nonces.clear()
            entries = len(cleanroom.ledger.read_text().splitlines())
            soak.memory.append(memory_of_this_end())
            sampling = threads.submit(sample)
            talking = threads.submit(talk, cleanroom, soak, over.is_set)
            try:
                driving = threads.submit(drive, cleanroom, CALLS)
                begin = time.monotonic()
                soak.digests = download(cleanroom, FILE_SIZE)
                end = time.monotonic()
                soak.calls = driving.result()
            finally:
                over.set()
                sampled.set()
            talking.result()
            sampling.result()
    finally:
        cleanroom.llm.respond = before
    soak.calls_during_the_download = sum(begin < time < end for time in arrived)
    ledger = [json.loads(line) for line in cleanroom.ledger.read_text().splitlines()[entries:]]
    soak.forwarded = len(ledger)
    soak.refused_or_failed = [f"{entry}" for entry in ledger if entry["status"] != 200]
    print(f"{CALLS} calls, of which {soak.calls_during_the_download} during the download of")
    print(f"{FILE_SIZE:,} bytes in {end - begin:.1f} s, {len(soak.events)} events;")
    print(f"host: {growth(soak.memory) / MEGABYTE:+.1f} MiB, ", end="")
    print(f"container: {(soak.calls['peak'] - soak.calls['before']) / MEGABYTE:+.1f} MiB")
    return soak


def memory_of_this_end() -> int:
    """Return the bytes that this process, with the relay, and the SSH client have in memory."""
    ours = psutil.Process()
    ssh = [child for child in ours.children(recursive=True) if child.name() == "ssh"]
    assert ssh
    return sum(process.memory_info().rss for process in [ours, *ssh])


def growth(memory: list[int]) -> int:
    """Return by how much a process grew at most."""
    return max(memory) - memory[0]


def test_every_call_of_many_at_once_gets_its_own_answer_whole(soak: Soak):
    assert soak.calls["calls"] == CALLS
    assert soak.calls["wrong"] == []


def test_no_call_of_many_at_once_is_lost_or_made_twice(soak: Soak):
    assert set(soak.nonces.values()) == {1}
    assert len(soak.nonces) == soak.forwarded == CALLS
    sent = hashlib.sha256("\n".join(sorted(soak.nonces)).encode())
    assert sent.hexdigest() == soak.calls["nonces"]
    assert soak.refused_or_failed == []


def test_a_large_file_arrives_intact_beside_the_calls(soak: Soak):
    assert soak.calls_during_the_download >= AT_ONCE
    there, here = soak.digests
    assert here == there


def test_events_come_beside_calls_and_download_each_once_and_in_order(soak: Soak):
    assert soak.commands >= 5
    assert soak.events == [f"said {number}" for number in range(soak.commands)]


def test_both_ends_memory_stays_flat_whatever_goes_through(soak: Soak):
    assert growth(soak.memory) < GROWTH
    assert soak.calls["before"] > 0
    assert soak.calls["peak"] - soak.calls["before"] < GROWTH
