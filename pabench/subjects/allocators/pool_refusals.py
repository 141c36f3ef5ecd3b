"""What the kernels of the pools must refuse entry by entry, from a request and the lengths.

As for ``scan_refusals``: in a graph of launches nobody checks a request before the kernel does, so what the
host refuses is given to the kernel as well.  A pool serves the other entries of a request; so only those that
break a rule are asked for, and nothing at all may change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pabench.errors import DeviceFault
from pabench.kernels import page_pool
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.columns import columns_of, growth_breaks

VainEntry = tuple[int, int, int]
"""Sequence, tokens, and what must become of the entry."""


def vain_growth(sequences: Any, tokens: Any, lengths: Array, shape: PoolShape) -> list[VainEntry]:
    """Return the entries that ``page_pool_extend`` must refuse; a sequence that is not live it would start.

    Args:
        sequences: as the caller gave them; columns that do not fit a request count as none.
        tokens: to add, likewise.
        lengths: int64 ``(max_seqs,)``, -1 where a sequence is not live.
        shape: of the pool.
    """
    codes = {"value": page_pool.WRONG, "row": page_pool.OUTGROWS}
    vain: list[VainEntry] = []
    for sequence, count in zip(*(columns_of(sequences, tokens) or ([], [])), strict=True):
        if rule := growth_breaks(sequence, count, lengths, shape):
            vain.append((sequence, count, codes[rule]))
    return vain


def vain_release(sequences: Any, lengths: Array, shape: PoolShape) -> list[VainEntry]:
    """Return the entries that ``page_pool_free`` must refuse; arguments as for ``vain_growth``."""
    asked = columns_of(sequences) or [[]]
    vain = [(one, 0, page_pool.WRONG) for one in asked[0] if one >= shape.max_seqs]
    dead = [one for one in asked[0] if 0 <= one < shape.max_seqs and lengths[one] < 0]
    return vain + [(one, 0, page_pool.NOT_LIVE) for one in dead]


def hold_refusals(
    entry: str,
    vain: Sequence[VainEntry],
    launch: Callable[[list[int], list[int]], Array],
    fingerprint: Callable[[], bytes],
    shape: PoolShape,
) -> None:
    """Launch what must be refused, and hold results and state to it; nothing, where there is no such entry.

    Args:
        entry: point of the kernel file, for messages.
        vain: from ``vain_growth`` or ``vain_release``.
        launch: takes sequences and tokens, as long as the pool has sequences; returns the results.
        fingerprint: of the whole state.
        shape: of the pool.

    Raises:
        DeviceFault: another result, or a changed state.
    """
    if not vain or len(vain) > shape.max_seqs:
        return
    room = shape.max_seqs - len(vain)  # the entries come last: threads of other places are asked too
    expected = [-1] * room + [code for _, _, code in vain]
    before = fingerprint()
    results = launch([-1] * room + [one for one, _, _ in vain], [0] * room + [count for _, count, _ in vain])
    if results.tolist() != expected:
        raise DeviceFault(f"{entry}: results {results.tolist()}, must be {expected}")
    if fingerprint() != before:
        raise DeviceFault(f"{entry}: refused every entry, and changed the state")
