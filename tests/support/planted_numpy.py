# SPDX-License-Identifier: Apache-2.0
"""Faults of public reports, each planted in the numpy backend: its class, and what the verdict must say.

Models in own words: the thresholds are ours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors
from tests.support.numpy_backend import NumpyBackend, Row


class NoWindowInDecode(NumpyBackend):
    def span(self, row: Row) -> tuple[int, int]:
        first, last = super().span(row)
        return (0 if row.q_len == 1 else first), last


class EmptySplit(NumpyBackend):
    """Splits of 256 keys, merged by outputs: one that sees no key divides by a sum of 0."""

    def softmax(self, row: Row, logits: Array, values: Array) -> tuple[Array, float]:
        at = self.keys(row)
        out, lse = super().softmax(row, logits, values)
        empty = [
            begin for begin in range(0, row.kv_len, 256) if not ((at >= begin) & (at < begin + 256)).any()
        ]
        return (out * math.nan, math.nan) if empty and row.kv_len else (out, lse)


class TileOfHeads(NumpyBackend):
    """16 query heads at once, all with the KV head of the first."""

    def kv_head(self, row: Row) -> int:
        group = row.problem.group_size
        return row.head // 16 * 16 // group if group > 16 else super().kv_head(row)


class HalfOfAWideHead(NumpyBackend):
    """Only the first 256 elements of the output are summed."""

    def tokens(self, row: Row, at: Array) -> tuple[Array, Array]:
        keys, values = super().tokens(row, at)
        values[:, 256:] = 0.0
        return keys, values


class WholeSteps(NumpyBackend):
    """Products in steps of 16 elements, and no rest."""

    def product(self, row: Row, keys: Array) -> Array:
        whole = keys.copy()
        whole[:, row.problem.head_dim // 16 * 16 :] = 0.0
        return super().product(row, whole)


class ShortPositions(NumpyBackend):
    """Positions of keys and rows in 16 bits."""

    def keys(self, row: Row) -> Array:
        at = np.arange(row.kv_len)
        short, position = at.astype(np.int16).astype(int), int(np.int64(row.position).astype(np.int16))
        seen = short <= position if row.problem.causal else np.ones(at.size, bool)
        if row.problem.window is not None:
            seen &= short > position - row.problem.window
        return at[seen]


class NextPage(NumpyBackend):
    """The page of the tile that is fetched next."""

    def slots(self, row: Row, at: Array) -> tuple[Array, Array]:
        size = row.problem.page_size
        most = max(0, -(-row.kv_len // size) - 1)
        return super().slots(row, np.minimum(at // size + 1, most) * size + at % size)


class WindowOfTheTile(NumpyBackend):
    """All rows of the first tile of 128 have the window start of the first."""

    def span(self, row: Row) -> tuple[int, int]:
        first, last = super().span(row)
        return (first - row.index if row.index < 128 and not row.problem.causal else first), last


class OutputBase(NumpyBackend):
    """Rows of later sequences are written where those of the first are."""

    def attend(self, tensors: Tensors) -> tuple[Array, Array]:
        out, lse = super().attend(tensors)
        # as fresh memory: every byte 0xFF
        found = np.full(out.shape, -1, np.int64).view(np.float64)
        for first in tensors.qo_indptr[:-1].tolist():
            found[0] = out[first]
        return found, lse


class PaddingRows(NumpyBackend):
    """A sequence without keys divides by its sum where the batch's longest has several splits."""

    def one(self, row: Row) -> tuple[Array, float]:
        out, lse = super().one(row)
        longest = int(row.tensors.kv_lens.max())
        return (out * math.nan, math.nan) if row.kv_len == 0 and longest > 512 else (out, lse)


class PagesOf128(NumpyBackend):
    """Pages of 128 take a tile of 112."""

    def keys(self, row: Row) -> Array:
        at = super().keys(row)
        return at[at % 128 < 112] if row.problem.page_size == 128 else at


class TileOf160(NumpyBackend):
    """Tiles of 160 keys are taken from the page of their first one."""

    def slots(self, row: Row, at: Array) -> tuple[Array, Array]:
        size = row.problem.page_size
        if size < 256:
            return super().slots(row, at)
        first = at // 160 * 160
        page, offset = super().slots(row, first)
        return page, (offset + at - first) % size


