# SPDX-License-Identifier: Apache-2.0
"""A right kernel in numpy, a sequence at a time, made of steps that a planted fault replaces."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from pabench.errors import Unsupported
from pabench.judge.gather import to_float64
from pabench.problem.dtypes import DTYPES, Array, DType, encode
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities


class Kernel:
    """Attention in float64, rounded once.  A backend as others are; steps are methods."""

    name = "right"
    capabilities = Capabilities(
        dtypes=frozenset(DTYPES),
        operations=frozenset({"decode", "speculative", "prefill"}),
        features=frozenset({"latent-cache"}),
        validates=False,
    )
    profile = NumericsProfile()

    def plan(self, tensors: Tensors) -> dict[str, Any]:
        """See ``Backend``."""
        if why := self.capabilities.why_not(tensors.case):
            raise Unsupported(f"{self.name}: {why}")
        return {"tensors": tensors}

    def run(self, plan: dict[str, Any]) -> None:
        """See ``Backend``."""
        plan["output"] = self.attend(plan["tensors"])

    def fetch(self, plan: dict[str, Any]) -> AttentionOutput:
        """See ``Backend``."""
        out, lse = plan["output"]
        storage = plan["tensors"].case.problem.storage
        return AttentionOutput(out=encode(out, storage), lse=lse.astype(np.float32))

    def append(self, *given: Any) -> Array:
        """Refuse: attention writes no cache."""
        raise Unsupported(f"{self.name}: no append")

    @np.errstate(all="ignore")
    def attend(self, t: Tensors) -> tuple[Array, Array]:
        """Return output ``(rows, heads, head_dim_v)`` and LSE ``(rows, heads)``, float64."""
        problem = t.case.problem
        out = np.zeros((len(t.q), problem.num_qo_heads, problem.value_dim))
        lse = np.full(out.shape[:2], -math.inf)
        for i, n in enumerate(t.case.batch.kv_lens):
            rows = slice(int(t.qo_indptr[i]), int(t.qo_indptr[i + 1]))
            count = rows.stop - rows.start
            at = self.tokens(t, i, n)
            if not at.size or not count:
                out[rows], lse[rows] = self.empty(out[rows], lse[rows])
                continue
            q = self.queries(to_float64(t.q[rows], problem.storage))
            keys, values = (self.read(t, i, at, kind) for kind in ("k", "v"))
            hidden = ~self.seen(at, n, count)
            for head, kv_head in enumerate(self.kv_heads(problem).tolist()):
                logits = q[:, head] @ keys[:, kv_head].T * self.scale(problem)
                logits[hidden] = -math.inf
                out[rows, head], lse[rows, head] = self.softmax(logits, values[:, kv_head], head)
        return self.after(t, out, lse)

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """Tokens that are read of a sequence of ``n``."""
        return np.arange(n)

    def pages(self, t: Tensors, i: int, at: Array, kind: str) -> Array:
        """The pages that tokens lie in."""
        table, size = t.layout.block_table, t.case.problem.page_size
        # what reads past its table reads the last entry
        found: Array = table[i, np.minimum(at // size, table.shape[1] - 1)].astype(np.int64)
        return found

    def read(self, t: Tensors, i: int, at: Array, kind: str) -> Array:
        """Keys (``k``) or values (``v``) of tokens, ``(tokens, num_kv_heads, dim)`` float64."""
        view = _numbers(t)["kv".index(kind)]
        page, offset = self.pages(t, i, at, kind) % len(view), at % t.case.problem.page_size
        found: Array = view[page, offset] if t.pool.kv_layout == "NHD" else view[page, :, offset]
        return found

    def queries(self, q: Array) -> Array:
        """Queries of a sequence, ``(rows, heads, head_dim)``."""
        return q

    def kv_heads(self, problem: Problem) -> Array:
        """The KV head of each query head."""
        return np.arange(problem.num_qo_heads) // problem.group_size

    def scale(self, problem: Problem) -> float:
        """The softmax scale."""
        return problem.scale

    def seen(self, at: Array, n: int, rows: int) -> Array:
        """bool ``(rows, tokens)``: what each row sees."""
        return at[None, :] <= (n - rows + np.arange(rows))[:, None]

    def softmax(self, logits: Array, values: Array, head: int) -> tuple[Array, Array]:
        """Output ``(rows, dim)`` and LSE of a head, from ``(rows, tokens)`` and ``(tokens, dim)``."""
        top = logits.max(axis=-1, keepdims=True)
        weights = np.exp(logits - np.where(np.isfinite(top), top, 0.0))
        total = weights.sum(axis=-1, keepdims=True)
        # a row that sees nothing has output 0 and LSE -inf
        return weights @ values / np.where(total > 0, total, 1.0), (np.log(total) + top)[:, 0]

    def empty(self, out: Array, lse: Array) -> tuple[Array, Array]:
        """Output and LSE of rows over no keys."""
        return out, lse

    def after(self, t: Tensors, out: Array, lse: Array) -> tuple[Array, Array]:
        """The results of the whole batch."""
        return out, lse


@lru_cache(maxsize=1)
def _decoded(pool: KvPool, kv_storage: DType) -> tuple[Array, Array]:
    keys, values = (to_float64(np.ascontiguousarray(view), kv_storage) for view in (pool.k, pool.v))
    return keys, values


def _numbers(t: Tensors) -> tuple[Array, Array]:
    """Keys and values of the whole pool as float64: made once for all faults that are given these tensors."""
    return _decoded(t.pool, t.case.problem.kv_storage)
