# SPDX-License-Identifier: Apache-2.0
"""What an allocator's kernels must refuse by themselves, and whether they do.

In a graph of launches nobody checks a request before the kernel does.  So a request that breaks a rule of the
kernel is launched as it is (``PageAllocator.launch``): the kernel must name what is wrong and the entry it
concerns, and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pabench.judge.allocators.operations import Operation
from pabench.kernels import alloc_scan, page_pool
from pabench.problem.checks import INT32_MAX
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator, PoolShape

DROPS = {"free": alloc_scan.END, "truncate": alloc_scan.CUT, "free_window": alloc_scan.WINDOW}
GROWTHS = ("alloc", "append", "append_batch")
NOTHING = {"pages": 0, "served": 0, "tokens": 0, "copies": 0}
"""Of the status of a launch that was refused."""
Refusal = tuple[int, int]
"""Code of the status, and the entry that it concerns."""
ProbeEntry = tuple[int, int, int]
"""Sequence, tokens, and what must become of the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalProbe:
    """A launch that must be refused.

    Attributes:
        entry: point of the kernel file.
        columns: of the request.
        expected: what of the answer is known.
    """

    entry: str
    columns: tuple[tuple[int, ...], ...]
    expected: Mapping[str, Any]


def unrefused(subject: PageAllocator, operation: Operation) -> str | None:
    """Give the kernels what of an operation they must refuse; return what they did wrong in words, or None.

    None too where the operation breaks no rule of a kernel, or cannot be given to one.
    """
    probe = refusal_probe(subject, operation) if subject.kernel_entries else None
    if probe is None:
        return None
    before = subject.fingerprint()
    said = subject.launch(probe.entry, probe.columns)
    for field, value in probe.expected.items():
        if said.get(field) != value:
            return f"invariant 8: {probe.entry}: {field} = {said.get(field)}, must be {value}"
    if subject.fingerprint() != before:
        return f"invariant 8: {probe.entry}: refused the request, and changed the state"
    return None


def refusal_probe(subject: PageAllocator, operation: Operation) -> RefusalProbe | None:
    """Return the launch that an operation asks for and is refused, or None."""
    (name, given), can = operation, subject.kernel_entries
    growth = columns_of(*_growth(given)) if name in GROWTHS else None
    named = columns_of(given.get("sequences", [given.get("sequence")])) if name in DROPS else None
    if growth and alloc_scan.EXTEND in can:
        refusal = refused_growth(growth[0], growth[1], subject.lengths(), subject.shape)
        return _whole(subject, alloc_scan.EXTEND, growth, refusal)
    if growth and page_pool.EXTEND in can:
        return _entries(
            subject, page_pool.EXTEND, growth_probe(growth[0], growth[1], subject.lengths(), subject.shape)
        )
    if named and alloc_scan.DROP in can:
        refusal = refused_drop(named[0], subject.lengths(), subject.shape)
        return _whole(subject, alloc_scan.DROP, [*named, [0] * len(named[0])], refusal, (DROPS[name],))
    if named and name == "free" and page_pool.FREE in can:
        return _entries(subject, page_pool.FREE, release_probe(named[0], subject.lengths(), subject.shape))
    if name == "fork" and alloc_scan.FORK in can:
        pair = columns_of([given["parent"]], [given["child"]])
        if pair:
            refusal = refused_fork(pair[0][0], pair[1][0], subject.lengths(), subject.shape)
            return _whole(subject, alloc_scan.FORK, pair, refusal)
    return None


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


def growth_probe(
    sequences: Sequence[int], tokens: Sequence[int], lengths: Array, shape: PoolShape
) -> list[ProbeEntry]:
    """Return the entries that ``page_pool_extend`` must refuse; a sequence not live it would start."""
    codes = {"value": page_pool.WRONG, "row": page_pool.OUTGROWS}
    return [
        (sequence, count, codes[rule])
        for sequence, count in zip(sequences, tokens, strict=True)
        if (rule := growth_breaks(sequence, count, lengths, shape))
    ]


def release_probe(sequences: Sequence[int], lengths: Array, shape: PoolShape) -> list[ProbeEntry]:
    """Return the entries that ``page_pool_free`` must refuse."""
    probe = [(one, 0, page_pool.WRONG) for one in sequences if one >= shape.max_seqs]
    dead = [one for one in sequences if 0 <= one < shape.max_seqs and lengths[one] < 0]
    return probe + [(one, 0, page_pool.NOT_LIVE) for one in dead]


def growth_breaks(
    sequence: int, count: int, lengths: Array, shape: PoolShape
) -> Literal["value", "row"] | None:
    """Return which rule an entry of a growth breaks: that of values, that of the row's length, or None.

    A sequence that is not live a kernel would start; one below 0 is no request.

    Args:
        sequence: its index.
        count: tokens to add.
        lengths: int64 ``(max_seqs,)``, -1 where a sequence is not live.
        shape: of the pool.
    """
    if sequence < 0:
        return None
    if sequence >= shape.max_seqs or count < 0:
        return "value"
    length = max(0, int(lengths[sequence])) + count
    outgrows = length > INT32_MAX or pages_needed(length, shape.page_size) > shape.max_pages_per_seq
    return "row" if outgrows else None


def columns_of(*given: Any) -> list[list[int]] | None:
    """Return columns of a request as a device can be given them, or None: int32, as long as one another."""
    columns: list[list[int]] = []
    for column in given:
        found = column.tolist() if isinstance(column, np.ndarray) else column
        found = list(found) if isinstance(found, Sequence) else [found] * len(columns[0]) if columns else None
        if found is None or not all(isinstance(one, int) and abs(one) <= INT32_MAX for one in found):
            return None
        columns.append([int(one) for one in found])
    return columns if len({len(column) for column in columns}) == 1 else None


def _growth(given: Mapping[str, Any]) -> tuple[Any, Any]:
    return given.get("sequences", [given.get("sequence")]), given["tokens"]


def _whole(
    subject: PageAllocator,
    entry: str,
    asked: list[list[int]],
    refusal: Refusal | None,
    *more: tuple[int, ...],
) -> RefusalProbe | None:
    """A request that is refused whole, with the first wrong entry in the status."""
    # the entries come last, so that the first of the request is not the one concerned
    room = subject.shape.max_seqs - len(asked[0])
    named = [one for one in asked[0] if one >= 0]
    if refusal is None or room < 0 or len(set(named)) < len(named):
        return None
    expected = {"code": refusal[0], "concerned": refusal[1] + room, "free": subject.free_pages, **NOTHING}
    if entry != alloc_scan.EXTEND:
        expected["needed"] = 0
    return RefusalProbe(
        entry=entry, columns=(*((-1,) * room + tuple(column) for column in asked), *more), expected=expected
    )


def _entries(subject: PageAllocator, entry: str, probe: Sequence[ProbeEntry]) -> RefusalProbe | None:
    """A request of wrong entries alone: a pool serves the other ones."""
    if not probe or len(probe) > subject.shape.max_seqs:
        return None
    # the entries come last: threads of other places are asked too
    room = subject.shape.max_seqs - len(probe)
    sequences, counts, codes = zip(*probe, strict=True)
    columns: tuple[tuple[int, ...], ...] = ((-1,) * room + sequences, (0,) * room + counts)
    if entry == page_pool.FREE:
        columns = columns[:1]
    return RefusalProbe(entry=entry, columns=columns, expected={"results": [-1] * room + list(codes)})
