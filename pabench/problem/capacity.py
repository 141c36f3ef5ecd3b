# SPDX-License-Identifier: Apache-2.0
"""How many sequences fit a pool of KV slots, by the way that memory is handed out; all exact.

A slot has room for one token over all layers.  ``kv_lens`` come in order of arrival: what is counted is how
many of the first fit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array

MAX_TOKENS = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Sequences of one batch that fit, and the slots they take.

    Attributes:
        sequences: how many of the first fit together.
        slots: what they hold, rounding and padding included.
        pool_slots: what there is.
    """

    sequences: int
    slots: int
    pool_slots: int

    @property
    def unused(self) -> Fraction:
        """Share of the pool that nobody holds."""
        return Fraction(self.pool_slots - self.slots, self.pool_slots) if self.pool_slots else Fraction(0)


def pool_slots(pool_bytes: int, token_bytes: int) -> int:
    """Return how many tokens a pool has room for."""
    pool = whole_number("pool_bytes", pool_bytes, low=0, high=MAX_TOKENS)
    return pool // whole_number("token_bytes", token_bytes, low=1, high=MAX_TOKENS)


def reserved_capacity(slots: int, max_tokens: int) -> Capacity:
    """Return the capacity when each sequence gets a slab for the longest that is allowed."""
    total = whole_number("slots", slots, low=0, high=MAX_TOKENS)
    slab = whole_number("max_tokens", max_tokens, low=1, high=MAX_TOKENS)
    return Capacity(sequences=total // slab, slots=total // slab * slab, pool_slots=total)


def padded_capacity(kv_lens: Array, slots: int) -> Capacity:
    """Return the capacity when the batch is padded to its longest: the most n with ``n max L <= slots``."""
    lengths = _lengths(kv_lens)
    total = whole_number("slots", slots, low=0, high=MAX_TOKENS)
    # both factors only grow, so that what fits is a prefix
    held = np.arange(1, lengths.size + 1) * np.maximum.accumulate(lengths)
    count = int(np.searchsorted(held, total, side="right"))
    return Capacity(sequences=count, slots=int(held[count - 1]) if count else 0, pool_slots=total)


def paged_capacity(kv_lens: Array, slots: int, page_size: int, *, reserve_pages: int = 0) -> Capacity:
    """Return the capacity in pages: the most n with ``sum ceil(L_i / P) <= floor(slots / P) - reserve``."""
    lengths = _lengths(kv_lens)
    total = whole_number("slots", slots, low=0, high=MAX_TOKENS)
    size = whole_number("page_size", page_size, low=1)
    pages = total // size - whole_number("reserve_pages", reserve_pages, low=0, high=MAX_TOKENS)
    held = np.cumsum(-(-lengths // size))
    count = int(np.searchsorted(held, pages, side="right"))
    return Capacity(sequences=count, slots=int(held[count - 1]) * size if count else 0, pool_slots=total)


def mean_waste(kv_lens: Array, page_size: int) -> Fraction:
    """Return the mean of ``P ceil(L / P) - L``, slots of last pages that no token fills."""
    lengths = _lengths(kv_lens)
    size = whole_number("page_size", page_size, low=1)
    return Fraction(int((-lengths % size).sum()), lengths.size) if lengths.size else Fraction(0)


def expected_waste(page_size: int) -> Fraction:
    """Return ``(P - 1) / 2``: the mean waste where the length modulo P is uniform."""
    return Fraction(whole_number("page_size", page_size, low=1) - 1, 2)


def shared_prefix(prefix_tokens: int, page_size: int) -> int:
    """Return how many tokens of a common prefix can be shared: whole pages only, ``floor(X / P) P``."""
    prefix = whole_number("prefix_tokens", prefix_tokens, low=0, high=MAX_TOKENS)
    size = whole_number("page_size", page_size, low=1)
    return prefix // size * size


def growth_pages(kv_len: int, new_tokens: int, page_size: int) -> int:
    """Return the pages that a sequence takes when it grows: ``ceil((L + k) / P) - ceil(L / P)``."""
    old = whole_number("kv_len", kv_len, low=0, high=MAX_TOKENS)
    more = whole_number("new_tokens", new_tokens, low=0, high=MAX_TOKENS)
    size = whole_number("page_size", page_size, low=1)
    return -(-(old + more) // size) + old // -size


def _lengths(kv_lens: Array) -> Array:
    lengths = np.asarray(kv_lens)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise InvalidCase(
            "kv_lens", f"{lengths.dtype}{list(lengths.shape)}", "must be a vector of token counts"
        )
    if lengths.size and int(lengths.min()) < 0:
        raise InvalidCase("kv_lens", int(lengths.min()), "must be at least 0")
    return lengths.astype(np.int64)
