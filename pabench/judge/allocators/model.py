"""The reference model: the specification of a page allocator in plain Python, obvious rather than fast.

Nothing is kept that can be found out: a page's reference count is counted, and a cached page is filed under
the whole prefix that it ends, so that no hash can go wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.problem.checks import one_of, whole_number
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.capabilities import OPERATIONS, Capabilities
from pabench.subjects.allocators.results import NULL_PAGE, Granted, Hit, Prompt

Key = tuple[str, str, tuple[int, ...]]
"""Adapter, salt, and every token from the start of the sequence to the end of the page."""


class ModelAllocator(PageAllocator):
    """Free pages in a queue, oldest first; requests served in their order."""

    name = "model"
    capabilities = Capabilities(operations=frozenset(OPERATIONS), watermark=True)

    def __init__(self, shape: PoolShape, *, batch_mode: str = "all") -> None:
        one_of("batch_mode", batch_mode, ("all", "prefix"))
        self.capabilities = replace(self.capabilities, batch_mode=batch_mode)
        super().__init__(shape)
        self._start()

    def _start(self) -> None:
        self._free = deque(range(self.shape.num_pages))
        self._free_swap = deque(range(self.shape.swap_pages))
        self._tables: dict[int, list[int]] = {}
        self._tokens: dict[int, int] = {}
        self._swapped: dict[int, tuple[int, list[int]]] = {}
        self._cache: dict[Key, int] = {}
        self._evictable: list[int] = []  # least recently used first
        # for each step in flight, oldest first, what was given back while it was the latest, call by call
        self._steps: deque[list[list[int]]] = deque()

    # --- state ----------------------------------------------------------------------------------------

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return np.array([self._tokens.get(i, -1) for i in range(self.shape.max_seqs)], np.int64)

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        table = np.full((self.shape.max_seqs, self.shape.max_pages_per_seq), NULL_PAGE, np.int32)
        for sequence, pages in self._tables.items():
            table[sequence, : len(pages)] = pages
        return table

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._free)

    @property
    def evictable_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._evictable)

    @property
    def returning_pages(self) -> int:
        """See ``PageAllocator``."""
        return sum(len(pages) for step in self._steps for pages in step)

    @property
    def free_swap_pages(self) -> int:
        """See ``PageAllocator``."""
        return len(self._free_swap)

    def refcount(self, page: int) -> int:
        """Return how many table entries hold ``page``."""
        return sum(table.count(page) for table in self._tables.values())

    def refcounts(self) -> Array:
        """See ``PageAllocator``."""
        held = [page for table in self._tables.values() for page in table if page != NULL_PAGE]
        return np.bincount(np.array(held, np.int64), minlength=self.shape.num_pages).astype(np.int32)

    def swapped(self, sequence: int) -> int | None:
        """See ``PageAllocator``."""
        return self._swapped[sequence][0] if sequence in self._swapped else None

    def cached(self) -> dict[Key, int]:
        """Return the cache: prefix to page."""
        return dict(self._cache)

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        parts = (self._free, self._free_swap, self._tables, self._tokens, self._swapped, self._cache)
        return repr((*parts, self._evictable, self._steps)).encode()

    # --- growing and ending ---------------------------------------------------------------------------

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``; pages are taken when needed, so ``final_tokens`` changes nothing."""
        sequence = self._new(sequence)
        tokens = whole_number(f"tokens of sequence {sequence}", tokens, low=0)
        if final_tokens is not None:
            whole_number("final_tokens", final_tokens, low=tokens)
        self.check_length(sequence, tokens)
        self._admit(pages_needed(tokens, self.shape.page_size))
        self._tables[sequence], self._tokens[sequence] = [], 0
        return self._grow([(sequence, tokens)], [])

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        (request,) = self.check_batch([sequence], [tokens], self.lengths()).items()
        needed, available = sum(self._need(*request)), len(self._free) + len(self._evictable)
        if needed > available:
            raise OutOfPages(needed, available)
        return self._grow([request], [])

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        requests = list(self.check_batch(sequences, tokens, self.lengths()).items())
        available = len(self._free) + len(self._evictable)
        shares: dict[int, int] = {}  # how many earlier requests of the batch have copied a page
        fits, needed = 0, 0
        for sequence, count in requests:
            extra, copy = self._need(sequence, count, shares)
            if copy:
                page = self._tables[sequence][-1]
                shares[page] = shares.get(page, 0) + 1
            needed += extra + copy
            fits += needed <= available
        if needed > available and self.capabilities.batch_mode == "all":
            raise OutOfPages(needed, available)
        return self._grow(requests[:fits], list(range(fits, len(requests))))

    def fork(self, parent: int, child: int) -> None:
        """See ``PageAllocator``."""
        parent, child = self._live(parent, "parent"), self._new(child, "child")
        self._tables[child], self._tokens[child] = list(self._tables[parent]), self._tokens[parent]

    def truncate(self, sequence: int, length: int) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        given_up = self._tables[sequence].count(NULL_PAGE) * self.shape.page_size
        length = whole_number("length", length, low=given_up, high=self._tokens[sequence])
        keep = pages_needed(length, self.shape.page_size)
        self._tokens[sequence] = length
        dropped = self._tables[sequence][keep:]
        del self._tables[sequence][keep:]
        self._give_back(dropped)

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        indices = [self.check_index(sequence) for sequence in sequences]
        seen: set[int] = set()
        for sequence in indices:
            if sequence in seen:
                raise InvalidCase("sequence", sequence, "must be freed once")
            seen.add(sequence)
            if sequence not in self._tokens and sequence not in self._swapped:
                raise InvalidCase("sequence", sequence, "must be live to be freed")
        for sequence in indices:
            if sequence in self._swapped:
                self._free_swap.extend(page for page in self._swapped.pop(sequence)[1] if page != NULL_PAGE)
            else:
                self._end(sequence)

    def free_window(self, sequence: int, keep_from: int) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        keep_from = whole_number("keep_from", keep_from, low=0, high=self._tokens[sequence])
        table, below = self._tables[sequence], keep_from // self.shape.page_size
        dropped = table[:below]
        table[:below] = [NULL_PAGE] * below
        self._give_back(dropped)

    # --- prefix cache ---------------------------------------------------------------------------------

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        whole_number("tokens of the prompt", len(prompt.tokens), low=0, high=self._tokens[sequence])
        keys = self._keys(prompt)
        known = {page: key for key, page in self._cache.items()}
        for page, key in zip(self._tables[sequence], keys, strict=False):
            if known.get(page, key) != key:
                raise InvalidCase("prompt", prompt, f"page {page} was committed with other tokens")
        for page, key in zip(self._tables[sequence], keys, strict=False):
            if page != NULL_PAGE:
                self._cache.setdefault(key, page)

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``."""
        pages = []
        # the last token has to be computed, so its page is never a hit
        for key in self._keys(prompt)[: max(0, len(prompt.tokens) - 1) // self.shape.page_size]:
            if key not in self._cache:
                break
            pages.append(self._cache[key])
        return Hit(prompt=prompt, pages=tuple(pages))

    def adopt(self, sequence: int, hit: Hit) -> None:
        """See ``PageAllocator``."""
        sequence = self._new(sequence)
        if self.lookup(hit.prompt).pages[: len(hit.pages)] != hit.pages:
            raise InvalidCase("hit", hit.pages, "must be cached still; look it up again")
        tokens = len(hit.pages) * self.shape.page_size
        self.check_length(sequence, tokens)
        self._admit(sum(page in self._evictable for page in hit.pages))
        self._evictable = [page for page in self._evictable if page not in hit.pages]
        for step in self._steps:
            step[:] = [[page for page in pages if page not in hit.pages] for pages in step]
        self._tables[sequence], self._tokens[sequence] = list(hit.pages), tokens

    def evict(self, pages: int) -> tuple[int, ...]:
        """See ``PageAllocator``."""
        pages = whole_number("pages", pages, low=0)
        gone = [self._evict_one() for _ in range(min(pages, len(self._evictable)))]
        self._free.extend(gone)
        return tuple(gone)

    # --- moving away ----------------------------------------------------------------------------------

    def swap_out(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        table, tokens = self._tables[sequence], self._tokens[sequence]
        needed = len(table) - table.count(NULL_PAGE)
        if needed > len(self._free_swap):
            raise OutOfPages(needed, len(self._free_swap), unit="swap pages")
        stored = [page if page == NULL_PAGE else self._free_swap.popleft() for page in table]
        moves = self._moves(table, stored, tokens)
        self._end(sequence)
        self._swapped[sequence] = (tokens, stored)
        return moves

    def swap_in(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        sequence = self.check_index(sequence)
        if sequence not in self._swapped:
            raise InvalidCase("sequence", sequence, "must be swapped out")
        tokens, stored = self._swapped[sequence]
        self._admit(len(stored) - stored.count(NULL_PAGE))
        table = [page if page == NULL_PAGE else self._take() for page in stored]
        self._tables[sequence], self._tokens[sequence] = table, tokens
        del self._swapped[sequence]
        self._free_swap.extend(page for page in stored if page != NULL_PAGE)
        return self._moves(stored, table, tokens)

    # --- steps in flight ------------------------------------------------------------------------------

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
        if there := sorted((*self._tokens, *self._swapped)):
            raise InvalidCase("sequences", there, "must all be freed before a reset")
        self._start()

    # --- parts ----------------------------------------------------------------------------------------

    def _live(self, sequence: int, field: str = "sequence") -> int:
        index = self.check_index(sequence, field)
        if index not in self._tokens:
            raise InvalidCase(field, index, "must be live")
        return index

    def _new(self, sequence: int, field: str = "sequence") -> int:
        index = self.check_index(sequence, field)
        if index in self._tokens or index in self._swapped:
            raise InvalidCase(field, index, "must not be there already")
        return index

    def _need(self, sequence: int, tokens: int, left: dict[int, int] | None = None) -> tuple[int, bool]:
        """Pages that an append adds, and whether it needs one more for a copy of the last page.

        ``left`` counts, for a page, the sequences of the same batch that have copied it by then.
        """
        old, page_size = self._tokens[sequence], self.shape.page_size
        extra = pages_needed(old + tokens, page_size) - pages_needed(old, page_size)
        if tokens == 0 or old % page_size == 0:
            return extra, False
        last = self._tables[sequence][-1]
        return extra, self.refcount(last) - (left or {}).get(last, 0) > 1

    def _grow(self, requests: Sequence[tuple[int, int]], refused: list[int]) -> Granted:
        """Append to one sequence after another; the pages suffice."""
        page_size = self.shape.page_size
        slots, copies = [], []
        for sequence, tokens in requests:
            table, old = self._tables[sequence], self._tokens[sequence]
            extra, copy = self._need(sequence, tokens)
            if copy:
                source, table[-1] = table[-1], self._take()
                copies.append((source, table[-1], old % page_size))
            elif tokens and old % page_size:
                self._forget(table[-1])
            table.extend(self._take() for _ in range(extra))
            self._tokens[sequence] = old + tokens
            for token in range(old, old + tokens):
                slots.append(table[token // page_size] * page_size + token % page_size)
        return Granted(
            new_slots=np.array(slots, np.int64),
            copies=np.array(copies, np.int32).reshape(-1, 3),
            refused=np.array(refused, np.int64),
        )

    def _admit(self, needed: int) -> None:
        """Raise ``OutOfPages`` unless ``needed`` pages can go and the watermark be kept."""
        available = max(0, len(self._free) + len(self._evictable) - self.shape.reserve_pages)
        if needed > available:
            raise OutOfPages(needed, available)

    def _take(self) -> int:
        """The page that has been free longest, or else the evictable one that was used longest ago."""
        return self._free.popleft() if self._free else self._evict_one()

    def _evict_one(self) -> int:
        page = self._evictable.pop(0)
        self._forget(page)
        return page

    def _forget(self, page: int) -> None:
        """The page leaves the cache, if it is there."""
        self._cache = {key: cached for key, cached in self._cache.items() if cached != page}

    def _end(self, sequence: int) -> None:
        pages = self._tables.pop(sequence)
        del self._tokens[sequence]
        self._give_back(pages)

    def _give_back(self, pages: Sequence[int]) -> None:
        """Pages that stand in no table any more: cached ones become evictable, the last first."""
        held = {page for table in self._tables.values() for page in table}
        gone = [page for page in pages if page != NULL_PAGE and page not in held]
        if self._steps:
            self._steps[-1].append(gone)
        else:
            self._come_back(gone)

    def _come_back(self, pages: Sequence[int]) -> None:
        cached = set(self._cache.values())
        self._free.extend(page for page in pages if page not in cached)
        self._evictable.extend(page for page in reversed(pages) if page in cached)

    def _moves(self, sources: Sequence[int], targets: Sequence[int], tokens: int) -> Array:
        """Copies between the pool and the swap store: source, target, slots in use."""
        page_size = self.shape.page_size
        moves = [
            (source, target, min(page_size, tokens - position * page_size))
            for position, (source, target) in enumerate(zip(sources, targets, strict=True))
            if source != NULL_PAGE
        ]
        return np.array(moves, np.int32).reshape(-1, 3)

    def _keys(self, prompt: Prompt) -> list[Key]:
        """The keys of the prompt's full pages."""
        size = self.shape.page_size
        ends = range(size, len(prompt.tokens) + 1, size)
        return [(prompt.adapter, prompt.salt, prompt.tokens[:end]) for end in ends]
