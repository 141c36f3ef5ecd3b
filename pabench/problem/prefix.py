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

    Shared beginnings form a tree, and each of its nodes can be one group or leave its sequences to the nodes
    below; the choice of the most pages is made from the leaves up.  What every query row of a sequence sees
    whole can be shared: with a causal mask not the keys of the new tokens but the first.  A sequence without
    query rows is in no group.  Reads each table entry that is in use at most once.
    """
    limits = []
    for q_len, kv_len in zip(batch.query_lens, batch.kv_lens, strict=True):
        whole = min(kv_len, kv_len - q_len + 1) if causal else kv_len
        limits.append(max(0, whole) // layout.page_size if q_len else 0)
    rows = [layout.block_table[i, :limit] for i, limit in enumerate(limits)]
    found = _best(rows, [i for i, limit in enumerate(limits) if limit], 0)
    return tuple(sorted(found, key=lambda group: group.sequences))


def _best(rows: Sequence[Array], members: Sequence[int], depth: int) -> list[PrefixGroup]:
    """The best groups among ``members``, whose first ``depth`` pages are the same."""
    if len(members) < 2:
        return []
    # on to where they part or one of them ends
    least = min(len(rows[i]) for i in members)
    alike = np.stack([rows[i][depth:least] for i in members])
    parts = np.flatnonzero((alike != alike[0]).any(0))
    depth = depth + int(parts[0]) if parts.size else least
    below: dict[int, list[int]] = {}
    for i in members:
        if len(rows[i]) > depth:
            below.setdefault(int(rows[i][depth]), []).append(i)
    smaller = [group for child in below.values() for group in _best(rows, child, depth)]
    here = PrefixGroup(sequences=tuple(members), pages=depth)
    return [here] if here.saved > sum(group.saved for group in smaller) else smaller


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
    axis = 0 if tensors.pool.interleaved else 1
    return replace(
        tensors,
        pool=tensors.pool.with_storage(np.take(tensors.pool.storage, old, axis)),
        layout=PageLayout(page_size=layout.page_size, num_pages=int(old.size), block_table=table),
    )
