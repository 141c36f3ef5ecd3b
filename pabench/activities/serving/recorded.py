# SPDX-License-Identifier: Apache-2.0
"""Allocators that write down what the driver does to them: for oracle mode and for the kernel executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pabench.errors import OutOfPages
from pabench.judge.allocators.history import perform
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.trial import Trial
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.forwarding import ForwardingAllocator
from pabench.subjects.allocators.results import Granted, no_copies, no_positions

PLAIN = frozenset({"alloc", "append", "append_batch", "fork", "free", "swap_out", "swap_in"})
"""What is written down; a prompt of the prefix cache has no place in a history."""


class Violation(Exception):
    """An invariant that the allocator broke, in words."""


class RecordedAllocator(ForwardingAllocator):
    """Passes everything on to ``subject`` and keeps the operations, which may be many.

    Attributes:
        subject: the allocator under test.
        operations: what was done to it so far.
    """

    def __init__(self, subject: PageAllocator) -> None:
        can = subject.capabilities
        self.capabilities = replace(can, operations=can.operations & PLAIN)
        super().__init__(subject)
        self.operations: list[Operation] = []

    @property
    def free_swap_pages(self) -> int:
        """See ``PageAllocator``."""
        return self.subject.free_swap_pages

    def length(self, sequence: int) -> int | None:
        """See ``PageAllocator``."""
        return self.subject.length(sequence)

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``."""
        stream = {"stream": sequence, "adapter": "", "salt": ""}
        given = {"sequence": sequence, "tokens": tokens, "final_tokens": final_tokens, **stream}
        return self._granted("alloc", given)

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        return self._granted("append", {"sequence": sequence, "tokens": tokens})

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        return self._granted("append_batch", {"sequences": sequences, "tokens": tokens})

    def fork(self, parent: int, child: int) -> None:
        """See ``PageAllocator``."""
        self.do("fork", {"parent": parent, "child": child, "stream": child})

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        self.do("free", {"sequences": list(sequences)})

    def swap_out(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        return np.asarray(self.do("swap_out", {"sequence": sequence}))

    def swap_in(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        return np.asarray(self.do("swap_in", {"sequence": sequence}))

    def do(self, name: str, given: dict[str, Any]) -> Any:
        """Write an operation down and do it."""
        self.operations.append((name, given))
        return perform(self.subject, (name, given))

    def _granted(self, name: str, given: dict[str, Any]) -> Granted:
        granted = self.do(name, given)
        if not isinstance(granted, Granted):
            raise Violation(f"{name} returned {type(granted).__name__}, must return a grant")
        return granted


class JudgedAllocator(RecordedAllocator):
    """Holds every operation to the reference model, and every slot to its token, as the suite does.

    Attributes:
        trial: what was done so far, and what every sequence must read.
    """

    def __init__(self, subject: PageAllocator) -> None:
        super().__init__(subject)
        self.trial = Trial(subject, keeps=False)

    def do(self, name: str, given: dict[str, Any]) -> Any:
        """Do an operation in the trial.

        Raises:
            Violation: the allocator broke an invariant.
            OutOfPages: it was right to refuse.
        """
        if name == "append_batch":
            named = [int(sequence) for sequence in given["sequences"]]
            counts = given["tokens"]
            given = {
                "sequences": named,
                "tokens": [counts] * len(named) if isinstance(counts, int) else counts,
            }
        before = self.subject.lengths()
        self.operations.append((name, given))
        if found := self.trial.perform((name, given)):
            raise Violation(found)
        now = self.subject.lengths()
        if name in ("alloc", "append", "append_batch"):
            asked = given.get("sequences", [given.get("sequence")])
            refused = [at for at, sequence in enumerate(asked) if now[sequence] == before[sequence]]
            if len(refused) == len(asked) > 0 and any(np.atleast_1d(given["tokens"])):
                raise OutOfPages(1, 0)
            return Granted(new_slots=no_positions(), copies=no_copies(), refused=np.array(refused, np.int64))
        if name in ("swap_out", "swap_in") and np.array_equal(before, now):
            raise OutOfPages(1, 0, unit="pages")
        return no_copies()