class RowsOf256(NumpyBackend):
    """The place of a query row in 8 bits."""

    def span(self, row: Row) -> tuple[int, int]:
        if row.index < 256:
            return super().span(row)
        other = Row(
            tensors=row.tensors,
            sequence=row.sequence,
            row=row.row,
            index=row.index % 256,
            q_len=row.q_len,
            kv_len=row.kv_len,
            head=row.head,
        )
        return super().span(other)


class ScaleOfHead0(NumpyBackend):
    def kv_scale(self, row: Row, kind: str) -> float:
        return row.problem.kv_scales(kind)[0] if row.problem.kv_dtype else 1.0


class SinkTwice(NumpyBackend):
    """The first split of 256 keys and the first that has keys both count the sink."""

    def sinks(self, row: Row) -> list[float]:
        found = super().sinks(row)
        return found * 2 if max(0, self.span(row)[0]) >= 256 else found


class SinkOfNoKeys(NumpyBackend):
    def sinks(self, row: Row) -> list[float]:
        return super().sinks(row) if row.kv_len else []


class TanhByExponentials(NumpyBackend):
    def cap(self, row: Row, logits: Array) -> Array:
        cap = row.problem.soft_cap
        if cap is None:
            return logits
        with np.errstate(all="ignore"):
            up, down = (np.exp(np.float32(sign) * (logits / cap).astype(np.float32)) for sign in (1, -1))
            return np.asarray(cap * ((up - down) / (up + down)), np.float64)


class StaleAccumulator(NumpyBackend):
    """A row whose window skips the first tile goes on from the sums of the row before."""

    def one(self, row: Row) -> tuple[Array, float]:
        out, lse = super().one(row)
        if row.row == 0 or self.span(row)[0] < 32:
            return out, lse
        before = row.tensors.qo_indptr.tolist()
        sequence = int(np.searchsorted(before, row.row - 1, side="right")) - 1
        other = Row(
            tensors=row.tensors,
            sequence=sequence,
            row=row.row - 1,
            index=row.row - 1 - before[sequence],
            q_len=before[sequence + 1] - before[sequence],
            kv_len=int(row.tensors.kv_lens[sequence]),
            head=row.head,
        )
        left, left_lse = super().one(other)
        both = np.logaddexp(lse, left_lse)
        return math.exp(lse - both) * out + math.exp(left_lse - both) * left, float(both)


CASES: dict[str, tuple[type[NumpyBackend], str]] = {
    "p-decode-without-window": (NoWindowInDecode, r"no window \(50 keys in place of 10\)"),
    "p-empty-partition": (
        EmptySplit,
        r"one of: a tile or split of keys before the window, .* that sees none",
    ),
    "p-group-24": (TileOfHeads, r"KV head 0 read in place of 1 \(that of the first head of its tile of 16"),
    "p-head-dim-512": (HalfOfAWideHead, r"an output that is 0 in dims 256 to 511"),
    "p-head-dim-72": (WholeSteps, r"the products without elements 64 to 71 of the head"),
    "p-long-int16": (ShortPositions, r"positions in 16 bits"),
    "p-next-page": (NextPage, r"the next table entry for each page"),
    "p-noncausal-window-tile": (WindowOfTheTile, r"query row 0, the first of its tile of"),
    "p-output-base": (OutputBase, r"never written; what belongs there stands at sequence 0, query row 0"),
    "p-padding-rows": (PaddingRows, r"the row sees no key \(kv_len 0\), so its output is 0"),
    "p-page-128": (PagesOf128, r"the last 16 slots of each page left out"),
    "p-page-256-tile-160": (TileOf160, r"tiles of 160 keys taken from one page"),
    "p-rows-300": (RowsOf256, r"the keys of query row \d+, its index modulo 256"),
    "p-scale-of-head-0": (ScaleOfHead0, r"the scales of keys and values of KV head 0 in place of 1"),
    "p-sink-empty-first-split": (SinkTwice, r"its sink counted twice"),
    "p-sink-no-keys": (SinkOfNoKeys, r"its lse its sink; its sink left out"),
    "p-soft-cap-overflow": (TanhByExponentials, r"times the soft cap, where exp in a tanh overflows"),
    "p-stale-accumulator": (
        StaleAccumulator,
        r"what the query row before left in the accumulator and the sum",
    ),
}
"""Case of ``tests/judge/cases`` to the fault that its report is about, and the cause that must be named."""


def planted(name: str, device: Any = None) -> NumpyBackend:
    return CASES[name][0](device)
