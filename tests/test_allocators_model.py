"""The scan allocator against the model: same histories, same slots and pages, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.allocators.base import PageAllocator, PoolShape
from pabench.allocators.model import ModelAllocator
from pabench.allocators.registry import make_allocator
from pabench.allocators.scan import ScanAllocator
from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase, OutOfPages, UnknownName
from pabench.kernels import alloc_scan
from tests.probe import DEVICE


def shape_of(num_pages: int, page_size: int, max_seqs: int, width: int) -> PoolShape:
    return PoolShape(num_pages=num_pages, page_size=page_size, max_seqs=max_seqs, max_pages_per_seq=width)


def outcome(operation: Callable[[], Any]) -> Any:
    try:
        result = operation()
    except (InvalidCase, OutOfPages) as error:
        return type(error).__name__, str(error)
    return None if result is None else (result.dtype.name, result.tolist())


def state(allocator: PageAllocator) -> tuple[Any, ...]:
    live = {}
    for sequence in range(allocator.shape.max_seqs):
        length = allocator.length(sequence)
        if length is not None:
            live[sequence] = (length, allocator.pages(sequence))
    return live, allocator.free_pages


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_allocators_model_and_scan_agree_step_by_step_property(data: st.DataObject) -> None:
    sizes = st.tuples(st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 5, 33]), st.integers(1, 9))
    shape = shape_of(*data.draw(sizes))
    DEVICE.reschedule(data.draw(st.integers(0, 100)))
    model, scan = ModelAllocator(shape), ScanAllocator(DEVICE, shape)
    sequence = st.integers(-1, shape.max_seqs)
    requests = st.dictionaries(sequence, st.integers(-1, 3 * shape.page_size), max_size=5)
    ends = st.lists(sequence, max_size=3)
    for operation in data.draw(st.lists(st.one_of(requests, ends), max_size=12)):
        name = "extend" if isinstance(operation, dict) else "free"
        answers = [outcome(partial(getattr(subject, name), operation)) for subject in (model, scan)]
        assert answers[0] == answers[1], (name, operation)
        assert state(model) == state(scan)


@pytest.mark.parametrize("name", ["model", "scan"])
def test_allocators_model_wraps_the_ring_many_times(name: str) -> None:
    shape = shape_of(5, 4, 3, 5)
    allocator = make_allocator(name, DEVICE, shape)
    fifo = list(range(5))  # pages come back at the end of the queue
    for cycle in range(40):
        tokens = 1 + cycle % 12
        need = -(-tokens // 4)
        taken, fifo = fifo[:need], fifo[need:]
        slots = allocator.extend({cycle % 3: tokens})
        assert slots.tolist() == [taken[t // 4] * 4 + t % 4 for t in range(tokens)]
        allocator.free([cycle % 3])
        fifo += taken
    assert allocator.free_pages == 5


def test_allocators_model_serves_more_sequences_than_a_block_has_threads() -> None:
    shape = shape_of(2500, 2, 2500, 3)
    model, scan = ModelAllocator(shape), ScanAllocator(DEVICE, shape)
    rng = np.random.default_rng(4)
    chosen = rng.choice(2500, 1500, replace=False).tolist()
    request = {int(s): int(n) for s, n in zip(chosen, rng.integers(0, 5, 1500), strict=True)}
    np.testing.assert_array_equal(scan.extend(request), model.extend(request))
    gone = chosen[::3]
    scan.free(gone)
    model.free(gone)
    more = dict.fromkeys(chosen[1::3], 1)
    np.testing.assert_array_equal(scan.extend(more), model.extend(more))
    assert state(scan) == state(model)
    with pytest.raises(OutOfPages):
        scan.extend(dict.fromkeys(gone, 6))
    assert state(scan) == state(model)


@pytest.mark.parametrize("name", ["model", "scan"])
def test_allocators_model_refuses_all_or_nothing(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(4, 2, 4, 3))
    allocator.extend({0: 3, 2: 1})
    before = state(allocator)
    refusals: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: allocator.extend({1: 2, 3: 1}), OutOfPages, "2 pages needed, 1 free"),
        (lambda: allocator.extend({0: 3, 1: 4}), OutOfPages, "3 pages needed, 1 free"),
        (lambda: allocator.extend({0: 3, 1: 6}), OutOfPages, "9 tokens requested, the pool has 8 slots"),
        (lambda: allocator.extend({0: 4}), InvalidCase, "length of sequence 0 = 7: must be at most 6 tokens"),
        (lambda: allocator.extend({1: -1}), InvalidCase, "tokens of sequence 1 = -1: must be at least 0"),
        (lambda: allocator.extend({1: 1.5}), InvalidCase, "tokens of sequence 1 = 1.5: must be a whole"),  # type: ignore[dict-item]
        (lambda: allocator.extend({1: True}), InvalidCase, "tokens of sequence 1 = True: must be a whole"),
        (lambda: allocator.extend({4: 1}), InvalidCase, "sequence = 4: must be at most 3"),
        (lambda: allocator.extend({1: 1, -1: 1}), InvalidCase, "sequence = -1: must be at least 0"),
        (lambda: allocator.free([0, 0]), InvalidCase, "sequence = 0: must be freed once"),
        (lambda: allocator.free([0, 1]), InvalidCase, "sequence = 1: must be live to be freed"),
        (lambda: allocator.free([2, 9]), InvalidCase, "sequence = 9: must be at most 3"),
    ]
    for operation, error, text in refusals:
        with pytest.raises(error) as caught:
            operation()
        assert str(caught.value).startswith(text)
        assert state(allocator) == before
    allocator.free([0])
    with pytest.raises(InvalidCase, match="sequence = 0: must be live to be freed"):
        allocator.free([0])
    assert allocator.extend({1: 6}).tolist() == [6, 7, 0, 1, 2, 3]


@pytest.mark.parametrize("name", ["model", "scan"])
def test_allocators_model_starts_sequences_of_no_tokens(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(1, 3, 2, 1))
    slots = allocator.extend({1: 0})
    assert (slots.dtype.name, slots.shape) == ("int64", (0,))
    assert (allocator.length(0), allocator.length(1), allocator.pages(1)) == (None, 0, ())
    assert allocator.extend({}).shape == (0,)
    allocator.free([])
    assert allocator.extend({0: 3}).tolist() == [0, 1, 2]
    with pytest.raises(OutOfPages):
        allocator.extend({1: 1})
    allocator.free([1, 0])
    assert allocator.free_pages == 1


def test_allocators_model_refuses_floods_before_making_room() -> None:
    allocator = ScanAllocator(DEVICE, shape_of(2, 10**6, 2, 1000))
    with pytest.raises(OutOfPages, match="1000000000 tokens requested, the pool has 2000000 slots"):
        allocator.extend({0: 10**9})


@pytest.mark.parametrize("name", ["model", "scan"])
def test_allocators_model_takes_numpy_integers(name: str) -> None:
    allocator = make_allocator(name, DEVICE, shape_of(300, 1, 2, 300))
    for _ in range(2):
        slots = allocator.extend({np.int8(1): np.int8(100)})  # type: ignore[dict-item]
    assert allocator.length(1) == 200
    assert slots.tolist() == list(range(100, 200))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_pages", 0),
        ("num_pages", 2**30 + 1),
        ("page_size", 0),
        ("max_seqs", -1),
        ("max_pages_per_seq", 1.5),
    ],
)
def test_allocators_model_shape_is_checked(field: str, value: Any) -> None:
    sizes: Mapping[str, Any] = {"num_pages": 4, "page_size": 4, "max_seqs": 4, "max_pages_per_seq": 4}
    with pytest.raises(InvalidCase, match=f"^{field} = "):
        PoolShape(**{**sizes, field: value})


def test_allocators_model_unknown_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'scan'"):
        make_allocator("scam", DEVICE, shape_of(1, 1, 1, 1))


@pytest.mark.parametrize(("max_seqs", "threads"), [(1, 32), (32, 32), (33, 64), (1000, 1024), (5000, 1024)])
def test_allocators_model_scan_block_size(max_seqs: int, threads: int) -> None:
    state = alloc_scan.new_state(
        EmulatedDevice(), num_pages=3, page_size=1, max_seqs=max_seqs, max_pages_per_seq=1
    )
    assert state.threads == threads
    assert len(state.ring) == 4


def test_allocators_model_kernel_names_the_first_sequence_concerned() -> None:
    """The device's own checks, behind the host's: too long, not live; nothing but the status is written."""
    scan = alloc_scan.new_state(DEVICE, num_pages=2000, page_size=2, max_seqs=1500, max_pages_per_seq=2)
    request = np.full(1500, -1, np.int32)
    request[[3, 1100, 1300]] = [2, 5, 9]
    slots = DEVICE.empty((16,), np.dtype(np.int64))
    assert alloc_scan.extend(scan, request, slots)[0] == alloc_scan.ROW_TOO_SHORT
    assert scan.status.tolist() == [2, 9, 2000, 1100]
    assert (scan.lengths == -1).all()
    assert scan.cursor.tolist() == [0, 2000]
    assert slots.tobytes() == b"\xff" * slots.nbytes
    leave = np.zeros(1500, np.int32)
    leave[[1030, 1031]] = 1
    assert alloc_scan.free(scan, leave) == (alloc_scan.NOT_LIVE, 0, 2000)
    assert scan.status[3] == 1030
    request[:] = -1
    request[7] = 3
    assert alloc_scan.extend(scan, request, slots) == (alloc_scan.OK, 2, 1998)
    assert scan.status[3] == -1
