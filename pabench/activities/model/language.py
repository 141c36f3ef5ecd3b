# SPDX-License-Identifier: Apache-2.0
"""What the room asks of a language model: text to tokens, and a forward pass with attention handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem

Attend = Callable[[int, Array, Array, Array], Array]
"""``(layer, q, k, v) -> out``: float32, ``q`` and ``out (num_tokens, num_qo_heads, head_dim)``, ``k``
and ``v (num_tokens, num_kv_heads, head_dim)`` of the new tokens alone, rotary embedding applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """What a decoder's attention layers have in common.

    Attributes:
        num_layers: attention layers.
        num_qo_heads, num_kv_heads, head_dim: of each.
        sm_scale: the softmax scale.
        max_tokens: longest sequence that the model was made for.
    """

    num_layers: int
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    sm_scale: float
    max_tokens: int

    def problem(self, *, page_size: int, dtype: str) -> Problem:
        """Return the attention of one layer over pages; raises ``InvalidCase``, ``UnknownName``."""
        return Problem(
            num_qo_heads=self.num_qo_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            page_size=page_size,
            dtype=dtype,
            sm_scale=self.sm_scale,
        )


class LanguageModel(Protocol):
    """A decoder on the host, in float32.

    Attributes:
        name: for people.
        sizes: of its attention.
        end_token: that ends an answer; None for none.
    """

    name: str
    sizes: ModelSizes
    end_token: int | None

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Return the tokens of a prompt, with whatever the model wants around it."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return tokens as text."""

    def dense(self, tokens: Sequence[int]) -> Array:
        """Return float32 logits ``(num_tokens, vocabulary)`` of one sequence, by its own attention."""

    def forward(
        self, tokens: Sequence[int], positions: Sequence[int], rows: Sequence[int], attend: Attend
    ) -> Array:
        """Return logits ``(len(rows), vocabulary)`` float32 of some rows of a packed batch.

        Args:
            tokens: of all sequences, one behind the other.
            positions: of each token in its sequence.
            rows: places in ``tokens``.
            attend: called once a layer, in order.
        """
