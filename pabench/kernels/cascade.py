# SPDX-License-Identifier: Apache-2.0
"""Launch plan of decode over shared prefixes: prefixes once a group, the rest by sequence, both merged.

The prefix of a group is attended to as one sequence of many query rows without a mask, so that its keys are
read once for up to 16 packed rows; then comes what is each sequence's own.  Groups are found on the host from
block table and lengths, so a plan holds for these tables only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch, Module
from pabench.kernels.decode import plan_decode
from pabench.kernels.gather import plan_gather
from pabench.kernels.merge_states import plan_merge
from pabench.problem.batch import Batch
from pabench.problem.dtypes import Array
from pabench.problem.layout import PageLayout
from pabench.problem.pool import KvPool
from pabench.problem.prefix import PrefixGroup, prefix_groups
from pabench.problem.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CascadePlan:
    """Launches in order; ``out`` and ``lse`` are written by the last.

    Attributes:
        groups: sequences whose prefix is read once.
        kept: arrays of which a launch has only the address.
    """

    steps: tuple[tuple[Module, Launch], ...]
    groups: tuple[PrefixGroup, ...]
    out: Any
    lse: Any
    kept: tuple[Any, ...] = ()


def plan_cascade(
    device: Device, problem: Problem, *, q: Any, pool: KvPool, layout: PageLayout, batch: Batch
) -> CascadePlan:
    """Return the launches for one batch.

    Args:
        device: where ``q`` and ``pool`` lie.
        problem: what is asked; no window and no slopes, since a row of the prefix has no place of its own.
        q: ``(num_query_tokens, num_qo_heads, head_dim)`` on the device.
        pool: the cache on the device.
        layout: block table, on the host.
        batch: lengths, on the host.
    """
    groups = prefix_groups(layout, batch, causal=problem.causal)
    skipped = np.zeros(batch.num_seqs, np.int64)
    for group in groups:
        skipped[list(group.sequences)] = group.pages
    own = plan_decode(
        device,
        problem,
        q=q,
        pool=pool,
        block_table=device.to_device(_behind(layout.block_table, skipped)),
        kv_lens=device.to_device((np.asarray(batch.kv_lens) - skipped * layout.page_size).astype(np.int32)),
        qo_indptr=device.to_device(batch.qo_indptr),
    )
    steps = [(own.module, launch) for launch in own.launches]
    if not groups:
        return CascadePlan(steps=tuple(steps), groups=groups, out=own.out, lse=own.lse)

    rows = [_rows(group, batch) for group in groups]
    packed_rows = np.concatenate(rows)
    packed = device.empty((packed_rows.size, *q.shape[1:]), problem.storage.storage)
    gather, launches = _pack_queries(device, problem, q, packed_rows, packed)
    table = np.zeros((len(groups), max(group.pages for group in groups)), np.int32)
    for i, group in enumerate(groups):
        table[i, : group.pages] = layout.block_table[group.sequences[0], : group.pages]
    prefix = plan_decode(
        device,
        # a sink joins once, with the keys that every sequence has to itself
        replace(problem, causal=False, sinks=None),
        q=packed,
        pool=pool,
        block_table=device.to_device(table),
        kv_lens=device.to_device(np.asarray([g.pages * layout.page_size for g in groups], np.int32)),
        qo_indptr=device.to_device(_ends(rows)),
    )
    # which row of the packed ones a query row has become, if any
    places = np.full((2, batch.num_query_tokens), -1, np.int32)
    places[0, packed_rows] = np.arange(packed_rows.size)
    places[1] = np.arange(batch.num_query_tokens)
    merge = plan_merge(
        device,
        problem.storage,
        states=[(prefix.out, prefix.lse), (own.out, own.lse)],
        rows=device.to_device(places),
        num_rows=batch.num_query_tokens,
    )
    steps = [(gather, launch) for launch in launches]
    for part in (prefix, own, merge):
        steps += [(part.module, launch) for launch in part.launches]
    return CascadePlan(steps=tuple(steps), groups=groups, out=merge.out, lse=merge.lse, kept=(merge.states,))


def _pack_queries(
    device: Device, problem: Problem, q: Any, rows: Array, packed: Any
) -> tuple[Module, tuple[Launch, ...]]:
    """Query rows side by side: a gather of pages of one row, which have the query heads."""
    return plan_gather(
        device,
        stored=problem.storage,
        dense=problem.storage,
        caches=(q,),
        strides=(q.shape[1] * q.shape[2], 0, q.shape[2]),
        block_table=device.to_device(rows[None].astype(np.int32)),
        kv_lens=device.to_device(np.asarray([rows.size], np.int32)),
        indptr=device.to_device(np.asarray([0, rows.size], np.int32)),
        page_size=1,
        targets=(packed,),
    )


def _rows(group: PrefixGroup, batch: Batch) -> Array:
    """Query rows of the group's sequences, in order."""
    indptr = batch.qo_indptr
    return np.concatenate([np.arange(indptr[i], indptr[i + 1]) for i in group.sequences])


def _ends(rows: Sequence[Array]) -> Array:
    return np.concatenate(([0], np.cumsum([part.size for part in rows]))).astype(np.int32)


def _behind(table: Array, skipped: Array) -> Array:
    """The table without the first ``skipped`` entries of each row."""
    columns = np.arange(table.shape[1]) + skipped[:, None]
    inside = np.minimum(columns, max(0, table.shape[1] - 1))
    moved: Array = np.where(columns < table.shape[1], np.take_along_axis(table, inside, 1), -1)
    return moved.astype(np.int32)
