# SPDX-License-Identifier: Apache-2.0
"""Keys that query rows see as bits, for kernels that take any set of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.problem.case import Case
from pabench.problem.visibility import seen_keys

WORD_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskBits:
    """Keys of all query rows of a batch, on a device.

    Attributes:
        words: ``(num_query_tokens, words_per_row) uint32``; bit ``t % 32`` of word ``t / 32`` is key ``t``.
        words_per_row: enough for the longest sequence.
        row_keys: ``(num_query_tokens,) int32``, how many each row sees.
    """

    words: Any
    words_per_row: int
    row_keys: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What a kernel with ``PAB_MASK_PARAMETERS`` takes."""
        return self.words, np.int32(self.words_per_row), self.row_keys


def mask_bits(device: Device, case: Case) -> MaskBits:
    """Return the keys of each row of ``case``."""
    words_per_row = max(1, -(-max(case.batch.kv_lens) // WORD_BITS))
    seen = np.zeros((case.batch.num_query_tokens, words_per_row * WORD_BITS), bool)
    ends = case.batch.qo_indptr.tolist()
    for sequence, kv_len in enumerate(case.batch.kv_lens):
        seen[ends[sequence] : ends[sequence + 1], :kv_len] = seen_keys(case, sequence)
    words = np.packbits(seen, axis=1, bitorder="little").view("<u4")
    return MaskBits(
        words=device.to_device(words),
        words_per_row=words_per_row,
        row_keys=device.to_device(seen.sum(1).astype(np.int32)),
    )
