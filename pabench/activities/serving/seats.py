# SPDX-License-Identifier: Apache-2.0
"""The allocator as the driver uses it: requests in slots, timed, with whatever the allocator offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np

from pabench.activities.serving.tier import Tier
from pabench.errors import OutOfPages
from pabench.problem.dtypes import Array
from pabench.problem.kv_layout import runs_of
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.results import NULL_PAGE, Granted, Prompt


@dataclass(slots=True)
class Seat:
    """A request that runs.

    Attributes:
        slots: its sequences in the allocator, one for each answer.
        live: how many of them have begun; all but the first fork from it when the prompt is done.
        target: tokens that have to be computed before it decodes.
        done: of those, how many are.
        end: step that makes its last token; 0 while it does not decode.
        words: what is computed before it decodes, kept until it is offered to the prefix cache.
    """

    slots: list[int]
    target: int
    live: int = 1
    done: int = 0
    end: int = 0
    words: Prompt | None = None


@dataclass(slots=True)
class Seats:
    """Sequences of the allocator, given to requests and taken back.

    Attributes:
        allocator: under test.
        reserve_pages: admission leaves so many available.
        spare: slots that nobody has, the lowest last.
        ns: nanoseconds in the allocator, by operation.
        copies: pages copied on write.
        tier: the lower tier, where the pool has one.
        swapped: pages that went to the swap store, and came back.
        moves: sequences looked at when they ended, their pages, and the runs of ids that these lay in.
    """

    allocator: PageAllocator
    reserve_pages: int = 0
    spare: list[int] = field(init=False)
    ns: dict[str, int] = field(default_factory=lambda: {"start": 0, "append": 0, "free": 0, "move": 0})
    copies: int = 0
    tier: Tier | None = field(init=False, default=None)
    swapped: list[int] = field(default_factory=lambda: [0, 0])
    _told: int = 0
    moves: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        self.spare = list(range(self.allocator.shape.max_seqs))[::-1]
        if self.allocator.shape.host_pages:
            self.tier = Tier(self.allocator)

    @property
    def available(self) -> int:
        """Pages that a growing sequence could get."""
        return self.allocator.free_pages + self.allocator.evictable_pages

    def start(self, seat: Seat, tokens: int, *, final: int, prompt: Prompt | None) -> int:
        """Start the first slot of a seat with ``tokens``; return how many came from the prefix cache.

        Raises:
            OutOfPages: they do not fit above the watermark; nothing has changed.
        """
        began, slot = perf_counter_ns(), seat.slots[0]
        allocator = self.allocator
        try:
            if self.tier is not None and prompt is not None:
                self.tier.fetch(prompt, tokens)
            hit = allocator.lookup(prompt) if prompt is not None else None
            if hit is None or not (hit.pages or hit.part):
                self._check_room(pages_needed(tokens, allocator.shape.page_size))
                self._note(allocator.alloc(slot, tokens, final_tokens=final))
                return 0
            self._note_copies(allocator.adopt(slot, hit))
            found = len(hit.pages) * allocator.shape.page_size + hit.part
            try:
                more = max(0, tokens - found)
                self._check_room(pages_needed(more, allocator.shape.page_size))
                self._note(allocator.append(slot, more))
            except OutOfPages:
                allocator.free([slot])
                raise
            return found
        finally:
            self.ns["start"] += perf_counter_ns() - began

    def grow(self, slot: int, tokens: int) -> None:
        """Add tokens to one slot; raises ``OutOfPages``."""
        began = perf_counter_ns()
        try:
            if self.tier is not None:
                self.tier.make_room(np.array([slot]), tokens)
            self._note(self.allocator.append(slot, tokens))
        finally:
            self.ns["append"] += perf_counter_ns() - began

    def grow_each(self, slots: Array) -> Array:
        """Add one token to each slot; return those that could not have one, in order.

        One call where the allocator takes a batch.  One that serves whole batches or nothing leaves all of
        them when they do not all fit.
        """
        began = perf_counter_ns()
        try:
            if self.tier is not None:
                self.tier.make_room(slots, 1)
            if "append_batch" in self.allocator.capabilities.operations:
                granted = self.allocator.append_batch(slots, 1)
                self._note(granted)
                return slots[granted.refused] if granted.refused.size else slots[:0]
            for at, slot in enumerate(slots.tolist()):
                try:
                    self._note(self.allocator.append(slot, 1))
                except OutOfPages:
                    return slots[at:]
            return slots[:0]
        except OutOfPages:
            return slots
        finally:
            self.ns["append"] += perf_counter_ns() - began

    def fork(self, seat: Seat) -> None:
        """Fork the further slots of a seat from its first, as far as they are not yet.

        Raises:
            OutOfPages: forks that copy lack a page for one of them.
        """
        began = perf_counter_ns()
        try:
            for child in seat.slots[seat.live :]:
                self._note_copies(self.allocator.fork(seat.slots[0], child))
                seat.live += 1
        finally:
            self.ns["start"] += perf_counter_ns() - began

    def leave(self, seats: Sequence[Seat], *, look: bool = False) -> None:
        """End the sequences of seats and take their slots back; ``look`` at their pages first, if asked."""
        if look:
            self._look(seats)
        began = perf_counter_ns()
        self.allocator.free([slot for seat in seats for slot in seat.slots[: seat.live]])
        for seat in seats:
            self.spare.extend(reversed(seat.slots))
        self.ns["free"] += perf_counter_ns() - began

    def _look(self, seats: Sequence[Seat]) -> None:
        """See in how many runs the pages of seats lie."""
        for seat in seats:
            for slot in seat.slots[: seat.live]:
                pages = np.array(self.allocator.pages(slot), np.int64)
                pages = pages[pages != NULL_PAGE]
                sequences, held, runs = self.moves
                self.moves = sequences + 1, held + pages.size, runs + runs_of(pages)

    def swap_out(self, slots: list[int]) -> bool:
        """Move all of ``slots`` to the swap store; False, and nothing moved, where it has no room.

        Room is asked for before the first one moves: sequences that share pages come back on pages of their
        own, for which the pool need not have room.
        """
        began, size = perf_counter_ns(), self.allocator.shape.page_size
        if sum(pages_needed(n, size) for n in self.lengths(slots)) > self.allocator.free_swap_pages:
            return False
        for slot in slots:
            self.swapped[0] += len(self.allocator.swap_out(slot))
        self.ns["move"] += perf_counter_ns() - began
        return True

    def swap_in(self, slots: list[int], tokens: list[int]) -> bool:
        """Bring ``slots`` of so many tokens back, with room to grow; False where there is none."""
        began, size = perf_counter_ns(), self.allocator.shape.page_size
        needed = sum(pages_needed(count + 1, size) for count in tokens)
        if needed > self.available - self.reserve_pages:
            return False
        for slot in slots:
            self.swapped[1] += len(self.allocator.swap_in(slot))
        self.ns["move"] += perf_counter_ns() - began
        return True

    def take_moved(self) -> int:
        """Return the tokens that have moved to another store, and back, since this was last asked."""
        pages = sum(self.moved_pages)
        moved, self._told = pages - self._told, pages
        return moved * self.allocator.shape.page_size

    @property
    def moved_pages(self) -> tuple[int, int]:
        """Pages that went to the swap store or the lower tier, and that came back."""
        tier = (0, 0) if self.tier is None else (self.tier.lowered, self.tier.loaded)
        return self.swapped[0] + tier[0], self.swapped[1] + tier[1]

    def lengths(self, slots: list[int]) -> list[int]:
        """Return the tokens of live slots."""
        return [int(self.allocator.length(slot) or 0) for slot in slots]

    def room(self, seat: Seat) -> tuple[int, int]:
        """Return the pages and the sequences of a seat."""
        held = self.lengths(seat.slots[: seat.live])
        return sum(pages_needed(tokens, self.allocator.shape.page_size) for tokens in held), len(seat.slots)

    def memory(self, final: Array, *, blocked: bool) -> tuple[int, int, int, int, int, int, int]:
        """Return token states, reserved, internal, external and idle slots, which add up to the pool;
        evictable pages; and pages that would be held besides if nothing were shared.

        Slots that nobody holds are external fragmentation where a request wants memory and an allocator that
        fragments cannot give it; any free page can be given, so that others have none.  Else they are idle.

        After figure 2 of Kwon et al., 2023.  Allocators that reserve know themselves.  For the others a slot
        of a last page is reserved when the sequence will fill it, internal when it never will; shared pages
        are full, or about to be copied, so that each open page belongs to one sequence.

        Args:
            final: int64 ``(max_seqs,)``, the length that each slot's sequence ends with.
            blocked: whether a request waits because it did not fit.
        """
        allocator, shape = self.allocator, self.allocator.shape
        if allocator.capabilities.refusal == "fragmenting":
            split = allocator.memory_split()
            rest = (split.external, 0) if blocked else (0, split.external)
            return split.tokens, split.reserved, split.internal, *rest, 0, 0
        lengths = allocator.lengths()
        live = lengths >= 0
        held = lengths[live]
        room = -held % shape.page_size
        unused = int(room.sum())
        reserved = int(np.minimum(room, np.maximum(final[live] - held, 0)).sum())
        used = shape.num_pages - self.available
        apart = int((held + room).sum()) // shape.page_size
        tokens, outside = used * shape.page_size - unused, self.available * shape.page_size
        return tokens, reserved, unused - reserved, 0, outside, allocator.evictable_pages, apart - used

    def _check_room(self, pages: int) -> None:
        if self.reserve_pages and pages > self.available - self.reserve_pages:
            raise OutOfPages(pages + self.reserve_pages, self.available)

    def _note(self, granted: Granted) -> None:
        self._note_copies(granted.copies)

    def _note_copies(self, copies: Array | None) -> None:
        self.copies += 0 if copies is None else len(copies)
