# SPDX-License-Identifier: Apache-2.0
"""Planted faults in allocators: each is found by the trial, and named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pabench.checks.allocator_checks import check_history
from pabench.checks.registry import ALLOCATOR_CHECKS
from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.contents import Contents
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.operations import FIELDS, Operation, operation_from_json
from pabench.judge.allocators.streams import tokens_of
from pabench.judge.allocators.trial import Trial
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Granted, Hit, Prompt, no_copies, no_positions
from pabench.subjects.allocators.scan import ScanAllocator
from tests.support.probe import DEVICE

SHAPE = PoolShape(num_pages=8, page_size=4, max_seqs=5, max_pages_per_seq=4)
NAMES = {"final_tokens": None, "stream": 5, "adapter": "", "salt": ""}


def alloc(sequence: int, tokens: int, **given: Any) -> Operation:
    return "alloc", {"sequence": sequence, "tokens": tokens, **NAMES, **given}


def append(sequence: int, tokens: int) -> Operation:
    return "append", {"sequence": sequence, "tokens": tokens}


def batch(**tokens: int) -> Operation:
    return "append_batch", {"sequences": [int(s[1:]) for s in tokens], "tokens": list(tokens.values())}


def free(*sequences: int) -> Operation:
    return "free", {"sequences": list(sequences)}


HISTORY: list[Operation] = [
    *(alloc(0, 16), alloc(1, 16), free(0, 1), alloc(0, 4), alloc(1, 4), batch(s1=4, s0=4), free(1, 0)),
    *(alloc(0, 6), alloc(1, 4), batch(s0=3), alloc(2, 1), free(1), alloc(1, 9), free(0, 7), alloc(3, 16)),
    *(batch(s0=3), free(2), alloc(2, 4), append(2, 4), free(0, 1), alloc(1, 5), alloc(0, 7), alloc(4, 2)),
    *(free(4, 0, 1), alloc(3, 9), alloc(0, 2), alloc(1, 9), free(3, 1), alloc(4, 10), batch(s0=1, s2=1)),
    ("drain", {}),
]


def violation(allocator: PageAllocator, history: Sequence[Operation] = HISTORY) -> str | None:
    """The first violation of a history."""
    trial = Trial(allocator)
    return next((found for found in map(trial.perform, history) if found), None)


class LosesPage(ModelAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        super().free(sequences)
        self._free.pop()


class LosesPageSilently(LosesPage):
    @property
    def free_pages(self) -> int:
        return self.shape.num_pages - sum(len(pages) for pages in self._tables.values())


class DoublesPage(ModelAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        returned = [page for sequence in sequences for page in self._tables.get(sequence, [])]
        super().free(sequences)
        self._free.extendleft(returned[:1])

    @property
    def free_pages(self) -> int:
        return self.shape.num_pages - sum(len(pages) for pages in self._tables.values())


class OnePageTooFew(ModelAllocator):
    """page = len // P instead of ceil(len / P)."""

    def block_table(self) -> Array:
        table = super().block_table()
        for sequence, tokens in self._tokens.items():
            table[sequence, tokens // self.shape.page_size :] = -1
        return table


class OnePageTooMany(ModelAllocator):
    """page = len // P + 1: one too many where the length is a multiple of P."""

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        granted = super().alloc(sequence, tokens)
        if tokens == 4:
            self._tables[sequence].append(self._free.popleft())
        return granted


class PermutesTable(ModelAllocator):
    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        granted = super().alloc(sequence, tokens)
        self._tables[sequence].reverse()
        return granted


class Regrants(ModelAllocator):
    """Changes what a grant says."""

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        granted: Granted = self.regrant(super().alloc(sequence, tokens))
        return granted

    def regrant(self, granted: Granted) -> Any:
        raise NotImplementedError


class SwapsSlots(Regrants):
    def regrant(self, granted: Granted) -> Any:
        return Granted(new_slots=granted.slots[::-1], copies=no_copies(), refused=no_positions())


class ReturnsFewSlots(Regrants):
    def regrant(self, granted: Granted) -> Any:
        return Granted(new_slots=granted.slots[:-1], copies=no_copies(), refused=no_positions())


class ReturnsFloats(Regrants):
    def regrant(self, granted: Granted) -> Any:
        slots = granted.slots.astype(float)
        return Granted(new_slots=slots, copies=no_copies(), refused=no_positions())


class ReturnsNothing(Regrants):
    def regrant(self, granted: Granted) -> Any:
        return None


class AllocatesPartly(ModelAllocator):
    """Takes what there is before it says that there is not enough."""

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        try:
            return super().alloc(sequence, tokens)
        except OutOfPages:
            self._tables[sequence], self._tokens[sequence] = [self._free.popleft()], 1
            raise


class ForgetsPartly(ModelAllocator):
    """Loses pages on a refusal without showing it in any table."""

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        try:
            return super().alloc(sequence, tokens)
        except OutOfPages:
            self._free.popleft()
            raise


class KeepsLength(ModelAllocator):
    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        granted = super().alloc(sequence, tokens)
        if tokens == 9:
            self._tokens[sequence] = 0
        return granted


class KeepsTheDead(ModelAllocator):
    def lengths(self) -> Array:
        return np.maximum(super().lengths(), 0)


class LeavesTheTable(ModelAllocator):
    """The tail of the table is not cleared."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        self._seen = super().block_table()

    def block_table(self) -> Array:
        now = super().block_table()
        self._seen = np.where(now < 0, self._seen, now)
        return self._seen.copy()


class RefusesTooEarly(ModelAllocator):
    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        if tokens > 4 * (self.free_pages - 1):
            raise OutOfPages(3, 2)
        return super().alloc(sequence, tokens)


class RefusesWithoutReason(ModelAllocator):
    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        try:
            return super().alloc(sequence, tokens)
        except OutOfPages:
            raise OutOfPages(1, 2) from None


class FreesTwice(ModelAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        super().free([sequence for sequence in sequences if sequence in self._tokens])


class LeavesThePool(ModelAllocator):
    def block_table(self) -> Array:
        table = super().block_table()
        return np.where(table >= 0, table + 8, table).astype(np.int32)


class WideTable(ModelAllocator):
    def block_table(self) -> Array:
        return super().block_table().astype(np.int64)


class MovesOnAppend(ModelAllocator):
    """Takes a sequence to other pages where it should have stayed."""

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        granted = super().append_batch(sequences, tokens)
        self._free.append(self._tables[0][0])
        self._tables[0][0] = self._free.popleft()
        return granted


class GrantsInAnotherOrder(ModelAllocator):
    """Last in, first out, where it says otherwise."""

    def _take(self) -> int:
        return self._free.pop() if self._free else self._evict_one()


class MiscountsWaste(ModelAllocator):
    def memory_split(self) -> Any:
        return type(super().memory_split())(tokens=0, reserved=0, internal=0, external=1)


FAULTS: dict[type[ModelAllocator], str] = {
    LosesPage: "invariant 1: 0 held, 7 free and 0 evictable pages, must add up to 8",
    LosesPageSilently: "invariant 11: page 2 of sequence 0 is 1, must be 7",
    DoublesPage: "invariant ",
    OnePageTooFew: "invariant 3: sequence 0 of 6 tokens has no page 1, needs 2",
    OnePageTooMany: "invariant 3: the table of sequence 0 goes on behind its 1 pages",
    PermutesTable: "invariant 7: token 0 of sequence 0 is not in slot",
    SwapsSlots: "invariant 7: token 0 of sequence 0 is not in slot 0",
    ReturnsFewSlots: "alloc {'sequence': 0, 'tokens': 16, ",
    ReturnsFloats: "alloc {'sequence': 0, 'tokens': 16, ",
    ReturnsNothing: "alloc returned NoneType, must return a grant",
    AllocatesPartly: "invariant 8: refused alloc {'sequence': 3, ",
    ForgetsPartly: "invariant 8: refused alloc {'sequence': 3, ",
    KeepsLength: "sequence 1 has length 0, must have 9",
    KeepsTheDead: "sequence 1 has length 0, must have None",
    LeavesTheTable: "invariant 3: the table of sequence 0 goes on behind its 0 pages",
    RefusesTooEarly: "invariant 9: alloc ",
    RefusesWithoutReason: "alloc {'sequence': 3, 'tokens': 16, 'final_tokens': None} said 1 pages needed, 2",
    FreesTwice: "free {'sequences': [0, 7]} gave success, must give InvalidCase",
    LeavesThePool: "invariant 2: sequence 0 holds page 8, which is not to be granted",
    WideTable: "block_table has dtype int64, must have int32",
    MovesOnAppend: "invariant 5: append_batch {'sequences': [1, 0], 'tokens': [4, 4]} changed page 0 of",
    GrantsInAnotherOrder: "invariant 11: page 0 of sequence 0 is 7, must be 0",
    MiscountsWaste: "invariant 15: MemorySplit(tokens=0, ",
}


@pytest.mark.parametrize("make", [ModelAllocator, HostAllocator])
def test_allocators_invariants_hold(make: Any) -> None:
    assert violation(make(SHAPE)) is None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_allocators_invariants_name_planted_faults(fault: type[ModelAllocator]) -> None:
    found = violation(fault(SHAPE))
    assert found is not None
    assert found.startswith(FAULTS[fault]), found


# --- a trial follows what is declared -----------------------------------------------------------------------


class Shuffles(ModelAllocator):
    """Grants any free page, as it declares."""

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        can = self.capabilities
        self.capabilities = type(can)(operations=can.operations, order="set", watermark=True)

    def _take(self) -> int:
        self._free.rotate(3)
        return super()._take()


class NeverTheSame(Shuffles):
    """Another page each time, though it declares the same ids."""

    made = 0

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        NeverTheSame.made += 1
        self._free.rotate(NeverTheSame.made)


class RefusesNext(Shuffles):
    """Refuses to end sequences, but for the first one that is made."""

    made = 0

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape)
        RefusesNext.made += 1
        self._first = RefusesNext.made == 1

    def free(self, sequences: Sequence[int]) -> None:
        if not self._first:
            raise InvalidCase("sequences", sequences, "must stay")
        super().free(sequences)


def test_allocators_invariants_compare_two_runs_where_ids_repeat() -> None:
    case = HistoryCase(shape=SHAPE, operations=tuple(HISTORY))
    assert check_history(case, Shuffles, DEVICE).passed
    outcome = check_history(case, NeverTheSame, DEVICE)
    assert outcome.text == "invariant 11: the same history gave other pages, declared are the same ids"
    outcome = check_history(case, RefusesNext, DEVICE)
    assert re.fullmatch(r"invariant 11: the same history refused \d+ calls, then \d+", outcome.text)


def test_allocators_invariants_say_what_is_not_judged() -> None:
    check = ALLOCATOR_CHECKS["allocator-invariants"]
    about = check.about_of(ScanAllocator.capabilities)
    assert about.endswith(
        "Not offered and not judged: "
        "14 of 24, commit, lookup, adopt, evict, swap_out, swap_in, defragment, "
        "move_down, load, end_copy, pin, unpin, retain, pass_time."
    )
    assert check.about_of(ModelAllocator.capabilities) == check.about


class SharesTooMuch(Shuffles):
    """A page with two holders that did not fork."""

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        granted = super().append_batch(sequences, tokens)
        if len(sequences) == 2:
            self._free.append(self._tables[0][1])
            self._tables[0][1] = self._tables[1][1]
        return granted


def test_allocators_invariants_allow_other_ids_where_declared() -> None:
    assert violation(Shuffles(SHAPE)) is None
    assert violation(SharesTooMuch(SHAPE)) is not None


class ServesAny(HostAllocator):
    """Refuses the first request of a batch that does not fit, and serves what then does."""

    greedy = True

    def __init__(self, shape: PoolShape) -> None:
        super().__init__(shape, batch_mode="prefix")
        can = self.capabilities
        self.capabilities = type(can)(
            operations=can.operations, order="set", batch_mode="prefix", watermark=True
        )

    def declare(self) -> ServesAny:
        can = self.capabilities
        self.capabilities = type(can)(
            operations=can.operations, order="set", batch_mode="any", watermark=True
        )
        return self

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        self.check_batch(sequences, tokens, self.lengths())
        slots, copies, refused = [], [], []
        for at, (sequence, count) in enumerate(
            zip(sequences, np.broadcast_to(tokens, len(sequences)), strict=True)
        ):
            try:
                one = self.append(sequence, int(count))
                slots.append(one.slots)
                copies.append(one.copies)
            except OutOfPages:
                refused.append(at)
                if not self.greedy:
                    refused.extend(range(at + 1, len(sequences)))
                    break
        return Granted(
            new_slots=np.concatenate([*slots, no_positions()]),
            copies=np.concatenate([*copies, no_copies()]),
            refused=np.array(refused, np.int64),
        )


def test_allocators_invariants_hold_any_mode_to_legal_subsets() -> None:
    history = [alloc(0, 16), alloc(1, 8), alloc(2, 1), batch(s2=12, s1=4, s0=0)]
    assert violation(ServesAny(SHAPE).declare(), history) is None
    shy = ServesAny(SHAPE).declare()
    shy.greedy = False
    found = violation(shy, history)
    assert found is not None
    assert found.endswith("refused request 1, which fits")


# --- the whole specification, step by step ------------------------------------------------------------------

WHOLE = PoolShape(num_pages=8, page_size=4, max_seqs=5, max_pages_per_seq=5, swap_pages=3, host_pages=3)
BEGINNING: dict[str, Any] = {"tokens": 9, "turns": [], "stream": 1, "adapter": "", "salt": ""}
LONG: list[Operation] = [
    *(alloc(0, 10), ("commit", {"sequence": 0, "tokens": 10})),
    ("fork", {"parent": 0, "child": 1, "stream": 0}),
    batch(s0=1, s1=2),
    ("lookup", {"tokens": 9, "turns": [], "stream": 5, "adapter": "", "salt": ""}),
    ("adopt", {"sequence": 2, "pages": []}),
    *(("swap_out", {"sequence": 1}), append(2, 3), free(0), ("swap_in", {"sequence": 1})),
    *(
        ("free_window", {"sequence": 1, "keep_from": 5}),
        ("truncate", {"sequence": 2, "length": 6, "stream": 3}),
    ),
    *(append(2, 1), free(1, 2), ("evict", {"pages": 3})),
    *(alloc(0, 8), ("commit", {"sequence": 0, "tokens": 8}), ("lookup", BEGINNING), ("pin", {})),
    *(free(0), ("unpin", {"place": 0}), ("move_down", {"pages": 2}), ("end_copy", {})),
    *(("load", BEGINNING), ("end_copy", {}), ("evict", {"pages": 2}), ("reset", {})),
    *(("begin_step", {}), alloc(3, 2), free(3), ("end_step", {})),
    *(alloc(3, 9), append(3, 4), free(3), ("rounds", {"last": 3, "times": 5}), ("drain", {})),
]
KEPT: list[Operation] = [
    ("retain", {**BEGINNING, "priority": 50, "seconds": None}),
    ("pass_time", {"seconds": 1}),
]


@pytest.mark.parametrize("make", [ModelAllocator, HostAllocator])
def test_allocators_invariants_follow_the_whole_specification(make: Any) -> None:
    assert violation(make(WHOLE), LONG) is None
    assert violation(ModelAllocator(WHOLE), [*KEPT, *LONG]) is None
    assert {name for name, _ in [*KEPT, *LONG]} == set(FIELDS)
    for name, given in [*KEPT, *LONG]:
        assert operation_from_json([name, given]) == (name, given)


class NoCopy(ModelAllocator):
    """Copy on write without the copy."""

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        granted = super().append_batch(sequences, tokens)
        return Granted(new_slots=granted.slots, copies=no_copies(), refused=no_positions())


class LooksAndTouches(ModelAllocator):
    def lookup(self, prompt: Prompt) -> Hit:
        self._free.rotate()
        return super().lookup(prompt)


class WrongHit(ModelAllocator):
    def _hit(self, prompt: Prompt, tokens: int) -> list[int] | None:
        hit = super()._hit(prompt, tokens)
        return hit and hit[::-1]


class MissesHit(ModelAllocator):
    def lookup(self, prompt: Prompt) -> Hit:
        return Hit(prompt=prompt, pages=())


class EvictsLess(ModelAllocator):
    def evict(self, pages: int) -> tuple[int, ...]:
        return super().evict(min(pages, 0))


class SwapsWrong(ModelAllocator):
    def swap_in(self, sequence: int) -> Array:
        moves = super().swap_in(sequence)
        moves[:, 0] = moves[::-1, 0]
        return moves


class MiscountsReferences(ModelAllocator):
    def refcounts(self) -> Array:
        return np.minimum(super().refcounts(), 1)


LONG_FAULTS: dict[type[ModelAllocator], str] = {
    NoCopy: "invariant 5: append_batch {'sequences': [0, 1], 'tokens': [1, 2]} changed page 2 of sequence 0",
    LooksAndTouches: "lookup {'tokens': 9} changed the state, must only look",
    WrongHit: "invariant 7: slot 4 does not hold token 0 of the prompt that was looked up",
    MissesHit: "lookup {'tokens': 9, ",
    EvictsLess: "evict {'pages': 3} freed 0 pages, must free 1",
    SwapsWrong: "invariant 7: token 0 of sequence 1 is not in slot",
    MiscountsReferences: "invariant 10: page 0 is said to be held 1 times, stands in 2 table entries",
}


@pytest.mark.parametrize("fault", LONG_FAULTS, ids=lambda fault: fault.__name__)
def test_allocators_invariants_name_faults_of_sharing(fault: type[ModelAllocator]) -> None:
    found = violation(fault(WHOLE), LONG)
    assert found is not None
    assert found.startswith(LONG_FAULTS[fault]), found


def test_allocators_contents_know_what_a_hit_must_hold() -> None:
    contents = Contents((KvGroup(page_size=2),), 2, 5)
    prompt = Prompt(tokens=tuple(tokens_of(((0, 0),), 0, 4, 2)))
    assert contents.adopt(0, prompt, ((0, 0),), (3,)) == "slot 6 does not hold token 0 of the prompt"


LOOKUP = {"tokens": 1, "turns": [], "stream": 0, "adapter": "", "salt": ""}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (["exec", {}], "operation = 'exec': must be one of alloc, append"),
        (["free", {}], "fields of free = {}: must be sequences"),
        (["reset", {"now": 1}], "fields of reset = {'now': 1}: must be none"),
        (["free", {"sequences": 3}], "free.sequences = 3: must be a list of whole numbers"),
        (["free", {"sequences": ["a"]}], "free.sequences = 'a': must be a whole number"),
        (["evict", {"pages": 1.5}], "evict.pages = 1.5: must be a whole number"),
        (
            ["lookup", {"tokens": 1, "turns": [], "stream": 0, "adapter": 3, "salt": ""}],
            "lookup.adapter = 3: must be text",
        ),
        (
            ["lookup", {"tokens": 1, "turns": [], "stream": -1, "adapter": "", "salt": ""}],
            "lookup.stream = -1: must be at",
        ),
        (["evict"], r"operation = \['evict'\]: must be a name and its fields"),
        ("evict", "operation = 'evict': must be a name and its fields"),
    ],
)
def test_allocators_operations_are_checked(entry: Any, words: str) -> None:
    with pytest.raises(InvalidCase, match=words.replace("{", r"\{").replace("}", r"\}")):
        operation_from_json(entry)


def test_allocators_invariants_hold_for_the_kernel() -> None:
    assert violation(ScanAllocator(EmulatedDevice(), SHAPE)) is None
