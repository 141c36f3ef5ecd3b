"""What the kernels of the scan allocator must refuse: the code and the entry, from a request and the lengths.

In a graph of launches nobody checks a request before the kernel does.  So what the host refuses is given to
the kernel as well, where the kernel has a rule for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pabench.errors import DeviceFault
from pabench.kernels import alloc_scan
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.columns import columns_of, growth_breaks

NOTHING = {"pages": 0, "needed": 0, "served": 0, "tokens": 0, "copies": 0}
"""Of the status of a release that was refused."""
Refusal = tuple[int, int]
"""Code of the status, and the entry that it concerns."""


class VainRequests:
    """Launches what must be refused, and holds status and state to it.

    Every method does nothing where the request breaks no rule of the kernel, or is none that it can be given.
    They raise ``DeviceFault`` when the kernel answers something else, or changes the state.

    Args:
        state: of the allocator.
        shape: likewise.
        columns: makes device arrays of a request.
        hold: raises ``DeviceFault`` unless a status is as expected: the entry point, the status, its fields.
        fingerprint: of the whole state.
    """

    def __init__(
        self,
        state: alloc_scan.ScanState,
        shape: PoolShape,
        *,
        columns: Callable[..., list[Any]],
        hold: Callable[..., None],
        fingerprint: Callable[[], bytes],
    ) -> None:
        self._state, self._shape = state, shape
        self._columns, self._hold, self._fingerprint = columns, hold, fingerprint

    def grow(self, sequences: Any, tokens: Any, lengths: Array) -> None:
        """Ask for a growth."""
        asked = columns_of(sequences, tokens)
        expected = asked and refused_growth(asked[0], asked[1], lengths, self._shape)
        if not asked or not expected:
            return
        slots = self._state.device.empty((1,), np.dtype(np.int64))
        rest = {name: value for name, value in NOTHING.items() if name != "needed"}
        self._see(
            alloc_scan.EXTEND,
            asked,
            expected,
            rest,
            partial(alloc_scan.extend, self._state, slot_mapping=slots),
        )

    def drop(self, sequences: Any, what: int, lengths: Array) -> None:
        """Ask that sequences let go of pages, with values of 0."""
        asked = columns_of(sequences, 0)
        expected = asked and refused_drop(asked[0], lengths, self._shape)
        if asked and expected:
            launch = partial(alloc_scan.drop, self._state, what=what)
            self._see(alloc_scan.DROP, asked, expected, NOTHING, launch)

    def fork(self, parent: Any, child: Any, lengths: Array) -> None:
        """Ask for a fork."""
        asked = columns_of([parent], [child])
        expected = asked and refused_fork(asked[0][0], asked[1][0], lengths, self._shape)
        if asked and expected:
            self._see(alloc_scan.FORK, asked, expected, NOTHING, partial(alloc_scan.fork, self._state))

    def _see(
        self,
        entry: str,
        asked: list[list[int]],
        expected: Refusal,
        rest: Mapping[str, int],
        launch: Callable[..., None],
    ) -> None:
        # the entries come last, so that the first of the request is not the one concerned
        room = self._shape.max_seqs - len(asked[0])
        named = [one for one in asked[0] if one >= 0]
        if room < 0 or len(set(named)) < len(named):
            return
        before = self._fingerprint()
        launch(*self._columns(*([-1] * room + column for column in asked)))
        done = alloc_scan.read_status(self._state)
        code, at = expected[0], expected[1] + room
        if (done.code, done.concerned) != (code, at):
            told = f"status {done.code} for entry {done.concerned}, must be {code} for entry {at}"
            raise DeviceFault(f"{entry}: {told}")
        self._hold(entry, done, **rest)
        if self._fingerprint() != before:
            raise DeviceFault(f"{entry}: refused the request, status {code}, and changed the state")


def refused_growth(
    sequences: Sequence[int], tokens: Sequence[int], lengths: Array, shape: PoolShape
) -> Refusal | None:
    """Return what ``page_alloc_extend`` must answer; a sequence that is not live it would start."""
    codes = {"value": alloc_scan.BAD_VALUE, "row": alloc_scan.ROW_TOO_SHORT}
    for entry, (sequence, count) in enumerate(zip(sequences, tokens, strict=True)):
        if rule := growth_breaks(sequence, count, lengths, shape):
            return codes[rule], entry
    return None


def refused_drop(sequences: Sequence[int], lengths: Array, shape: PoolShape) -> Refusal | None:
    """Return what ``page_alloc_drop`` must answer to the sequences alone, whatever the values."""
    for entry, sequence in enumerate(sequences):
        if sequence >= shape.max_seqs:
            return alloc_scan.BAD_VALUE, entry
        if sequence >= 0 and lengths[sequence] < 0:
            return alloc_scan.NOT_LIVE, entry
    return None


def refused_fork(parent: int, child: int, lengths: Array, shape: PoolShape) -> Refusal | None:
    """Return what ``page_alloc_fork`` must answer to one entry, the first."""
    if parent < 0:
        return None
    if parent >= shape.max_seqs or not 0 <= child < shape.max_seqs:
        return alloc_scan.BAD_VALUE, 0
    if lengths[parent] < 0:
        return alloc_scan.NOT_LIVE, 0
    return (alloc_scan.STILL_LIVE, 0) if lengths[child] >= 0 else None
