"""Runs a history of operations on an allocator beside the model and a shadow of the cache.

Numbers follow the specification: 5 prefix stability, 7 content (unique tokens read back through the tables,
copies carried out), 8 atomic refusal, 9 no spurious lack of pages, 11 determinism, 13 drain; the others are
those of ``invariants.py``.  A violation is returned as words, never raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.contents import Contents, Reader, stream_token
from pabench.judge.allocators.invariants import violation
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.refusals import unrefused
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.results import NULL_PAGE, Granted, Hit, Prompt

REFUSALS = (OutOfPages, InvalidCase)
GROWING = ("alloc", "append", "append_batch")
MOVING = ("swap_out", "swap_in")


@dataclass(frozen=True, slots=True, eq=False)
class Refused:
    """An operation that raised what it may raise."""

    error: OutOfPages | InvalidCase


@dataclass(slots=True)
class Trial:
    """One history, so far.

    Attributes:
        subject: the allocator on trial.
        contents: what every sequence must read.
        hit: what the last lookup gave, for ``adopt``; it may be out of date.
        steps: operations so far.
    """

    subject: PageAllocator
    contents: Contents = field(init=False)
    hit: Hit = field(default_factory=lambda: Hit(prompt=Prompt(tokens=()), pages=()))
    stream: int = 0
    steps: int = 0
    _model: ModelAllocator = field(init=False)
    _model_hit: Hit = field(init=False)

    def __post_init__(self) -> None:
        self.contents = Contents(self.subject.shape.page_size)
        mode = self.subject.capabilities.batch_mode
        self._model = ModelAllocator(self.subject.shape, batch_mode="prefix" if mode == "prefix" else "all")
        self._model_hit = self.hit

    def perform(self, operation: Operation) -> str | None:
        """Do an operation on the subject and the model; return a violation in words, or None."""
        name, given = operation
        if name == "drain":
            return self._drain()
        self.steps += 1
        subject = self.subject
        if wrong := unrefused(subject, operation):
            return wrong
        table, before = subject.block_table(), subject.fingerprint()
        got = _outcome(lambda: self._call(subject, name, given, self.hit))
        if self._may_fragment(name, got):
            expected: Any = got
        elif subject.capabilities.batch_mode == "any" and name == "append_batch":
            expected = self._any(given, got)
        else:
            expected = _outcome(lambda: self._call(self._model, name, self._in_order(given), self._model_hit))
        if isinstance(expected, str):
            return expected
        if isinstance(expected, Refused) or isinstance(got, Refused):
            if _name(expected) != _name(got):
                number = "invariant 9: " if isinstance(_error(expected, got), OutOfPages) else ""
                said = f"{number}{_words(operation)} gave {_name(got)}, must give {_name(expected)}"
                # what was accepted wrongly may have left its trace
                broken = None if isinstance(got, Refused) else violation(subject)
                return f"{said}; then {broken}" if broken else said
            if isinstance(got, Refused) and isinstance(got.error, OutOfPages) and not _sensible(got.error):
                return f"{_words(operation)} said {got.error}, which is no reason"
            same = before == subject.fingerprint() and np.array_equal(table, subject.block_table())
            return None if same else f"invariant 8: refused {_words(operation)} changed the state"
        if name == "lookup" and before != subject.fingerprint():
            return f"{_words(operation)} changed the state, must only look"
        found = self._effect(name, given, got, expected, table)
        return found or self._check()

    # --- calls ----------------------------------------------------------------------------------------------

    def _call(self, allocator: PageAllocator, name: str, given: dict[str, Any], hit: Hit) -> Any:
        if name == "alloc":
            final = given["final_tokens"]
            return allocator.alloc(given["sequence"], given["tokens"], final_tokens=final)
        if name == "append_batch":
            return allocator.append_batch(*_spelled(given["sequences"], given["tokens"]))
        if name == "fork":
            return allocator.fork(given["parent"], given["child"])
        if name == "lookup":
            return allocator.lookup(self._prompt(given))
        if name == "commit":
            return allocator.commit(given["sequence"], self._committed(given))
        if name == "adopt":
            return allocator.adopt(
                given["sequence"], Hit(prompt=hit.prompt, pages=hit.pages + tuple(given["pages"]))
            )
        return getattr(allocator, name)(**given)

    def _in_order(self, given: dict[str, Any]) -> dict[str, Any]:
        """A batch as the model has to be given it to serve it in the subject's order."""
        if self.subject.capabilities.order != "sequence" or "sequences" not in given:
            return given
        order = sorted(range(len(given["sequences"])), key=lambda at: given["sequences"][at])
        if any(len(values) != len(order) for values in given.values()):
            return given
        return {field: [values[at] for at in order] for field, values in given.items()}

    def _may_fragment(self, name: str, got: Any) -> bool:
        """Whether the subject was right to refuse for lack of pages that lie together."""
        refused = isinstance(got, Refused) and isinstance(got.error, OutOfPages)
        return refused and self.subject.capabilities.refusal == "fragmenting" and name in GROWING

    def _any(self, given: dict[str, Any], got: Any) -> Any:
        """What the model makes of a batch of which the subject may serve any legal subset."""
        whole = _outcome(lambda: self._call(self._model, "append_batch", given, self.hit))
        if isinstance(got, Refused) or not (
            isinstance(whole, Refused) and isinstance(whole.error, OutOfPages)
        ):
            return whole
        refused = set(got.refused.tolist())
        served = [at for at in range(len(given["sequences"])) if at not in refused]
        part = {field: [values[at] for at in served] for field, values in given.items()}
        done = _outcome(lambda: self._model.append_batch(part["sequences"], part["tokens"]))
        if isinstance(done, Refused):
            return f"append_batch {given} served {part}, more than the pages that there were"
        if not refused:
            return done
        for at in sorted(refused) if self.subject.capabilities.refusal == "exact" else ():
            one = _outcome(lambda at=at: self._model.append(given["sequences"][at], given["tokens"][at]))  # type: ignore[misc]
            if not isinstance(one, Refused):
                return f"invariant 9: append_batch {given} refused request {at}, which fits"
        return Granted(new_slots=done.slots, copies=done.copies, refused=got.refused)

    def _prompt(self, given: dict[str, Any]) -> Prompt:
        tokens = tuple(stream_token(given["stream"], at) for at in range(max(0, given["tokens"])))
        return Prompt(tokens=tokens, adapter=given["adapter"], salt=given["salt"])

    def _committed(self, given: dict[str, Any]) -> Prompt:
        reader = self.contents.live.get(given["sequence"], Reader([], [], 0, "", ""))
        return reader.prompt(given["tokens"])

    # --- what a success changes -----------------------------------------------------------------------------

    def _effect(self, name: str, given: dict[str, Any], got: Any, expected: Any, table: Array) -> str | None:
        contents = self.contents
        if name in GROWING:
            return self._grown(name, given, got, expected, table)
        if name == "fork":
            contents.fork(given["parent"], given["child"], given["stream"])
        elif name == "truncate":
            reader = contents.live[given["sequence"]]
            del reader.serials[given["length"] :], reader.tokens[given["length"] :]
        elif name == "free":
            for sequence in given["sequences"]:
                (contents.live if sequence in contents.live else contents.swapped).pop(sequence)
        elif name == "lookup":
            self.hit, self._model_hit, self.stream = got, expected, given["stream"]
            if len(got.pages) != len(expected.pages):
                return f"{name} {given} found {len(got.pages)} pages, must find {len(expected.pages)}"
        elif name == "adopt":
            pages = self.hit.pages + tuple(given["pages"])
            if wrong := contents.adopt(given["sequence"], self.hit.prompt, self.stream, pages):
                return f"invariant 7: {wrong} that was looked up"
        elif name == "evict" and len(got) != len(expected):
            return f"{name} {given} freed {len(got)} pages, must free {len(expected)}"
        elif name in MOVING:
            getattr(contents, name)(given["sequence"], _rows(got))
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
        slots = _slots(got.slots)
        wanted = sum(count for _, count in served)
        if slots is None or len(slots) != wanted:
            has = type(got.slots).__name__ if slots is None else f"{len(slots)} slots"
            return f"{name} {given} returned {has}, must return a vector of {wanted} slots"
        copies = {(int(source), int(target)) for source, target, _ in _rows(got.copies)}
        if moved := self._moved(table, served, copies):
            return f"invariant 5: {name} {given} changed {moved}"
        self.contents.copy(_rows(got.copies))
        if name == "alloc":
            words = {key: given[key] for key in ("stream", "adapter", "salt")}
            self.contents.live[given["sequence"]] = Reader([], [], **words)
        at = 0
        for sequence, count in served:
            self.contents.write(sequence, slots[at : at + count])
            at += count
        return None

    def _refused(self, given: dict[str, Any], expected: Granted) -> set[int]:
        """Positions in the subject's batch of what the model refused."""
        refused = expected.refused.tolist()
        if self.subject.capabilities.order != "sequence":
            return set(refused)
        order = sorted(range(len(given["sequences"])), key=lambda at: given["sequences"][at])
        return {order[at] for at in refused}

    def _moved(
        self, table: Array, served: Sequence[tuple[int, int]], copies: set[tuple[int, int]]
    ) -> str | None:
        """The first entry of an older table that an append changed without a copy of a shared last page."""
        page_size, now = self.subject.shape.page_size, self.subject.block_table()
        for sequence, _ in served:
            reader = self.contents.live.get(sequence)
            length = len(reader.tokens) if reader else 0
            for column in range(pages_needed(length, page_size)):
                old, new = int(table[sequence, column]), int(now[sequence, column])
                last = column == length // page_size
                if old != new and not (last and (old, new) in copies):
                    return f"page {column} of sequence {sequence} from {old} to {new}"
        return None

    # --- what holds afterwards ------------------------------------------------------------------------------

    def _check(self) -> str | None:
        subject, model, contents = self.subject, self._model, self.contents
        lengths, table = subject.lengths().tolist(), subject.block_table()
        for sequence in range(subject.shape.max_seqs):
            reader = contents.live.get(sequence)
            wanted = len(reader.serials) if reader else -1
            if lengths[sequence] != wanted:
                has = None if lengths[sequence] < 0 else lengths[sequence]
                must = None if wanted < 0 else wanted
                return f"sequence {sequence} has length {has}, must have {must}"
            if subject.swapped(sequence) != model.swapped(sequence):
                said, must = subject.swapped(sequence), model.swapped(sequence)
                return f"sequence {sequence} has {said} tokens swapped out, must have {must}"
        if found := violation(subject):
            return found
        for sequence in contents.live:
            if found := contents.misread(sequence, table[sequence].tolist()):
                return f"invariant 7: {found}"
        return self._unlike_model(table)

    def _unlike_model(self, table: Array) -> str | None:
        """The first difference in what model and subject hold."""
        subject, model = self.subject, self._model
        wanted = model.block_table()
        if subject.capabilities.model_ids:
            if not np.array_equal(table, wanted):
                sequence, column = np.argwhere(table != wanted)[0].tolist()
                says = f"page {column} of sequence {sequence} is {table[sequence, column]}"
                return f"invariant 11: {says}, must be {wanted[sequence, column]}"
        elif clash := _renamed(wanted, table):
            return f"invariant 2: {clash}"
        if subject.capabilities.refusal == "fragmenting":
            return None
        for name in ("free_pages", "evictable_pages", "free_swap_pages"):
            if getattr(subject, name) != getattr(model, name):
                return f"invariant 15: {name} is {getattr(subject, name)}, must be {getattr(model, name)}"
        return None

    def _drain(self) -> str | None:
        """Free everything and take the whole pool once: what is lost or held twice shows here."""
        shape, can = self.subject.shape, self.subject.capabilities
        there = [*self.contents.live, *self.contents.swapped]
        if there and (found := self.perform(("free", {"sequences": there}))):
            return found
        if "evict" in can.operations and (found := self.perform(("evict", {"pages": shape.num_pages}))):
            return found
        free = self.subject.free_pages + self.subject.evictable_pages
        if free != shape.num_pages or self.subject.free_swap_pages != shape.swap_pages:
            return f"invariant 13: {free} of {shape.num_pages} pages free after freeing all"
        left = 0 if can.refusal == "fragmenting" else shape.num_pages
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


