# SPDX-License-Identifier: Apache-2.0
"""What a checked launch found, as data and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Index = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a kernel's source; ``line`` 0 when the compiler left no line behind."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file or "an unknown place"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A thread and what it did where.

    Attributes:
        action: ``read``, ``write``, ``atomic operation``, ...
        block: blockIdx.
        thread: threadIdx.
        place: in the source.
    """

    action: str
    block: Index
    thread: Index
    place: Place

    def __str__(self) -> str:
        return f"{self.action} at {self.place} by block {_index(self.block)} thread {_index(self.thread)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault of a kernel.

    Attributes:
        check: ``memory``, ``init``, ``race`` or ``sync``.
        kernel: entry point.
        text: what happened, without the place.
        at: who did it.
        other: the other access of a race, the other call of a barrier.
        waiting: of a deadlock, a thread of each group that waits, and for what.
        buffer: name of the kernel's parameter or of the allocation, ``shared memory``, or empty.
        offset: first byte concerned, within ``buffer``.
        nbytes: size of the access.
        count: how often it happened at this place.
    """

    check: str
    kernel: str
    text: str
    at: Party
    other: Party | None
    buffer: str
    offset: int
    nbytes: int
    count: int
    waiting: tuple[Party, ...] = ()

    def __str__(self) -> str:
        where = f" in {self.buffer} at byte {self.offset}" if self.buffer else ""
        other = f"; the other: {self.other}" if self.other else ""
        times = f" ({self.count} times)" if self.count > 1 else ""
        stuck = "".join(f"; {party}" for party in self.waiting)
        at = "" if self.waiting else f", {self.at}"
        return f"{self.check}: {self.text}{where}: {self.kernel}{at}{other}{stuck}{times}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the sentence ``said`` included."""
        return {**asdict(self), "said": str(self)}


def _index(index: Index) -> str:
    return "(" + ", ".join(map(str, index)) + ")"
