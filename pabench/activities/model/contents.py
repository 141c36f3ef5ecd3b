# SPDX-License-Identifier: Apache-2.0
"""What each sequence's cache must hold, kept apart from pages and device: the judge's side of the story."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pabench.problem.dtypes import Array

Rows = tuple[Array, Array]
"""Keys and values ``(num_tokens, num_kv_heads, head_dim)`` of one layer, in storage form."""


class Contents:
    """Keys and values of each slot in each layer, as the model computed them.

    Copies, shared pages and swapping are a matter of the allocator; here a fork has the rows of its parent,
    and a prefix those of whoever computed the same tokens.
    """

    def __init__(self, num_layers: int) -> None:
        self._num_layers = num_layers
        self._rows: dict[int, list[Rows | None]] = {}
        self._known: dict[tuple[int, ...], list[Rows | None]] = {}

    def start(self, slot: int) -> None:
        """Begin an empty sequence."""
        self._rows[slot] = [None] * self._num_layers

    def fork(self, parent: int, child: int) -> None:
        """Begin a sequence with all tokens of another."""
        self._rows[child] = list(self._rows[parent])

    def drop(self, slots: Sequence[int]) -> None:
        """End sequences."""
        for slot in slots:
            self._rows.pop(slot, None)

    def commit(self, slot: int, tokens: tuple[int, ...]) -> None:
        """Remember what tokens, from the start of a sequence, became."""
        self._known[tokens] = list(self._rows[slot])

    def adopt(self, slot: int, tokens: tuple[int, ...]) -> None:
        """Begin a sequence with ``tokens`` that were committed before; raises ``KeyError`` if none were."""
        for known, rows in self._known.items():
            if known[: len(tokens)] == tokens:
                count = len(tokens)
                self._rows[slot] = [row and (row[0][:count], row[1][:count]) for row in rows]
                return
        raise KeyError(f"{len(tokens)} tokens that nobody computed")

    def add(self, layer: int, slot: int, keys: Array, values: Array) -> Rows:
        """Put new tokens behind a sequence and return all of its rows."""
        before = self._rows[slot][layer]
        rows = (keys, values)
        if before is not None:
            rows = (np.concatenate([before[0], keys]), np.concatenate([before[1], values]))
        self._rows[slot][layer] = rows
        return rows
