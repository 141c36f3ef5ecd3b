# SPDX-License-Identifier: Apache-2.0
"""A plain function with every argument that one may have, and faults to plant in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.judge.gather import to_float64
from pabench.problem.dtypes import E4M3
from pabench.problem.formats import FORMATS


def attend(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    block_table: Any,
    kv_lens: Any,
    sm_scale: float,
    *,
    qo_indptr: Any = None,
    causal: bool = True,
    window: int | None = None,
    soft_cap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    k_scale: Any = None,
    v_scale: Any = None,
    q_scale: Any = None,
    out_dtype: str | None = None,
    kv_dtype: str | None = None,
    mask: Any = None,
    kv_layout: str = "NHD",
) -> tuple[Any, Any]:
    """Attention in float64, row by row."""
    if kv_layout == "HND":
        k_cache, v_cache = k_cache.swapaxes(1, 2), v_cache.swapaxes(1, 2)
    page_size, num_kv_heads = k_cache.shape[1:3]
    form = FORMATS[kv_dtype] if kv_dtype else None
    value_dim = v_cache.shape[-1] if form is None or form.scale is None else q.shape[2]
    if q.dtype == np.uint8:
        q = to_float64(q, E4M3) * np.repeat(q_scale, q.shape[1] // num_kv_heads)[:, None]
    out = np.zeros((*q.shape[:2], value_dim), out_dtype or (np.float32 if q.dtype == np.float64 else q.dtype))
    lse = np.full(q.shape[:2], -np.inf, np.float32)
    indptr = np.arange(len(kv_lens) + 1) if qo_indptr is None else qo_indptr
    for sequence, length in enumerate(kv_lens):
        at = np.arange(int(length))
        page, slot = block_table[sequence][at // page_size], at % page_size
        first, end = int(indptr[sequence]), int(indptr[sequence + 1])
        for row in range(first, end):
            position = int(length) - (end - first) + row - first
            if mask is not None:
                seen = mask[row, : int(length)]
            else:
                seen = at <= position if causal else np.ones(int(length), bool)
                seen = seen & (at > position - window) if window is not None else seen
            for head in range(q.shape[1]):
                kv = head // (q.shape[1] // num_kv_heads)
                keys: Any
                values: Any
                rows = [cache[page, slot, kv][seen] for cache in (k_cache, v_cache)]
                if form is not None:
                    keys, values = (form.decode(one[:, None], q.shape[2])[:, 0] for one in rows)
                elif k_scale is not None:
                    keys, values = (to_float64(one, E4M3) for one in rows)
                else:
                    keys, values = (np.float64(one) for one in rows)
                if k_scale is not None:
                    keys, values = keys * k_scale[kv], values * v_scale[kv]
                logits: Any = np.asarray(keys) @ np.float64(q[row, head]) * sm_scale
                if soft_cap is not None:
                    logits = soft_cap * np.tanh(logits / soft_cap)
                if alibi_slopes is not None:
                    logits = logits + np.float64(alibi_slopes[head]) * (at[seen] - position)
                every = logits if sinks is None else np.append(logits, np.float64(sinks[head]))
                if every.size:
                    weights = np.exp(every - every.max())
                    out[row, head] = weights[: len(logits)] @ values / weights.sum()
                    lse[row, head] = every.max() + np.log(weights.sum())
    return out, lse


def append(k_cache: Any, v_cache: Any, keys: Any, values: Any, slots: Any, *, kv_layout: str = "NHD") -> None:
    """Write tokens to their slots."""
    for cache, new in ((k_cache, keys), (v_cache, values)):
        view = cache if kv_layout == "NHD" else cache.swapaxes(1, 2)
        for token in np.flatnonzero(np.asarray(slots) >= 0):
            view[divmod(int(slots[token]), view.shape[1])] = new[token]
