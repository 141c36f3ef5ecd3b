# SPDX-License-Identifier: Apache-2.0
"""A random decoder of two layers in torch: a language model to ``activities.model``, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pabench.activities.model.language import Attend, ModelSizes
from pabench.problem.dtypes import Array

VOCABULARY, WIDTH = 97, 48


class TinyModel:
    """Implements ``LanguageModel``: residual layers of attention with rotary embedding, and nothing else."""

    name = "tiny"
    end_token: int | None = None

    def __init__(self, *, num_layers: int = 2, head_dim: int = 16, seed: int = 0) -> None:
        self.sizes = ModelSizes(
            num_layers=num_layers,
            num_qo_heads=3,
            num_kv_heads=1,
            head_dim=head_dim,
            sm_scale=head_dim**-0.5,
            max_tokens=512,
        )
        rng = torch.Generator().manual_seed(seed)
        rows = (3 * head_dim, head_dim, head_dim)

        def matrix(*shape: int) -> torch.Tensor:
            drawn: torch.Tensor = torch.randn(shape, generator=rng) * shape[-1] ** -0.5
            return drawn

        self._words = matrix(VOCABULARY, WIDTH) * WIDTH**0.5
        self._layers = [
            (*(matrix(count, WIDTH) for count in rows), matrix(WIDTH, rows[0])) for _ in range(num_layers)
        ]

    def encode(self, prompt: str) -> tuple[int, ...]:
        return tuple(byte % VOCABULARY for byte in prompt.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))

    def dense(self, tokens: Sequence[int]) -> Array:
        def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
            heads = [torch.from_numpy(array).transpose(0, 1) for array in (q, k, v)]
            found = torch.nn.functional.scaled_dot_product_attention(
                heads[0], heads[1], heads[2], is_causal=True, enable_gqa=True
            )
            return np.ascontiguousarray(found.transpose(0, 1).numpy())

        return self.forward(tokens, range(len(tokens)), range(len(tokens)), attend)

    def forward(
        self, tokens: Sequence[int], positions: Sequence[int], rows: Sequence[int], attend: Attend
    ) -> Array:
        threads = torch.get_num_threads()
        # waking a second thread takes longer than all of it
        torch.set_num_threads(1)
        try:
            return self._forward(tokens, positions, rows, attend)
        finally:
            torch.set_num_threads(threads)

    def _forward(
        self, tokens: Sequence[int], positions: Sequence[int], rows: Sequence[int], attend: Attend
    ) -> Array:
        hidden = self._words[list(tokens)]
        places = torch.tensor(list(positions), dtype=torch.float32)
        for layer, (*inputs, output) in enumerate(self._layers):
            normal = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
            parts = [(normal @ weight.T).unflatten(1, (-1, self.sizes.head_dim)) for weight in inputs]
            q, k, v = rotated(parts[0], places), rotated(parts[1], places), parts[2]
            out = attend(layer, *(part.contiguous().numpy() for part in (q, k, v)))
            hidden = hidden + torch.from_numpy(out).flatten(1) @ output.T
        logits: Array = (hidden[list(rows)] @ self._words.T * WIDTH**-0.5).numpy()
        return logits


def rotated(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, ``(num_tokens, heads, head_dim)``: half of a head is turned with the other half."""
    half = x.shape[-1] // 2
    angle = places[:, None] * 100.0 ** (-torch.arange(half) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
