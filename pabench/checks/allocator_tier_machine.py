# SPDX-License-Identifier: Apache-2.0
"""Histories with two tiers: cached pages move down, are loaded back, and are pinned on the way."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from pabench.checks.allocator_draws import tiered_pools, words_of
from pabench.checks.allocator_machine import AllocatorMachine
from pabench.judge.allocators.streams import flat
from pabench.subjects.allocators.base import PoolShape


class TierMachine(AllocatorMachine):
    """A lower tier of a few pages, and up to three copies in flight."""

    def _pools(self) -> st.SearchStrategy[PoolShape]:
        return tiered_pools(self.can)

    def _more_moves(self) -> list[tuple[int, bool, Callable[[], None]]]:
        flying, pins = len(self.trial.tiers.flights), self._on("pin") and self._on("lookup")
        evictable = self.trial.subject.evictable_pages > 0
        offered = bool(self.offered) and self._on("cache")
        return [
            (4 if evictable else 1, True, self._move_down),
            (6, bool(self._dead) and self._on("cache") and self._on("free"), self._store),
            (10, offered, self._load_back),
            (2 + 2 * flying, bool(flying) or self._on("bad"), self._end_copy),
            (4, offered and pins, self._pin),
            (3, bool(self.trial.tiers.pinned), self._unpin),
            (2, offered and pins and bool(self._live), self._write_beside_a_pin),
        ]

    def _store(self) -> None:
        """Cache a prompt of a few pages, often once more, end its sequence, and move all down."""
        stream, space = self._one(self.streams[:3]), self._one(self.spaces)
        if self.offered and self._maybe(0.6):
            turns, space = self._one(self.offered[-3:])
            stream = turns[0][1]
        self._cache_one(stream, space)
        if self._maybe(0.7):
            self._move_down()

    def _move_down(self) -> None:
        """Mostly all there is; sometimes the pages are asked for again before the copy has landed."""
        self._step("move_down", pages=self._one([1, 2, 9, 9]))
        if self._maybe(0.15):
            self._take_all()
        if self._maybe(0.6):
            self._land()

    def _load_back(self) -> None:
        """Load what was offered lately, ask for it before and after it has landed, and start from it."""
        turns, space = self._one(self.offered[-4:])
        if self._maybe(0.1):
            space = self._one(self.spaces)
        tokens = self._one([4, 3, 3, 2, 1]) * self.shape.page_size + self._one([1, 1, 0])
        if self._maybe(0.1):
            self._take_all()
        words = {"stream": turns[0][1], "turns": flat(turns), **words_of(space)}
        self._step("load", tokens=tokens, **words)
        then = self._one(["", "look", "store", "down"])
        if then == "look":
            self._look_for((turns, space), tokens)
        elif then == "store" and self._dead and self._on("free"):
            self._store()
        elif then == "down":
            self._step("move_down", pages=2)
        if self._maybe(0.7):
            self._land()
        self._look_for((turns, space), tokens)
        if self._dead and self._on("adopt"):
            self._step("adopt", sequence=self._dead[0], pages=[])

    def _end_copy(self) -> None:
        self._step("end_copy")

    def _land(self) -> None:
        while self.trial.tiers.flights:
            self._end_copy()

    def _pin(self) -> None:
        """Pin what is cached, then often evict, move or take whatever else can be had."""
        self._look()
        self._step("pin")
        if self._maybe(0.3) and self._on("free") and self._live:
            self._step("free", sequences=self._live)
        then = self._one(["", "evict", "move", "take"])
        if then == "evict" and self._on("evict"):
            self._step("evict", pages=self.shape.num_pages)
        elif then == "move":
            self._step("move_down", pages=self.shape.num_pages)
        elif then == "take":
            self._take_all()

    def _unpin(self) -> None:
        """Now and then a pin that is not there."""
        pinned, late = len(self.trial.tiers.pinned), self._on("bad") and self._maybe(0.1)
        self._step("unpin", place=pinned if late else self.rng.randrange(pinned))

    def _write_beside_a_pin(self) -> None:
        """Commit, pin, cut within the last page and write on: the pinned page stays as it is."""
        sequence = self._one(self._live)
        reader = self.trial.contents.live[sequence]
        held = len(reader.tokens)
        self._step("commit", sequence=sequence, tokens=held)
        self._look_for((reader.turns, (reader.adapter, reader.salt, ())), held + 1)
        self._step("pin")
        if held and self._on("truncate"):
            self._cut(sequence, held - self.rng.randint(1, min(held, self.shape.page_size)))
            self._step("append", sequence=sequence, tokens=self._one([1, self._count()]))
