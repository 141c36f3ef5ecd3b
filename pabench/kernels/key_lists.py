# SPDX-License-Identifier: Apache-2.0
"""Keys that the rows of each sequence see as lists, for decode kernels that read those and no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.kernels.mask_bits import WORD_BITS
from pabench.problem.case import Case
from pabench.problem.visibility import seen_keys


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyLists:
    """Keys of all sequences of a batch, on a device: see ``pab/key_list.cuh``.

    Attributes:
        begins: ``(num_seqs + 1,) int32``, where each sequence's list begins in ``positions``.
        positions: int32, the tokens that some row of a sequence sees, ascending.
        words: ``(num_query_tokens, words_per_row) uint32``; bit ``p % 32`` of word ``p / 32`` says whether
            the row sees the token at place ``p`` of its sequence's list.
        words_per_row: enough for the longest list.
        row_keys: ``(num_query_tokens,) int32``, how many tokens each row sees.
    """

    begins: Any
    positions: Any
    words: Any
    words_per_row: int
    row_keys: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What a kernel with ``PAB_KEY_LIST_PARAMETERS`` takes."""
        return self.begins, self.positions, self.words, np.int32(self.words_per_row), self.row_keys


def key_lists(device: Device, case: Case) -> KeyLists:
    """Return the lists of ``case``: masks, causal flag and window are all in them."""
    seen = [seen_keys(case, sequence) for sequence in range(case.batch.num_seqs)]
    lists = [np.flatnonzero(rows.any(0)) for rows in seen]
    lengths = [len(tokens) for tokens in lists]
    words_per_row = max(1, -(-max(lengths) // WORD_BITS))
    bits = np.zeros((case.batch.num_query_tokens, words_per_row * WORD_BITS), bool)
    ends = case.batch.qo_indptr.tolist()
    for sequence, (rows, tokens) in enumerate(zip(seen, lists, strict=True)):
        bits[ends[sequence] : ends[sequence + 1], : len(tokens)] = rows[:, tokens]
    words = np.packbits(bits, axis=1, bitorder="little").view("<u4")
    return KeyLists(
        begins=device.to_device(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)),
        positions=device.to_device(np.concatenate(lists).astype(np.int32)),
        words=device.to_device(words),
        words_per_row=words_per_row,
        row_keys=device.to_device(bits.sum(1).astype(np.int32)),
    )
