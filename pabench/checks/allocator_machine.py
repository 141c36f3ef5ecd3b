# SPDX-License-Identifier: Apache-2.0
"""The state machine over all operations of a page allocator, refusals among them.

Hypothesis draws its steps; ``search.py`` runs it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pabench.checks.allocator_cache_moves import CacheMoves
from pabench.checks.allocator_checks import check_repeats
from pabench.checks.allocator_draws import (
    PAGES,
    SMALL_PAGES,
    Space,
    grouped_pools,
    image_spaces,
    small_pools,
    spaces,
    streams,
    words_of,
)
from pabench.checks.allocator_steps import HistoryOver
from pabench.checks.table_decode import judge_tables
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.results import NULL_PAGE

# operations that a run may do without: what is left goes deeper (swarm testing)
GROUPS = ("fork", "truncate", "free_window", "cache", "evict", "swap", "reset", "bad", "final", "steps")


class AllocatorMachine(CacheMoves, RuleBasedStateMachine):
    """Moves over the operations that the subject offers; ``asking`` is set by a subclass.

    A step draws one number, from which the move and its arguments follow.  So a step costs one draw, the
    weights of the moves are ours, and Hypothesis makes a failing history smaller by leaving steps out.
    """

    decodes = False

    def _pools(self) -> st.SearchStrategy[PoolShape]:
        return small_pools(self.can, SMALL_PAGES if self.decodes else PAGES)

    def _spaces(self, rng: random.Random) -> list[Space]:
        return spaces(rng)

    @initialize(
        data=st.data(),
        without=st.sets(st.sampled_from(GROUPS), max_size=5),
        words=st.integers(0, 2**16),
    )
    def start(self, data: st.DataObject, without: set[str], words: int) -> None:
        """Draw a pool, what this run does without, and the words of its prompts."""
        self.can = self.asking.can
        self.shape = data.draw(self._pools())
        self.without = without
        self.streams, self.spaces = streams(random.Random(words)), self._spaces(random.Random(words))
        self.history, self.offered = [], []
        self.asking.announce(self._case())
        self.trial = Trial(self.asking.new_allocator(self.shape))
        self.rng = random.Random(0)

    @rule(number=st.integers(0, 2**32 - 1))
    def act(self, number: int) -> None:
        """Make one move, of those that are possible now."""
        if not hasattr(self, "trial"):
            return
        # small numbers are frequent: the place in the history makes something else of each
        self.rng = random.Random(1_000_003 * number + len(self.history))
        live, dead, away, can = bool(self._live), bool(self._dead), bool(self._away), self._on
        cache = can("cache") and can("adopt") and bool(self.offered)
        moves = [
            (2 if live else 8, dead, self._alloc),
            (2, live, self._append),
            (2, live and can("append_batch"), self._append_batch),
            (2, live and can("append_batch"), self._decode_step),
            (1, can("append_batch"), self._fill_to_the_brim),
            (3, live and dead and can("fork"), self._fork),
            (2, live and can("truncate"), self._truncate),
            (1, live and can("free_window") and not self.shape.groups, self._free_window),
            (1 if self.trial.subject.free_pages else 4, live or away, self._free),
            (4, live and can("cache") and can("commit"), self._commit),
            (6, dead and cache, self._start_from_cache),
            (3, cache, self._adopt_late_or_forged),
            (1, can("evict") and self.trial.subject.evictable_pages > 0, self._evict),
            (2, live and can("swap") and can("swap_out"), self._swap_out),
            (2, away, self._swap_in),
            (1, bool(self.history) and can("reset"), self._reset),
            (2, can("steps") and can("begin_step"), self._begin_or_end),
            (2, can("bad"), self._free_what_may_not_be),
            (1, live and can("bad") and can("append_batch"), self._append_what_may_not_be),
            (2, can("bad"), self._ask_what_may_not_be),
            (1, can("defragment") and bool(self.history), self._defragment),
            *self._more_moves(),
        ]
        weights = [weight if possible else 0 for weight, possible, _ in moves]
        if any(weights):
            with contextlib.suppress(HistoryOver):
                self.rng.choices([move for _, _, move in moves], weights)[0]()

    def _more_moves(self) -> list[tuple[int, bool, Callable[[], None]]]:
        """Moves of a subclass: weight, whether it is possible now, and the move."""
        return []

    # --- starting -------------------------------------------------------------------------------------------

    def _alloc(self) -> None:
        sequence, tokens, space = self._one(self._dead[:6]), self._count(), self._one(self.spaces)
        final = tokens + self._count() if self._on("final") and self._maybe() else None
        stream = self._one(self.streams)
        self._new(sequence, tokens, final_tokens=final, stream=stream, **words_of(space))

    def _fork(self) -> None:
        """Fork, and mostly grow one of the two, both at once, or everything; also when no page is left."""
        parent, child = self._one(self._live), self._one(self._dead[:6])
        self._step("fork", parent=parent, child=child, stream=self._one(self.streams))
        then = self._one(["", "one", "one", "both", "all", "all"])
        if self._maybe(0.3) and self._dead:
            others = [sequence for sequence in self._live if sequence not in (parent, child)] or [parent]
            self._step("fork", parent=self._one(others), child=self._dead[0], stream=self._one(self.streams))
            then = "all"
        if self._maybe(0.3):
            self._take_all()
        if then == "one":
            self._step("append", sequence=self._one([parent, child]), tokens=self._one([1, self._count()]))
        elif then and self._on("append_batch"):
            chosen = [child, parent] if then == "both" else self._live
            self._step("append_batch", sequences=chosen, tokens=[self._one([1, 1, 2])] * len(chosen))

    def _take_all(self) -> None:
        """Leave no page that a newcomer could have."""
        for sequence in self._dead:
            subject, shape = self.trial.subject, self.shape
            left = subject.free_pages + subject.evictable_pages - shape.reserve_pages
            if left > 0:
                self._new(sequence, min(left // shape.block_pages * shape.page_size, shape.max_tokens))

    # --- growing and shrinking ------------------------------------------------------------------------------

    def _append(self) -> None:
        self._step("append", sequence=self._one(self._live), tokens=self._count())

    def _append_batch(self) -> None:
        chosen = self.rng.sample(self._live, self.rng.randint(1, min(6, len(self._live))))
        self._step("append_batch", sequences=chosen, tokens=[self._count() for _ in chosen])

    def _decode_step(self) -> None:
        self._step("append_batch", sequences=self._live, tokens=[1] * len(self._live))

    def _fill_to_the_brim(self) -> None:
        """Ask for all pages there are, one fewer or one more, with as many sequences as that takes."""
        shape, subject = self.shape, self.trial.subject
        left = subject.free_pages + subject.evictable_pages - self.rng.randint(-1, 1)
        first = self.rng.randrange(shape.max_seqs)
        sequences, tokens = [], []
        for turn in range(shape.max_seqs):
            sequence = (first + turn) % shape.max_seqs
            if left <= 0 or sequence in self.trial.contents.swapped:
                continue
            if sequence not in self.trial.contents.live:
                self._new(sequence, 0)
            if sequence not in self.trial.contents.live:
                continue  # who reserves may have no room for it
            held = len(self.trial.contents.live[sequence].tokens)
            # from a page's end on, so that tokens asked for and pages needed agree
            slack = -held % shape.page_size
            take = min((shape.max_tokens - held - slack) // shape.page_size, left // shape.block_pages)
            if take > 0:
                sequences.append(sequence)
                tokens.append(slack + take * shape.page_size)
                left -= take * shape.block_pages
        self._step("append_batch", sequences=sequences, tokens=tokens)

    def _truncate(self) -> None:
        """Cut, and often grow from there."""
        sequence = self._one(self._live)
        self._cut(sequence, self._part(sequence))
        then = self._one(["", "append", "append", "append_batch", "decode"])
        if then == "append":
            self._step("append", sequence=sequence, tokens=self._count())
        elif then and self._on("append_batch"):
            self._step(
                "append_batch", sequences=[sequence], tokens=[1 if then == "decode" else self._count()]
            )

    def _free_window(self) -> None:
        sequence = self._one(self._live)
        self._step("free_window", sequence=sequence, keep_from=self._part(sequence))

    def _free(self) -> None:
        there = [*self._live, *self._away]
        self._step("free", sequences=self.rng.sample(there, self.rng.randint(1, min(2, len(there)))))

    # --- moving away ----------------------------------------------------------------------------------------

    def _swap_out(self) -> None:
        self._step("swap_out", sequence=self._one(self._live))

    def _defragment(self) -> None:
        """Mostly with nothing in flight, when it is refused."""
        while self.trial.fence.steps and self._maybe(0.8):
            self._step("end_step")
        self._step("defragment")

    def _swap_in(self) -> None:
        self._step("swap_in", sequence=self._one(self._away))

    def _begin_or_end(self) -> None:
        """Up to three steps are in flight; now and then more have ended than were begun."""
        flying = len(self.trial.fence.steps)
        begins = self.rng.random() < (0.7, 0.5, 0.3, 0.0)[min(flying, 3)]
        if begins or flying or self._on("bad"):
            self._step("begin_step" if begins else "end_step")

    def _reset(self) -> None:
        while self.trial.fence.steps and self._maybe(0.8):
            self._step("end_step")
        if self._maybe() and (self._live or self._away):
            self._step("free", sequences=[*self._live, *self._away])
        self._step("reset")

    # --- what may not be ------------------------------------------------------------------------------------

    def _free_what_may_not_be(self) -> None:
        """Also one sequence twice in one call."""
        chosen = [self._one([*self._live, *self._dead[:1], *self._dead[:1], -1, self.shape.max_seqs])]
        if self._live and self._maybe():
            chosen.append(self._one(self._live))
        self._step("free", sequences=[*chosen, chosen[-1]] if self._maybe() else chosen)

    def _append_what_may_not_be(self) -> None:
        """A sequence twice, one that is not there, or a count below 0."""
        chosen = [self._one([*self._live, *self._dead[:1], -1]) for _ in range(2)]
        counts = [self.rng.randint(-1, 2) for _ in range(3)]
        if self._maybe():
            self._step("append_batch", sequences=[chosen[0], *chosen], tokens=counts)
        else:
            self._step("append", sequence=self._one(self._live), tokens=counts[0] - 2)

    def _ask_what_may_not_be(self) -> None:
        some = [*self._live, *self._away, *self._dead[:1], -1, self.shape.max_seqs]
        sequence, count = self._one(some), self.rng.randint(-3, 3 * self.shape.page_size)
        if self._away and self._maybe():
            self._new(self._one(self._away), max(count, 0))
        given: dict[str, dict[str, Any]] = {
            "append": {"sequence": sequence, "tokens": count},
            "fork": {"parent": sequence, "child": self._one(some), "stream": 0},
            "truncate": {"sequence": sequence, "length": count, "stream": None},
            "free_window": {"sequence": sequence, "keep_from": count},
            "commit": {"sequence": sequence, "tokens": count},
            "swap_out": {"sequence": sequence},
            "swap_in": {"sequence": sequence},
        }
        name = self._one(["alloc", "alloc", *(name for name in given if name in self.can.operations)])
        if name == "alloc":
            self._new(sequence, count, final_tokens=self.rng.randint(-1, 40) if self._maybe() else None)
        else:
            self._step(name, **given[name])

    # --- the end --------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Judge what the history left behind."""
        if not hasattr(self, "trial"):
            return
        if self.decodes:
            run = partial(judge_tables, self.trial, self.asking.device)
            self._close(self.asking.observer.judge(self._case(), run))
            return
        outcome = self._judge("drain", {})
        if outcome.passed:
            outcome = check_repeats(self.trial, self.asking.new_allocator)
        self._close(outcome)


