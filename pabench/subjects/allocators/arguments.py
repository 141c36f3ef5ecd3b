# SPDX-License-Identifier: Apache-2.0
"""Checks of what an operation is called with, the same for every allocator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.shape import PoolShape


class ArgumentChecks(ABC):
    """They read the state, and raise ``InvalidCase``.

    Attributes:
        shape: of the pool.
    """

    shape: PoolShape

    @abstractmethod
    def lengths(self) -> Array:
        """Return the tokens of every sequence, int64 ``(max_seqs,)``; -1 where it is not live."""

    @abstractmethod
    def length(self, sequence: int) -> int | None:
        """Return the tokens of a sequence, or None when it is not live."""

    @abstractmethod
    def swapped(self, sequence: int) -> int | None:
        """Return the tokens of a swapped-out sequence, or None when it is not swapped out."""

    def check_index(self, sequence: int, field: str = "sequence") -> int:
        """Return a sequence index as a plain integer; raises ``InvalidCase`` when out of range."""
        return whole_number(field, sequence, low=0, high=self.shape.max_seqs - 1)

    def check_start(self, sequence: int, tokens: int, final_tokens: int | None = None) -> tuple[int, int]:
        """Return sequence and tokens of an ``alloc`` as plain integers; raises ``InvalidCase`` as it says."""
        sequence = self.check_index(sequence)
        if self.length(sequence) is not None or self.swapped(sequence) is not None:
            raise InvalidCase("sequence", sequence, "must not be there already")
        tokens = whole_number(f"tokens of sequence {sequence}", tokens, low=0)
        if final_tokens is not None:
            whole_number("final_tokens", final_tokens, low=tokens)
        self.check_length(sequence, tokens)
        return sequence, tokens

    def check_leaving(self, sequences: Sequence[int]) -> list[int]:
        """Return the sequences of a ``free`` as plain integers; raises ``InvalidCase`` as it says."""
        lengths, named = self.lengths(), [self.check_index(sequence) for sequence in sequences]
        for sequence in named:
            if lengths[sequence] < 0 and self.swapped(sequence) is None:
                raise InvalidCase("sequence", sequence, "must be live")
        seen: set[int] = set()
        for sequence in named:
            if sequence in seen:
                raise InvalidCase("sequence", sequence, "must be freed once")
            seen.add(sequence)
        return named

    def check_batch(
        self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array, lengths: Array
    ) -> dict[int, int]:
        """Return the requests of ``append_batch`` as plain integers, in their order.

        Raises:
            InvalidCase: as ``append_batch`` says; ``lengths`` are those of ``lengths()``.
        """
        indices: list[Any] = sequences.tolist() if isinstance(sequences, np.ndarray) else list(sequences)
        given: Any = tokens.tolist() if isinstance(tokens, np.ndarray) else tokens
        counts = list(given) if isinstance(given, Sequence) else [given] * len(indices)
        if len(counts) != len(indices):
            raise InvalidCase("tokens", len(counts), f"must have one entry a sequence, {len(indices)}")
        requests: dict[int, int] = {}
        for named, count in zip(indices, counts, strict=True):
            sequence = self.check_index(named)
            if sequence in requests:
                raise InvalidCase("sequence", sequence, "must be named once")
            if lengths[sequence] < 0:
                raise InvalidCase("sequence", sequence, "must be live")
            requests[sequence] = whole_number(f"tokens of sequence {sequence}", count, low=0)
            self.check_length(sequence, int(lengths[sequence]) + requests[sequence])
        return requests

    def check_length(self, sequence: int, tokens: int) -> None:
        """Raise ``InvalidCase`` when ``tokens`` do not fit a row of the table."""
        if tokens > self.shape.max_tokens:
            rule = f"must be at most {self.shape.max_tokens} tokens"
            raise InvalidCase(f"length of sequence {sequence}", tokens, rule)
