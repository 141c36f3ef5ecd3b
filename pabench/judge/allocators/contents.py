"""A shadow of the cache: which token was written to which slot, and what every sequence must read back.

Every write has a serial number of its own, so that two owners of a slot show.  A serial also has a meaning,
the tokens from the start of its sequence on, so that a prefix cache can be held to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pabench.subjects.allocators.results import NULL_PAGE, Prompt

RUN = 4
"""Tokens after which streams may part; smaller and larger than the page sizes of the suite."""


def stream_token(stream: int, position: int) -> int:
    """Return token ``position`` of a stream, 0 or 1: streams share a beginning as their low bits agree."""
    return (stream >> (position // RUN)) & 1


@dataclass(slots=True)
class Reader:
    """A sequence that is live or swapped out.

    Attributes:
        serials: what it must read, position by position.
        tokens: the token ids they stand for.
        stream: where its next tokens come from.
    """

    serials: list[int]
    tokens: list[int]
    stream: int
    adapter: str
    salt: str

    def prompt(self, count: int) -> Prompt:
        """Return its first ``count`` tokens, continued from its stream where it is shorter."""
        more = [stream_token(self.stream, at) for at in range(len(self.tokens), count)]
        return Prompt(tokens=tuple(self.tokens[: max(count, 0)] + more), adapter=self.adapter, salt=self.salt)


@dataclass(slots=True)
class Contents:
    """The cache and its readers.

    Attributes:
        page_size: tokens of a page.
        live: sequence to what it reads.
        swapped: the same for sequences in the swap store.
    """

    page_size: int
    live: dict[int, Reader] = field(default_factory=dict)
    swapped: dict[int, Reader] = field(default_factory=dict)
    _slots: dict[int, int] = field(default_factory=dict)
    _store: dict[int, int] = field(default_factory=dict)
    _meaning: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)

    def write(self, sequence: int, slots: Sequence[int]) -> None:
        """Write the next tokens of a live sequence to ``slots``."""
        reader = self.live[sequence]
        for slot in slots:
            reader.tokens.append(stream_token(reader.stream, len(reader.tokens)))
            reader.serials.append(len(self._meaning))
            self._slots[slot] = len(self._meaning)
            self._meaning.append((reader.adapter, reader.salt, tuple(reader.tokens)))

    def copy(self, copies: Iterable[Sequence[int]]) -> None:
        """Copy slots from page to page."""
        self._move(self._slots, self._slots, copies)

    def swap_out(self, sequence: int, moves: Iterable[Sequence[int]]) -> None:
        """Copy to the swap store."""
        self._move(self._slots, self._store, moves)
        self.swapped[sequence] = self.live.pop(sequence)

    def swap_in(self, sequence: int, moves: Iterable[Sequence[int]]) -> None:
        """Copy back from the swap store."""
        self._move(self._store, self._slots, moves)
        self.live[sequence] = self.swapped.pop(sequence)

    def fork(self, parent: int, child: int, stream: int) -> None:
        """Let ``child`` read what ``parent`` does, and go on with a stream of its own."""
        of = self.live[parent]
        self.live[child] = Reader(list(of.serials), list(of.tokens), stream, of.adapter, of.salt)

    def adopt(self, sequence: int, prompt: Prompt, stream: int, pages: Sequence[int]) -> str | None:
        """Start a reader of cached pages; return what they hold that is not the prompt, or None."""
        reader = Reader([], list(prompt.tokens[: len(pages) * self.page_size]), stream, "", "")
        reader.adapter, reader.salt = prompt.adapter, prompt.salt
        for position in range(len(reader.tokens)):
            slot = pages[position // self.page_size] * self.page_size + position % self.page_size
            serial = self._slots.get(slot, -1)
            wanted = (prompt.adapter, prompt.salt, prompt.tokens[: position + 1])
            if serial < 0 or self._meaning[serial] != wanted:
                return f"slot {slot} does not hold token {position} of the prompt"
            reader.serials.append(serial)
        self.live[sequence] = reader
        return None

    def misread(self, sequence: int, row: Sequence[int]) -> str | None:
        """Return the first token of a live sequence that its table row does not lead to, or None."""
        for position, serial in enumerate(self.live[sequence].serials):
            page = row[position // self.page_size]
            slot = page * self.page_size + position % self.page_size
            if page != NULL_PAGE and self._slots.get(slot) != serial:
                return f"token {position} of sequence {sequence} is not in slot {slot}"
        return None

    def slots(self) -> dict[int, int]:
        """Return slot to the serial number of the token that stands there, for every slot written."""
        return dict(self._slots)

    def _move(self, source: dict[int, int], target: dict[int, int], moves: Iterable[Sequence[int]]) -> None:
        size, taken = self.page_size, {}
        for a, b, count in moves:
            for offset in range(count):
                taken[int(b) * size + offset] = source.get(int(a) * size + offset, -1)
        target |= taken
