"""Page allocators: a state machine over all operations, and what must be refused."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pabench.allocators.base import PoolShape
from pabench.allocators.capabilities import OPERATIONS, Capabilities
from pabench.allocators.operations import Operation
from pabench.allocators.trial import Trial
from pabench.conformance.allocator_checks import HistoryCase, judge_operation
from pabench.conformance.examiner import Examiner
from pabench.conformance.outcome import Outcome
from pabench.conformance.table_decode import decode_through_tables

STREAMS = st.sampled_from([0, 0, 1, 2, 3, 6, 15])
NAMES = st.sampled_from(["", "", "", "x"])
ANY_INDEX = st.integers(-2, 42)
ANY_COUNT = st.integers(-3, 200)
# operations that a run may do without: what is left goes deeper (swarm testing)
OPTIONAL = ("fork", "truncate", "free_window", "cache", "evict", "swap", "reset", "bad", "batch")


def small_pools(can: Capabilities) -> st.SearchStrategy[PoolShape]:
    """Pools so small that running out, sharing and recycling are frequent."""
    return st.builds(
        PoolShape,
        num_pages=st.integers(1, 24),
        page_size=st.sampled_from([1, 2, 3, 4, 8]),
        max_seqs=st.sampled_from([3, 5, 40]),
        max_pages_per_seq=st.integers(1, 8),
        swap_pages=st.integers(0, 10) if "swap_out" in can.operations else st.just(0),
        reserve_pages=st.sampled_from([0, 0, 1, 2]) if can.watermark else st.just(0),
        hash_bits=st.sampled_from([64, 1]) if "lookup" in can.operations else st.just(64),
    )


class AllocatorMachine(RuleBasedStateMachine):
    """Rules over the operations that the subject offers; ``examiner`` is set by a subclass."""

    examiner: Examiner
    decodes = False

    @initialize(data=st.data(), without=st.sets(st.sampled_from(OPTIONAL), max_size=6))
    def start(self, data: st.DataObject, without: set[str]) -> None:
        self.can = self.examiner.allocator_capabilities
        self.shape = data.draw(small_pools(self.can))
        self.without = without
        self.trial = Trial(self.examiner.new_allocator(self.shape))
        self.history: list[Operation] = []

    # --- starting -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.dead)
    @rule(data=st.data(), stream=STREAMS, adapter=NAMES, salt=NAMES, ends_known=st.booleans())
    def alloc(self, data: st.DataObject, stream: int, adapter: str, salt: str, ends_known: bool) -> None:
        sequence, tokens = data.draw(st.sampled_from(self.dead[:6])), data.draw(self.counts)
        final = tokens + data.draw(self.counts) if ends_known else None
        self.new(sequence, tokens, final_tokens=final, stream=stream, adapter=adapter, salt=salt)

    @precondition(lambda self: self.on("fork") and self.live and self.dead)
    @rule(data=st.data(), stream=STREAMS)
    def fork(self, data: st.DataObject, stream: int) -> None:
        parent, child = data.draw(st.sampled_from(self.live)), data.draw(st.sampled_from(self.dead[:6]))
        self.step("fork", parent=parent, child=child, stream=stream)

    @precondition(lambda self: self.on("cache") and self.on("lookup") and self.dead)
    @rule(data=st.data(), tokens=st.integers(0, 20), stream=STREAMS, adapter=NAMES, salt=NAMES)
    def start_from_cache(
        self, data: st.DataObject, tokens: int, stream: int, adapter: str, salt: str
    ) -> None:
        sequence = data.draw(st.sampled_from(self.dead[:6]))
        self.step("lookup", tokens=tokens, stream=stream, adapter=adapter, salt=salt)
        self.step("adopt", sequence=sequence, pages=[])

    @precondition(lambda self: self.on("cache") and self.on("lookup"))
    @rule(tokens=st.integers(0, 20), stream=STREAMS, adapter=NAMES, salt=NAMES)
    def lookup(self, tokens: int, stream: int, adapter: str, salt: str) -> None:
        self.step("lookup", tokens=tokens, stream=stream, adapter=adapter, salt=salt)

    @precondition(lambda self: self.on("cache") and self.on("adopt"))
    @rule(sequence=st.integers(0, 4), pages=st.lists(st.integers(-1, 25), max_size=1))
    def adopt_what_was_looked_up_before(self, sequence: int, pages: list[int]) -> None:
        """The cache may have changed since, and the ids may be forged."""
        self.step("adopt", sequence=sequence, pages=pages)

    # --- growing and shrinking ------------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        self.step("append", sequence=data.draw(st.sampled_from(self.live)), tokens=data.draw(self.counts))

    @precondition(lambda self: self.on("batch") and self.on("append_batch") and self.live)
    @rule(data=st.data())
    def append_batch(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.live), unique=True, max_size=6))
        self.step("append_batch", sequences=chosen, tokens=[data.draw(self.counts) for _ in chosen])

    @precondition(lambda self: self.on("append_batch") and self.live)
    @rule()
    def decode_step(self) -> None:
        self.step("append_batch", sequences=self.live, tokens=[1] * len(self.live))

    @precondition(lambda self: self.on("append_batch"))
    @rule(spare=st.integers(-1, 1), first=st.integers(0, 39))
    def fill_to_the_brim(self, spare: int, first: int) -> None:
        """Ask for all pages there are, one fewer or one more, with as many sequences as that takes."""
        shape, subject = self.shape, self.trial.subject
        left = subject.free_pages + subject.evictable_pages - spare
        sequences, tokens = [], []
        for turn in range(shape.max_seqs):
            sequence = (first + turn) % shape.max_seqs
            if left <= 0 or sequence in self.trial.contents.swapped:
                continue
            if sequence not in self.trial.contents.live:
                self.new(sequence, 0)
            held = len(self.trial.contents.live[sequence].serials)
            # from a page's end on, so that tokens asked for and pages needed agree
            slack = -held % shape.page_size
            take = min((shape.max_tokens - held - slack) // shape.page_size, left)
            if take > 0:
                sequences.append(sequence)
                tokens.append(slack + take * shape.page_size)
                left -= take
        self.step("append_batch", sequences=sequences, tokens=tokens)

    @precondition(lambda self: self.on("truncate") and self.live)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.step("truncate", sequence=sequence, length=data.draw(self.up_to(sequence)))

    @precondition(lambda self: self.on("free_window") and self.live)
    @rule(data=st.data())
    def free_window(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.step("free_window", sequence=sequence, keep_from=data.draw(self.up_to(sequence)))

    @precondition(lambda self: self.live or self.away)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        there = st.sampled_from([*self.live, *self.away])
        self.step("free", sequences=data.draw(st.lists(there, min_size=1, max_size=3, unique=True)))

    # --- cache and store ------------------------------------------------------------------------------------

    @precondition(lambda self: self.on("cache") and self.on("commit") and self.live)
    @rule(data=st.data(), whole=st.booleans())
    def commit(self, data: st.DataObject, whole: bool) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        held = len(self.trial.contents.live[sequence].serials)
        self.step("commit", sequence=sequence, tokens=held if whole else data.draw(self.up_to(sequence)))

    @precondition(lambda self: self.on("evict"))
    @rule(pages=st.integers(-1, 5))
    def evict(self, pages: int) -> None:
        self.step("evict", pages=pages)

    @precondition(lambda self: self.on("swap") and self.on("swap_out") and self.live)
    @rule(data=st.data())
    def swap_out(self, data: st.DataObject) -> None:
        self.step("swap_out", sequence=data.draw(st.sampled_from(self.live)))

    @precondition(lambda self: self.on("swap_in") and self.away)
    @rule(data=st.data())
    def swap_in(self, data: st.DataObject) -> None:
        self.step("swap_in", sequence=data.draw(st.sampled_from(self.away)))

    @precondition(lambda self: self.on("reset"))
    @rule(after_all=st.booleans())
    def reset(self, after_all: bool) -> None:
        if after_all and (self.live or self.away):
            self.step("free", sequences=[*self.live, *self.away])
        self.step("reset")

    # --- what may not be ------------------------------------------------------------------------------------

    @precondition(lambda self: self.on("bad"))
    @rule(sequences=st.lists(st.integers(-2, 6), min_size=1, max_size=3))
    def free_what_may_not_be(self, sequences: list[int]) -> None:
        """Also one sequence twice in one call."""
        self.step("free", sequences=sequences)

    @precondition(lambda self: self.on("bad") and self.live)
    @rule(data=st.data(), counts=st.lists(st.integers(-1, 3), min_size=2, max_size=3))
    def append_twice_or_below_nothing(self, data: st.DataObject, counts: list[int]) -> None:
        named = st.sampled_from([*self.live, -1, self.shape.max_seqs])
        chosen = [data.draw(named) for _ in counts[1:]]
        self.step("append_batch", sequences=[chosen[0], *chosen], tokens=counts)

    @precondition(lambda self: self.on("bad"))
    @rule(data=st.data(), sequence=ANY_INDEX, count=ANY_COUNT)
    def ask_what_may_not_be(self, data: st.DataObject, sequence: int, count: int) -> None:
        given: dict[str, dict[str, Any]] = {
            "append": {"sequence": sequence, "tokens": count},
            "fork": {"parent": sequence, "child": count, "stream": 0},
            "truncate": {"sequence": sequence, "length": count},
            "free_window": {"sequence": sequence, "keep_from": count},
            "commit": {"sequence": sequence, "tokens": count},
            "swap_out": {"sequence": sequence},
            "swap_in": {"sequence": sequence},
        }
        offered = ["alloc", *(name for name in given if name in self.can.operations)]
        name = data.draw(st.sampled_from(offered))
        if name == "alloc":
            self.new(sequence, count, final_tokens=data.draw(st.none() | ANY_COUNT))
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

    @property
    def counts(self) -> st.SearchStrategy[int]:
        return st.integers(0, 2 * self.shape.page_size + 1)

    def up_to(self, sequence: int) -> st.SearchStrategy[int]:
        return st.integers(0, len(self.trial.contents.live[sequence].serials))

    def on(self, name: str) -> bool:
        """Whether an operation is offered, and it or its group not left out of this run."""
        return name not in self.without and (name in self.can.operations or name not in OPERATIONS)

    def new(self, sequence: int, tokens: int, **given: Any) -> None:
        words = {"final_tokens": None, "stream": 0, "adapter": "", "salt": ""}
        self.step("alloc", sequence=sequence, tokens=tokens, **(words | given))

    def step(self, name: str, **given: Any) -> None:
        if not hasattr(self, "trial"):
            return  # an earlier step of the same rule has failed
        self.history.append((name, given))
        outcome = judge_operation(self.trial, self.history)
        if not outcome.passed:
            self.close(outcome)

    def teardown(self) -> None:
        if not hasattr(self, "trial"):
            return
        if self.decodes:
            self.close(decode_through_tables(self.trial, self.examiner.device))
            return
        self.history.append(("drain", {}))
        self.close(judge_operation(self.trial, self.history))

    def close(self, outcome: Outcome) -> None:
        case = HistoryCase(shape=self.shape, operations=tuple(self.history))
        if not outcome.passed:
            del self.trial  # a broken history is not drained
        self.examiner.note(case, outcome)


def test_allocator_keeps_its_invariants(allocator_examiner: Examiner) -> None:
    machine = type("Machine", (AllocatorMachine,), {"examiner": allocator_examiner})
    allocator_examiner.examine_machine("allocator-invariants", machine)


def test_allocator_tables_lead_a_kernel(allocator_examiner: Examiner) -> None:
    machine = type("Machine", (AllocatorMachine,), {"examiner": allocator_examiner, "decodes": True})
    allocator_examiner.examine_machine("allocator-decode", machine, share=0.25)
