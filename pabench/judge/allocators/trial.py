# SPDX-License-Identifier: Apache-2.0
"""Runs a history of operations on an allocator beside the model and a shadow of the cache.

Numbers follow the specification: 5 prefix stability, 7 content (unique tokens read back through the tables,
copies carried out), 8 atomic refusal, 9 no spurious lack of pages, 11 determinism, 13 drain; the others are
those of ``invariants.py``.  A violation is returned as words, never raised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pabench.errors import OutOfPages, Unsupported
from pabench.judge.allocators.calls import (
    Refused,
    call_of,
    error_in,
    in_order,
    name_of,
    outcome_of,
    sensible,
    words_of,
)
from pabench.judge.allocators.contents import Contents
from pabench.judge.allocators.fence import Fence
from pabench.judge.allocators.forgetting import followed, is_stale, renewed, unlike_counts
from pabench.judge.allocators.grants import moved_page, renamed_page, rows_of, scattered_page, slots_of
from pabench.judge.allocators.invariants import violation
from pabench.judge.allocators.memory import HandedOut, grown_memory
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.refusals import unrefused
from pabench.judge.allocators.streams import Turns, images_of, turns_of
from pabench.judge.allocators.tiers import Tiers
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.capabilities import TIER_OPERATIONS
from pabench.subjects.allocators.results import NULL_PAGE, Granted, Hit, Prompt
from pabench.subjects.allocators.rounds import Call, rounds_of, run_rounds

GROWING = ("alloc", "append", "append_batch")
MOVING = ("swap_out", "swap_in")
LOOKING = ("lookup", "commit", "evict", "begin_step", "end_step", "move_down", "pin", "unpin", "pass_time")
"""Operations behind which every sequence reads what it read before, from the same pages."""
CROWD = 64
"""Sequences that make a crowd."""


@dataclass(slots=True)
class Trial:
    """One history, so far.

    Attributes:
        subject: the allocator on trial.
        contents: what every sequence must read.
        hit: what the last lookup gave, for ``adopt``; it may be out of date.
        turns: the streams of the prompt that was looked up.
        steps: operations so far.
        fence: steps in flight.
        tiers: copies in flight, and pins.
        keeps: whether calls and all that they hand out are kept, and asked again by ``drain``.
        calls: of the subject, from the first on.
        refused: how many of them it refused.
    """

    subject: PageAllocator
    contents: Contents = field(init=False)
    hit: Hit = field(default_factory=lambda: Hit(prompt=Prompt(tokens=()), pages=()))
    turns: Turns = ((0, 0),)
    steps: int = 0
    keeps: bool = True
    calls: list[Call] = field(default_factory=list)
    refused: int = 0
    _model: ModelAllocator = field(init=False)
    _model_hit: Hit = field(init=False)
    _looked: int = 0
    _ours: list[Call] = field(default_factory=list)  # the same calls as the model was given them
    _handed: HandedOut = field(init=False)
    _read: tuple[Array, Array] | None = None  # lengths and table that every sequence was read through last
    fence: Fence = field(default_factory=Fence)
    tiers: Tiers = field(init=False)

    def __post_init__(self) -> None:
        shape, can = self.subject.shape, self.subject.capabilities
        pages = shape.num_pages + len(can.reserved_pages)
        self.contents = Contents(shape.kv_groups, shape.page_size, pages, shape.swap_pages, shape.host_pages)
        self.tiers = Tiers(self.contents)
        self._handed = HandedOut(self.subject)
        mode = "prefix" if can.batch_mode == "prefix" else "all"
        asked: Any = {
            name: getattr(can, name) for name in ("partial", "duplicates", "forks", "commits", "hits")
        }
        self._model = ModelAllocator(shape, batch_mode=mode, **asked)
        self._model_hit = self.hit

    def perform(self, operation: Operation) -> str | None:
        """Do an operation on the subject and the model; return a violation in words, or None."""
        name, given = operation
        if name == "drain":
            return self._handed.changed() or self._drain() or self._handed.changed()
        if name == "rounds":
            return self._rounds(given["last"], given["times"])
        self.steps += 1
        subject = self.subject
        if wrong := unrefused(subject, operation):
            return wrong
        table, before = subject.block_table().copy(), self._state()
        hits = self._hits(name, given)
        call = call_of(name, given, hits[0], self.contents)
        ordered = in_order(given, subject.capabilities.order)
        ours = call_of(name, ordered, hits[1], self.contents)
        got = outcome_of(subject, call)
        self.refused += isinstance(got, Refused)
        if self.keeps:
            self.calls.append(call)
            self._ours.append(ours)
            self._handed.keep(operation, None if isinstance(got, Refused) else got)
        if self._may_fragment(name, got):
            expected: Any = got
        elif subject.capabilities.batch_mode == "any" and name == "append_batch":
            expected = self._any(given, got)
        elif name == "lookup" and self._model.follows and isinstance(got, Hit):
            expected = followed(self._model, subject, got)
        elif name == "adopt" and is_stale(self._model, got, at_once=self._looked == self.steps - 1):
            expected = got
        else:
            expected = outcome_of(self._model, ours)
        if isinstance(expected, str):
            return expected
        if isinstance(expected, Refused) or isinstance(got, Refused):
            if name_of(expected) != name_of(got):
                number = "invariant 9: " if isinstance(error_in(expected, got), OutOfPages) else ""
                said = f"{number}{words_of(operation)} gave {name_of(got)}, must give {name_of(expected)}"
                # what was accepted wrongly may have left its trace
                broken = None if isinstance(got, Refused) else violation(subject)
                return f"{said}; then {broken}" if broken else said
            if isinstance(got, Refused) and isinstance(got.error, OutOfPages) and not sensible(got.error):
                return f"{words_of(operation)} said {got.error}, which is no reason"
            same = before == self._state() and np.array_equal(table, subject.block_table())
            return None if same else f"invariant 8: refused {words_of(operation)} changed the state"
        if name == "lookup" and before != self._state():
            return f"{words_of(operation)} changed the state, must only look"
        adopted = call[1][1].pages if name == "adopt" else ()
        found = self.fence.passed(name, table, subject.block_table(), adopted)
        found = found or self._effect(name, given, got, expected, table)
        if subject.shape.host_pages or self.tiers.pinned:
            found = found or self.tiers.done(name, given, (got, expected), hits)
            found = found or self.tiers.broken(subject.block_table(), {*got} if name == "evict" else set())
        # a look at everything costs as much as there is: of a crowd that comes one by one every 16th will do
        glance = name == "alloc" and subject.shape.max_seqs > CROWD and self.steps % 16
        if name not in LOOKING:
            self._read = None
        return found or (None if glance else self._check())

    def _hits(self, name: str, given: dict[str, Any]) -> tuple[Hit, Hit]:
        """The hit that an operation is about, as the subject and as the model gave it."""
        if name == "unpin" and 0 <= given["place"] < len(self.tiers.pinned):
            pin = self.tiers.pinned[given["place"]]
            return pin[0], pin[1]
        known = self._model_hit
        return self.hit, renewed(self._model, self.subject, self.hit, known) if name == "adopt" else known

    # --- what may be refused --------------------------------------------------------------------------------

    def _may_fragment(self, name: str, got: Any) -> bool:
        """Whether the subject was right to refuse for lack of pages that lie together."""
        refused = isinstance(got, Refused) and isinstance(got.error, OutOfPages)
        return refused and self.subject.capabilities.refusal == "fragmenting" and name in GROWING

    def _any(self, given: dict[str, Any], got: Any) -> Any:
        """What the model makes of a batch of which the subject may serve any legal subset."""
        whole = outcome_of(self._model, call_of("append_batch", given, self.hit, self.contents))
        if isinstance(got, Refused) or not (
            isinstance(whole, Refused) and isinstance(whole.error, OutOfPages)
        ):
            return whole
        refused = set(got.refused.tolist())
        served = [at for at in range(len(given["sequences"])) if at not in refused]
        part = {field: [values[at] for at in served] for field, values in given.items()}
        done = outcome_of(self._model, ("append_batch", (part["sequences"], part["tokens"]), {}))
        if isinstance(done, Refused):
            return f"append_batch {given} served {part}, more than the pages that there were"
        if not refused:
            return done
        for at in sorted(refused) if self.subject.capabilities.refusal == "exact" else ():
            one = outcome_of(self._model, ("append", (given["sequences"][at], given["tokens"][at]), {}))
            if not isinstance(one, Refused):
                return f"invariant 9: append_batch {given} refused request {at}, which fits"
        return Granted(new_slots=done.slots, copies=done.copies, refused=got.refused)

    # --- what a success changes -----------------------------------------------------------------------------

    def _effect(self, name: str, given: dict[str, Any], got: Any, expected: Any, table: Array) -> str | None:
        contents = self.contents
        if name in GROWING:
            return self._grown(name, given, got, expected, table)
        if name == "defragment":
            contents.copy(rows_of(got))
            return scattered_page(self.subject)
        if name == "fork":
            contents.copy(rows_of(got))
            contents.fork(given["parent"], given["child"], given["stream"])
        elif name == "truncate":
            contents.truncate(given["sequence"], given["length"], given["stream"])
        elif name == "free":
            for sequence in given["sequences"]:
                (contents.live if sequence in contents.live else contents.swapped).pop(sequence)
        elif name == "commit" and self.subject.capabilities.commits == "shared":
            self._read = None
            return contents.share(given["sequence"], self.subject.block_table())
        elif name == "lookup":
            self.hit, self._model_hit, self._looked = got, expected, self.steps
            self.turns = turns_of(given["stream"], given["turns"])
            if len(got.pages) != len(expected.pages):
                return f"{name} {given} found {len(got.pages)} pages, must find {len(expected.pages)}"
            if got.part != expected.part:
                more, must = got.part, expected.part
                return f"invariant 20: {name} {given} found {more} tokens of a page more, must find {must}"
            for column, (page, wanted) in enumerate(zip(got.pages, expected.pages, strict=True)):
                if (page == NULL_PAGE) != (wanted == NULL_PAGE):
                    said = "no page, must find one" if page == NULL_PAGE else "a page that no window sees"
                    return f"{name} {given} found in entry {column} {said}"
        elif name == "adopt":
            pages, part = self.hit.pages + tuple(given["pages"]), self.hit.part
            contents.copy(rows_of(got))
            if part:
                pages += (int(self.subject.block_table()[given["sequence"], len(pages)]),)
            if wrong := contents.adopt(given["sequence"], self.hit.prompt, self.turns, pages, part):
                return f"invariant 7: {wrong} that was looked up"
        elif name == "evict" and len(got) != len(expected):
            return f"{name} {given} freed {len(got)} pages, must free {len(expected)}"
        elif name == "evict" and self.subject.capabilities.model_ids and got != expected:
            return f"{name} {given} freed pages {list(got)}, must free {list(expected)}"
        elif name in MOVING:
            getattr(contents, name)(given["sequence"], rows_of(got))
        return None

    def _grown(
        self, name: str, given: dict[str, Any], got: Any, expected: Granted, table: Array
    ) -> str | None:
        if not isinstance(got, Granted):
            return f"{name} returned {type(got).__name__}, must return a grant"
        asked = given["sequences"] if name == "append_batch" else [given["sequence"]]
        counts = given["tokens"] if name == "append_batch" else [given["tokens"]]
        refused = set(np.asarray(got.refused).tolist())
        if name == "append_batch" and refused != self._refused(given, expected):
            must = sorted(self._refused(given, expected))
            return f"{name} {given} refused the requests {sorted(refused)}, must refuse {must}"
        served = [(s, n) for at, (s, n) in enumerate(zip(asked, counts, strict=True)) if at not in refused]
        slots, groups = slots_of(got.slots), self.contents.groups
        wanted = sum(count for _, count in served) * len(groups)
        if slots is None or len(slots) != wanted:
            has = type(got.slots).__name__ if slots is None else f"{len(slots)} slots"
            return f"{name} {given} returned {has}, must return a vector of {wanted} slots"
        copies = {(int(source), int(target)) for source, target, _ in rows_of(got.copies)}
        lengths = {sequence: self._length(sequence) for sequence, _ in served}
        if moved := moved_page(table, self.subject.block_table(), lengths, copies, groups):
            return f"invariant 5: {name} {given} changed {moved}"
        self.contents.copy(rows_of(got.copies))
        if name == "alloc":
            names = given["adapter"], given["salt"], images_of(given.get("images", ()))
            self.contents.start(given["sequence"], given["stream"], *names)
        at = 0
        for sequence, count in served:
            self.contents.write(sequence, slots[at : at + count * len(groups)])
            at += count * len(groups)
        return None

    def _refused(self, given: dict[str, Any], expected: Granted) -> set[int]:
        """Positions in the subject's batch of what the model refused."""
        refused = expected.refused.tolist()
        if self.subject.capabilities.order != "sequence":
            return set(refused)
        order = sorted(range(len(given["sequences"])), key=lambda at: given["sequences"][at])
        return {order[at] for at in refused}

    def _length(self, sequence: int) -> int:
        reader = self.contents.live.get(sequence)
        return len(reader.tokens) if reader else 0

    def _state(self) -> bytes:
        """Bytes that are equal where the state is; that pages came back by themselves is no change."""
        subject = self.subject
        if subject.capabilities.returns != "by-itself":
            return subject.fingerprint()
        counts = (
            subject.free_pages + subject.returning_pages,
            subject.evictable_pages,
            subject.free_swap_pages,
        )
        return subject.lengths().tobytes() + subject.block_table().tobytes() + repr(counts).encode()

    # --- what holds afterwards ------------------------------------------------------------------------------

    def _check(self) -> str | None:
        subject = self.subject
        lengths, table = subject.lengths(), subject.block_table()
        if self._read is None or not all(map(np.array_equal, self._read, (lengths, table))):
            if found := self._unlike_contents(lengths, table):
                return found
            self._read = lengths.copy(), table.copy()
        elif found := self._unlike_store() or violation(subject):
            return found
        return self._unlike_model(table)

    def _unlike_store(self) -> str | None:
        """The first sequence that is swapped out and is not to be, or the other way round."""
        subject, model = self.subject, self._model
        if "swap_out" in subject.capabilities.operations:
            for sequence in range(subject.shape.max_seqs):
                said, must = subject.swapped(sequence), model.swapped(sequence)
                if said != must:
                    return f"sequence {sequence} has {said} tokens swapped out, must have {must}"
        return None

    def _unlike_contents(self, lengths: Array, table: Array) -> str | None:
        """The first sequence that does not read what it must, or the first invariant that does not hold."""
        subject, contents = self.subject, self.contents
        wanted = np.full(subject.shape.max_seqs, -1, np.int64)
        for sequence, reader in contents.live.items():
            wanted[sequence] = len(reader.tokens)
        unlike = np.flatnonzero(lengths != wanted) if lengths.shape == wanted.shape else np.empty(0, int)
        if unlike.size:
            sequence = int(unlike[0])
            has, must = (None if of[sequence] < 0 else of[sequence] for of in (lengths, wanted))
            return f"sequence {sequence} has length {has}, must have {must}"
        if found := self._unlike_store() or violation(subject):
            return found
        found = contents.misread(table)
        return f"invariant 7: {found}" if found else None

    def _unlike_model(self, table: Array) -> str | None:
        """The first difference in what model and subject hold."""
        subject, model = self.subject, self._model
        wanted = model.block_table()
        if subject.capabilities.model_ids:
            if not np.array_equal(table, wanted):
                sequence, column = np.argwhere(table != wanted)[0].tolist()
                says = f"page {column} of sequence {sequence} is {table[sequence, column]}"
                return f"invariant 11: {says}, must be {wanted[sequence, column]}"
        elif clash := renamed_page(wanted, table):
            return f"invariant 2: {clash}"
        return unlike_counts(subject, model)

    def _rounds(self, last: int, times: int) -> str | None:
        """Do the last operations again and again, by the subject alone and by the model alone."""
        subject, known = self.subject, len(self.calls)
        if not 0 < last <= known or times < 1:
            raise Unsupported(f"rounds of the last {last} operations, {times} times: there are {known}")
        calls, ours = self.calls[-last:], self._ours[-last:]
        if {"adopt", "swap_in", *TIER_OPERATIONS} & {call[0] for call in calls}:
            raise Unsupported("rounds adopt nothing, swap nothing in and move nothing between tiers")
        free = subject.free_pages + subject.evictable_pages + subject.returning_pages
        if self.contents.live or self.contents.swapped or free != subject.shape.num_pages:
            raise Unsupported("rounds begin with an empty pool")
        done = rounds_of(subject, calls, times)
        self.calls += calls * times
        self._ours += ours * times
        self.refused += sum(done.refused)
        expected = run_rounds(self._model, ours, times, watched=False)
        for number, (got, wanted) in enumerate(zip(done.refused, expected.refused, strict=True)):
            # who reserves refuses more
            if got != wanted and subject.capabilities.refusal != "fragmenting":
                return f"invariant 9: round {number} of {last} operations refused {got}, must refuse {wanted}"
        return self._check() or grown_memory(done, last * times)

    def _drain(self) -> str | None:
        """Free everything and take the whole pool once: what is lost or held twice shows here."""
        shape, can = self.subject.shape, self.subject.capabilities
        there = [*self.contents.live, *self.contents.swapped]
        steps, copies, pins = self.fence.steps, self.tiers.flights, self.tiers.pinned
        for still, end in (
            (steps, ("end_step", {})),
            (copies, ("end_copy", {})),
            (pins, ("unpin", {"place": 0})),
        ):
            while still:
                if found := self.perform(end):
                    return found
        if there and (found := self.perform(("free", {"sequences": there}))):
            return found
        if "evict" in can.operations and (found := self.perform(("evict", {"pages": shape.num_pages}))):
            return found
        free = self.subject.free_pages + self.subject.evictable_pages + self.subject.returning_pages
        if free != shape.num_pages or self.subject.free_swap_pages != shape.swap_pages:
            return f"invariant 13: {free} of {shape.num_pages} pages free after freeing all"
        left = 0 if can.refusal == "fragmenting" else shape.num_pages // shape.block_pages
        for sequence in range(shape.max_seqs):
            take = min(shape.max_tokens // shape.page_size, left)
            left -= take
            name: dict[str, Any] = {"stream": sequence, "adapter": "", "salt": ""}
            start = {"sequence": sequence, "tokens": 0, "final_tokens": None, **name}
            grow = {"sequence": sequence, "tokens": take * shape.page_size}
            for step in (("alloc", start), ("append", grow)) if take else ():
                if found := self.perform(step):
                    return found
        return None
