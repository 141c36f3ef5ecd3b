# SPDX-License-Identifier: Apache-2.0
"""Attention without pages, rounded as in a cache: what the storage type does to logits, alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pabench.activities.model.language import Attend, LanguageModel
from pabench.problem.dtypes import Array, decode, dtype_by_name, encode

Seen = Callable[[int, Array, Array, Array], None]
"""Told layer, queries, keys and values of a whole sequence."""


def rounded_attention(model: LanguageModel, dtype: str, seen: Seen = lambda layer, q, k, v: None) -> Attend:
    """Return causal attention of one whole sequence, float32 on operands rounded to ``dtype``.

    The output is rounded too, as a kernel stores it.
    """
    import torch

    storage = dtype_by_name(dtype)

    def through(array: Array) -> Array:
        rounded: Array = decode(encode(array, storage), storage).astype(np.float32)
        return rounded

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        seen(layer, q, k, v)
        heads = [torch.from_numpy(through(array)).transpose(0, 1) for array in (q, k, v)]
        group = model.sizes.num_qo_heads // model.sizes.num_kv_heads
        queries, keys, values = heads[0], *(rows.repeat_interleave(group, 0) for rows in heads[1:])
        logits = queries @ keys.transpose(1, 2) * model.sizes.sm_scale
        hidden = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
        weights = logits.masked_fill(hidden, -torch.inf).softmax(-1)
        return through((weights @ values).transpose(0, 1).numpy())

    return attend


def rounded_logits(
    model: LanguageModel, tokens: tuple[int, ...], dtype: str, seen: Seen | None = None
) -> Array:
    """Return logits ``(num_tokens, vocabulary)`` of one sequence by ``rounded_attention``."""
    attend = rounded_attention(model, dtype) if seen is None else rounded_attention(model, dtype, seen)
    places = range(len(tokens))
    return model.forward(tokens, places, places, attend)
