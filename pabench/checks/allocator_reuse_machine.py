# SPDX-License-Identifier: Apache-2.0
"""Histories of allocators that use cached pages in other ways: begun pages, copied forks, priorities."""

from __future__ import annotations

from collections.abc import Callable

from pabench.checks.allocator_draws import words_of
from pabench.checks.allocator_machine import AllocatorMachine
from pabench.judge.allocators.streams import cut, flat


class ReuseMachine(AllocatorMachine):
    """More of what makes the difference: prompts that part within a page, forks of full pools, time."""

    def _more_moves(self) -> list[tuple[int, bool, Callable[[], None]]]:
        offered, cache = bool(self.offered), self._on("cache") and self._on("adopt")
        return [
            (5, offered and cache and bool(self._dead), self._start_within),
            (4, cache and bool(self._dead) and self._on("free"), self._cache_another),
            (8, offered and self._on("retain"), self._retain),
            (2, self._on("pass_time"), self._pass_time),
            (2, bool(self._live) and bool(self._dead) and self._on("fork"), self._fork_when_full),
        ]

    def _start_within(self) -> None:
        """Start from what parts from a cached prompt in the middle of a page, also when no page is left."""
        turns, space = self._one(self.offered[-4:])
        at = self.rng.randint(0, 3 * self.shape.page_size)
        turns = cut(turns, at, self._one(self.streams))
        self._look_for((turns, space), at + self.rng.randint(0, self.shape.page_size))
        sequence = self._dead[0]
        if self._maybe(0.2):
            self._take_all()
        self._step("adopt", sequence=sequence, pages=[])
        if sequence in self._live and self._maybe():
            self._step("append", sequence=sequence, tokens=self._count())

    def _cache_another(self) -> None:
        """Cache what begins as another prompt does, so that two pages begin as a third one goes on."""
        space = self._one(self.offered[-3:])[1] if self.offered else self._one(self.spaces)
        self._cache_one(self._one(self.streams), space)
        if self.offered and self._dead and self._maybe(0.7):
            self._start_within()

    def _retain(self) -> None:
        turns, space = self._one(self.offered[-4:])
        priority, seconds = self._one([0, 34, 35, 36, 90, 100]), self._one([None, 1, 2, 4])
        if self._on("bad") and self._maybe(0.1):
            priority, seconds = self._one([(-1, None), (101, None), (50, 0)])
        words = {"stream": turns[0][1], "turns": flat(turns), **words_of(space)}
        tokens = self.rng.randint(1, 3) * self.shape.page_size + self.rng.randint(-1, 1)
        self._step("retain", tokens=tokens, priority=priority, seconds=seconds, **words)
        if seconds and self._maybe(0.4) and self._on("pass_time"):
            self._step("pass_time", seconds=seconds)
        self._evict_some()

    def _evict_some(self) -> None:
        """Often a page or two, sometimes after all sequences have ended."""
        if self._live and self._on("free") and self._maybe(0.4):
            self._step("free", sequences=self._live)
        if self._on("evict") and self._maybe(0.8):
            self._step("evict", pages=self._one([1, 1, 2]))

    def _pass_time(self) -> None:
        self._step("pass_time", seconds=self.rng.randint(-1 if self._on("bad") else 0, 3))
        self._evict_some()

    def _fork_when_full(self) -> None:
        """A fork that has no page to copy to is refused."""
        parent, child = self._one(self._live), self._dead[0]
        if self._maybe():
            self._take_all()
        if child in self._dead:
            self._step("fork", parent=parent, child=child, stream=self._one(self.streams))
