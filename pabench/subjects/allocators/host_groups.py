# SPDX-License-Identifier: Apache-2.0
"""KV groups on the host: full, window and state layers that share one pool of pages.

State     as of the host allocator, with a row of the table for each sequence and group; one prefix cache a
          group, which share the queue of pages that nobody uses.
Cost      of an operation: that of the host allocator for each group, with a loop over sequences.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import (
    OPERATIONS,
    RETENTION_OPERATIONS,
    TIER_OPERATIONS,
    Capabilities,
)
from pabench.subjects.allocators.groups import GROUP_KINDS, KvGroup
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.host_cache import PrefixCache
from pabench.subjects.allocators.host_grants import NO_COPIES, NO_POSITIONS, slots_of
from pabench.subjects.allocators.results import NULL_PAGE, Granted, Hit, Prompt
from pabench.subjects.allocators.sliding import pages_given_up, uncuttable


class GroupCaches:
    """The prefix caches of all groups; a page is in one of them at most.

    Attributes:
        cached, unused: as of ``PrefixCache``, of all groups together.
        of_group: the caches.
    """

    def __init__(self, shape: PoolShape) -> None:
        self.cached = np.zeros(shape.num_pages + 1, bool)
        self.unused: OrderedDict[int, None] = OrderedDict()
        self.of_group: list[PrefixCache] = []
        for group in shape.kv_groups:
            cache = PrefixCache(shape.num_pages, group.page_size, shape.hash_bits)
            cache.cached, cache.unused = self.cached, self.unused
            self.of_group.append(cache)

    def __len__(self) -> int:
        """Return how many pages are cached."""
        return sum(len(cache) for cache in self.of_group)

    def forget(self, page: int) -> None:
        """See ``PrefixCache``."""
        next(cache for cache in self.of_group if page in cache).forget(page)

    def evict(self, count: int) -> list[int]:
        """See ``PrefixCache``; the page unused for longest goes, whatever its group."""
        pages = [self.unused.popitem(last=False)[0] for _ in range(count)]
        for page in pages:
            self.forget(page)
        return pages

    def state(self) -> bytes:
        """See ``PrefixCache``."""
        return b"|".join(cache.state() for cache in self.of_group)


class HostGroups(HostAllocator):
    """Grants the ids of the reference model; windows slide before anything is granted."""

    name = "host-groups"
    capabilities = Capabilities(
        operations=frozenset(OPERATIONS)
        - {"free_window", "defragment", *TIER_OPERATIONS, *RETENTION_OPERATIONS},
        watermark=True,
        images=True,
        groups=frozenset(GROUP_KINDS),
    )

    def _start(self) -> None:
        super()._start()
        shape = self.shape
        self._groups = shape.kv_groups
        self._table = np.full((shape.max_seqs, shape.columns), NULL_PAGE, np.int32)
        self._flat = self._table.reshape(-1)
        self._caches = GroupCaches(shape)
        self._cache, self._cached = self._caches, self._caches.cached  # type: ignore[assignment]

    def pages(self, sequence: int) -> tuple[int, ...]:
        """See ``PageAllocator``."""
        return PageAllocator.pages(self, sequence)

    # --- growing ----------------------------------------------------------------------------------------

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``; pages are taken when needed, so ``final_tokens`` changes nothing."""
        sequence, tokens = self.check_start(sequence, tokens, final_tokens)
        self._admit(sum(group.pages(tokens) for group in self._groups))
        self._lengths[sequence] = 0
        return self._extend([(sequence, tokens)])

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        return self.append_batch([sequence], [tokens])

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        requests = list(self.check_batch(sequences, tokens, self._lengths).items())
        gone = Counter(page for sequence, count in requests if count for page in self._unseen(sequence))
        needed, left = 0, gone.copy()
        for sequence, count in requests:
            old = self._lengths.item(sequence)
            for group, row in self._rows(sequence):
                needed += group.pages(old + count) - group.pages(old)
                last = self._written_last(group, row, old, count)
                if last is not None and self._shares.item(last) > left[last]:
                    needed, left[last] = needed + 1, left[last] + 1
        # what windows give up can be granted at once, unless a step in flight still reads it
        gained = 0 if self._steps else sum(self._shares.item(p) < count for p, count in gone.items())
        available = self._ring.count + len(self._cache.unused) + gained
        if needed > available:
            raise OutOfPages(needed, available)
        for sequence, count in requests:
            self._slide(sequence, count)
        return self._extend(requests)

    def _extend(self, requests: Sequence[tuple[int, int]]) -> Granted:
        """Add tokens to one sequence after another; the pages suffice."""
        slots, copies = [], []
        for sequence, count in requests:
            old = self._lengths.item(sequence)
            for group, row in self._rows(sequence):
                size, have, first = group.page_size, group.pages(old), old // group.page_size
                last = self._written_last(group, row, old, count)
                if last is not None and self._shares.item(last):
                    row[have - 1] = self._take(1)[0]
                    self._unshare(np.array([last]))
                    copies.append((last, row[have - 1], old % size))
                elif last is not None and self._cached.item(last):
                    self._cache.forget(last)
                end = group.pages(old + count)
                row[have:end] = self._take(end - have)
                slots.append(slots_of(row[first:end], old % size, count, size))
            self._lengths[sequence] = old + count
        return Granted(
            new_slots=np.concatenate(slots) if slots else np.empty(0, np.int64),
            copies=np.array(copies, np.int32) if copies else NO_COPIES,
            refused=NO_POSITIONS,
        )

    # --- sharing and giving back ------------------------------------------------------------------------

    def fork(self, parent: int, child: int) -> None:
        """See ``PageAllocator``."""
        parent, child = self._live(parent, "parent"), self._new(child, "child")
        self._table[child] = self._table[parent]
        self._lengths[child] = self._lengths[parent]
        held = self._table[child][self._table[child] != NULL_PAGE]
        self._shares[held] += 1
        self._shared += held.size

    def truncate(self, sequence: int, length: int) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        tokens = self._lengths.item(sequence)
        length = whole_number("length", length, low=0, high=tokens)
        rows = list(self._rows(sequence))
        for group, row in rows:
            given_up = int(np.count_nonzero(row[: group.pages(tokens)] == NULL_PAGE))
            if rule := uncuttable(group, length, tokens, given_up):
                raise InvalidCase("length", length, rule)
        self._lengths[sequence] = length
        for group, row in rows:
            self._leave(row[group.pages(length) : group.pages(tokens)])

    def _end(self, sequence: int) -> None:
        tokens = self._lengths.item(sequence)
        for group, row in self._rows(sequence):
            self._leave(row[: group.pages(tokens)])
        self._lengths[sequence] = -1

    def _ends_plainly(self, sequence: int) -> bool:
        return False

    def _end_many(self, sequences: list[int]) -> None:
        for sequence in sequences:
            self._end(sequence)

    # not offered: windows slide by themselves, and there is one tier
    free_window, defragment = PageAllocator.free_window, PageAllocator.defragment
    move_down, load, end_copy = PageAllocator.move_down, PageAllocator.load, PageAllocator.end_copy
    pin, unpin = PageAllocator.pin, PageAllocator.unpin

    # --- prefix cache -----------------------------------------------------------------------------------

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        tokens = self._lengths.item(sequence)
        whole_number("tokens of the prompt", len(prompt.tokens), low=0, high=tokens)
        rows = [row[: group.pages(tokens)].tolist() for group, row in self._rows(sequence)]
        for cache, row in zip(self._caches.of_group, rows, strict=True):
            cache.check(prompt, row)
        for cache, row in zip(self._caches.of_group, rows, strict=True):
            cache.commit(prompt, row)

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``."""
        known = self._known(prompt)
        size = self.shape.page_size
        for tokens in range(max(0, len(prompt.tokens) - 1) // size * size, 0, -size):
            if (pages := self._needed(known, tokens)) is not None:
                return Hit(prompt=prompt, pages=pages)
        return Hit(prompt=prompt, pages=())

    def adopt(self, sequence: int, hit: Hit) -> None:
        """See ``PageAllocator``."""
        sequence = self._new(sequence)
        blocks, odd = divmod(len(hit.pages), self.shape.block_pages)
        tokens = blocks * self.shape.page_size
        if odd or self._needed(self._known(hit.prompt), tokens) != hit.pages:
            raise InvalidCase("hit", hit.pages, "must be cached still; look it up again")
        self.check_length(sequence, tokens)
        self._hold(hit.pages)
        rest = list(hit.pages)
        for group, row in self._rows(sequence):
            count = group.pages(tokens)
            row[:count], rest = rest[:count], rest[count:]
        self._lengths[sequence] = tokens

    # --- moving away ------------------------------------------------------------------------------------

    def swap_out(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        row, tokens = self._table[sequence].copy(), self._lengths.item(sequence)
        held = row != NULL_PAGE
        needed = int(np.count_nonzero(held))
        if needed > self._store.count:
            raise OutOfPages(needed, self._store.count, unit="swap pages")
        stored = np.full(row.size, NULL_PAGE, np.int32)
        stored[held] = self._store.take(needed)
        self._end(sequence)
        self._swapped[sequence] = (tokens, stored)
        return self._moves(row, stored, tokens)

    def _moves(self, sources: Array, targets: Array, tokens: int) -> Array:
        width = self.shape.max_pages_per_seq
        fill = [
            np.minimum(group.page_size, tokens - group.page_size * np.arange(width)) for group in self._groups
        ]
        moves: Array = np.stack((sources, targets, np.concatenate(fill)), axis=1).astype(np.int32)
        held: Array = moves[sources != NULL_PAGE]
        return held

    # --- parts ------------------------------------------------------------------------------------------

    def _rows(self, sequence: int) -> Iterator[tuple[KvGroup, Array]]:
        """Groups of a live sequence with their table entries, views."""
        width = self._width
        first = sequence * width * len(self._groups)
        for at, group in enumerate(self._groups):
            yield group, self._flat[first + at * width : first + (at + 1) * width]

    def _written_last(self, group: KvGroup, row: Array, old: int, count: int) -> int | None:
        """The page with room that the next tokens are written to, if there is one."""
        return row.item(old // group.page_size) if count and old % group.page_size else None

    def _unseen(self, sequence: int) -> list[int]:
        """Pages that a sequence gives up when it grows."""
        tokens = self._lengths.item(sequence)
        below = [row[: pages_given_up(group, tokens)] for group, row in self._rows(sequence)]
        return [page for part in below for page in part.tolist() if page != NULL_PAGE]

    def _slide(self, sequence: int, count: int) -> None:
        tokens = self._lengths.item(sequence)
        for group, row in self._rows(sequence) if count else ():
            self._leave(row[: pages_given_up(group, tokens)])

    def _leave(self, entries: Array) -> None:
        """Give the pages of some entries, a view, back."""
        self._give_back(entries.copy())
        entries[:] = NULL_PAGE

    def _known(self, prompt: Prompt) -> list[list[int]]:
        """What each group has cached of a prompt, page by page."""
        return [list(cache.known(prompt)) for cache in self._caches.of_group]

    def _needed(self, known: Sequence[Sequence[int]], tokens: int) -> tuple[int, ...] | None:
        """The pages to go on with behind ``tokens``, or None where a group lacks one."""
        pages: list[int] = []
        for group, cached in zip(self._groups, known, strict=True):
            first, end = pages_given_up(group, tokens), group.pages(tokens)
            part = cached[first:end]
            if len(part) < end - first or NULL_PAGE in part:
                return None
            pages += [NULL_PAGE] * first + list(part)
        return tuple(pages)
