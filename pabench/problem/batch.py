# SPDX-License-Identifier: Apache-2.0
"""How many query and cached tokens each sequence of a batch has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import INT32_MAX, lengths_tuple
from pabench.problem.dtypes import Array

SPECULATIVE_TOKENS = 8
"""Query tokens of a sequence up to which decode kernels verify drafts; more is prefill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Query and KV lengths of ``num_seqs`` sequences, in tokens.

    ``q_lens`` may be left out: then every sequence has one query token, which is decode.
    """

    kv_lens: tuple[int, ...]
    q_lens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv_lens", lengths_tuple("kv_lens", self.kv_lens))
        if not self.kv_lens:
            raise InvalidCase("kv_lens", self.kv_lens, "must name at least one sequence")
        if sum(self.kv_lens) > INT32_MAX:
            raise InvalidCase("kv_lens", sum(self.kv_lens), f"must sum to at most {INT32_MAX} tokens")
        q_lens = (1,) * len(self.kv_lens) if self.q_lens is None else lengths_tuple("q_lens", self.q_lens)
        if len(q_lens) != len(self.kv_lens):
            rule = f"must have one entry per sequence, {len(self.kv_lens)}"
            raise InvalidCase("q_lens", q_lens, rule)
        if sum(q_lens) > INT32_MAX:
            raise InvalidCase("q_lens", sum(q_lens), f"must sum to at most {INT32_MAX} tokens")
        object.__setattr__(self, "q_lens", q_lens)

    @property
    def query_lens(self) -> tuple[int, ...]:
        """``q_lens`` with the default filled in."""
        return self.q_lens or ()

    @property
    def num_seqs(self) -> int:
        """Sequences in the batch."""
        return len(self.kv_lens)

    @property
    def num_query_tokens(self) -> int:
        """Rows of ``q`` and of the output."""
        return sum(self.query_lens)

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has exactly one query token."""
        return all(length == 1 for length in self.query_lens)

    @property
    def is_speculative(self) -> bool:
        """Whether no sequence has more query tokens than a decode kernel takes."""
        return max(self.query_lens) <= SPECULATIVE_TOKENS

    @property
    def qo_indptr(self) -> Array:
        """int32 ``(num_seqs + 1,)``: rows ``qo_indptr[i]:qo_indptr[i+1]`` of ``q`` belong to sequence i."""
        return np.concatenate(([0], np.cumsum(self.query_lens))).astype(np.int32)

    def sequence_of_row(self, row: int) -> int:
        """Return the sequence that query row ``row`` belongs to."""
        return int(np.searchsorted(self.qo_indptr, row, side="right")) - 1
