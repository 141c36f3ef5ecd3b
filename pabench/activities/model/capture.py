# SPDX-License-Identifier: Apache-2.0
"""Queries, keys and values of chosen layers, as the model makes them for its prompts and its own answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pabench.activities.model.dense import rounded_logits
from pabench.activities.model.language import LanguageModel
from pabench.errors import InvalidCase
from pabench.problem.captured import Capture
from pabench.problem.dtypes import Array, dtype_by_name, encode


def check_layers(model: LanguageModel, layers: Sequence[int]) -> None:
    """Raise ``InvalidCase`` for a layer that the model has not, or one that is named twice."""
    if not layers:
        raise InvalidCase("layers", tuple(layers), "must name at least one layer")
    for layer in layers:
        if not 0 <= layer < model.sizes.num_layers or list(layers).count(layer) > 1:
            rule = f"must be distinct layers of 0 to {model.sizes.num_layers - 1}"
            raise InvalidCase("layers", tuple(layers), rule)


def capture(
    model: LanguageModel, sequences: Sequence[tuple[int, ...]], *, layers: Sequence[int], dtype: str
) -> Capture:
    """Return what the attention of ``layers`` is given for whole sequences, one after another.

    Raises:
        InvalidCase: a layer that is not there.
    """
    check_layers(model, layers)
    storage = dtype_by_name(dtype)
    parts: dict[tuple[str, int], list[Array]] = {}

    def seen(layer: int, q: Array, k: Array, v: Array) -> None:
        if layer in layers:
            for name, array in (("q", q), ("k", k), ("v", v)):
                parts.setdefault((name, layer), []).append(encode(array, storage))

    for tokens in sequences:
        rounded_logits(model, tokens, dtype, seen)
    arrays = {
        name: np.stack([np.concatenate(parts[name, layer]) for layer in layers]) for name in ("q", "k", "v")
    }
    words = repr([list(tokens) for tokens in sequences]).encode()
    return Capture(
        name=model.name,
        layers=tuple(layers),
        indptr=(0, *np.cumsum([len(tokens) for tokens in sequences]).tolist()),
        dtype=dtype,
        sm_scale=model.sizes.sm_scale,
        prompt_hash=hashlib.sha256(words).hexdigest(),
        **arrays,
    )
