# SPDX-License-Identifier: Apache-2.0
"""A shadow of the cache: which token was written to which slot, and what every sequence must read back.

Every write has a serial number of its own, so that two owners of a slot show.  A serial also has a meaning,
the tokens from the start of its sequence on, so that a prefix cache can be held to it.  Meanings are numbers:
that of a prefix and a token is found in a table, and equal only where all before is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pabench.judge.allocators.streams import Turns, cut, cut_images, tokens_of, turns_of
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.results import NULL_PAGE, Image, Prompt

NOTHING = -1
"""Stands where no token was written."""
Word = int | tuple[int, str, int]
"""A token id; with the hash of the image that it stands for, and its place in it."""


@dataclass(slots=True)
class Reader:
    """A sequence that is live or swapped out.

    Attributes:
        turns: the streams that its tokens come from.
        images: what tokens stand for, also those that are still to come.
        tokens: the token ids that it must read, position by position.
        meanings: of them, from the start on, in each group.
        serials: of the writes that put them there, int64 ``(groups, len(tokens))``; ``NOTHING`` for what was
            given up before it began.
    """

    turns: Turns
    adapter: str = ""
    salt: str = ""
    images: tuple[Image, ...] = ()
    tokens: list[int] = field(default_factory=list)
    meanings: list[list[int]] = field(default_factory=list)
    serials: Array = field(default_factory=lambda: np.empty((1, 0), np.int64))

    def prompt(self, count: int, page_size: int) -> Prompt:
        """Return its first ``count`` tokens, continued from its stream where it is shorter."""
        held = len(self.tokens)
        more = tokens_of(self.turns, held, max(0, count - held), page_size)
        tokens = tuple(self.tokens[: max(count, 0)] + more)
        images = cut_images(self.images, len(tokens))
        return Prompt(tokens=tokens, adapter=self.adapter, salt=self.salt, images=images)


@dataclass(slots=True)
class Contents:
    """The cache and its readers.

    Attributes:
        groups: KV groups, one at least.
        page_size: slots of a page, in which each group has room for its tokens.
        num_pages: page ids there are, those never granted included.
        swap_pages: of the store.
        host_pages: of the lower tier.
        live: sequence to what it reads.
        swapped: the same for sequences in the swap store.
    """

    groups: tuple[KvGroup, ...]
    page_size: int
    num_pages: int
    swap_pages: int = 0
    host_pages: int = 0
    live: dict[int, Reader] = field(default_factory=dict)
    swapped: dict[int, Reader] = field(default_factory=dict)
    _slots: Array = field(init=False)
    _store: Array = field(init=False)
    _lower: Array = field(init=False)
    _meaning: list[int] = field(default_factory=list)
    _known: dict[tuple[int, Word], int] = field(default_factory=dict)
    _spaces: dict[tuple[int, str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._slots = np.full(self.num_pages * self.page_size, NOTHING, np.int64)
        self._store = np.full(self.swap_pages * self.page_size, NOTHING, np.int64)
        self._lower = np.full(self.host_pages * self.page_size, NOTHING, np.int64)

    def start(
        self, sequence: int, stream: int, adapter: str, salt: str, images: tuple[Image, ...] = ()
    ) -> None:
        """Start a reader without tokens."""
        self.live[sequence] = Reader(
            turns=turns_of(stream, ()),
            adapter=adapter,
            salt=salt,
            images=images,
            meanings=[[] for _ in self.groups],
            serials=np.empty((len(self.groups), 0), np.int64),
        )

    def write(self, sequence: int, slots: Sequence[int] | Array) -> None:
        """Write the next tokens of a live sequence; what lies outside of the pool is lost.

        Args:
            sequence: whose tokens they are.
            slots: of each token, group behind group.
        """
        reader, by_group = self.live[sequence], np.asarray(slots, np.int64).reshape(len(self.groups), -1)
        tokens = tokens_of(reader.turns, len(reader.tokens), by_group.shape[1], self.page_size)
        reader.tokens += tokens
        first = len(self._meaning)
        serials = np.arange(first, first + by_group.size).reshape(by_group.shape)
        reader.serials = np.concatenate((reader.serials, serials), axis=1)
        for at, (group, places) in enumerate(zip(self.groups, by_group, strict=True)):
            meanings = self._mean(at, reader, tokens)
            reader.meanings[at] += meanings
            self._meaning += meanings
            places = self._place(group, places)
            there = (places >= 0) & (places < self._slots.size)
            self._slots[places[there]] = serials[at][there]

    def truncate(self, sequence: int, length: int, stream: int | None) -> None:
        """Cut a live sequence; its next tokens come from ``stream`` where that is given."""
        reader = self.live[sequence]
        reader.turns = cut(reader.turns, length, stream)
        if stream is not None:
            reader.images = cut_images(reader.images, length)
        reader.serials = reader.serials[:, :length]
        del reader.tokens[length:]
        for meanings in reader.meanings:
            del meanings[length:]

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

    def land(self, moves: Iterable[Sequence[int]], *, down: bool) -> None:
        """Copy between the tiers."""
        self._move(*((self._slots, self._lower) if down else (self._lower, self._slots)), moves)

    def page(self, page: int) -> Array:
        """Return the serial numbers of what stands in a page, a copy."""
        return self._slots[page * self.page_size : (page + 1) * self.page_size].copy()

    def fork(self, parent: int, child: int, stream: int) -> None:
        """Let ``child`` read what ``parent`` does, and go on with a stream of its own."""
        of = self.live[parent]
        turns = cut(of.turns, len(of.tokens), stream)
        known = list(of.tokens), [list(meanings) for meanings in of.meanings], of.serials
        images = cut_images(of.images, len(of.tokens))
        self.live[child] = Reader(turns, of.adapter, of.salt, images, *known)

    def adopt(
        self, sequence: int, prompt: Prompt, turns: Turns, pages: Sequence[int], part: int = 0
    ) -> str | None:
        """Start a reader of cached pages, one group behind the other; ``part`` tokens of the last, if any.

        Returns:
            What they hold that is not the prompt, or None.
        """
        of_block = sum(self.page_size // group.page_size for group in self.groups)
        full = len(pages) // of_block - (part > 0)
        count = min(full * self.page_size + part, len(prompt.tokens))
        images = cut_images(prompt.images, count)
        reader = Reader(cut(turns, count), prompt.adapter, prompt.salt, images)
        reader.tokens = list(prompt.tokens[:count])
        reader.serials = np.full((len(self.groups), count), NOTHING, np.int64)
        rest = np.asarray(pages, np.int64)
        for at, group in enumerate(self.groups):
            reader.meanings.append(self._mean(at, reader, reader.tokens))
            mine, rest = rest[: group.pages(count)], rest[group.pages(count) :]
            if wrong := self._go_on_with(reader, at, mine):
                return wrong
        self.live[sequence] = reader
        return None

    def share(self, sequence: int, table: Array) -> str | None:
        """Let a live sequence of the only group read the pages in its row, where they hold what it has read.

        Returns:
            The first token that they do not hold, or None.
        """
        wrong = self._go_on_with(self.live[sequence], 0, table[sequence].astype(np.int64))
        return wrong and f"invariant 7: {wrong} that was committed"

    def _go_on_with(self, reader: Reader, at: int, pages: Array) -> str | None:
        """Let a reader read its tokens of a group from ``pages``; what they hold that it has not, or None."""
        group, position = self.groups[at], np.arange(len(reader.tokens))
        page = pages[position // group.page_size]
        places = self._place(group, page * group.page_size + position % group.page_size)
        reader.serials[at] = found = np.where(page == NULL_PAGE, NOTHING, self._at(self._slots, places))
        meant = zip(position.tolist(), found.tolist(), reader.meanings[at], strict=True)
        for token, serial, meaning in meant:
            if page[token] != NULL_PAGE and (serial == NOTHING or self._meaning[serial] != meaning):
                slot = int(page[token]) * group.page_size + token % group.page_size
                return f"slot {slot} does not hold token {token} of the prompt"
        return None

    def misread(self, table: Array) -> str | None:
        """Return the first token of a live sequence that its row of the table does not lead to, or None."""
        there = [(sequence, reader) for sequence, reader in self.live.items() if reader.tokens]
        if not there:
            return None
        counts = np.array([len(reader.tokens) for _, reader in there])
        ends = np.cumsum(counts)
        position = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        row = np.repeat(np.array([sequence for sequence, _ in there]), counts)
        serials = np.concatenate([reader.serials for _, reader in there], axis=1)
        width = table.shape[1] // len(self.groups)
        for at, group in enumerate(self.groups):
            pages = table[row, at * width + position // group.page_size].astype(np.int64)
            slots = pages * group.page_size + position % group.page_size
            read = self._at(self._slots, self._place(group, slots))
            wrong = np.flatnonzero((read != serials[at]) & (pages != NULL_PAGE))
            if wrong.size:
                first = wrong[0]
                return f"token {position[first]} of sequence {row[first]} is not in slot {slots[first]}"
        return None

    def slots(self) -> Array:
        """Return the serial number of the token in each slot, int64 ``(slots,)``, -1 where there is none."""
        return self._slots.copy()

    def _mean(self, at: int, reader: Reader, tokens: Sequence[int]) -> list[int]:
        """The meanings in a group of more tokens behind those of a reader."""
        known, held = self._known, reader.meanings[at] if len(reader.meanings) > at else []
        if held:
            before = held[-1]
        else:
            space = (at, reader.adapter, reader.salt)
            before = -1 - self._spaces.setdefault(space, len(self._spaces))
        found = []
        for token in _shown(reader.images, tokens, len(held)):
            before = known.setdefault((before, token), len(known))
            found.append(before)
        return found

    def _place(self, group: KvGroup, slots: Array) -> Array:
        """Where the slots of a group are: pages of all groups are equally large."""
        if group.page_size == self.page_size:
            return slots
        places: Array = slots // group.page_size * self.page_size + slots % group.page_size
        return places

    def _move(self, source: Array, target: Array, moves: Iterable[Sequence[int]]) -> None:
        size, taken = self.page_size, []
        for a, b, count in moves:
            offsets = np.arange(min(int(count), size))
            taken.append((int(b) * size + offsets, self._at(source, int(a) * size + offsets)))
        for places, serials in taken:
            there = (places >= 0) & (places < target.size)
            target[places[there]] = serials[there]

    @staticmethod
    def _at(slots: Array, places: Array) -> Array:
        """What stands in ``places``, nothing where there is no such slot."""
        there = (places >= 0) & (places < slots.size)
        if there.all():
            found: Array = slots[places]
            return found
        found = np.where(there, slots[np.where(there, places, 0)] if slots.size else NOTHING, NOTHING)
        return found


def _shown(images: Sequence[Image], tokens: Sequence[int], first: int) -> list[Word]:
    """Tokens from position ``first`` on, each with what it stands for."""
    found: list[Word] = [*tokens]
    for start, count, key in images:
        for position in range(max(start, first), min(start + count, first + len(tokens))):
            found[position - first] = (tokens[position - first], key, position - start)
    return found
