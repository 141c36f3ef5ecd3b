# SPDX-License-Identifier: Apache-2.0
"""Multi-head latent attention in its two forms: absorbed, over a latent cache, and expanded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pabench.problem import Case, Tensors
from pabench.problem.dtypes import decode, encode
from pabench.problem.tensors import SequenceRows, lay_out


def absorbed(case: Case, *, nope: int = 12) -> tuple[Tensors, Tensors, Any]:
    """The same heads over a latent cache and over keys and values of their own, and what unfolds outputs.

    Weights and latents are small whole numbers, so that every product that either form stores is exact.
    ``nope`` is the length of a head's value, and of its key without the part that has a position.
    """
    problem, rng = case.problem, np.random.default_rng(case.seed)
    heads, latent, rope = problem.num_qo_heads, problem.value_dim, problem.head_dim - problem.value_dim
    w_k, w_v = (rng.integers(-2, 3, (heads, nope, latent)).astype(np.float64) for _ in range(2))
    short, long = list[SequenceRows](), list[SequenceRows]()
    for kv_len, q_len in zip(case.batch.kv_lens, case.batch.query_lens, strict=True):
        c, k_rope = rng.integers(-2, 3, (kv_len, latent)) / 4, rng.integers(-4, 5, (kv_len, rope)) / 4
        q_nope = rng.integers(-2, 3, (q_len, heads, nope)) / 4
        q_rope = rng.integers(-4, 5, (q_len, heads, rope)) / 4
        query = np.concatenate([np.einsum("qhn,hnl->qhl", q_nope, w_k), q_rope], 2)
        key = np.concatenate([c, k_rope], 1)[:, None]
        short.append(SequenceRows(queries=query, keys=key, values=key[..., :latent]))
        keys = np.concatenate(
            [np.einsum("hnl,tl->thn", w_k, c), np.broadcast_to(k_rope[:, None], (kv_len, heads, rope))], 2
        )
        values = np.einsum("hnl,tl->thn", w_v, c)
        long.append(SequenceRows(queries=np.concatenate([q_nope, q_rope], 2), keys=keys, values=values))
    expanded = replace(problem, num_kv_heads=heads, head_dim=nope + rope, head_dim_v=nope, latent=False)
    given = [[_stored(rows, case) for rows in form] for form in (short, long)]
    return lay_out(case, given[0]), lay_out(replace(case, problem=expanded), given[1]), w_v


def _stored(rows: SequenceRows, case: Case) -> SequenceRows:
    storage = case.problem.storage
    given = (rows.queries, rows.keys, rows.values)
    found = [encode(array, storage) for array in given]
    for array, exact in zip(found, given, strict=True):
        assert (decode(array, storage) == exact).all()
    return SequenceRows(queries=found[0], keys=found[1], values=found[2])
