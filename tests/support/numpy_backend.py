# SPDX-License-Identifier: Apache-2.0
"""A right backend in plain numpy, row by row, made of small steps; a planted fault overrides one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.judge.gather import to_float64
from pabench.problem.dtypes import DTYPES, Array, encode
from pabench.problem.pool import KvPool
from pabench.problem.problem import FEATURES, Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.validate import check_attention


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One query row of one head.

    Attributes:
        row: index among all query rows.
        index: among those of its sequence, of which there are ``q_len``.
        head: query head.
    """

    tensors: Tensors
    sequence: int
    row: int
    index: int
    q_len: int
    kv_len: int
    head: int

    @property
    def problem(self) -> Problem:
        return self.tensors.case.problem

    @property
    def position(self) -> int:
        return self.kv_len - self.q_len + self.index


class NumpyBackend:
    """Dense attention in float64, rounded once."""

    name = "numpy"
    capabilities = Capabilities(
        dtypes=frozenset(DTYPES),
        operations=frozenset({"decode", "speculative", "prefill"}),
        features=frozenset(FEATURES),
        interleaved=True,
    )
    profile = NumericsProfile()

    def __init__(self, device: Any = None) -> None:
        self.device = device

    def plan(self, tensors: Tensors) -> dict[str, Any]:
        check_attention(self.name, self.capabilities, tensors)
        return {"tensors": tensors}

    def run(self, plan: dict[str, Any]) -> None:
        plan["result"] = self.attend(plan["tensors"])

    def fetch(self, plan: dict[str, Any]) -> AttentionOutput:
        out, lse = plan["result"]
        return AttentionOutput(
            out=encode(out, plan["tensors"].case.problem.storage), lse=lse.astype(np.float32)
        )

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        raise NotImplementedError

    @np.errstate(all="ignore")
    def attend(self, tensors: Tensors) -> tuple[Array, Array]:
        """Return output and LSE in float64."""
        case = tensors.case
        shape = (tensors.q.shape[0], case.problem.num_qo_heads, case.problem.head_dim)
        out, lse = np.full(shape, np.nan), np.full(shape[:2], np.nan)
        for sequence, kv_len in enumerate(case.batch.kv_lens):
            first, end = (int(at) for at in tensors.qo_indptr[sequence : sequence + 2])
            for row in range(first, end):
                for head in range(shape[1]):
                    about = Row(
                        tensors=tensors,
                        sequence=sequence,
                        row=row,
                        index=row - first,
                        q_len=end - first,
                        kv_len=kv_len,
                        head=head,
                    )
                    out[row, head], lse[row, head] = self.one(about)
        return out, lse

    def one(self, row: Row) -> tuple[Array, float]:
        """Return output and LSE of one row."""
        at = self.keys(row)
        keys, values = self.tokens(row, at)
        return self.softmax(row, self.logits(row, keys, at), values)

    def keys(self, row: Row) -> Array:
        """Which tokens the row sees."""
        first, last = self.span(row)
        return np.arange(max(0, first), max(0, last))

    def span(self, row: Row) -> tuple[int, int]:
        """Return the first key that the row sees, and one past the last."""
        last = row.kv_len if not row.problem.causal else min(row.position + 1, row.kv_len)
        return (0 if row.problem.window is None else row.position - row.problem.window + 1), last

    def kv_head(self, row: Row) -> int:
        return row.head // row.problem.group_size

    def slots(self, row: Row, at: Array) -> tuple[Array, Array]:
        """Return page and offset of tokens."""
        size = row.problem.page_size
        return row.tensors.layout.block_table[row.sequence][at // size].astype(np.int64), at % size

    def tokens(self, row: Row, at: Array) -> tuple[Array, Array]:
        """Return keys and values of tokens, scaled."""
        pool, head = row.tensors.pool, self.kv_head(row)
        page, offset = self.slots(row, at)
        found = []
        for kind, view in (("k", pool.k), ("v", pool.v)):
            stored = view[page, offset, head] if pool.kv_layout == "NHD" else view[page, head, offset]
            found.append(to_float64(stored, row.problem.kv_storage) * self.kv_scale(row, kind))
        return found[0], found[1]

    def kv_scale(self, row: Row, kind: str) -> float:
        return row.problem.kv_scales(kind)[self.kv_head(row)] if row.problem.kv_dtype else 1.0

    def scale(self, row: Row) -> float:
        return row.problem.scale

    def product(self, row: Row, keys: Array) -> Array:
        """Return the products of the query with ``keys``, not scaled."""
        query = to_float64(row.tensors.q[row.row, row.head], row.problem.storage)
        return np.asarray(keys @ query)

    def cap(self, row: Row, logits: Array) -> Array:
        cap = row.problem.soft_cap
        return logits if cap is None else cap * np.tanh(logits / cap)

    def slope(self, row: Row) -> float:
        return 0.0 if row.problem.alibi_slopes is None else row.problem.alibi_slopes[row.head]

    def logits(self, row: Row, keys: Array, at: Array) -> Array:
        logits = self.cap(row, self.product(row, keys) * self.scale(row))
        return logits + self.slope(row) * (at - row.position)

    def sinks(self, row: Row) -> list[float]:
        """The sinks that join the sum of weights: one, or none."""
        return [] if row.problem.sinks is None else [row.problem.sinks[row.head]]

    def softmax(self, row: Row, logits: Array, values: Array) -> tuple[Array, float]:
        """Return output and LSE."""
        sinks = np.asarray(self.sinks(row))
        every = np.concatenate([logits, sinks])
        if not every.size:
            return np.zeros(row.problem.head_dim), -math.inf
        top = every.max()
        weights = np.exp(every - top)
        total = float(weights.sum())
        return weights[: logits.size] @ values / total, float(top + math.log(total))
