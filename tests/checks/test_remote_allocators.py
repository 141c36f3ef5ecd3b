# SPDX-License-Identifier: Apache-2.0
"""An allocator in a process of its own is judged as one that is here, an operation a trip."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pabench.checks.outcome import Outcome
from pabench.checks.registry import ALLOCATOR_CHECKS
from pabench.checks.remote.errors import SubjectEnded
from pabench.checks.remote.subject import RemoteSubject
from pabench.device.registry import DeviceRequest
from pabench.errors import UnknownName, Unsupported
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.refusals import refusal_probe, unrefused
from pabench.run.workers import ForkServer
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.allocators.rounds import Call
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.registry import load_allocator
from tests.support.allocator_support import outcome, random_call, shape_of, state
from tests.support.judging import bare, said, tried
from tests.support.probe import DEVICE
from tests.support.remote_allocators import FAULTY, entry

EMULATED = DeviceRequest(name="emulated")
SUBJECTS = ("host", "scan", "ticket", "stack", "buddy", "model")
SHAPE = PoolShape(num_pages=12, page_size=4, max_seqs=5, max_pages_per_seq=6)
POOL = PoolShape(num_pages=7, page_size=1, max_seqs=1, max_pages_per_seq=1)


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer("tests.support.remote_allocators:serve") as made:
        yield made


def remote(fork_server: ForkServer, name: str, **options: Any) -> RemoteSubject:
    return RemoteSubject(fork_server, EMULATED, "allocator", name, **{"deadline_s": 120.0, **options})


def found(name: str) -> AllocatorEntry:
    return entry(name) if name in FAULTY else load_allocator(name)


def histories(name: str, count: int) -> list[HistoryCase]:
    """Random ones, of what the allocator offers."""
    offers = found(name).capabilities.operations
    swap = 4 if "swap_out" in offers else 0
    shape = replace(SHAPE, swap_pages=swap)
    return [
        HistoryCase(shape=shape, operations=(*operations(seed, offers), ("drain", {})), schedule=seed)
        for seed in range(count)
    ]


def operations(seed: int, offers: frozenset[str]) -> Iterator[Operation]:
    rng = random.Random(seed)
    names = {"stream": 5, "adapter": "", "salt": ""}
    for step in range(30):
        some, other, count = rng.randrange(5), rng.randrange(5), rng.randrange(9)
        start = {"sequence": other, "tokens": count, "final_tokens": None, **names, "stream": step}
        every: dict[str, dict[str, Any]] = {
            "alloc": start,
            "append": {"sequence": some, "tokens": count},
            "append_batch": {"sequences": [some], "tokens": [count]},
            "fork": {"parent": some, "child": other, "stream": step},
            "truncate": {"sequence": some, "length": count, "stream": None if count % 2 else step},
            "free": {"sequences": [some]},
            "free_window": {"sequence": some, "keep_from": count},
            "commit": {"sequence": some, "tokens": count},
            "lookup": {"tokens": 3 * count, "turns": [], **names},
            "adopt": {"sequence": other, "pages": []},
            "evict": {"pages": count},
            "defragment": {},
            "swap_out": {"sequence": some},
            "swap_in": {"sequence": some},
        }
        name = rng.choice([name for name in every if name in offers])
        yield name, every[name]


@pytest.mark.parametrize("check", [name for name in ALLOCATOR_CHECKS if name != "allocator-concurrent"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_remote_allocator_is_judged_as_here(fork_server: ForkServer, name: str, check: str) -> None:
    run, passed = ALLOCATOR_CHECKS[check].run, 0
    with remote(fork_server, name) as subject:
        for case in histories(name, 4):
            local = tried(lambda case=case: run(case, partial(load_allocator(name).make, DEVICE), DEVICE))  # type: ignore[misc]
            assert tried(lambda case=case: subject.judge(run, case)) == local  # type: ignore[misc]
            passed += isinstance(local, Outcome) and local.passed
    assert passed == 4


@pytest.mark.parametrize("name", ["ticket", "stack", "scan"])
def test_remote_pools_are_launched_as_here(fork_server: ForkServer, name: str) -> None:
    run = ALLOCATOR_CHECKS["allocator-concurrent"].run
    steps: tuple[Operation, ...] = (
        ("launch", {"counts": [1, 2, 0, 8, 3, 2], "frees": 0}),
        ("launch", {"counts": [1] * 9, "frees": 4}),
        ("churn", {"threads": 64, "rounds": 5, "most": 2}),
        ("drain", {}),
    )
    with remote(fork_server, name) as subject:
        for schedule in range(3):
            case = HistoryCase(shape=POOL, operations=steps, schedule=schedule)
            local = tried(lambda case=case: run(case, partial(load_allocator(name).make, DEVICE), DEVICE))  # type: ignore[misc]
            assert tried(lambda case=case: subject.judge(run, case)) == local  # type: ignore[misc]
            assert said(local) == (
                "declined: scan serves a whole request in order, not thread by thread"
                if name == "scan"
                else "as it should be"
            )


@pytest.mark.parametrize("name", [name for name in FAULTY if name != "Dies"])
def test_remote_faulty_allocators_get_the_words_they_get_here(fork_server: ForkServer, name: str) -> None:
    run, wrong = ALLOCATOR_CHECKS["allocator-invariants"].run, 0
    with remote(fork_server, name) as subject:
        for case in histories(name, 4):
            local = tried(lambda case=case: run(case, partial(found(name).make, DEVICE), DEVICE))  # type: ignore[misc]
            there = tried(lambda case=case: subject.judge(run, case))  # type: ignore[misc]
            assert isinstance(there, Outcome)
            assert isinstance(local, Outcome)
            assert bare(there) == bare(local)
            assert there.text == local.text
            wrong += not there.passed
    assert wrong >= 2


def test_remote_allocator_that_dies_is_told_and_made_again(fork_server: ForkServer) -> None:
    with remote(fork_server, "Dies") as subject:
        allocator = subject.new_allocator(SHAPE)
        allocator.alloc(0, 5)
        with pytest.raises(SubjectEnded, match="SIGABRT"):
            allocator.fork(0, 1)
        subject.new_allocator(SHAPE)
        with pytest.raises(SubjectEnded, match="gone with it"):
            allocator.append(0, 1)
        assert subject.new_allocator(SHAPE).alloc(0, 5).slots.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["host", "scan", "buddy"])
def test_remote_allocator_does_what_one_here_does(fork_server: ForkServer, name: str) -> None:
    """Any call, sensible or not, gives the same result or error and leaves the same state."""
    rng, shape = random.Random(3), shape_of(9, 4, 4, 5)
    here = load_allocator(name).make(DEVICE, shape)
    with remote(fork_server, name) as subject:
        there = subject.new_allocator(shape)
        assert there.capabilities == here.capabilities
        assert there.name == here.name
        for _ in range(150):
            live = [sequence for sequence in range(4) if here.length(sequence) is not None]
            call = random_call(rng, shape, live, set(here.capabilities.operations) - {"swap_out", "swap_in"})
            assert outcome(there, call) == outcome(here, call)
            assert state(there) == state(here)
            assert there.memory_split() == here.memory_split()
            assert [there.pages(s) for s in range(4)] == [here.pages(s) for s in range(4)]
        assert subject.trips < 180


@pytest.mark.parametrize("name", ["scan", "stack"])
def test_remote_kernels_refuse_what_they_refuse_here(fork_server: ForkServer, name: str) -> None:
    here = load_allocator(name).make(DEVICE, SHAPE)
    with remote(fork_server, name) as subject:
        there = subject.new_allocator(SHAPE)
        assert there.kernel_entries == here.kernel_entries
        assert there.kernel_entries
        for operation in (("free", {"sequences": [3]}), ("append", {"sequence": 9, "tokens": 1})):
            probe = refusal_probe(here, operation)
            assert probe is not None
            assert there.launch(probe.entry, probe.columns) == here.launch(probe.entry, probe.columns)
            assert unrefused(there, operation) is None


def test_remote_results_are_asked_again_where_they_are(fork_server: ForkServer) -> None:
    with remote(fork_server, "ReturnsLiveTable") as subject:
        allocator = subject.new_allocator(SHAPE)
        allocator.alloc(0, 5)
        first = allocator.handed_out()
        allocator.append(0, 4)
        (then, _) = allocator.handed_out()
        assert {part for part, said in then.items() if said != first[0][part]} == {"table"}
        calls: list[Call] = [("append", (0, 1), {}), ("truncate", (0, 3), {})]
        assert allocator.run_rounds(calls, 8).refused == [0] * 8
        assert allocator.length(0) == 3


def test_remote_allocator_refuses_shapes_and_names_as_here(fork_server: ForkServer) -> None:
    with remote(fork_server, "scan") as subject, pytest.raises(Unsupported, match=r"scan: swap_pages = 3"):
        subject.new_allocator(replace(SHAPE, swap_pages=3))
    with pytest.raises(UnknownName, match="unknown allocator 'hots'"), remote(fork_server, "hots"):
        pass
    with remote(fork_server, "host") as subject, pytest.raises(TypeError, match="host is no backend"):
        _ = subject.backend


def test_remote_peer_says_its_version_or_what_is_lacking(fork_server: ForkServer) -> None:
    name, lacking = "vllm-block-pool", None
    try:
        load_allocator(name)
    except Unsupported as error:
        lacking = str(error)
    with remote(fork_server, name) as subject:
        assert (subject.facts.lacking, subject.facts.package) == (lacking, ALLOCATORS[name].package)
        if lacking is None:
            assert subject.facts.version == ALLOCATORS[name].version()
        else:
            with pytest.raises(Unsupported, match=re.escape(lacking)):
                subject.new_allocator(SHAPE)
