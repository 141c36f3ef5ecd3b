# SPDX-License-Identifier: Apache-2.0
"""The reference model: the specification of a page allocator in plain Python, obvious rather than fast."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.model_tiers import ModelTiers
from pabench.judge.allocators.windows import pages_unseen
from pabench.problem.checks import one_of, whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import (
    OPERATIONS,
    RETENTION_OPERATIONS,
    TIER_OPERATIONS,
    Capabilities,
)
from pabench.subjects.allocators.groups import GROUP_KINDS, KvGroup
from pabench.subjects.allocators.results import NULL_PAGE, Granted

Request = tuple[int, int]
"""Sequence, and tokens to add."""


class ModelAllocator(ModelTiers):
    """Requests are served in their order, groups in theirs."""

    name = "model"
    capabilities = Capabilities(
        operations=frozenset(OPERATIONS), watermark=True, images=True, groups=frozenset(GROUP_KINDS)
    )

    def __init__(
        self,
        shape: PoolShape,
        *,
        batch_mode: str = "all",
        partial: bool = False,
        duplicates: bool = False,
        forks: str = "shared",
        commits: str = "kept",
        hits: str = "all",
    ) -> None:
        one_of("batch_mode", batch_mode, ("all", "prefix"))
        plain = batch_mode == "all" and not partial and (forks, commits) == ("shared", "kept")
        groups = self.capabilities.groups if plain else frozenset[str]()
        without = (
            {*TIER_OPERATIONS, *RETENTION_OPERATIONS} if duplicates or commits == "shared" else set[str]()
        )
        without |= {"begin_step", "end_step", "defragment"} if commits == "shared" else set()
        self.capabilities = replace(
            self.capabilities,
            operations=self.capabilities.operations - without,
            groups=groups,
            batch_mode=batch_mode,
            partial=partial,
            duplicates=duplicates,
            forks=forks,
            commits=commits,
        )
        self._hits = hits
        super().__init__(shape)

    # --- growing and ending ---------------------------------------------------------------------------

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``; pages are taken when needed, so ``final_tokens`` changes nothing."""
        sequence = self._new(sequence)
        tokens = whole_number(f"tokens of sequence {sequence}", tokens, low=0)
        if final_tokens is not None:
            whole_number("final_tokens", final_tokens, low=tokens)
        self.check_length(sequence, tokens)
        self._admit(sum(group.pages(tokens) for group in self._groups))
        self._begin(sequence, [[] for _ in self._groups], 0)
        return self._grow([(sequence, tokens)], [])

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        return self._fit(list(self.check_batch([sequence], [tokens], self.lengths()).items()), prefix=False)

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        requests = list(self.check_batch(sequences, tokens, self.lengths()).items())
        return self._fit(requests, prefix=self.capabilities.batch_mode == "prefix")

    def fork(self, parent: int, child: int) -> Array | None:
        """See ``PageAllocator``."""
        parent, child = self._live(parent, "parent"), self._new(child, "child")
        tables, tokens = [list(self._tables[row]) for row in self._rows(parent)], self._tokens[parent]
        begun, copies = tokens % self.shape.page_size, []
        copied = self.capabilities.forks == "copied"
        if begun and copied:
            self._admit(1)
            copies = [(tables[0][-1], page := self._take(), begun)]
            tables[0][-1] = page
        self._begin(child, tables, tokens)
        return np.array(copies, np.int32).reshape(-1, 3) if copied else None

    def truncate(self, sequence: int, length: int) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        length = whole_number("length", length, low=0, high=self._tokens[sequence])
        for row, group in zip(self._rows(sequence), self._groups, strict=True):
            given_up = self._tables[row].count(NULL_PAGE)
            if group.kind == "state" and length < self._tokens[sequence]:
                raise InvalidCase("length", length, "must not be less: a state cannot be rewound")
            # the next query sees window - 1 tokens before it
            shortest = given_up * group.page_size + max(0, group.window - 1)
            if given_up and group.kind != "state" and length < shortest:
                raise InvalidCase("length", length, f"must be at least {shortest}: the rest was given up")
        self._tokens[sequence] = length
        for row, group in zip(self._rows(sequence), self._groups, strict=True):
            dropped = self._tables[row][group.pages(length) :]
            del self._tables[row][group.pages(length) :]
            self._give_back(dropped)

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        indices = [self.check_index(sequence) for sequence in sequences]
        seen: set[int] = set()
        for sequence in indices:
            if sequence in seen:
                raise InvalidCase("sequence", sequence, "must be freed once")
            seen.add(sequence)
            if sequence not in self._tokens and sequence not in self._swapped:
                raise InvalidCase("sequence", sequence, "must be live to be freed")
        for sequence in indices:
            if sequence in self._swapped:
                self._store_back(self._swapped.pop(sequence)[1])
            else:
                self._end(sequence)

    def free_window(self, sequence: int, keep_from: int) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        keep_from = whole_number("keep_from", keep_from, low=0, high=self._tokens[sequence])
        if self.shape.groups:
            raise InvalidCase(
                "keep_from", keep_from, "must not be set: the windows of groups slide by themselves"
            )
        self._give_up(sequence, keep_from // self.shape.page_size)

    # --- moving away ----------------------------------------------------------------------------------

    def swap_out(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        tables, tokens = [self._tables[row] for row in self._rows(sequence)], self._tokens[sequence]
        needed = sum(len(table) - table.count(NULL_PAGE) for table in tables)
        if needed > len(self._free_swap):
            raise OutOfPages(needed, len(self._free_swap), unit="swap pages")
        stored = [
            [page if page == NULL_PAGE else self._free_swap.popleft() for page in table] for table in tables
        ]
        moves = self._moves(tables, stored, tokens)
        self._end(sequence)
        self._swapped[sequence] = (tokens, stored)
        return moves

    def swap_in(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        sequence = self.check_index(sequence)
        if sequence not in self._swapped:
            raise InvalidCase("sequence", sequence, "must be swapped out")
        tokens, stored = self._swapped[sequence]
        self._admit(sum(len(pages) - pages.count(NULL_PAGE) for pages in stored))
        tables = [[page if page == NULL_PAGE else self._take() for page in pages] for pages in stored]
        self._begin(sequence, tables, tokens)
        del self._swapped[sequence]
        self._store_back(stored)
        return self._moves(stored, tables, tokens)

    # --- steps in flight ------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """See ``PageAllocator``."""
        self._steps.append([])

    def end_step(self) -> None:
        """See ``PageAllocator``."""
        if not self._steps:
            raise InvalidCase("steps in flight", 0, "must be one at least")
        for pages in self._steps.popleft():
            self._come_back(pages)

    def reset(self) -> None:
        """See ``PageAllocator``."""
        if self._steps:
            raise InvalidCase("steps in flight", len(self._steps), "must all have ended before a reset")
        if self._copies or self._pins:
            open_ended = f"{len(self._copies)} and {self._pins.total()}"
            raise InvalidCase("copies in flight, pins", open_ended, "must be 0 before a reset")
        if there := sorted((*self._tokens, *self._swapped)):
            raise InvalidCase("sequences", there, "must all be freed before a reset")
        self._start()

    def defragment(self) -> Array:
        """See ``PageAllocator``."""
        flying = len(self._steps) + len(self._copies) + self._pins.total()
        if flying:
            raise InvalidCase("steps, copies and pins", flying, "must be 0 before pages move")
        used = self.shape.num_pages - len(self._free)
        sources = [page for page in range(used, self.shape.num_pages) if page not in self._free]
        targets = sorted(page for page in self._free if page < used)
        new = dict(zip(sources, targets, strict=True))
        self._tables = {row: [new.get(page, page) for page in pages] for row, pages in self._tables.items()}
        self._cache = {key: new.get(page, page) for key, page in self._cache.items()}
        self._duplicates = {new.get(page, page): key for page, key in self._duplicates.items()}
        self._worth = {new.get(page, page): worth for page, worth in self._worth.items()}
        self._evictable = [new.get(page, page) for page in self._evictable]
        self._free = deque(range(used, self.shape.num_pages))
        moves = [(source, target, self.shape.page_size) for source, target in new.items()]
        return np.array(moves, np.int32).reshape(-1, 3)

    # --- parts ----------------------------------------------------------------------------------------

    def _fit(self, requests: Sequence[Request], *, prefix: bool) -> Granted:
        """Serve all requests, or as many as fit where a prefix will do."""
        windows = Counter(page for sequence, tokens in requests for page in self._unseen(sequence, tokens))
        holders = self._holders()
        gained = 0 if self._steps else sum(holders[page] == count for page, count in windows.items())
        available = self.available_pages + gained
        holders.subtract(windows)
        fits, needed = 0, 0
        for sequence, tokens in requests:
            for row, group in zip(self._rows(sequence), self._groups, strict=True):
                extra, copy = self._need(row, group, self._tokens[sequence], tokens, holders)
                holders.subtract(self._tables[row][-1:] if copy else ())
                needed += extra + copy
            fits += needed <= available
        if needed > available and not prefix:
            raise OutOfPages(needed, available)
        return self._grow(requests[:fits], list(range(fits, len(requests))))

    def _need(
        self, row: int, group: KvGroup, old: int, tokens: int, holders: Mapping[int, int]
    ) -> tuple[int, bool]:
        """Pages that an append adds to a row, and whether it needs one more for a copy of the last page."""
        extra = group.pages(old + tokens) - group.pages(old)
        if tokens == 0 or old % group.page_size == 0:
            return extra, False
        return extra, holders[self._tables[row][-1]] > 1

    def _unseen(self, sequence: int, tokens: int) -> list[int]:
        """Pages that a sequence gives up when it grows by ``tokens``."""
        old = self._tokens[sequence]
        below = [pages_unseen(group, old) if tokens else 0 for group in self._groups]
        rows = zip(self._rows(sequence), below, strict=True)
        return [page for row, count in rows for page in self._tables[row][:count] if page != NULL_PAGE]

    def _give_up(self, row: int, below: int) -> None:
        dropped = self._tables[row][:below]
        self._tables[row][:below] = [NULL_PAGE] * below
        self._give_back(dropped)

    def _grow(self, requests: Sequence[Request], refused: list[int]) -> Granted:
        """Let the windows of all slide, then append to one sequence after another; the pages suffice."""
        slots, copies = [], []
        for sequence, tokens in requests:
            for row, group in zip(self._rows(sequence), self._groups, strict=True):
                self._give_up(row, pages_unseen(group, self._tokens[sequence]) if tokens else 0)
        holders = self._holders()
        for sequence, tokens in requests:
            old = self._tokens[sequence]
            for row, group in zip(self._rows(sequence), self._groups, strict=True):
                table, size = self._tables[row], group.page_size
                extra, copy = self._need(row, group, old, tokens, holders)
                if copy:
                    source, table[-1] = table[-1], self._take()
                    holders[source] -= 1
                    copies.append((source, table[-1], old % size))
                elif tokens and old % size:
                    self._forget(table[-1])
                table.extend(self._take() for _ in range(extra))
                slots += [table[token // size] * size + token % size for token in range(old, old + tokens)]
            self._tokens[sequence] = old + tokens
        return Granted(
            new_slots=np.array(slots, np.int64),
            copies=np.array(copies, np.int32).reshape(-1, 3),
            refused=np.array(refused, np.int64),
        )
