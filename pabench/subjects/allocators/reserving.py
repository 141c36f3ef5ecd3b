# SPDX-License-Identifier: Apache-2.0
"""Allocators that paging replaced: a sequence gets, when it starts, one run of pages for all it may become.

They are baselines: running code for what fragmentation and capacity are compared with.  The names are those
of the baselines of Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention", 2023.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.arenas import Arena, Buddies, FirstFit
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.results import NULL_PAGE, Granted, MemorySplit, no_positions


class Run(NamedTuple):
    """What one sequence holds.

    Attributes:
        start: first page.
        size: pages.
        claimed: tokens that it may grow to; what the run has beyond them is lost to rounding.
        final: tokens that it will have in the end, as far as known.
    """

    start: int
    size: int
    claimed: int
    final: int


class ReservingAllocator(PageAllocator):
    """Runs of pages; a subclass says how much a sequence claims and where runs come from."""

    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "append_batch", "free", "reset"}),
        order="set",
        refusal="fragmenting",
    )
    arena: ClassVar[type[FirstFit] | type[Buddies]]

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self._start()

    def _start(self) -> None:
        self._arena: Arena = self.arena(self.shape.num_pages)
        self._runs: dict[int, Run] = {}
        self._lengths = np.full(self.shape.max_seqs, -1, np.int64)
        self._table = np.full((self.shape.max_seqs, self.shape.max_pages_per_seq), NULL_PAGE, np.int32)

    @abstractmethod
    def claim(self, tokens: int, final: int) -> int:
        """Return how many tokens to make room for.

        Args:
            tokens: of the beginning.
            final: of the whole, as far as known; at least ``tokens``.
        """

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return self._lengths.copy()

    def block_table(self) -> Array:
        """See ``PageAllocator``; pages that hold no token yet are not in it."""
        return self._table.copy()

    @property
    def free_pages(self) -> int:
        """Pages of no run; a new run needs them to lie together."""
        return self.shape.num_pages - sum(run.size for run in self._runs.values())

    def memory_split(self) -> MemorySplit:
        """See ``PageAllocator``; what rounding takes counts as external, as in the paper."""
        slots, tokens, reserved, claimed = self.shape.num_pages * self.shape.page_size, 0, 0, 0
        for sequence, run in self._runs.items():
            held = self._lengths.item(sequence)
            tokens, claimed = tokens + held, claimed + run.claimed
            reserved += max(0, min(run.final, run.claimed) - held)
        return MemorySplit(
            tokens=tokens,
            reserved=reserved,
            internal=claimed - tokens - reserved,
            external=slots - claimed,
        )

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        runs = [(sequence, *run) for sequence, run in sorted(self._runs.items())]
        return self._lengths.tobytes() + repr((runs, sorted(vars(self._arena).items()))).encode()

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``."""
        sequence, tokens = self.check_start(sequence, tokens, final_tokens)
        final = tokens if final_tokens is None else int(final_tokens)
        claimed = min(self.claim(tokens, final), self.shape.max_tokens)
        needed = pages_needed(claimed, self.shape.page_size)
        found = self._arena.take(needed) if needed else (0, 0)
        if found is None:
            raise OutOfPages(needed, self._arena.largest, unit="neighbouring pages")
        self._runs[sequence] = Run(*found, claimed=claimed, final=final)
        self._lengths[sequence] = 0
        return self._grow({sequence: tokens})

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``; beyond what was claimed there is no room, since nothing moves."""
        return self.append_batch([sequence], [tokens])

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``; as ``append``."""
        requests = self.check_batch(sequences, tokens, self._lengths)
        for sequence, count in requests.items():
            wanted, claimed = self._lengths.item(sequence) + count, self._runs[sequence].claimed
            if wanted > claimed:
                raise OutOfPages(wanted, claimed, unit="claimed slots")
        return self._grow(requests)

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        for sequence in self.check_leaving(sequences):
            run = self._runs.pop(sequence)
            self._lengths[sequence], self._table[sequence] = -1, NULL_PAGE
            if run.size:
                self._arena.give(run.start, run.size)

    def reset(self) -> None:
        """See ``PageAllocator``."""
        if self._runs:
            raise InvalidCase("sequences", sorted(self._runs), "must all be freed before a reset")
        self._start()

    def _grow(self, requests: dict[int, int]) -> Granted:
        slots, page_size = [no_positions()], self.shape.page_size
        for sequence, count in requests.items():
            start, held = self._runs[sequence].start, self._lengths.item(sequence)
            first = start * page_size + held
            slots.append(np.arange(first, first + count))
            self._lengths[sequence] = held + count
            used, uses = pages_needed(held, page_size), pages_needed(held + count, page_size)
            self._table[sequence, used:uses] = np.arange(start + used, start + uses)
        return Granted(new_slots=np.concatenate(slots))


class ContiguousAllocator(ReservingAllocator):
    """Claims the longest length there may be (``Orca (Max)``)."""

    name = "contiguous"
    arena: ClassVar[type[FirstFit] | type[Buddies]] = FirstFit

    def claim(self, tokens: int, final: int) -> int:
        """See ``ReservingAllocator``."""
        return self.shape.max_tokens


class BuddyAllocator(ReservingAllocator):
    """Claims a power of two of tokens to come, in blocks of a power of two of pages (``Orca (Pow2)``)."""

    name = "buddy"
    arena = Buddies

    def claim(self, tokens: int, final: int) -> int:
        """See ``ReservingAllocator``."""
        coming = final - tokens
        return tokens + (1 << (coming - 1).bit_length() if coming else 0)


class OracleLengthAllocator(ReservingAllocator):
    """Claims the final length, which it is told (``Orca (Oracle)``)."""

    name = "oracle-length"
    arena: ClassVar[type[FirstFit] | type[Buddies]] = FirstFit

    def claim(self, tokens: int, final: int) -> int:
        """See ``ReservingAllocator``."""
        return final


class BuddyMaxAllocator(ContiguousAllocator):
    """Claims the longest length there may be, in blocks of a power of two of pages."""

    name = "buddy-max"
    arena = Buddies


class BuddyOracleAllocator(OracleLengthAllocator):
    """Claims the final length, in blocks of a power of two of pages."""

    name = "buddy-oracle"
    arena = Buddies
