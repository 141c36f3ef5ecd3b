# SPDX-License-Identifier: Apache-2.0
"""Explanations that belong to a cache whose K and V differ or are one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pabench.judge.cached import row_numbers
from pabench.judge.suspect import Fault, Suspect
from pabench.problem.dtypes import Array


def cache_faults(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be with a part of the cache taken for another."""
    problem, keys = suspect.tensors.case.problem, suspect.keys
    if not problem.latent:
        return
    count, rest = problem.value_dim, problem.head_dim - problem.value_dim
    values_only = _only(keys, slice(0, count))
    if rest:
        words = f"logits of the first {count} numbers of a key alone, without the {rest} behind its value"
        yield suspect.weighted(words, values_only, suspect.values)
        words = f"logits of the last {rest} numbers of a key alone, without its value"
        yield suspect.weighted(words, keys - values_only, suspect.values)
        words = f"values from the last {count} numbers of a key in place of the first"
        yield suspect.weighted(words, keys, keys[:, rest:])
    yield from _pages_as_slots(suspect)


def _only(keys: Array, kept: slice) -> Array:
    found = np.zeros_like(keys)
    found[:, kept] = keys[:, kept]
    return found


def _pages_as_slots(suspect: Suspect) -> Iterator[Fault]:
    """Entry t of the table taken as the slot of token t, as for pages of one token."""
    problem, view = suspect.tensors.case.problem, suspect.tensors.pool.k
    if problem.page_size == 1 or suspect.keys_seen is not None:
        return
    row = suspect.tensors.layout.block_table[suspect.sequence].astype(np.int64)
    slots = row[np.minimum(np.arange(suspect.start, suspect.seen), row.size - 1)]
    page, offset = np.divmod(slots % (view.shape[0] * problem.page_size), problem.page_size)
    head = suspect.kv_head
    at = (page, offset, head) if suspect.tensors.pool.kv_layout == "NHD" else (page, head, offset)
    keys = row_numbers(problem, view[at], "k") * suspect.scale("k", head)
    # what such a kernel meets past its pages is not always a number; it is compared where it is
    keys = np.nan_to_num(keys)
    words = "entries of the block table taken as slots, as for pages of one token"
    yield suspect.weighted(words, keys, keys[:, : problem.value_dim])
