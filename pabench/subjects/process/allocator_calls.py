# SPDX-License-Identifier: Apache-2.0
"""Calls of an allocator: each returns its result and what of the state has changed, both in one trip."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.kernels.pool_launches import PoolLaunches
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import OPERATIONS
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.allocators.kept import KeptResults
from pabench.subjects.allocators.pool import PoolAllocator
from pabench.subjects.allocators.results import MemorySplit
from pabench.subjects.allocators.rounds import Call, run_rounds
from pabench.subjects.process.answers import Plain
from pabench.subjects.process.facts import declared
from pabench.subjects.process.raised import told

STATE: dict[str, Callable[[PageAllocator], Any]] = {
    "lengths": lambda made: made.lengths(),
    "block_table": lambda made: made.block_table(),
    "free_pages": lambda made: made.free_pages,
    "evictable_pages": lambda made: made.evictable_pages,
    "returning_pages": lambda made: made.returning_pages,
    "free_swap_pages": lambda made: made.free_swap_pages,
    "pinned_pages": lambda made: made.pinned_pages,
    "free_host_pages": lambda made: made.free_host_pages,
    "cached_host_pages": lambda made: made.cached_host_pages,
    "refcounts": lambda made: made.refcounts(),
    "swapped": lambda made: [made.swapped(sequence) for sequence in range(made.shape.max_seqs)],
    # only ever compared with another one
    "fingerprint": lambda made: hashlib.sha256(made.fingerprint()).hexdigest(),
    # one that follows from the rest is made of it over there
    "memory_split": lambda made: made.memory_split() if made.own_split else None,
}
"""What can be read of an allocator at any time."""
PLAIN_TYPES = {int, str, bool, type(None)}


class AllocatorCalls:
    """Answers for one kind of allocator; made ones are numbers that the judge gives out."""

    def __init__(self, entry: AllocatorEntry, device: Device) -> None:
        self._entry = entry
        self._device = device
        self._made: dict[int, PageAllocator] = {}
        self._kept: dict[int, KeptResults] = {}
        self._marks: dict[int, dict[str, Any]] = {}
        self._pools: dict[int, PoolLaunches] = {}

    @property
    def calls(self) -> dict[str, Callable[..., Any]]:
        """The calls by name."""
        made = (self.make, self.operate, self.handed_out, self.rounds, self.launch, self.drop)
        pools = (self.make_pool, self.pool_launch, self.pool_churn)
        return {call.__name__: call for call in (*made, *pools)}

    def make(self, number: int, shape: PoolShape) -> Any:
        """Make an empty allocator; return what it is, and its state."""
        made = self._made[number] = self._entry.make(self._device, shape)
        self._kept[number] = KeptResults()
        self._marks[number] = {}
        about = Plain(
            name=str(made.name),
            capabilities=declared(made.capabilities),
            pool=isinstance(made, PoolAllocator),
            kernel_entries=sorted(made.kernel_entries),
            own_split=bool(made.own_split),
        )
        return [about, self._state(number)[0]]

    def operate(self, number: int, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Do an operation; return what it returned or raised, and the state after it."""
        if name not in OPERATIONS:
            raise ValueError(f"no operation {name!r}")
        made = self._made[number]
        result = _tried(lambda: getattr(made, name)(*given, **named))
        state, table = self._state(number)
        self._kept[number].keep(result[0] if isinstance(result, list) else None, table)
        return [result, state]

    def handed_out(self, number: int) -> Plain:
        """Return what all that was handed out says now, see ``KeptResults.again``."""
        return Plain(digests=self._kept[number].again())

    def rounds(self, number: int, calls: list[Call], times: int, watched: bool) -> Any:
        """See ``run_rounds``; return its results and the state after it."""
        made = self._made[number]
        done = _tried(lambda: list(run_rounds(made, calls, times, watched=watched)))
        return [done, self._state(number)[0]]

    def launch(self, number: int, entry: str, columns: tuple[tuple[int, ...], ...]) -> Any:
        """Launch a kernel on a request that nobody has checked; return its answer and what has changed."""
        made = self._made[number]
        said = _tried(lambda: Plain(made.launch(entry, columns)))
        return [said, self._state(number)[0]]

    def drop(self, number: int) -> None:
        """Forget an allocator."""
        self._made.pop(number, None)
        self._kept.pop(number, None)
        self._marks.pop(number, None)

    def make_pool(self, number: int, of: int) -> int:
        """Make an empty pool of the kind that an allocator runs on; return its pages."""
        made = self._made[of]
        if not isinstance(made, PoolAllocator):
            raise TypeError(f"{made.name} runs on no pool")
        pool = self._pools[number] = made.launches()
        return pool.num_pages

    def pool_launch(self, number: int, counts: list[int], gone: list[int], kept: list[int]) -> Any:
        """See ``PoolLaunches.launch``."""
        return list(self._pools[number].launch(counts, gone, kept))

    def pool_churn(self, number: int, held: list[int], threads: int, rounds: int, most: int) -> Any:
        """See ``PoolLaunches.churn``."""
        return list(self._pools[number].churn(held, threads=threads, rounds=rounds, most=most))

    def _state(self, number: int) -> tuple[list[Any], Any]:
        """Names of what is not as it was told last, and values in this order; and the table as it is."""
        made, marks = self._made[number], self._marks[number]
        names, values, table = list[str](), list[Any](), None
        for name, read in STATE.items():
            try:
                value, told_as = read(made), None
            except Exception as error:
                value, told_as = None, Plain(raised=told(error))
            if name == "block_table":
                table = value
            mark = None if told_as else _mark(value)
            if mark is None or mark != marks.get(name):
                names.append(name)
                values.append(told_as or [value])
            marks[name] = mark
        return [Plain(names=names), *values], table


def _mark(value: Any) -> Any:
    """What is equal only for values that are told alike; None for a value that says nothing of the kind."""
    kind = type(value)
    if kind in PLAIN_TYPES:
        return kind, value
    if kind is np.ndarray:
        return value.dtype, value.shape, value.tobytes()
    if kind is MemorySplit:
        value = [value.tokens, value.reserved, value.internal, value.external]
    if type(value) is list and {type(one) for one in value} <= PLAIN_TYPES:
        return kind, repr(value)
    return None


def _tried(read: Callable[[], Any]) -> Any:
    """What ``read`` gives in a list of one, or what it raises."""
    try:
        return [read()]
    except Exception as error:
        return Plain({"raised": told(error)})
