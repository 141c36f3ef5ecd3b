# SPDX-License-Identifier: Apache-2.0
"""The host allocator: the whole specification on numpy arrays, a decode step in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.checks import one_of, whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import OPERATIONS, RETENTION_OPERATIONS, Capabilities
from pabench.subjects.allocators.host_batch import count_vector, index_vector, ranks, within
from pabench.subjects.allocators.host_defragment import moves_of
from pabench.subjects.allocators.host_grants import (
    NO_COPIES,
    NO_POSITIONS,
    granted,
    page_list,
    slots_of,
    within_page,
)
from pabench.subjects.allocators.host_tiers import HostTiers
from pabench.subjects.allocators.results import NULL_PAGE, Granted, Hit, Prompt


class HostAllocator(HostTiers):
    """Grants the ids of the reference model, in bulk."""

    name = "host"
    capabilities = Capabilities(
        operations=frozenset(OPERATIONS) - {*RETENTION_OPERATIONS}, watermark=True, images=True
    )

    def __init__(self, shape: PoolShape, *, batch_mode: str = "all") -> None:
        one_of("batch_mode", batch_mode, ("all", "prefix"))
        self.capabilities = replace(self.capabilities, batch_mode=batch_mode)
        super().__init__(shape)

    # --- growing ----------------------------------------------------------------------------------------

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``; pages are taken when needed, so ``final_tokens`` changes nothing."""
        plain = type(sequence) is int and type(tokens) is int and final_tokens is None
        # what is plainly right, with free pages enough; of all else the general way speaks
        if plain and 0 <= sequence < self._max_seqs and 0 <= tokens <= self._max_tokens:
            need, dead = self._pages_of(tokens), self._lengths.item(sequence) < 0
            if dead and need <= self._ring.count - self._reserve and sequence not in self._swapped:
                pages, first = self._ring.take(need), sequence * self._width
                self._flat[first : first + need] = pages
                self._lengths[sequence] = tokens
                return page_list(pages, tokens, self._page_size)
        sequence = self._new(sequence)
        if type(tokens) is not int or tokens < 0:
            tokens = whole_number("tokens", tokens, low=0)
        if final_tokens is not None:
            whole_number("final_tokens", final_tokens, low=tokens)
        self.check_length(sequence, tokens)
        need = self._pages_of(tokens)
        self._admit(need)
        pages = self._take(need)
        first = sequence * self._width
        self._flat[first : first + need] = pages
        self._lengths[sequence] = tokens
        return granted(partial(slots_of, pages, 0, tokens, self._page_size))

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``; what stays within one page that nobody else has is nearly free."""
        if type(sequence) is int and type(tokens) is int and 0 <= sequence < self._max_seqs and tokens > 0:
            old, size = self._lengths.item(sequence), self._page_size
            offset = old % size
            # of the dead, whose length is -1, the general way speaks, and of whatever has to be refused
            if 0 <= old <= self._max_tokens - tokens and offset + tokens <= size:
                entry, page = sequence * self._width + old // size, NULL_PAGE
                if not offset:
                    if self._ring.count:
                        self._flat[entry] = page = self._ring.take_one()
                elif not self._cached.item(last := self._flat.item(entry)) and not (
                    self._shared and self._shares.item(last)
                ):
                    page = last
                if page >= 0:
                    self._lengths[sequence] = old + tokens
                    return within_page(page * size + offset, tokens)
        size = self._page_size
        sequence, tokens = self._live(sequence), whole_number("tokens", tokens, low=0)
        old = int(self._lengths[sequence])
        self.check_length(sequence, old + tokens)
        have, row = self._pages_of(old), self._table[sequence]
        extra, offset = self._pages_of(old + tokens) - have, old % size
        writes_last = tokens > 0 and offset > 0
        last = int(row[have - 1])
        copy = bool(writes_last and self._shares[last])
        self._check_room(extra + copy)
        pages = self._take(extra + copy)
        copies = NO_COPIES
        if copy:
            copies = np.array([[last, pages[0], offset]], np.int32)
            self._unshare(np.array([last]))
        elif writes_last and self._cache.cached[last]:
            self._cache.forget(last)
        row[have - copy : have + extra] = pages
        self._lengths[sequence] = old + tokens
        first = old // size
        written = row[first : have + extra].copy()
        return granted(partial(slots_of, written, offset, tokens, size), copies)

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``; arrays are taken as they are, without a loop over sequences."""
        named = index_vector(sequences, self.shape.max_seqs)
        old = self._lengths.take(named)
        counts = count_vector(tokens, named.size)
        # as unsigned numbers the -1 of the dead is the largest, so one look finds both the dead and the full
        if counts is None and named.size and np.maximum.reduce(old.view(np.uint64)) < self.shape.max_tokens:
            step = self._decode_step(named, old)
            if step is not None:
                return step
        if (old < 0).any():
            raise InvalidCase("sequence", int(named[np.argmax(old < 0)]), "must be live")
        return self._grow(named, old, np.ones_like(old) if counts is None else counts)

    def _decode_step(self, named: Array, old: Array) -> Granted | None:
        """One token for each; None, and nothing done, where pages lack or a last page is shared or cached."""
        size, width = self.shape.page_size, self.shape.max_pages_per_seq
        if size & (size - 1):
            column, offset = np.divmod(old, size)
        else:
            column, offset = old >> (size.bit_length() - 1), old & (size - 1)
        entry = named * width
        entry += column
        fresh = (offset == 0).nonzero()[0]
        if fresh.size > self._ring.count:
            return None
        pages = self._flat.take(entry)
        special = self._shared or len(self._cache)
        if special and (self._shares.take(pages).any() or self._cache.cached.take(pages).any()):
            return None
        if fresh.size:
            pages[fresh] = taken = self._ring.take(fresh.size)
            self._flat[entry.take(fresh)] = taken
        slots = np.multiply(pages, size, dtype=np.int64)
        slots += offset
        old += 1
        self._lengths[named] = old
        return Granted(new_slots=slots, copies=NO_COPIES, refused=NO_POSITIONS)

    def _grow(self, named: Array, old: Array, counts: Array) -> Granted:
        """Any number of tokens for each."""
        size, new = self.shape.page_size, old + counts
        if named.size and int(np.maximum.reduce(new)) > self.shape.max_tokens:
            at = int(np.argmax(new))
            self.check_length(int(named[at]), int(new[at]))
        have, offset = -(-old // size), old % size
        extra = -(-new // size) - have
        row = named * self.shape.max_pages_per_seq
        copy = np.zeros(named.size, bool)
        writes_last = np.flatnonzero((counts > 0) & (offset > 0))
        last = self._flat[row[writes_last] + have[writes_last] - 1]
        if self._shared:
            # each copy leaves one holder fewer; the last holder keeps the page
            copy[writes_last] = ranks(last) < self._shares[last]
        taken = extra + copy
        ends = np.cumsum(taken)
        available, needed = self._ring.count + len(self._cache.unused), int(ends[-1]) if ends.size else 0
        refused = NO_POSITIONS
        if needed > available:
            if self.capabilities.batch_mode == "all":
                raise OutOfPages(needed, available)
            fits = int(np.searchsorted(ends, available, side="right"))
            refused = np.arange(fits, named.size)
            last, writes_last = last[writes_last < fits], writes_last[writes_last < fits]
            named, old, new, counts, row = named[:fits], old[:fits], new[:fits], counts[:fits], row[:fits]
            have, copy, taken, ends = have[:fits], copy[:fits], taken[:fits], ends[:fits]
            needed = int(ends[-1]) if fits else 0
        pages = self._take(needed)
        copies, first = NO_COPIES, row + have - copy
        if copy.any():
            sources, targets = self._flat[first[copy]], pages[(ends - taken)[copy]]
            copies = np.stack((sources, targets, (old % size)[copy]), axis=1).astype(np.int32)
            self._unshare(sources)
        for page in last[self._cache.cached[last] & ~copy[writes_last]].tolist() if len(self._cache) else ():
            self._cache.forget(page)
        self._flat[np.repeat(first, taken) + within(taken)] = pages
        self._lengths[named] = new
        position = np.repeat(old, counts) + within(counts)
        slots = self._flat[np.repeat(row, counts) + position // size] * np.int64(size) + position % size
        return Granted(new_slots=slots, copies=copies, refused=refused)

    # --- sharing and giving back ------------------------------------------------------------------------

    def fork(self, parent: int, child: int) -> Array | None:
        """See ``PageAllocator``."""
        parent, child = self._live(parent, "parent"), self._new(child, "child")
        row = self._row(parent)
        self._table[child, : row.size] = row
        self._lengths[child] = self._lengths[parent]
        held = row[row != NULL_PAGE]
        self._shares[held] += 1
        self._shared += held.size
        return None

    def truncate(self, sequence: int, length: int) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        row = self._row(sequence)
        given_up = int(np.count_nonzero(row == NULL_PAGE)) * self.shape.page_size
        length = whole_number("length", length, low=given_up, high=int(self._lengths[sequence]))
        keep = self._pages_of(length)
        dropped = row[keep:].copy()
        row[keep:] = NULL_PAGE
        self._lengths[sequence] = length
        self._give_back(dropped)

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        if type(sequences) is list and len(sequences) == 1 and self._ends_plainly(sequences[0]):
            return
        named = [self.check_index(sequence) for sequence in sequences]
        if len(set(named)) != len(named):
            raise InvalidCase("sequences", named, "must each be freed once")
        for sequence in named:
            if self._lengths.item(sequence) < 0 and sequence not in self._swapped:
                raise InvalidCase("sequence", sequence, "must be live to be freed")
        if len(named) > 1 and not (self._shared or len(self._cache) or self._swapped or self._steps):
            self._end_many(named)
            return
        for sequence in named:
            if sequence in self._swapped:
                stored = self._swapped.pop(sequence)[1]
                self._store.push(stored[stored != NULL_PAGE])
            else:
                self._end(sequence)

    def free_window(self, sequence: int, keep_from: int) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        keep_from = whole_number("keep_from", keep_from, low=0, high=int(self._lengths[sequence]))
        below = self._table[sequence, : keep_from // self.shape.page_size]
        dropped = below.copy()
        below[:] = NULL_PAGE
        self._give_back(dropped)

    # --- prefix cache -----------------------------------------------------------------------------------

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        whole_number("tokens of the prompt", len(prompt.tokens), low=0, high=int(self._lengths[sequence]))
        self._cache.commit(prompt, self._row(sequence).tolist())

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``."""
        return Hit(prompt=prompt, pages=self._cache.lookup(prompt))

    def adopt(self, sequence: int, hit: Hit) -> Array | None:
        """See ``PageAllocator``."""
        sequence = self._new(sequence)
        self._check_cached(hit)
        tokens = len(hit.pages) * self.shape.page_size
        self.check_length(sequence, tokens)
        self._hold(hit.pages)
        self._table[sequence, : len(hit.pages)] = hit.pages
        self._lengths[sequence] = tokens
        return None

    def evict(self, pages: int) -> tuple[int, ...]:
        """See ``PageAllocator``."""
        pages = whole_number("pages", pages, low=0)
        gone = self._cache.evict(min(pages, len(self._cache.unused)))
        self._ring.push(np.array(gone, np.int32))
        return tuple(gone)

    # --- moving away ------------------------------------------------------------------------------------

    def defragment(self) -> Array:
        """See ``PageAllocator``."""
        flying = len(self._steps) + len(self._copies) + self._pins.total()
        if flying:
            raise InvalidCase("steps, copies and pins", flying, "must be 0 before pages move")
        moves = moves_of(self._ring.ids(), self.shape.num_pages)
        # the last entry is where NULL_PAGE looks
        self._flat[:] = moves.new[self._flat]
        self._shares[moves.targets] = self._shares[moves.sources]
        self._shares[moves.sources] = 0
        self._cache.rename(moves.new)
        self._ring.hold(moves.free)
        return moves.copies(self.shape.page_size)

    def swap_out(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        row, tokens = self._row(sequence).copy(), int(self._lengths[sequence])
        held = row != NULL_PAGE
        needed = int(np.count_nonzero(held))
        if needed > self._store.count:
            raise OutOfPages(needed, self._store.count, unit="swap pages")
        stored = np.full(row.size, NULL_PAGE, np.int32)
        stored[held] = self._store.take(needed)
        self._end(sequence)
        self._swapped[sequence] = (tokens, stored)
        return self._moves(row, stored, tokens)

    def swap_in(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        sequence = self.check_index(sequence)
        if sequence not in self._swapped:
            raise InvalidCase("sequence", sequence, "must be swapped out")
        tokens, stored = self._swapped[sequence]
        held = stored != NULL_PAGE
        needed = int(np.count_nonzero(held))
        self._admit(needed)
        row = np.full(stored.size, NULL_PAGE, np.int32)
        row[held] = self._take(needed)
        self._table[sequence, : row.size] = row
        self._lengths[sequence] = tokens
        del self._swapped[sequence]
        self._store.push(stored[held])
        return self._moves(stored, row, tokens)

    # --- steps in flight --------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """See ``PageAllocator``."""
        self._steps.append([])

    def end_step(self) -> None:
        """See ``PageAllocator``."""
        if not self._steps:
            raise InvalidCase("steps in flight", 0, "must be one at least")
        for pages in self._steps.popleft():
            self._come_back(pages)

    def reset(self) -> None:
        """See ``PageAllocator``."""
        if self._steps:
            raise InvalidCase("steps in flight", len(self._steps), "must all have ended before a reset")
        self._check_tiers_idle()
        there = [*np.flatnonzero(self._lengths >= 0).tolist(), *self._swapped]
        if there:
            raise InvalidCase("sequences", sorted(there), "must all be freed before a reset")
        self._start()
