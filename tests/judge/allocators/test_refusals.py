# SPDX-License-Identifier: Apache-2.0
"""What may not be asked of an allocator: a typed error, and every byte of the state as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import InvalidCase, OutOfPages
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.results import Hit, Prompt
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.registry import load_allocator
from tests.support.allocator_support import make_allocator, outcome, random_call, shape_of, state
from tests.support.probe import DEVICE

OURS = [name for name, entry in ALLOCATORS.items() if not entry.peers]
Bad = tuple[str, Callable[[], Any], type[Exception]]
NOT_WHOLE: tuple[Any, ...] = (1.5, True, "1", None)
KINDS = {
    *("page of nobody", "free twice in one call", "free of the dead", "free of one living and one dead"),
    *("negative count", "no whole number", "over-allocation", "duplicate sequence", "foreign index"),
    *("longer than the row", "longer than it is", "reset while live", "one named twice", "counts too few"),
    "no room to swap",
}
"""What ``bad_inputs`` must have tried of an allocator that offers everything."""


def grown(name: str, shape: PoolShape, seed: int) -> PageAllocator:
    """An allocator after a random history; sequence 0 is live with two pages, sequence 1 is not there."""
    allocator, rng = make_allocator(name, DEVICE, shape), random.Random(seed)
    for _ in range(12):
        live = np.flatnonzero(allocator.lengths() >= 0).tolist()
        outcome(allocator, random_call(rng, shape, live, set(allocator.capabilities.operations)))
    if "end_step" in allocator.capabilities.operations:
        while refusal_of(allocator.end_step) is None:
            pass
    there = [q for q in range(shape.max_seqs) if allocator.length(q) is not None or allocator.swapped(q)]
    away = [q for q in range(shape.max_seqs) if allocator.swapped(q) is not None]
    allocator.free(sorted({q for q in there if rng.random() < 0.5 or q < 2} | set(away)))
    try:
        start(allocator)
    except OutOfPages:
        allocator.free(np.flatnonzero(allocator.lengths() >= 0).tolist())
        start(allocator)
    return allocator


def refusal_of(call: Callable[[], Any]) -> Exception | None:
    """The typed error that a call ends in, None when there is none; others are not caught."""
    try:
        call()
    except (InvalidCase, OutOfPages) as refused:
        return refused
    return None


def start(allocator: PageAllocator) -> None:
    tokens = allocator.shape.page_size + 1
    allocator.alloc(0, tokens, final_tokens=tokens)


def bad_inputs(a: Any) -> Iterator[Bad]:
    """What, the call, and the error it must end in."""
    shape, can = a.shape, a.capabilities.operations
    length = a.length(0)
    prompt = Prompt(tokens=(1,) * length)

    def given(what: str, error: type[Exception], calls: dict[str, list[Callable[[], Any]]]) -> Iterator[Bad]:
        for operation, spelled in calls.items():
            if operation in can:
                for call in spelled:
                    yield what, call, error

    yield from given(
        "free twice in one call", InvalidCase, {"free": [lambda: a.free([0, 0]), lambda: a.free((0, 1, 0))]}
    )
    yield from given("free of the dead", InvalidCase, {"free": [lambda: a.free([1])]})
    mixed = [lambda: a.free([0, 1]), lambda: a.free([1, 0])]
    yield from given("free of one living and one dead", InvalidCase, {"free": mixed})
    for foreign in (-1, shape.max_seqs, 2**31, *NOT_WHOLE):
        yield from given("foreign index", InvalidCase, on_sequence(a, foreign, prompt))
    for count in (-1, -(2**31)):
        yield from given("negative count", InvalidCase, with_count(a, count))
    for count in NOT_WHOLE:
        yield from given("no whole number", InvalidCase, with_count(a, count))
    too_long = shape.max_tokens + 1
    calls = {"alloc": [lambda: a.alloc(1, too_long)], "append": [lambda: a.append(0, too_long)]}
    yield from given("longer than the row", InvalidCase, calls)
    calls = {"truncate": [lambda: a.truncate(0, length + 1)]}
    calls |= {"free_window": [lambda: a.free_window(0, length + 1)]}
    calls |= {"commit": [lambda: a.commit(0, Prompt(tokens=(1,) * (length + 1)))]}
    yield from given("longer than it is", InvalidCase, calls)
    yield from given("duplicate sequence", InvalidCase, duplicates(a, prompt))
    calls = {"append_batch": [lambda: a.append_batch([0, 0], 1), lambda: a.append_batch([0, 1], 1)]}
    calls["append_batch"] += [lambda: a.append_batch(np.array([0, 0]), 1)]
    yield from given("one named twice", InvalidCase, calls)
    calls = {"append_batch": [lambda: a.append_batch([0], [1, 1]), lambda: a.append_batch([0], [])]}
    yield from given("counts too few", InvalidCase, calls)
    yield from given("reset while live", InvalidCase, {"reset": [a.reset]})
    for page in (-1, shape.num_pages, a.pages(0)[0]):
        calls = {"adopt": [partial(a.adopt, 1, Hit(prompt=prompt, pages=(page,)))]}
        yield from given("page of nobody", InvalidCase, calls)
    if (room := (a.free_pages + a.evictable_pages + 1) * shape.page_size) <= shape.max_tokens:
        more = room + shape.page_size
        calls = {"alloc": [lambda: a.alloc(1, room)]}
        if a.capabilities.refusal != "fragmenting":  # who reserves has room for its own
            calls["append"] = [lambda: a.append(0, more)]
        yield from given("over-allocation", OutOfPages, calls)
    yield from given("no room to swap", OutOfPages, {"swap_out": [lambda: a.swap_out(0)]})


def on_sequence(a: Any, index: Any, prompt: Prompt) -> dict[str, list[Callable[[], Any]]]:
    return {
        "alloc": [lambda: a.alloc(index, 1)],
        "append": [lambda: a.append(index, 1)],
        "append_batch": [lambda: a.append_batch([0, index], 1)],
        "fork": [lambda: a.fork(index, 1), lambda: a.fork(0, index)],
        "truncate": [lambda: a.truncate(index, 0)],
        "free": [lambda: a.free([index]), lambda: a.free([0, index])],
        "free_window": [lambda: a.free_window(index, 0)],
        "commit": [lambda: a.commit(index, prompt)],
        "adopt": [lambda: a.adopt(index, a.lookup(prompt))],
        "swap_out": [lambda: a.swap_out(index)],
        "swap_in": [lambda: a.swap_in(index)],
    }


def with_count(a: Any, count: Any) -> dict[str, list[Callable[[], Any]]]:
    """A count that is no count, in every place; ``final_tokens`` may be None."""
    final = [] if count is None else [lambda: a.alloc(1, 1, final_tokens=count)]
    return {
        "alloc": [lambda: a.alloc(1, count), *final],
        "append": [lambda: a.append(0, count)],
        "append_batch": [lambda: a.append_batch([0], [count]), lambda: a.append_batch([0], count)],
        "truncate": [lambda: a.truncate(0, count)],
        "free_window": [lambda: a.free_window(0, count)],
        "evict": [lambda: a.evict(count)],
    }


def duplicates(a: Any, prompt: Prompt) -> dict[str, list[Callable[[], Any]]]:
    return {
        "alloc": [lambda: a.alloc(0, 0), lambda: a.alloc(0, 1)],
        "fork": [lambda: a.fork(0, 0)],
        "adopt": [lambda: a.adopt(0, a.lookup(prompt))],
        "swap_in": [lambda: a.swap_in(0)],
    }


def shape_for(name: str, page_size: int) -> PoolShape:
    """Two pages in use are more than the swap store has; a row has room for more than the pool."""
    swap = 1 if "swap_out" in load_allocator(name).capabilities.operations else 0
    # these reserve for the longest: one room for 12 pages, the other for the next power of two
    pages = {"contiguous": 13, "buddy-max": 17}.get(name, 9)
    return shape_of(pages, page_size, 5, 12, swap_pages=swap)


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), page_size=st.sampled_from([4, 3, 2, 1]))
def test_allocators_refusals_change_nothing_property(name: str, seed: int, page_size: int) -> None:
    allocator = grown(name, shape_for(name, page_size), seed)
    before = allocator.fingerprint(), state(allocator)
    for what, call, error in bad_inputs(allocator):
        refused = refusal_of(call)
        assert refused is not None, f"{what} was accepted"
        # who reserves may lack a run of pages before anything else is wrong
        assert isinstance(refused, error) or allocator.capabilities.refusal == "fragmenting", (what, refused)
        assert "\n" not in str(refused)
        assert (allocator.fingerprint(), state(allocator)) == before, what
    there = np.flatnonzero(allocator.lengths() >= 0).tolist()
    allocator.free(there)
    assert (allocator.lengths() == -1).all()
    assert allocator.free_pages + allocator.evictable_pages == allocator.shape.num_pages


def test_allocators_refusals_are_all_tried() -> None:
    for name in OURS:
        can = load_allocator(name).capabilities.operations
        tried = {what for what, _, _ in bad_inputs(grown(name, shape_for(name, 4), 0))}
        absent = set()
        absent |= set() if "adopt" in can else {"page of nobody"}
        absent |= set() if "swap_out" in can else {"no room to swap"}
        absent |= set() if "truncate" in can else {"longer than it is"}
        assert tried == KINDS - absent, name


@pytest.mark.parametrize("name", OURS)
def test_allocators_refusals_of_nothing_are_none(name: str) -> None:
    """Zero is a count: nothing is taken, and nothing changes but that a sequence is there."""
    allocator = grown(name, shape_for(name, 4), 1)
    before = allocator.fingerprint()
    assert allocator.append(0, 0).slots.tolist() == []
    assert allocator.append_batch([0], 0).slots.tolist() == []
    assert allocator.append_batch([], []).slots.tolist() == []
    allocator.free([])
    if "truncate" in allocator.capabilities.operations:
        allocator.truncate(0, 5)
    if "evict" in allocator.capabilities.operations:
        assert allocator.evict(0) == ()
    assert allocator.fingerprint() == before
    if allocator.capabilities.refusal != "fragmenting":  # who reserves wants room for what is to come
        assert allocator.alloc(1, 0).slots.tolist() == []
        assert allocator.length(1) == 0


@pytest.mark.parametrize("name", ["model", "host"])
def test_allocators_refusals_of_a_swap_in_without_room(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(4, 2, 4, 4, swap_pages=3))
    allocator.alloc(0, 5)
    allocator.swap_out(0)
    allocator.alloc(1, 4)
    before = allocator.fingerprint(), state(allocator)
    refused: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
        (lambda: allocator.swap_in(0), OutOfPages, "3 pages needed, 2 available"),
        (lambda: allocator.swap_out(0), InvalidCase, "must be live"),
        (lambda: allocator.alloc(0, 1), InvalidCase, "must not be there already"),
        (lambda: allocator.fork(1, 0), InvalidCase, "must not be there already"),
        (lambda: allocator.swap_out(1), OutOfPages, "2 swap pages needed, 0 available"),
        (lambda: allocator.free([0, 0]), InvalidCase, "once"),
    )
    for call, error, words in refused:
        with pytest.raises(error, match=words):
            call()
        assert (allocator.fingerprint(), state(allocator)) == before


@pytest.mark.parametrize("field", ["num_pages", "page_size", "max_seqs", "max_pages_per_seq"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None, "4"])
def test_allocators_refusals_of_pools_that_cannot_be(field: str, value: Any) -> None:
    sizes: dict[str, Any] = {"num_pages": 4, "page_size": 2, "max_seqs": 2, "max_pages_per_seq": 2}
    with pytest.raises(InvalidCase, match=f"^{field} = "):
        PoolShape(**{**sizes, field: value})
