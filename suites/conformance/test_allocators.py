"""Page allocators: a state machine over extend, free and what must be refused."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pabench.allocators.base import PoolShape
from pabench.allocators.invariants import Trial
from pabench.conformance.allocator_checks import HistoryCase, Operation, judge_operation
from pabench.conformance.examiner import Examiner
from pabench.conformance.outcome import Outcome
from pabench.conformance.registry import ALLOCATOR_ABOUT, ALLOCATOR_CHECK

SMALL_POOLS = st.builds(
    lambda num_pages, page_size, max_seqs, width: PoolShape(
        num_pages=num_pages, page_size=page_size, max_seqs=max_seqs, max_pages_per_seq=width
    ),
    st.integers(1, 24),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from([3, 5, 40]),
    st.integers(1, 8),
)


def test_allocator_keeps_its_invariants(allocator_examiner: Examiner) -> None:
    examiner = allocator_examiner

    class AllocatorMachine(RuleBasedStateMachine):
        """Small pools, so that running out and recycling are frequent."""

        @initialize(shape=SMALL_POOLS)
        def start(self, shape: PoolShape) -> None:
            self.shape = shape
            self.history: list[Operation] = []
            examiner.announce(self.case())
            self.trial = Trial(examiner.new_allocator(shape))

        @rule(data=st.data())
        def extend(self, data: st.DataObject) -> None:
            most = 2 * self.shape.page_size + 1
            sequences = st.integers(0, self.shape.max_seqs - 1)
            self.step("extend", data.draw(st.dictionaries(sequences, st.integers(0, most), max_size=4)))

        @precondition(lambda self: self.trial.tokens)
        @rule(data=st.data())
        def grow(self, data: st.DataObject) -> None:
            live = st.sampled_from(sorted(self.trial.tokens))
            tokens = st.integers(1, self.shape.page_size + 1)
            self.step("extend", data.draw(st.dictionaries(live, tokens, min_size=1, max_size=3)))

        @precondition(lambda self: self.trial.tokens)
        @rule()
        def decode_step(self) -> None:
            self.step("extend", dict.fromkeys(sorted(self.trial.tokens), 1))

        @rule(spare=st.integers(-1, 1), first=st.integers(0, 39))
        def fill_to_the_brim(self, spare: int, first: int) -> None:
            """Ask for all free pages, one fewer or one more, of as many sequences as that takes."""
            shape, request = self.shape, {}
            left = (self.trial.subject.free_pages - spare) * shape.page_size
            for turn in range(shape.max_seqs):
                sequence = (first + turn) % shape.max_seqs
                held = len(self.trial.tokens.get(sequence, ()))
                # from a page's end on, so that tokens asked for and pages needed agree
                slack = -held % shape.page_size
                room = shape.max_pages_per_seq * shape.page_size - held - slack
                if min(room, left) > 0:
                    request[sequence] = slack + min(room, left)
                    left -= min(room, left)
            self.step("extend", request)

        @precondition(lambda self: self.trial.tokens)
        @rule(data=st.data())
        def free(self, data: st.DataObject) -> None:
            live = sorted(self.trial.tokens)
            self.step("free", data.draw(st.lists(st.sampled_from(live), min_size=1, max_size=3, unique=True)))

        @rule(data=st.data())
        def free_what_may_not_be(self, data: st.DataObject) -> None:
            anything = st.integers(-2, self.shape.max_seqs + 1)
            self.step("free", data.draw(st.lists(anything, min_size=1, max_size=3)))

        @rule(sequence=st.integers(-2, 50), tokens=st.integers(-3, 200))
        def extend_what_may_not_be(self, sequence: int, tokens: int) -> None:
            self.step("extend", {sequence: tokens})

        def step(self, name: str, given: object) -> None:
            outcome = self.judge(name, given)
            if not outcome.passed:
                self.close(outcome)

        def teardown(self) -> None:
            if not hasattr(self, "trial"):
                return
            self.close(self.judge("drain", None))

        def judge(self, name: str, given: object) -> Outcome:
            self.history.append((name, given))
            examiner.announce(self.case())
            return judge_operation(self.trial, self.history)

        def case(self) -> HistoryCase:
            return HistoryCase(shape=self.shape, operations=tuple(self.history))

        def close(self, outcome: Outcome) -> None:
            if not outcome.passed:
                del self.trial  # a broken history is not drained
            examiner.note(self.case(), outcome)

    examiner.examine_machine(ALLOCATOR_CHECK, ALLOCATOR_ABOUT, AllocatorMachine)
