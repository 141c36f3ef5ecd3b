# SPDX-License-Identifier: Apache-2.0
"""Which sequences of a batch begin with the same pages, and how many of these to read for all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pabench.problem.batch import Batch
from pabench.problem.dtypes import Array
from pabench.problem.layout import PageLayout
from pabench.problem.tensors import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroup:
    """Sequences, in order, whose first ``pages`` pages are the same."""

    sequences: tuple[int, ...]
    pages: int

    @property
    def saved(self) -> int:
        """Page reads that are saved by reading the prefix once for all."""
        return (len(self.sequences) - 1) * self.pages


def prefix_groups(layout: PageLayout, batch: Batch, *, causal: bool) -> tuple[PrefixGroup, ...]:
    """Return groups of at least two sequences, no sequence twice, that save the most page reads together.

    What every query row of a sequence sees whole can be shared: with a causal mask not the keys of the new
    tokens but the first.  A sequence without query rows is in no group.  Nor is there a group that saves no
    more than its sequences would in the group above it, since what is grouped has to be merged.  Reads each
    table entry that is in use at most once.
    """
    limits = []
    for q_len, kv_len in zip(batch.query_lens, batch.kv_lens, strict=True):
        whole = min(kv_len, kv_len - q_len + 1) if causal else kv_len
        limits.append(max(0, whole) // layout.page_size if q_len else 0)
    rows = [layout.block_table[i, :limit] for i, limit in enumerate(limits)]
    forks = _forks(rows, [i for i, limit in enumerate(limits) if limit])
    return tuple(sorted(_best(forks), key=lambda group: group.sequences))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fork:
    """A place where sequences that began alike part, or some of them end.

    Attributes:
        above: index of the fork above, None for the first.
        depths: pages that all sequences share here, last, and at every fork above, after a 0.
        leaving: sequences that no fork below holds: each goes on alone or ends.
    """

    above: int | None
    depths: Array
    leaving: tuple[int, ...]


def _forks(rows: Sequence[Array], members: Sequence[int]) -> list[_Fork]:
    """The tree of shared beginnings, every fork behind the one above it."""
    forks: list[_Fork] = []
    waiting: list[tuple[int | None, Sequence[int]]] = [(None, members)] if len(members) > 1 else []
    while waiting:
        above, members = waiting.pop()
        depths = np.zeros(1, np.int64) if above is None else forks[above].depths
        depth = int(depths[-1])
        # on to where they part or one of them ends
        least = min(len(rows[i]) for i in members)
        alike = np.stack([rows[i][depth:least] for i in members])
        parts = np.flatnonzero((alike != alike[0]).any(0))
        depth = depth + int(parts[0]) if parts.size else least
        below: dict[int, list[int]] = {}
        for i in members:
            if len(rows[i]) > depth:
                below.setdefault(int(rows[i][depth]), []).append(i)
        together = [some for some in below.values() if len(some) > 1]
        waiting += [(len(forks), some) for some in together]
        leaving = tuple(sorted(set(members).difference(*together)))
        forks.append(_Fork(above=above, depths=np.append(depths, depth), leaving=leaving))
    return forks


def _best(forks: Sequence[_Fork]) -> list[PrefixGroup]:
    """The groups that save the most.

    A group at a fork costs one read of its pages and spares every sequence in it that read, so a sequence
    does best in the deepest group on its way.  Whether a fork should be a group therefore follows from the
    deepest group above it alone: answered for each that this could be, from the leaves up, then read off
    from the top.
    """
    saved = [len(fork.leaving) * fork.depths for fork in forks]
    pays: list[Array] = []
    for index in reversed(range(len(forks))):
        fork = forks[index]
        with_group = saved[index][-1] - fork.depths[-1]
        pays.append(with_group > saved[index][:-1])
        if fork.above is not None:
            saved[fork.above] += np.maximum(saved[index][:-1], with_group)
    pays.reverse()
    deepest: list[int | None] = []  # the fork of the deepest group on the way to each, itself included
    groups: dict[int, list[int]] = {}
    for index, fork in enumerate(forks):
        group = None if fork.above is None else deepest[fork.above]
        if pays[index][0 if group is None else len(forks[group].depths) - 1]:
            group = index
        deepest.append(group)
        if group is not None:
            groups.setdefault(group, []).extend(fork.leaving)
    return [
        PrefixGroup(sequences=tuple(sorted(sequences)), pages=int(forks[group].depths[-1]))
        for group, sequences in groups.items()
    ]


def private_copies(tensors: Tensors) -> Tensors:
    """Return the same batch with pages of its own for every sequence, shared ones copied whole."""
    case, layout = tensors.case, tensors.layout
    pages = [layout.pages(i, n) for i, n in enumerate(case.batch.kv_lens)]
    old = np.concatenate([*pages, np.empty(0, np.int32)]).astype(np.int64)
    table = np.full(layout.block_table.shape, -1, np.int32)
    start = 0
    for sequence, own in enumerate(pages):
        table[sequence, : own.size] = np.arange(start, start + own.size)
        start += own.size
    return replace(
        tensors,
        pool=tensors.pool.with_pages(old),
        layout=PageLayout(page_size=layout.page_size, num_pages=int(old.size), block_table=table),
    )