class DecodingMachine(AllocatorMachine):
    """At its end a decode kernel reads the cache through the tables."""

    decodes = True


class ImageMachine(AllocatorMachine):
    """Prompts differ in the images that their tokens stand for, and in nothing else but their tokens."""

    def _spaces(self, rng: random.Random) -> list[Space]:
        return image_spaces(rng, self.shape.page_size)


class GroupMachine(AllocatorMachine):
    """Several KV groups share the pool."""

    def _pools(self) -> st.SearchStrategy[PoolShape]:
        return grouped_pools(self.can)

    def _more_moves(self) -> list[tuple[int, bool, Callable[[], None]]]:
        live = bool(self._live)
        return [(2, live, self._slide_when_full), (2, live and self._on("truncate"), self._cut_at_a_window)]

    def _slide_when_full(self) -> None:
        """Let windows slide while no page is left, so that what they give up is needed at once."""
        sequence = self._one(self._live)
        if self._dead and self._on("fork") and self._maybe(0.4):
            self._step("fork", parent=sequence, child=self._dead[0], stream=self.streams[0])
        self._take_all()
        if self._on("steps") and self._on("begin_step") and self._maybe(0.4):
            self._step("begin_step")
        self._step("append", sequence=sequence, tokens=self._one([1, self.shape.page_size, self._count()]))

    def _cut_at_a_window(self) -> None:
        """Cut to where a window still has all it needs, or to one token less."""
        sequence, at = self._one(self._live), self.rng.randrange(len(self.shape.kv_groups))
        group, width = self.shape.kv_groups[at], self.shape.max_pages_per_seq
        held = len(self.trial.contents.live[sequence].tokens)
        row = self.trial.subject.block_table()[sequence, at * width :][: group.pages(held)].tolist()
        limit = row.count(NULL_PAGE) * group.page_size + max(0, group.window - 1)
        self._cut(sequence, min(held, max(0, limit - self.rng.randint(0, 1))))

    def _part(self, sequence: int) -> int:
        """Often near the end: what lies far before it has left the windows, and cannot be cut to."""
        held = len(self.trial.contents.live[sequence].tokens)
        near = max(0, held - self.rng.randint(0, self.shape.page_size))
        return near if self._maybe(0.6) else super()._part(sequence)
