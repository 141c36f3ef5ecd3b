"""Page allocators: a state machine over all operations, and what must be refused."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.allocator_checks import check_repeats, judge_operation
from pabench.checks.outcome import Outcome
from pabench.checks.table_decode import judge_tables
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import OPERATIONS, Capabilities

STREAMS = (0, 1, 2, 3, 6)
SPACES = (("", ""), ("", ""), ("x", ""), ("", "x"))  # adapter and salt
# operations that a run may do without: what is left goes deeper (swarm testing)
GROUPS = ("fork", "truncate", "free_window", "cache", "evict", "swap", "reset", "bad", "final")


def small_pools(can: Capabilities) -> st.SearchStrategy[PoolShape]:
    """Pools so small that running out, sharing and recycling are frequent."""
    return st.builds(
        PoolShape,
        num_pages=st.integers(4, 16) | st.integers(1, 24),
        page_size=st.sampled_from([4, 3, 2, 1, 8]),
        max_seqs=st.sampled_from([5, 3, 40]),
        max_pages_per_seq=st.sampled_from([4, 8, 6, 3, 2, 1]),
        swap_pages=st.integers(0, 10) if "swap_out" in can.operations else st.just(0),
        reserve_pages=st.sampled_from([0, 0, 1, 2]) if can.watermark else st.just(0),
        hash_bits=st.sampled_from([64, 1]) if "lookup" in can.operations else st.just(64),
    )


class HistoryOver(Exception):
    """A known deviation ended the history."""


class AllocatorMachine(RuleBasedStateMachine):
    """Moves over the operations that the subject offers; ``examiner`` is set by a subclass.

    A step draws one number, from which the move and its arguments follow.  So a step costs one draw, the
    weights of the moves are ours, and Hypothesis makes a failing history smaller by leaving steps out.
    """

    examiner: Examiner
    decodes = False

    @initialize(data=st.data(), without=st.sets(st.sampled_from(GROUPS), max_size=5))
    def start(self, data: st.DataObject, without: set[str]) -> None:
        self.can = self.examiner.allocator_capabilities
        self.shape = data.draw(small_pools(self.can))
        self.without = without
        self.history: list[Operation] = []
        self.examiner.announce(self.case())
        self.trial = Trial(self.examiner.new_allocator(self.shape))
        self.offered: list[tuple[int, str, str]] = []  # stream, adapter and salt of what was committed
        self.rng = random.Random(0)

    @rule(number=st.integers(0, 2**32 - 1))
    def act(self, number: int) -> None:
        if not hasattr(self, "trial"):
            return
        # small numbers are frequent: the place in the history makes something else of each
        self.rng = random.Random(1_000_003 * number + len(self.history))
        live, dead, away, can = bool(self.live), bool(self.dead), bool(self.away), self.on
        cache = can("cache") and can("adopt") and bool(self.offered)
        moves = [
            (2 if live else 8, dead, self.alloc),
            (2, live, self.append),
            (2, live and can("append_batch"), self.append_batch),
            (2, live and can("append_batch"), self.decode_step),
            (1, can("append_batch"), self.fill_to_the_brim),
            (3, live and dead and can("fork"), self.fork),
            (2, live and can("truncate"), self.truncate),
            (1, live and can("free_window"), self.free_window),
            (1 if self.trial.subject.free_pages else 4, live or away, self.free),
            (4, live and can("cache") and can("commit"), self.commit),
            (6, dead and cache, self.start_from_cache),
            (3, cache, self.adopt_late_or_forged),
            (1, can("evict") and self.trial.subject.evictable_pages > 0, self.evict),
            (2, live and can("swap") and can("swap_out"), self.swap_out),
            (2, away, self.swap_in),
            (1, bool(self.history) and can("reset"), self.reset),
            (2, can("bad"), self.free_what_may_not_be),
            (1, live and can("bad") and can("append_batch"), self.append_what_may_not_be),
            (2, can("bad"), self.ask_what_may_not_be),
        ]
        weights = [weight if possible else 0 for weight, possible, _ in moves]
        if any(weights):
            with contextlib.suppress(HistoryOver):
                self.rng.choices([move for _, _, move in moves], weights)[0]()

    # --- starting -------------------------------------------------------------------------------------------

    def alloc(self) -> None:
        sequence, tokens, (adapter, salt) = self.one(self.dead[:6]), self.count(), self.one(SPACES)
        final = tokens + self.count() if self.on("final") and self.maybe() else None
        stream = self.one(STREAMS)
        self.new(sequence, tokens, final_tokens=final, stream=stream, adapter=adapter, salt=salt)

    def fork(self) -> None:
        """Fork, and mostly grow one of the two, both at once, or everything; also when no page is left."""
        parent, child = self.one(self.live), self.one(self.dead[:6])
        self.step("fork", parent=parent, child=child, stream=self.one(STREAMS))
        then = self.one(["", "one", "one", "both", "all", "all"])
        if self.maybe(0.3) and self.dead:
            others = [sequence for sequence in self.live if sequence not in (parent, child)] or [parent]
            self.step("fork", parent=self.one(others), child=self.dead[0], stream=self.one(STREAMS))
            then = "all"
        if self.maybe(0.3):
            self.take_all()
        if then == "one":
            self.step("append", sequence=self.one([parent, child]), tokens=self.one([1, self.count()]))
        elif then and self.on("append_batch"):
            chosen = [child, parent] if then == "both" else self.live
            self.step("append_batch", sequences=chosen, tokens=[self.one([1, 1, 2])] * len(chosen))

    def take_all(self) -> None:
        """Leave no page that a newcomer could have."""
        for sequence in self.dead:
            subject, shape = self.trial.subject, self.shape
            left = subject.free_pages + subject.evictable_pages - shape.reserve_pages
            if left > 0:
                self.new(sequence, min(left * shape.page_size, shape.max_tokens))

    def start_from_cache(self) -> None:
        """Look for what a sequence has committed, or for the like in another name space."""
        sequence = self.one(self.dead[:6])
        self.look()
        self.step("adopt", sequence=sequence, pages=[])
        if self.maybe() and sequence in self.live:
            self.step("append", sequence=sequence, tokens=self.count())

    def adopt_late_or_forged(self) -> None:
        """The cache may have changed since the last lookup, and the ids may be anybody's."""
        if self.maybe():
            self.look()
        held = [page for sequence in self.live for page in self.trial.subject.pages(sequence)]
        forged = self.one([*self.trial.hit.pages, *held[:6], self.rng.randint(-1, self.shape.num_pages)])
        pages = [forged] if self.maybe() else []
        self.step("adopt", sequence=self.one([*self.dead[:1], 0]), pages=pages)

    # --- growing and shrinking ------------------------------------------------------------------------------

    def append(self) -> None:
        self.step("append", sequence=self.one(self.live), tokens=self.count())

    def append_batch(self) -> None:
        chosen = self.rng.sample(self.live, self.rng.randint(1, min(6, len(self.live))))
        self.step("append_batch", sequences=chosen, tokens=[self.count() for _ in chosen])

    def decode_step(self) -> None:
        self.step("append_batch", sequences=self.live, tokens=[1] * len(self.live))

    def fill_to_the_brim(self) -> None:
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
                self.new(sequence, 0)
            if sequence not in self.trial.contents.live:
                continue  # who reserves may have no room for it
            held = len(self.trial.contents.live[sequence].serials)
            # from a page's end on, so that tokens asked for and pages needed agree
            slack = -held % shape.page_size
            take = min((shape.max_tokens - held - slack) // shape.page_size, left)
            if take > 0:
                sequences.append(sequence)
                tokens.append(slack + take * shape.page_size)
                left -= take
        self.step("append_batch", sequences=sequences, tokens=tokens)

    def truncate(self) -> None:
        """Cut, and often grow from there."""
        sequence = self.one(self.live)
        self.step("truncate", sequence=sequence, length=self.part(sequence))
        then = self.one(["", "append", "append", "append_batch", "decode"])
        if then == "append":
            self.step("append", sequence=sequence, tokens=self.count())
        elif then and self.on("append_batch"):
            self.step("append_batch", sequences=[sequence], tokens=[1 if then == "decode" else self.count()])

    def free_window(self) -> None:
        sequence = self.one(self.live)
        self.step("free_window", sequence=sequence, keep_from=self.part(sequence))

    def free(self) -> None:
        there = [*self.live, *self.away]
        self.step("free", sequences=self.rng.sample(there, self.rng.randint(1, min(2, len(there)))))

    # --- cache and store ------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit all or a part, and often end the sequence, so that its pages are evictable."""
        sequence = self.one(self.live)
        reader = self.trial.contents.live[sequence]
        held = len(reader.serials)
        if self.on("bad") and self.maybe(0.1):  # more than it has
            self.step("commit", sequence=sequence, tokens=held + self.rng.randint(1, self.shape.page_size))
        count = self.part(sequence) if self.maybe(0.2) else held
        self.step("commit", sequence=sequence, tokens=count)
        if count >= self.shape.page_size:
            self.offered.append((reader.stream, reader.adapter, reader.salt))
        then = self.one(["", "free", "rewind", "rewind"])
        if then == "free":
            self.step("free", sequences=[sequence])
        elif then and self.on("truncate") and self.on("append"):
            # as a speculative decoder does: the cut may lie within a page that is cached by now
            self.step("truncate", sequence=sequence, length=self.rng.randint(count // 2, count))
            more = self.one([1, self.count()])
            if self.maybe(0.4) and self.on("append_batch"):
                self.step("append_batch", sequences=[sequence], tokens=[more])
            else:
                self.step("append", sequence=sequence, tokens=more)

    def look(self) -> None:
        stream, adapter, salt = self.one(self.offered[-3:])
        if self.maybe(0.4):
            adapter, salt = self.one([(salt, adapter), ("", "x"), ("", ""), ("x", "")])
        if self.maybe(0.25):
            stream = self.one(STREAMS)
        tokens = self.rng.randint(1, 4) * self.shape.page_size + self.rng.randint(0, 1)
        self.step("lookup", tokens=tokens, stream=stream, adapter=adapter, salt=salt)

    def evict(self) -> None:
        self.step("evict", pages=self.rng.randint(-1, 4))

    def swap_out(self) -> None:
        self.step("swap_out", sequence=self.one(self.live))

    def swap_in(self) -> None:
        self.step("swap_in", sequence=self.one(self.away))

    def reset(self) -> None:
        if self.maybe() and (self.live or self.away):
            self.step("free", sequences=[*self.live, *self.away])
        self.step("reset")

    # --- what may not be ------------------------------------------------------------------------------------

    def free_what_may_not_be(self) -> None:
        """Also one sequence twice in one call."""
        chosen = [self.one([*self.live, *self.dead[:1], *self.dead[:1], -1, self.shape.max_seqs])]
        if self.live and self.maybe():
            chosen.append(self.one(self.live))
        self.step("free", sequences=[*chosen, chosen[-1]] if self.maybe() else chosen)

    def append_what_may_not_be(self) -> None:
        """A sequence twice, one that is not there, or a count below 0."""
        chosen = [self.one([*self.live, *self.dead[:1], -1]) for _ in range(2)]
        counts = [self.rng.randint(-1, 2) for _ in range(3)]
        if self.maybe():
            self.step("append_batch", sequences=[chosen[0], *chosen], tokens=counts)
        else:
            self.step("append", sequence=self.one(self.live), tokens=counts[0] - 2)

    def ask_what_may_not_be(self) -> None:
        some = [*self.live, *self.away, *self.dead[:1], -1, self.shape.max_seqs]
        sequence, count = self.one(some), self.rng.randint(-3, 3 * self.shape.page_size)
        if self.away and self.maybe():
            self.new(self.one(self.away), max(count, 0))
        given: dict[str, dict[str, Any]] = {
            "append": {"sequence": sequence, "tokens": count},
            "fork": {"parent": sequence, "child": self.one(some), "stream": 0},
            "truncate": {"sequence": sequence, "length": count},
            "free_window": {"sequence": sequence, "keep_from": count},
            "commit": {"sequence": sequence, "tokens": count},
            "swap_out": {"sequence": sequence},
            "swap_in": {"sequence": sequence},
        }
        name = self.one(["alloc", "alloc", *(name for name in given if name in self.can.operations)])
        if name == "alloc":
            self.new(sequence, count, final_tokens=self.rng.randint(-1, 40) if self.maybe() else None)
        else:
            self.step(name, **given[name])

    # --- parts ----------------------------------------------------------------------------------------------

    @property
    def live(self) -> list[int]:
        return sorted(self.trial.contents.live)

    @property
    def away(self) -> list[int]:
        return sorted(self.trial.contents.swapped)

    @property
    def dead(self) -> list[int]:
        there = {*self.trial.contents.live, *self.trial.contents.swapped}
        return [sequence for sequence in range(self.shape.max_seqs) if sequence not in there]

    def one(self, among: Sequence[Any]) -> Any:
        return self.rng.choice(among)

    def maybe(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def count(self) -> int:
        """Tokens to add: mostly about a page or two."""
        size = self.shape.page_size
        some = self.rng.randint(1, 2 * size + 1)
        count: int = self.rng.choice([0, 1, size - 1, size, size + 1, 2 * size, some, some])
        return count

    def part(self, sequence: int) -> int:
        """A number of a sequence's tokens."""
        return self.rng.randint(0, len(self.trial.contents.live[sequence].serials))

    def on(self, name: str) -> bool:
        """Whether an operation is offered, and it or its group not left out of this run."""
        return name not in self.without and (name in self.can.operations or name not in OPERATIONS)

    def new(self, sequence: int, tokens: int, **given: Any) -> None:
        words = {"final_tokens": None, "stream": 0, "adapter": "", "salt": ""}
        self.step("alloc", sequence=sequence, tokens=tokens, **(words | given))

    def step(self, name: str, **given: Any) -> None:
        outcome = self.judge(name, given)
        if not outcome.passed:
            self.close(outcome)
            raise HistoryOver

    def teardown(self) -> None:
        if not hasattr(self, "trial"):
            return
        if self.decodes:
            run = partial(judge_tables, self.trial, self.examiner.device)
            self.close(self.examiner.witness.judge(self.case(), run))
            return
        outcome = self.judge("drain", {})
        if outcome.passed:
            outcome = check_repeats(self.case(), self.trial.subject, self.examiner.new_allocator)
        self.close(outcome)

    def judge(self, name: str, given: dict[str, Any]) -> Outcome:
        self.history.append((name, given))
        self.examiner.announce(self.case())
        return judge_operation(self.trial, self.history)

    def case(self) -> HistoryCase:
        return HistoryCase(shape=self.shape, operations=tuple(self.history))

    def close(self, outcome: Outcome) -> None:
        if not outcome.passed:
            del self.trial  # a broken history is not drained
        self.examiner.note(self.case(), outcome)


def test_allocator_keeps_its_invariants(allocator_examiner: Examiner) -> None:
    machine = type("Machine", (AllocatorMachine,), {"examiner": allocator_examiner})
    allocator_examiner.examine_machine("allocator-invariants", machine)


def test_allocator_tables_lead_a_kernel(allocator_examiner: Examiner) -> None:
    machine = type("Machine", (AllocatorMachine,), {"examiner": allocator_examiner, "decodes": True})
    allocator_examiner.examine_machine("allocator-decode", machine, share=0.25)


MOST_THREADS = 1024  # of a block: what serves sequences by one goes round again


def crowd(seed: int) -> HistoryCase:
    """More sequences in one call than a block has threads, and more pages than two blocks have."""
    count = MOST_THREADS + 36
    everybody = list(range(count))
    alloc = {"final_tokens": None, "stream": 0, "adapter": "", "salt": ""}
    steps: list[Operation] = [("alloc", {"sequence": s, "tokens": 1 + s % 2, **alloc}) for s in everybody]
    random.Random(seed).shuffle(everybody)
    steps.append(("append_batch", {"sequences": everybody, "tokens": [1] * count}))
    steps.append(("free", {"sequences": everybody}))
    shape = PoolShape(num_pages=3 * count, page_size=1, max_seqs=count, max_pages_per_seq=3)
    return HistoryCase(shape=shape, operations=tuple(steps))


def long_rows(seed: int) -> HistoryCase:
    """Few sequences of so many pages that a call has more of them than small blocks have threads."""
    rng = random.Random(seed)
    count, page_size = 5, rng.choice([1, 3])
    lengths = [page_size * rng.randint(70, 100) + rng.randrange(page_size) for _ in range(count)]
    alloc = {"final_tokens": None, "stream": 0, "adapter": "", "salt": ""}
    first = [rng.randint(1, length - 1) for length in lengths]
    steps: list[Operation] = [
        ("alloc", {"sequence": sequence, "tokens": tokens, **alloc}) for sequence, tokens in enumerate(first)
    ]
    rest = [length - tokens for length, tokens in zip(lengths, first, strict=True)]
    steps.append(("append_batch", {"sequences": list(range(count)), "tokens": rest}))
    steps.append(("free", {"sequences": rng.sample(range(count), count)}))
    shape = PoolShape(num_pages=count * 101, page_size=page_size, max_seqs=count, max_pages_per_seq=101)
    return HistoryCase(shape=shape, operations=tuple(steps))


def test_allocator_serves_long_rows(allocator_examiner: Examiner) -> None:
    examiner, unasked = allocator_examiner, None
    if "append_batch" not in examiner.allocator_capabilities.operations:
        unasked = f"{examiner.subject} offers no append_batch"
    examiner.examine_histories(
        "allocator-invariants",
        st.integers(0, 2**16).map(long_rows),
        label="long-rows",
        about="A call for more pages than blocks have threads serves each of them.",
        unasked=unasked,
        share=4 / examiner.effort.machine_runs,
    )


def test_allocator_serves_a_crowd(allocator_examiner: Examiner) -> None:
    examiner, unasked = allocator_examiner, None
    if "append_batch" not in examiner.allocator_capabilities.operations:
        unasked = f"{examiner.subject} offers no append_batch"
    elif examiner.effort.machine_runs < 400:
        unasked = "takes seconds a history: asked from the default profile on"
    examiner.examine_histories(
        "allocator-invariants",
        st.integers(0, 2**16).map(crowd),
        label="crowd",
        about="A call for more sequences than a block has threads serves each of them.",
        unasked=unasked,
        share=1 / examiner.effort.machine_runs,
    )
