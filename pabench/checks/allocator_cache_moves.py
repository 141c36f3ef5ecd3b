# SPDX-License-Identifier: Apache-2.0
"""Moves about the prefix cache: prompts that are committed, nearly those, and others in their place."""

from __future__ import annotations

from pabench.checks.allocator_draws import Space, words_of
from pabench.checks.allocator_steps import HistorySteps
from pabench.judge.allocators.contents import Reader
from pabench.judge.allocators.streams import Turns, flat, flat_images


class CacheMoves(HistorySteps):
    """What may be done to a prefix cache."""

    def _commit(self) -> None:
        """Commit all or a part; often end the sequence, so that its pages are evictable, or rewind it."""
        sequence = self._one(self._live)
        reader = self.trial.contents.live[sequence]
        held = len(reader.tokens)
        if self._on("bad") and self._maybe(0.1):  # more than it has
            self._step("commit", sequence=sequence, tokens=held + self.rng.randint(1, self.shape.page_size))
        count = self._part(sequence) if self._maybe(0.2) else held
        self._step("commit", sequence=sequence, tokens=count)
        if count >= self.shape.page_size:
            self.offered.append((reader.turns, _space(reader)))
            if self._maybe(0.6):
                self._look_nearby(count)
        then = self._one(["", "free", "rewind", "rewind"])
        if then == "free":
            self._step("free", sequences=[sequence])
        elif then and self._on("truncate") and self._on("append"):
            self._rewind(sequence, count)

    def _cache_one(self, stream: int, space: Space) -> None:
        """Cache a prompt of a few pages, and end its sequence."""
        sequence, shape = self._dead[0], self.shape
        tokens = min(self.rng.randint(1, 3) * shape.page_size, shape.max_tokens)
        self._new(sequence, tokens, stream=stream, **words_of(space))
        if sequence in self._live:
            self._step("commit", sequence=sequence, tokens=tokens)
            self.offered.append((((0, stream),), space))
            self._step("free", sequences=[sequence])

    def _rewind(self, sequence: int, count: int) -> None:
        """Cut and write on as a speculative decoder does, also within a page that is cached by now."""
        reader = self.trial.contents.live[sequence]
        before = reader.turns, _space(reader)
        self._cut(sequence, self.rng.randint(count // 2, count))
        more = self._one([1, self._count(), max(1, count - len(reader.tokens))])
        if self._maybe(0.4) and self._on("append_batch"):
            self._step("append_batch", sequences=[sequence], tokens=[more])
        else:
            self._step("append", sequence=sequence, tokens=more)
        if self._maybe(0.6):
            held = len(reader.tokens)
            self._step("commit", sequence=sequence, tokens=held)
            self._look_for(before, count + 1)
            self._look_for((reader.turns, _space(reader)), held + 1)

    def _look_nearby(self, count: int) -> None:
        """Look for what is nearly the prompt that was committed last."""
        turns, space = self.offered[-1]
        for other in dict.fromkeys(self.spaces):
            if other != space:
                self._look_for((turns, other), count + 1)
        others = [stream for stream in self.streams if stream != turns[0][1]]
        for stream in self.rng.sample(others, 2):
            self._look_for((((0, stream),), space), count + 1)

    def _look_for(self, offer: tuple[Turns, Space], tokens: int) -> None:
        if self._on("lookup"):
            turns, space = offer
            words = {"stream": turns[0][1], "turns": flat(turns), **words_of(space)}
            self._step("lookup", tokens=tokens, **words)

    def _look(self) -> None:
        """Look for what was committed lately, or for what is near it."""
        turns, space = self._one(self.offered[-3:])
        if self._maybe(0.4):
            space = self._one(self.spaces)
        if self._maybe(0.25):
            turns = ((0, self._one(self.streams)),)
        self._look_for((turns, space), self.rng.randint(1, 4) * self.shape.page_size + self.rng.randint(0, 1))

    def _evict(self) -> None:
        self._step("evict", pages=self.rng.randint(-1, 4))

    def _start_from_cache(self) -> None:
        """Look for what a sequence has committed, or for the like in another name space."""
        sequence = self._one(self._dead[:6])
        self._look()
        self._step("adopt", sequence=sequence, pages=[])
        if self._maybe() and sequence in self._live:
            self._step("append", sequence=sequence, tokens=self._count())

    def _adopt_late_or_forged(self) -> None:
        """The cache may have changed since the last lookup, and the ids may be anybody's."""
        if self._maybe():
            self._look()
        held = [page for sequence in self._live for page in self.trial.subject.pages(sequence)]
        forged = self._one([*self.trial.hit.pages, *held[:6], self.rng.randint(-1, self.shape.num_pages)])
        pages = [forged] if self._maybe() else []
        self._step("adopt", sequence=self._one([*self._dead[:1], 0]), pages=pages)


def _space(reader: Reader) -> Space:
    return reader.adapter, reader.salt, tuple(flat_images(reader.images))
