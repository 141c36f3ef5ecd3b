"""What must hold after every operation of an allocator, read through its protocol.

Numbers follow the specification: 1 conservation, 2 single ownership, 3 table length, 5 prefix stability,
7 content (unique tokens read back through the tables), 8 atomic failure, 9 no spurious lack of pages,
12 waste bound, 13 drain.  A violation is returned as words, never raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pabench.allocators.base import PageAllocator
from pabench.allocators.model import ModelAllocator
from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.layout import pages_needed


@dataclass(slots=True)
class Trial:
    """Runs one history of operations on a subject beside the model and a shadow of the cache.

    Attributes:
        subject: the allocator on trial.
        contents: slot to the token written there.
        tokens: sequence to the tokens it must read back.
        steps: operations so far.
    """

    subject: PageAllocator
    contents: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    steps: int = 0
    _written: int = 0
    _model: ModelAllocator = field(init=False)

    def __post_init__(self) -> None:
        self._model = ModelAllocator(self.subject.shape)

    def extend(self, request: Mapping[int, int]) -> str | None:
        """Extend both; return a violation in words, or None."""
        self.steps += 1
        before = self._snapshot()
        expected = self._outcome(lambda: self._model.extend(request))
        got = self._outcome(lambda: self.subject.extend(request))
        if isinstance(expected, type) or isinstance(got, type):
            if expected is not got:
                return f"invariant 9: extend {dict(request)} gave {_name(got)}, must give {_name(expected)}"
            after = self._snapshot()
            return (
                None if before == after else f"invariant 8: refused extend {dict(request)} changed the state"
            )
        slots = _slots(got)
        wanted = sum(request.values())
        if slots is None:
            return f"extend {dict(request)} returned {type(got).__name__}, must return a vector of slots"
        if len(slots) != wanted:
            return f"extend {dict(request)} returned {len(slots)} slots, must return {wanted}"
        at = 0
        for sequence in sorted(request):
            mine = self.tokens.setdefault(sequence, [])
            for _ in range(request[sequence]):
                self._written += 1
                mine.append(self._written)
                self.contents[slots[at]] = self._written
                at += 1
        return self.check(before)

    def free(self, sequences: Sequence[int]) -> str | None:
        """Free in both; return a violation in words, or None."""
        self.steps += 1
        before = self._snapshot()
        expected = self._outcome(lambda: self._model.free(sequences))
        got = self._outcome(lambda: self.subject.free(sequences))
        if expected is not got and (isinstance(expected, type) or isinstance(got, type)):
            return f"free {list(sequences)} gave {_name(got)}, must give {_name(expected)}"
        if isinstance(expected, type):
            same = before == self._snapshot()
            return None if same else f"invariant 8: refused free {list(sequences)} changed the state"
        for sequence in sequences:
            del self.tokens[sequence]
        return self.check({})

    def drain(self) -> str | None:
        """Free everything and take the whole pool once: what is lost or held twice shows here."""
        if self.tokens and (violation := self.free(list(self.tokens))):
            return violation
        shape = self.subject.shape
        if self.subject.free_pages != shape.num_pages:
            return (
                f"invariant 13: {self.subject.free_pages} of {shape.num_pages} pages free after freeing all"
            )
        share, left = shape.max_pages_per_seq, shape.num_pages
        request = {}
        for sequence in range(shape.max_seqs):
            take = min(share, left)
            request[sequence] = take * shape.page_size
            left -= take
        return self.extend(request)

    def check(self, before: Mapping[int, tuple[int | None, tuple[int, ...]]]) -> str | None:
        """Return the first invariant that does not hold now; ``before`` is the state before the operation."""
        shape = self.subject.shape
        owner: dict[int, int] = {}
        for sequence in range(shape.max_seqs):
            mine = self.tokens.get(sequence)
            length = self.subject.length(sequence)
            if length != (None if mine is None else len(mine)):
                wanted = None if mine is None else len(mine)
                return f"sequence {sequence} has length {length}, must have {wanted}"
            if mine is None or length is None:
                continue
            pages = self.subject.pages(sequence)
            need = pages_needed(length, shape.page_size)
            if len(pages) != need:
                has = f"sequence {sequence} of {length} tokens has {len(pages)} pages"
                return f"invariant 3: {has}, needs {need}"
            for page in pages:
                if not 0 <= page < shape.num_pages:
                    return f"sequence {sequence} holds page {page}, must be in 0..{shape.num_pages - 1}"
                if page in owner:
                    return f"invariant 2: page {page} is held by sequences {owner[page]} and {sequence}"
                owner[page] = sequence
            old = before.get(sequence, (None, ()))[1]
            if pages[: len(old)] != old:
                return (
                    f"invariant 5: an append changed the pages of sequence {sequence} from {old} to {pages}"
                )
            for position, token in enumerate(mine):
                slot = pages[position // shape.page_size] * shape.page_size + position % shape.page_size
                if self.contents.get(slot) != token:
                    return f"invariant 7: token {position} of sequence {sequence} is not in slot {slot}"
        if len(owner) + self.subject.free_pages != shape.num_pages:
            held = f"{len(owner)} held and {self.subject.free_pages} free"
            return f"invariant 1: {held} pages, must add up to {shape.num_pages}"
        return None

    def _snapshot(self) -> dict[int, tuple[int | None, tuple[int, ...]]]:
        live = {}
        for sequence in range(self.subject.shape.max_seqs):
            length = self.subject.length(sequence)
            live[sequence] = (length, self.subject.pages(sequence) if length is not None else ())
        live[-1] = (self.subject.free_pages, ())
        return live

    @staticmethod
    def _outcome(operation: Callable[[], Any]) -> Any:
        try:
            return operation()
        except (OutOfPages, InvalidCase) as error:
            return type(error)


def _slots(got: object) -> list[int] | None:
    """What ``extend`` returned as a list, or None when it is no vector of whole numbers."""
    array = np.asarray(got)
    whole = array.dtype.kind in "iu" or array.size == 0
    return array.tolist() if array.ndim == 1 and whole else None


def _name(outcome: object) -> str:
    return outcome.__name__ if isinstance(outcome, type) else "success"
