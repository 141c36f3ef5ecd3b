# SPDX-License-Identifier: Apache-2.0
"""Worker processes: every way to die is named, none is left behind, the next one works."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pabench.errors import EnvironmentRefused, PabenchError, UnknownName
from pabench.run import channel, workers
from pabench.run.channel import raise_refusal, refusal
from pabench.run.ending import Ending
from pabench.run.workers import ForkServer, WorkerEnded

LONG = 300.0


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer("tests.support.isolation_work:work") as made:
        yield made


def ending(fork_server: ForkServer, order: dict[str, object]) -> Ending:
    worker = fork_server.start()
    worker.send(order)
    with pytest.raises(WorkerEnded) as ended:
        worker.receive(LONG)
    return ended.value.ending


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until_dead(pid: int) -> None:
    end = time.monotonic() + LONG
    while alive(pid):
        assert time.monotonic() < end, f"{pid} lives"
        time.sleep(0.01)


def test_isolation_worker_is_the_first_to_go_when_memory_runs_out(fork_server: ForkServer) -> None:
    worker = fork_server.start()
    worker.send({"do": "first to go"})
    assert int(worker.receive(LONG)["score"]) == 1000
    worker.stop()


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ({"do": "segfault"}, r"killed by SIGSEGV \(segmentation fault\) in string_at \(__init__.py:\d+\)"),
        ({"do": "abort"}, r"aborted \(SIGABRT\) in work \(isolation_work.py:\d+\)"),
        ({"do": "exit", "status": 0}, r"exited with status 0"),
        ({"do": "exit", "status": 3}, r"exited with status 3"),
        ({"do": "kill"}, r"killed by SIGKILL \(from outside, or by the system when memory runs out\)"),
        ({"do": "garble"}, r"wrote into the suite's own channel: b'no message'"),
        ({"do": "close"}, r"closed the channel to the suite"),
        ({"do": "close all"}, r"closed the channel to the suite"),
    ],
    ids=lambda value: value["do"] if isinstance(value, dict) else "",
)
def test_isolation_names_how_a_worker_ended(
    fork_server: ForkServer, order: dict[str, object], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "close" in str(order["do"]):
        monkeypatch.setattr(workers, "DUMP_SECONDS", 0.2)  # these live on
    found = ending(fork_server, order)
    assert re.fullmatch(text, found.text), found
    assert not found.hung
    worker = fork_server.start()
    worker.send({"do": "echo"})
    assert worker.receive(LONG) == {"do": "echo"}


@pytest.mark.parametrize(
    ("order", "place"),
    [
        ("loop", r" in loop_without_end \(isolation_work.py:\d+\)"),
        ("sleep holding the lock", r" in work \(isolation_work.py:\d+\)"),
        ("babble for ever", r".*"),
    ],
)
def test_isolation_ends_what_makes_no_progress(fork_server: ForkServer, order: str, place: str) -> None:
    worker = fork_server.start()
    worker.send({"do": "echo"})
    assert worker.receive(LONG) == {"do": "echo"}  # it runs, so that the place is in what it was asked
    worker.send({"do": order})
    with pytest.raises(WorkerEnded) as ended:
        worker.receive(1.0)
    assert ended.value.ending.hung
    assert re.fullmatch(r"hung: no progress for 1 s" + place, ended.value.ending.text), ended.value
    assert not alive(worker.pid)


def test_isolation_hears_all_that_was_said_before_the_end(fork_server: ForkServer) -> None:
    worker = fork_server.start()
    worker.send({"do": "say and die", "count": 2000})
    assert [worker.receive(LONG)["number"] for _ in range(2000)] == list(range(2000))
    with pytest.raises(WorkerEnded, match="exited with status 0"):
        worker.receive(LONG)


def test_isolation_counts_what_waits_as_progress(fork_server: ForkServer) -> None:
    worker = fork_server.start()
    worker.send({"do": "echo"})
    assert select.select([worker._channel], [], [], LONG)[0]
    assert worker.receive(0.0) == {"do": "echo"}


def test_isolation_takes_messages_of_any_size(fork_server: ForkServer) -> None:
    worker, big = fork_server.start(), {"do": "echo", "list": list(range(200_000)), "text": "\n\0ü\ud800"}
    worker.send(big)
    assert worker.receive(LONG) == big


def test_isolation_keeps_a_workers_output_out(
    fork_server: ForkServer, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = fork_server.start()
    worker.send({"do": "babble"})
    assert worker.receive(LONG) == {"done": True}
    worker.stop()
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_isolation_tells_a_fault_of_its_own_from_one_of_the_work(fork_server: ForkServer) -> None:
    worker = fork_server.start()
    worker.send({"do": "raise"})
    with pytest.raises(PabenchError, match="a worker process failed: ValueError: first line"):
        worker.receive(LONG)


def test_isolation_worker_leads_a_group_that_dies_with_it(fork_server: ForkServer) -> None:
    worker = fork_server.start()
    worker.send({"do": "who"})
    said = worker.receive(LONG)
    assert said["pid"] == said["group"] == worker.pid != os.getpid()
    worker.send({"do": "leave a child"})
    child = int(worker.receive(LONG)["child"])
    assert os.getpgid(child) == worker.pid
    worker.stop()
    wait_until_dead(child)


@pytest.mark.parametrize("end", ["stop", "exit", "close"])
def test_isolation_ends_what_a_worker_has_started_elsewhere(end: str) -> None:
    with ForkServer("tests.support.isolation_work:work") as fork_server:
        worker = fork_server.start()
        worker.send({"do": "leave daemons"})
        pids = worker.receive(LONG)["pids"]
        assert all(map(alive, pids))
        assert all(os.getpgid(pid) != worker.pid for pid in pids)
        if end == "stop":
            worker.stop()
        elif end == "exit":
            worker.send({"do": "exit", "status": 0})
            with pytest.raises(WorkerEnded):
                worker.receive(LONG)
        if end != "close":
            # the fork server lives on, and so does what it starts next
            following = fork_server.start()
            following.send({"do": "echo"})
            assert following.receive(LONG) == {"do": "echo"}
    for pid in pids:
        wait_until_dead(pid)


def test_isolation_carries_bytes_and_descriptors(fork_server: ForkServer, tmp_path: Path) -> None:
    worker, big = fork_server.start(), os.urandom(3_000_001)
    worker.send({"do": "parts"}, [b"\n{}\n", big])
    assert worker.receive(LONG) == {"sizes": [4, len(big)], "parts": [big, b"\n{}\n"]}
    worker.send({"do": "echo"})
    assert worker.receive(LONG) == {"do": "echo"}
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"in {name}")
    with (tmp_path / "a").open() as a, (tmp_path / "b").open() as b:
        worker.send({"do": "read descriptors"}, descriptors=[a.fileno(), b.fileno()])
        assert worker.receive(LONG) == {"found": ["in a", "in b"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"parts": 3}\n', r"b'\{\"parts\": 3\}'"),
        ('{"parts": [-1]}\n', r"b'\{\"parts\": \[-1\]\}'"),
        ('{"parts": [true]}\n', r"b'\{\"parts\": \[true\]\}'"),
        (f'{{"parts": [{2**60}]}}\n', rf"a message of {2**60} bytes"),
        ("[1]\n", r"b'\[1\]'"),
    ],
)
def test_isolation_refuses_what_is_no_message(fork_server: ForkServer, text: str, said: str) -> None:
    found = ending(fork_server, {"do": "say", "text": text})
    assert re.fullmatch(rf"wrote into the suite's own channel: {said}", found.text), found


def test_isolation_refuses_a_line_without_end(
    fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_LINE_BYTES", 2**20)
    assert "bytes without an end" in ending(fork_server, {"do": "babble without a line"}).text


def test_isolation_death_is_noticed_though_a_child_holds_the_channel(fork_server: ForkServer) -> None:
    worker = fork_server.start()
    worker.send({"do": "leave a child"})
    child = int(worker.receive(LONG)["child"])
    worker.send({"do": "exit", "status": 5})
    with pytest.raises(WorkerEnded, match="exited with status 5"):
        worker.receive(LONG)
    wait_until_dead(child)


@pytest.mark.parametrize("order", ["fork", "fork in C"])
def test_isolation_notices_a_copy_of_the_worker(fork_server: ForkServer, order: str) -> None:
    worker = fork_server.start()
    worker.send({"do": order})
    assert worker.receive(LONG) == {"copy": True}
    worker.send({"do": "echo"})
    assert worker.receive(LONG) == {"do": "echo"}


def test_isolation_copy_of_a_worker_does_not_speak(fork_server: ForkServer) -> None:
    worker = fork_server.start()
    worker.send({"do": "fork and speak"})
    worker.send({"do": "echo"})
    assert worker.receive(LONG) == {"done": True}
    assert worker.receive(LONG) == {"do": "echo"}


def test_isolation_entry_that_cannot_be_imported_is_refused_once() -> None:
    with (
        ForkServer("tests.no_such_module:work") as broken,
        pytest.raises(EnvironmentRefused, match=r"No module named 'tests\.no_such_module'"),
    ):
        broken.start()


def test_isolation_fork_server_that_was_killed_is_replaced() -> None:
    with ForkServer("tests.support.isolation_work:work") as made:
        worker = made.start()
        worker.send({"do": "who"})
        os.kill(worker.receive(LONG)["parent"], signal.SIGKILL)
        with pytest.raises(WorkerEnded, match="killed together with its parent process"):
            worker.receive(LONG)
        worker = made.start()
        worker.send({"do": "echo"})
        assert worker.receive(LONG) == {"do": "echo"}


SUPERVISOR = """
import sys, time
from pabench.run.workers import ForkServer
fork_server = ForkServer("tests.support.isolation_work:work")
worker = fork_server.start()
worker.send({"do": "leave a child"})
child = worker.receive(60.0)["child"]
worker.send({"do": "loop"})
print(fork_server._process.pid, worker.pid, child, flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_isolation_leaves_no_process_behind(number: signal.Signals) -> None:
    command = [sys.executable, "-c", SUPERVISOR]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(alive, pids))
        process.send_signal(number)
    for pid in pids:
        wait_until_dead(pid)


def test_isolation_refusals_keep_text_hint_and_code() -> None:
    with pytest.raises(PabenchError, match="unknown backend 'x'") as raised:
        raise_refusal(refusal(UnknownName("backend", "x", ["y"])))
    assert raised.value.exit_code == 4
    with pytest.raises(PabenchError) as raised:
        raise_refusal(refusal(EnvironmentRefused("no", hint="buy one")))
    assert (raised.value.hint, raised.value.exit_code) == ("buy one", 7)
    raise_refusal({"event": "case"})
