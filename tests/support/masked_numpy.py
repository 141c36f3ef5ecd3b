# SPDX-License-Identifier: Apache-2.0
"""Attention in float32 with numpy, over any set of keys and any format; either may be mistaken on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pabench.problem import KvPool, NumericsProfile, Problem, Tensors
from pabench.problem.dtypes import Array
from pabench.problem.formats import format_features
from pabench.problem.formats.format import Mistake
from pabench.problem.masks import MASKS, Rows
from pabench.problem.masks.mask import Sees
from pabench.problem.tensors import SequenceRows, sequences_of
from pabench.problem.visibility import apply_masks
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.validate import check_attention


class MaskedNumpy:
    """A backend on the host.

    Args:
        mistakes: by name of the mask, what its rows see in place of what they should.
        taken: what rows of the cache are taken for.
        kinds: whether keys (``k``), values (``v``) or both are.
    """

    name = "masked-numpy"
    profile = NumericsProfile(partial_dtype=None)

    def __init__(
        self, mistakes: Mapping[str, Sees] | None = None, *, taken: Mistake | None = None, kinds: str = "kv"
    ) -> None:
        self._mistakes = mistakes or {}
        self._taken, self._kinds = taken, kinds
        features = {
            *MASKS,
            *format_features(),
            "non-causal",
            "window",
            "latent-cache",
            "head-dim-v",
            "page-gaps",
        }
        self.capabilities = Capabilities(
            dtypes=frozenset({"float32"}),
            operations=frozenset({"decode", "speculative", "prefill"}),
            features=frozenset(features),
        )

    def plan(self, tensors: Tensors) -> tuple[Tensors, list[AttentionOutput]]:
        """Refuse what is corrupt."""
        check_attention(self.name, self.capabilities, tensors)
        return tensors, []

    @np.errstate(all="ignore")  # a mistaken mask reads poison
    def run(self, plan: tuple[Tensors, list[AttentionOutput]]) -> None:
        """Compute, a row and head at a time."""
        tensors, results = plan
        problem = tensors.case.problem
        out = np.zeros((*tensors.q.shape[:2], problem.value_dim), np.float32)
        lse = np.full(tensors.q.shape[:2], -np.inf, np.float32)
        for sequence, rows in enumerate(sequences_of(tensors)):
            first = int(tensors.qo_indptr[sequence])
            numbers = [self._numbers(problem, rows, kind) for kind in "kv"]
            seen = self._seen(tensors, sequence, len(rows.queries), len(rows.keys))
            for row, mine in enumerate(seen):
                for head in range(problem.num_qo_heads if mine.any() else 0):
                    kv_head = head // problem.group_size
                    keys, values = (x[mine, kv_head].astype(np.float32) for x in numbers)
                    logits = np.float32(problem.scale) * (keys @ tensors.q[first + row, head])
                    top = logits.max()
                    weights = np.exp(logits - top)
                    out[first + row, head] = weights @ values / weights.sum()
                    lse[first + row, head] = top + np.log(weights.sum())
        results[:] = [AttentionOutput(out=out, lse=lse)]

    def _numbers(self, problem: Problem, rows: SequenceRows, kind: str) -> Array:
        """What keys or values of a sequence are taken for, ``(kv_len, num_kv_heads, dim)``."""
        stored, form = (rows.keys if kind == "k" else rows.values), problem.kv_format
        if form is None or self._taken is None or kind not in self._kinds:
            found = problem.decode_rows(stored, kind)
        else:
            dim = problem.head_dim if kind == "k" or problem.latent else problem.value_dim
            found = self._taken(form.parts(stored, dim))[..., : problem.value_dim if kind == "v" else dim]
        scaled: Array = found * np.asarray(problem.kv_scales(kind))[:, None]
        return scaled

    def _seen(self, tensors: Tensors, sequence: int, q_len: int, kv_len: int) -> Array:
        case = tensors.case
        rows = Rows(sequence=sequence, q_len=q_len, kv_len=kv_len, page_size=case.problem.page_size)
        masks = [
            (self._mistakes.get(name, MASKS[name].sees), MASKS[name].widens, v) for name, v in case.masks
        ]
        return apply_masks(case.problem, rows, masks)

    def fetch(self, plan: tuple[Tensors, list[AttentionOutput]]) -> AttentionOutput:
        """Return what ``run`` computed."""
        return plan[1][0]

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Any:
        """Write no cache."""
        raise NotImplementedError
