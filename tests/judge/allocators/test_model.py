# SPDX-License-Identifier: Apache-2.0
"""Our allocators against the model: same histories, same slots, copies and pages, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase, OutOfPages, UnknownName, Unsupported
from pabench.judge.allocators.model import ModelAllocator
from pabench.kernels import alloc_scan
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import BATCH_MODES, OPERATIONS, Capabilities
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.host_reuse import HostReuse
from pabench.subjects.allocators.results import Hit, MemorySplit, Prompt
from pabench.subjects.allocators.scan import ScanAllocator
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.registry import load_allocator
from tests.support.allocator_support import make_allocator, outcome, random_call, shape_of, state
from tests.support.probe import DEVICE

HOSTS: dict[str, tuple[type[HostAllocator], dict[str, Any]]] = {
    "host": (HostAllocator, {}),
    "host-reuse": (HostReuse, {"partial": True, "forks": "copied"}),
}
"""Reference implementation, and what the model must do to be the same."""
PAGED = ["model", "host", "scan"]


def run_both(
    model: PageAllocator, subject: PageAllocator, seed: int, steps: int, operations: set[str]
) -> None:
    rng = random.Random(seed)
    for _ in range(steps):
        live = np.flatnonzero(model.lengths() >= 0).tolist()
        call = random_call(rng, model.shape, live, operations)
        before = subject.fingerprint()
        answers = [outcome(allocator, call) for allocator in (model, subject)]
        assert answers[0] == answers[1]
        if isinstance(answers[1], str):
            assert subject.fingerprint() == before
        wanted, got = state(model), state(subject)
        assert wanted[: 4 if got[4] is None else 5] == got[: 4 if got[4] is None else 5]


@pytest.mark.parametrize("name", list(HOSTS))
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_allocators_model_and_host_agree_step_by_step_property(
    name: str, seed: int, data: st.DataObject
) -> None:
    host, more_of_model = HOSTS[name]
    sizes = st.tuples(st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 5, 33]), st.integers(1, 9))
    more = {"swap_pages": data.draw(st.integers(0, 8)), "reserve_pages": data.draw(st.integers(0, 3))}
    shape = shape_of(*data.draw(sizes), **more, hash_bits=data.draw(st.sampled_from([1, 2, 64])))
    mode = data.draw(st.sampled_from(["all", "prefix"]))
    every = {*host.capabilities.operations, "decode", "forge"}
    without = data.draw(st.sets(st.sampled_from(sorted(every - {"alloc"})), max_size=10))
    subjects = ModelAllocator(shape, batch_mode=mode, **more_of_model), host(shape, batch_mode=mode)
    run_both(*subjects, seed, 60, every - without)


SCAN = {
    *("alloc", "append", "append_batch", "decode", "fork", "truncate", "free", "free_window"),
    *("begin_step", "end_step", "reset"),
}
GROUPS = (
    KvGroup(page_size=6),
    KvGroup(kind="window", page_size=3, window=4),
    KvGroup(kind="window", page_size=2, window=1),
    KvGroup(kind="state", page_size=6),
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_allocators_model_and_scan_agree_step_by_step_property(seed: int, data: st.DataObject) -> None:
    sizes = st.tuples(st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 5, 33]), st.integers(1, 9))
    shape = shape_of(*data.draw(sizes))
    mode, blocks = data.draw(st.sampled_from(["all", "prefix"])), data.draw(st.sampled_from([1, 1, 2, 4]))
    without = data.draw(st.sets(st.sampled_from(sorted(SCAN - {"alloc"})), max_size=4))
    DEVICE.reschedule(data.draw(st.integers(0, 100)))
    scan = ScanAllocator(DEVICE, shape, batch_mode=mode, blocks=blocks)
    run_both(ModelAllocator(shape, batch_mode=mode), scan, seed, 30, SCAN - without)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    groups=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=4),
    sizes=st.tuples(st.integers(2, 40), st.just(6), st.sampled_from([2, 5, 40]), st.integers(1, 9)),
    blocks=st.sampled_from([1, 2, 4]),
)
def test_allocators_model_and_scan_agree_on_groups_property(
    seed: int, groups: list[KvGroup], sizes: tuple[int, int, int, int], blocks: int
) -> None:
    shape = shape_of(*sizes, groups=tuple(groups))
    DEVICE.reschedule(seed % 101)
    run_both(ModelAllocator(shape), ScanAllocator(DEVICE, shape, blocks=blocks), seed, 40, SCAN - {"reset"})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.sampled_from([1, 2, 4, 8]))
def test_allocators_model_and_scan_free_what_many_share_property(seed: int, blocks: int) -> None:
    """Holders of a page in several turns of blocks: it goes back once, where the last of them stands."""
    rng, shape = random.Random(seed), shape_of(90, 2, 40, 11)
    model = ModelAllocator(shape)
    DEVICE.reschedule(seed % 101)
    scan = ScanAllocator(DEVICE, shape, blocks=blocks)
    for allocator in (model, scan):
        for sequence in range(5):
            allocator.alloc(sequence, 2 * (sequence + 5))
        for sequence in range(5, 40):
            allocator.fork(sequence % 5, sequence)
    for _ in range(3):
        leaving = rng.sample(range(40), rng.randint(25, 40))
        there = [sequence for sequence in leaving if model.length(sequence) is not None]
        cuts = [lambda a, q=sequence: a.truncate(q, 5) for sequence in range(40) if sequence not in there]
        for step in (lambda a, there=there: a.free(there), *rng.sample(cuts, min(3, len(cuts)))):
            assert outcome(scan, step) == outcome(model, step)
            assert state(scan)[:4] == state(model)[:4]
    gone = np.flatnonzero(model.lengths() < 0).tolist()
    refill = [(gone[at], 20) for at in range(min(len(gone), model.free_pages // 10))]
    for sequence, tokens in refill:  # the order of the ring shows in what is granted
        assert scan.alloc(sequence, tokens).slots.tolist() == model.alloc(sequence, tokens).slots.tolist()


@pytest.mark.parametrize("name", PAGED)
def test_allocators_model_wraps_the_ring_many_times(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(5, 4, 3, 5))
    fifo = list(range(5))  # pages come back at the end of the queue
    for cycle in range(40):
        tokens = 1 + cycle % 12
        need = -(-tokens // 4)
        taken, fifo = fifo[:need], fifo[need:]
        slots = allocator.alloc(cycle % 3, tokens).slots
        assert slots.dtype == np.int64
        assert slots.tolist() == [taken[t // 4] * 4 + t % 4 for t in range(tokens)]
        allocator.free([cycle % 3])
        fifo += taken
    assert allocator.free_pages == 5


@pytest.mark.parametrize("name", ["host", "scan"])
def test_allocators_model_serves_more_sequences_than_a_block_has_threads(name: str) -> None:
    shape = shape_of(2500, 2, 2500, 8)
    model, subject = ModelAllocator(shape), make_allocator(name, DEVICE, shape)
    rng = np.random.default_rng(4)
    chosen = np.sort(rng.choice(2500, 1500, replace=False))
    tokens = rng.integers(0, 5, 1500)
    for sequence in chosen.tolist():
        model.alloc(sequence, 0)
    if isinstance(subject, ScanAllocator):
        subject._grow(dict.fromkeys(chosen.tolist(), 0), prefix=False)  # in one launch
    for sequence in chosen.tolist() if name == "host" else ():
        subject.alloc(sequence, 0)
    answers = [allocator.append_batch(chosen, tokens).slots for allocator in (model, subject)]
    np.testing.assert_array_equal(answers[0], answers[1])
    for step in (lambda a: a.free(chosen[::3].tolist()), lambda a: a.append_batch(chosen[1::3], 1)):
        assert outcome(subject, step) == outcome(model, step)
    with pytest.raises(OutOfPages):
        subject.append_batch(chosen[1::3], 8)
    assert subject.block_table().tolist() == model.block_table().tolist()
    assert subject.lengths().tolist() == model.lengths().tolist()


@pytest.mark.parametrize("name", PAGED)
def test_allocators_model_refuses_all_or_nothing(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(4, 2, 4, 3))
    for sequence, tokens in ((0, 3), (2, 1), (1, 0)):
        allocator.alloc(sequence, tokens)
    before = allocator.fingerprint()
    a: Any = allocator
    refusals: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: a.append_batch([1, 2], [2, 2]), OutOfPages, "2 pages needed, 1 available"),
        (lambda: a.alloc(3, 3), OutOfPages, "2 pages needed, 1 available"),
        (lambda: a.append(1, 4), OutOfPages, "2 pages needed, 1 available"),
        (lambda: a.append(0, 4), InvalidCase, "length of sequence 0 = 7: must be at most 6 tokens"),
        (lambda: a.append_batch([1, 0], [1, 4]), InvalidCase, "length of sequence 0 = 7: must be at most 6"),
        (lambda: a.alloc(3, -1), InvalidCase, "tokens"),
        (lambda: a.append_batch([1], [-1]), InvalidCase, "tokens"),
        (lambda: a.append(1, 1.5), InvalidCase, "tokens"),
        (lambda: a.append_batch([1], 1.5), InvalidCase, "tokens"),
        (lambda: a.append_batch([1], np.array(1.5)), InvalidCase, "tokens"),
        (lambda: a.append_batch([1], np.array([1.5])), InvalidCase, "tokens"),
        (lambda: a.append_batch(np.array([1.0]), 1), InvalidCase, "sequence = 1.0: must be a whole number"),
        (lambda: a.append(1, True), InvalidCase, "tokens"),
        (lambda: a.append_batch([1, 2], [1]), InvalidCase, "tokens = 1: must have one entry a sequence, 2"),
        (lambda: a.append_batch([1, 2, 1], 1), InvalidCase, "sequence = 1: must be named once"),
        (lambda: a.append_batch(np.array([1, 2, 1]), 1), InvalidCase, "sequence = 1: must be named once"),
        (lambda: a.append_batch(np.array([2, 3]), 1), InvalidCase, "sequence = 3: must be live"),
        (lambda: a.append_batch(np.array([-1, 0]), 1), InvalidCase, "sequence = -1: must be at least 0"),
        (lambda: a.alloc(4, 1), InvalidCase, "sequence = 4: must be at most 3"),
        (lambda: a.alloc(2, 1), InvalidCase, "sequence = 2: must not be there already"),
        (lambda: a.alloc(3, 1, final_tokens=0), InvalidCase, "final_tokens = 0: must be at least 1"),
        (lambda: a.append(3, 1), InvalidCase, "sequence = 3: must be live"),
        (lambda: a.free([0, 0]), InvalidCase, "sequence"),
        (lambda: a.free([0, 3]), InvalidCase, "sequence = 3: must be live"),
        (lambda: a.free([2, 9]), InvalidCase, "sequence = 9: must be at most 3"),
    ]
    for operation, error, text in refusals:
        with pytest.raises(error) as caught:
            operation()
        assert str(caught.value).startswith(text), text
        assert allocator.fingerprint() == before
    allocator.free([0])
    with pytest.raises(InvalidCase, match="sequence = 0: must be live"):
        allocator.free([0])
    assert allocator.append(1, 6).slots.tolist() == [6, 7, 0, 1, 2, 3]


@pytest.mark.parametrize("name", PAGED)
def test_allocators_model_starts_sequences_of_no_tokens(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(1, 3, 2, 1))
    slots = allocator.alloc(1, 0).slots
    assert (slots.dtype.name, slots.shape) == ("int64", (0,))
    assert (allocator.length(0), allocator.length(1), allocator.pages(1)) == (None, 0, ())
    assert allocator.append_batch([], []).slots.shape == (0,)
    allocator.free([])
    assert allocator.alloc(0, 3).slots.tolist() == [0, 1, 2]
    with pytest.raises(OutOfPages):
        allocator.append(1, 1)
    allocator.free([1, 0])
    assert allocator.free_pages == 1


def test_allocators_model_refuses_floods_before_making_room() -> None:
    allocator = ScanAllocator(DEVICE, shape_of(2, 10**6, 2, 1000))
    with pytest.raises(OutOfPages, match="1000 pages needed, 2 available"):
        allocator.alloc(0, 10**9)


@pytest.mark.parametrize("name", PAGED)
def test_allocators_model_takes_numpy_integers(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(300, 1, 2, 300))
    one: Any = np.int8(1)
    allocator.alloc(one, 100 * one)
    slots = allocator.append_batch(np.array([1], np.uint8), np.array([100], np.int8)).slots
    assert allocator.length(1) == 200
    assert slots.tolist() == list(range(100, 200))


# --- the specification, where it is easily misread ----------------------------------------------------------


@pytest.fixture(params=["model", "host"])
def whole(request: pytest.FixtureRequest) -> PageAllocator:
    """An allocator that offers everything, of 8 pages of 4 tokens."""
    return make_allocator(request.param, DEVICE, shape_of(8, 4, 6, 6, swap_pages=2))


def test_allocators_copy_on_write_leaves_the_last_holder_its_page(whole: PageAllocator) -> None:
    whole.alloc(0, 6)
    whole.fork(0, 1)
    whole.fork(0, 2)
    granted = whole.append_batch([2, 0, 1], [1, 1, 1])
    assert granted.copies.tolist() == [[1, 2, 2], [1, 3, 2]]
    assert granted.slots.tolist() == [10, 14, 6]
    assert [whole.pages(sequence) for sequence in range(3)] == [(0, 3), (0, 1), (0, 2)]


def test_allocators_copy_on_write_counts_as_a_page(whole: PageAllocator) -> None:
    whole.alloc(0, 6)
    whole.fork(0, 1)
    whole.alloc(2, 24)
    before = whole.fingerprint()
    with pytest.raises(OutOfPages, match="1 pages needed, 0 available"):
        whole.append(0, 1)
    assert whole.fingerprint() == before
    whole.free([1])
    assert whole.append(0, 1).copies.shape == (0, 3)


def test_allocators_cache_never_gives_the_last_token(whole: PageAllocator) -> None:
    tokens = tuple(range(8))
    whole.alloc(0, 8)
    whole.commit(0, Prompt(tokens=tokens))
    found = {n: len(whole.lookup(Prompt(tokens=(*tokens, 9)[:n])).pages) for n in (0, 3, 4, 5, 8, 9)}
    assert found == {0: 0, 3: 0, 4: 0, 5: 1, 8: 1, 9: 2}


def test_allocators_cache_keeps_name_spaces_apart(whole: PageAllocator) -> None:
    tokens = tuple(range(9))
    whole.alloc(0, 8)
    whole.commit(0, Prompt(tokens=tokens[:8], adapter="x"))
    assert whole.lookup(Prompt(tokens=tokens, adapter="x")).pages == (0, 1)
    for other in (Prompt(tokens=tokens), Prompt(tokens=tokens, salt="x"), Prompt(tokens=tokens, adapter="y")):
        assert whole.lookup(other).pages == ()


def test_allocators_evict_a_prefix_from_its_tail(whole: PageAllocator) -> None:
    for sequence, first in ((0, 0), (1, 50)):
        whole.alloc(sequence, 12)
        whole.commit(sequence, Prompt(tokens=tuple(range(first, first + 12))))
        whole.free([sequence])
    assert (whole.free_pages, whole.evictable_pages) == (2, 6)
    assert whole.evict(1) == (2,)
    hit = whole.lookup(Prompt(tokens=tuple(range(13))))
    assert hit.pages == (0, 1)
    whole.adopt(2, hit)
    whole.free([2])  # used last, so the other prefix goes first
    assert whole.evict(4) == (5, 4, 3, 1)
    assert whole.evict(-0) == ()


def test_allocators_refuse_a_hit_that_is_out_of_date(whole: PageAllocator) -> None:
    whole.alloc(0, 8)
    whole.commit(0, Prompt(tokens=tuple(range(8))))
    hit = whole.lookup(Prompt(tokens=tuple(range(9))))
    whole.free([0])
    whole.alloc(1, 24)
    whole.append(1, 0)
    whole.alloc(2, 4)  # takes page 1, the tail of the prefix
    before = whole.fingerprint()
    for stale in (hit, Hit(prompt=hit.prompt, pages=(0, 7)), Hit(prompt=hit.prompt, pages=(-1,))):
        with pytest.raises(InvalidCase, match="must be cached still"):
            whole.adopt(3, stale)
    assert whole.fingerprint() == before
    whole.adopt(3, whole.lookup(hit.prompt))
    assert (whole.pages(3), whole.length(3)) == ((0,), 4)


def test_allocators_uncache_a_page_before_it_is_written(whole: PageAllocator) -> None:
    prompt = Prompt(tokens=tuple(range(9)))
    whole.alloc(0, 8)
    whole.commit(0, Prompt(tokens=prompt.tokens[:8]))
    whole.truncate(0, 6)
    assert whole.lookup(prompt).pages == (0, 1)  # what it says still stands there
    whole.append(0, 1)
    assert whole.lookup(prompt).pages == (0,)


def test_allocators_refuse_two_contents_for_one_page(whole: PageAllocator) -> None:
    whole.alloc(0, 8)
    whole.commit(0, Prompt(tokens=(1, 2, 3, 4)))
    before = whole.fingerprint()
    with pytest.raises(InvalidCase, match="page 0 was committed with other tokens"):
        whole.commit(0, Prompt(tokens=(1, 2, 3, 5, 1, 1, 1, 1)))
    with pytest.raises(InvalidCase, match="tokens of the prompt = 9: must be at most 8"):
        whole.commit(0, Prompt(tokens=tuple(range(9))))
    assert whole.fingerprint() == before


def test_allocators_window_gives_up_whole_pages_only(whole: PageAllocator) -> None:
    whole.alloc(0, 10)
    whole.fork(0, 1)
    whole.free_window(0, 7)
    assert (whole.pages(0), whole.pages(1), whole.free_pages) == ((-1, 1, 2), (0, 1, 2), 5)
    with pytest.raises(InvalidCase, match="length = 3: must be at least 4"):
        whole.truncate(0, 3)
    whole.truncate(0, 4)
    assert (whole.pages(0), whole.length(0)) == ((-1,), 4)
    whole.free([1, 0])
    assert whole.free_pages == 8


def test_allocators_swap_all_or_nothing(whole: PageAllocator) -> None:
    whole.alloc(0, 5)
    whole.alloc(1, 1)
    assert whole.swap_out(0).tolist() == [[0, 0, 4], [1, 1, 1]]
    assert (whole.length(0), whole.swapped(0), whole.free_swap_pages) == (None, 5, 0)
    before = whole.fingerprint()
    with pytest.raises(OutOfPages, match="1 swap pages needed, 0 available"):
        whole.swap_out(1)
    for call in (lambda: whole.alloc(0, 1), lambda: whole.append(0, 1), lambda: whole.swap_in(1)):
        with pytest.raises(InvalidCase):
            call()
    with pytest.raises(InvalidCase, match="must all be freed before a reset"):
        whole.reset()
    assert whole.fingerprint() == before
    assert whole.swap_in(0).tolist() == [[0, 3, 4], [1, 4, 1]]
    assert whole.pages(0) == (3, 4)
    whole.swap_out(0)
    whole.free([0, 1])
    assert (whole.free_pages, whole.free_swap_pages) == (8, 2)
    whole.reset()
    assert whole.fingerprint() == type(whole)(whole.shape).fingerprint()


@pytest.mark.parametrize("name", ["model", "host"])
def test_allocators_watermark_is_for_newcomers(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(4, 4, 4, 4, reserve_pages=2))
    with pytest.raises(OutOfPages, match="3 pages needed, 2 available"):
        allocator.alloc(0, 9)
    allocator.alloc(0, 8)
    with pytest.raises(OutOfPages, match="1 pages needed, 0 available"):
        allocator.alloc(1, 1)
    allocator.append(0, 8)
    assert allocator.free_pages == 0


@pytest.mark.parametrize("make", [ModelAllocator, HostAllocator])
def test_allocators_prefix_mode_serves_the_longest_prefix(make: Any) -> None:
    allocator = make(shape_of(4, 2, 4, 4), batch_mode="prefix")
    for sequence in range(4):
        allocator.alloc(sequence, 0)
    granted = allocator.append_batch([3, 0, 1, 2], [2, 6, 2, 0])
    assert (granted.refused.tolist(), granted.slots.size) == ([2, 3], 8)
    assert allocator.lengths().tolist() == [6, 0, 0, 2]
    assert allocator.append_batch([1], [1]).refused.tolist() == [0]


def test_allocators_memory_split_adds_up(whole: PageAllocator) -> None:
    whole.alloc(0, 6)
    whole.fork(0, 1)
    whole.append(1, 1)
    # 4 shared, 2 of the parent, 3 of the child
    assert whole.memory_split() == MemorySplit(tokens=9, reserved=0, internal=3, external=20)


# --- capabilities -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALLOCATORS)
def test_allocators_offer_what_they_declare(name: str) -> None:
    try:
        load_allocator(name)
    except Unsupported as lacking:
        pytest.skip(str(lacking))
    allocator: Any = make_allocator(name, DEVICE, shape_of(8, 4, 4, 4))
    assert allocator.capabilities == load_allocator(name).capabilities
    for operation in OPERATIONS:
        overridden = getattr(type(allocator), operation) is not getattr(PageAllocator, operation)
        assert overridden == (operation in allocator.capabilities.operations), operation
    if "swap_out" not in allocator.capabilities.operations:
        with pytest.raises(Unsupported, match=f"{name}: swap_pages = 1: swaps nothing"):
            make_allocator(name, DEVICE, shape_of(8, 4, 4, 4, swap_pages=1))
    if not allocator.capabilities.watermark:
        with pytest.raises(Unsupported, match=f"{name}: reserve_pages = 1: keeps none"):
            make_allocator(name, DEVICE, shape_of(8, 4, 4, 4, reserve_pages=1))


def test_allocators_base_offers_nothing_of_itself() -> None:
    allocator = ScanAllocator(DEVICE, shape_of(8, 4, 4, 4))
    prompt = Prompt(tokens=(1, 2))
    calls: list[Callable[[], Any]] = [
        lambda: allocator.commit(0, prompt),
        lambda: allocator.lookup(prompt),
        lambda: allocator.adopt(0, Hit(prompt=prompt, pages=())),
        lambda: allocator.evict(1),
        lambda: allocator.swap_out(0),
        lambda: allocator.swap_in(0),
    ]
    for call in calls:
        with pytest.raises(Unsupported, match="scan offers no "):
            call()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("operations", frozenset({"allocate"})),
        ("order", "lifo"),
        ("determinism", "maybe"),
        ("batch_mode", BATCH_MODES),
        ("refusal", "never"),
        ("progress", "wait-free"),
        ("reserved_pages", frozenset({-1})),
        ("watermark", 1),
    ],
)
def test_allocators_capabilities_are_checked(field: str, value: Any) -> None:
    given: dict[str, Any] = {"operations": frozenset(), field: value}
    with pytest.raises(InvalidCase):
        Capabilities(**given)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_pages", 0),
        ("num_pages", 2**30 + 1),
        ("page_size", 0),
        ("max_seqs", -1),
        ("max_pages_per_seq", 1.5),
        ("swap_pages", -1),
        ("reserve_pages", True),
        ("hash_bits", 0),
        ("hash_bits", 65),
    ],
)
def test_allocators_model_shape_is_checked(field: str, value: Any) -> None:
    sizes: Mapping[str, Any] = {"num_pages": 4, "page_size": 4, "max_seqs": 4, "max_pages_per_seq": 4}
    with pytest.raises(InvalidCase, match=f"^{field} = "):
        PoolShape(**{**sizes, field: value})


def test_allocators_model_unknown_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'scan'"):
        make_allocator("scann", DEVICE, shape_of(1, 1, 1, 1))


@pytest.mark.parametrize(("max_seqs", "threads"), [(1, 64), (64, 64), (65, 128), (1000, 1024), (5000, 1024)])
def test_allocators_model_scan_block_size(max_seqs: int, threads: int) -> None:
    state = alloc_scan.new_state(
        EmulatedDevice(), num_pages=3, page_size=1, max_seqs=max_seqs, max_pages_per_seq=1
    )
    assert state.threads == threads
    assert len(state.ring) == 4


def test_allocators_model_kernel_names_the_first_entry_concerned() -> None:
    """The device's own checks, behind the host's; nothing but the status is written."""
    scan = alloc_scan.new_state(DEVICE, num_pages=2000, page_size=2, max_seqs=1500, max_pages_per_seq=2)
    slots = DEVICE.empty((16,), np.dtype(np.int64))

    def extend(entries: dict[int, tuple[int, int]]) -> alloc_scan.Status:
        sequences, tokens = np.full((2, 1500), -1, np.int32)
        for entry, (sequence, count) in entries.items():
            sequences[entry], tokens[entry] = sequence, count
        alloc_scan.extend(scan, sequences, tokens, slots)
        return alloc_scan.read_status(scan)

    long = extend({3: (9, 2), 1100: (2, 5), 1300: (1, 9)})
    assert (long.code, long.needed, long.free, long.concerned) == (alloc_scan.ROW_TOO_SHORT, 9, 2000, 1100)
    assert (long.served, long.pages, long.tokens, long.copies) == (0, 0, 0, 0)
    for wrong in ({1: (5, 1), 1099: (1500, 1), 1200: (3, 9)}, {2: (4, 1), 1099: (7, -5), 1111: (1500, 1)}):
        done = extend(wrong)
        assert (done.code, done.concerned) == (alloc_scan.BAD_VALUE, 1099)
    assert (scan.lengths == -1).all()
    assert scan.cursor.tolist() == [0, 2000, 2000, 0, 0]
    assert slots.tobytes() == b"\xff" * slots.nbytes
    leave = np.full(1500, -1, np.int32)
    leave[[1030, 1031]] = 5, 6
    alloc_scan.drop(scan, leave, leave, alloc_scan.END)
    done = alloc_scan.read_status(scan)
    assert (done.code, done.concerned, done.free) == (alloc_scan.NOT_LIVE, 1030, 2000)
    done = extend({1499: (7, 3)})
    assert (done.code, done.needed, done.free, done.concerned) == (alloc_scan.OK, 2, 1998, -1)
    parents, children = np.full((2, 1500), -1, np.int32)
    parents[:3], children[:3] = 7, (8, 9, 7)
    alloc_scan.fork(scan, parents, children)
    done = alloc_scan.read_status(scan)
    assert (done.code, done.concerned) == (alloc_scan.STILL_LIVE, 2)
    alloc_scan.reset(scan)
    done = alloc_scan.read_status(scan)
    assert (done.code, done.concerned) == (alloc_scan.STILL_LIVE, 7)


@pytest.mark.parametrize("blocks", [0, 3, 2048])
def test_allocators_model_scan_refuses_a_number_of_blocks(blocks: int) -> None:
    with pytest.raises(InvalidCase, match=f"^blocks = {blocks}: must be"):
        ScanAllocator(DEVICE, shape_of(2, 1, 1, 1), blocks=blocks)