def _spelled(sequences: list[int], tokens: list[int]) -> tuple[Any, Any]:
    """A batch as the protocol lets it be written: indices as an array, one count where all are equal."""
    one = len(sequences) == len(tokens) > 0 and len(set(tokens)) == 1
    return np.array(sequences, np.int64), tokens[0] if one else tokens


def _outcome(operation: Callable[[], Any]) -> Any:
    try:
        return operation()
    except REFUSALS as error:
        return Refused(error)


def _error(*outcomes: object) -> Exception | None:
    return next((outcome.error for outcome in outcomes if isinstance(outcome, Refused)), None)


def _sensible(error: OutOfPages) -> bool:
    return error.needed > error.available >= 0


def _slots(got: object) -> list[int] | None:
    """Slots as a list, or None when they are no vector of whole numbers."""
    array = np.asarray(got)
    whole = array.dtype.kind in "iu" or array.size == 0
    return array.tolist() if array.ndim == 1 and whole else None


def _rows(moves: object) -> list[list[int]]:
    """A list of copies, int32 ``(n, 3)``, as lists."""
    rows: list[list[int]] = np.asarray(moves).reshape(-1, 3).tolist()
    return rows


def _renamed(model: Array, subject: Array) -> str | None:
    """Where two tables are not the same but for the names of the pages."""
    there: dict[int, int] = {NULL_PAGE: NULL_PAGE}
    back: dict[int, int] = {NULL_PAGE: NULL_PAGE}
    for sequence, column in np.argwhere((model != NULL_PAGE) | (subject != NULL_PAGE)).tolist():
        a, b = int(model[sequence, column]), int(subject[sequence, column])
        if there.setdefault(a, b) != b or back.setdefault(b, a) != a:
            return f"page {column} of sequence {sequence}, {b}, must be shared with others than it is"
    return None


def _name(outcome: object) -> str:
    return type(outcome.error).__name__ if isinstance(outcome, Refused) else "success"


def _words(operation: Operation) -> str:
    name, given = operation
    shown = {field: value for field, value in given.items() if field not in ("stream", "adapter", "salt")}
    return f"{name} {shown}"
