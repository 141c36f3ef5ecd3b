# SPDX-License-Identifier: Apache-2.0
"""The reference model's prefix cache: what is committed, found, adopted, kept and evicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pabench.errors import InvalidCase
from pabench.judge.allocators.model_state import ModelState
from pabench.judge.allocators.streams import cut_images
from pabench.judge.allocators.windows import pages_unseen
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.results import NULL_PAGE, Hit, Prompt


class ModelCache(ModelState):
    """A page is found under the whole prefix that it ends."""

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """See ``PageAllocator``."""
        sequence = self._live(sequence)
        whole_number("tokens of the prompt", len(prompt.tokens), low=0, high=self._tokens[sequence])
        known = {page: key for key, page in self._cache.items()} | self._duplicates
        offered = [
            (key, self._tables[row], place)
            for at, row in enumerate(self._rows(sequence))
            for place, key in enumerate(self._keys(prompt, at)[: len(self._tables[row])])
        ]
        for key, table, place in offered:
            if known.get(table[place], key) != key:
                raise InvalidCase("prompt", prompt, f"page {table[place]} was committed with other tokens")
        gone = []
        for key, table, place in offered:
            page = table[place]
            if page == NULL_PAGE or self._cache.setdefault(key, page) == page:
                continue
            if self.capabilities.commits == "shared":
                table[place] = self._cache[key]
                gone.append(page)
            elif self.capabilities.duplicates or self.follows:
                self._duplicates.setdefault(page, key)
        if gone:
            held = self._holders()
            self._evictable = [page for page in self._evictable if not held[page]]
            self._give_back(gone)

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``."""
        # the last token has to be computed, so its page is never a hit
        size, pages = self.shape.page_size, None
        longest = max(0, len(prompt.tokens) - 1) // size * size
        ends = range(longest, -1, -size) if self.shape.groups else [self._run(prompt, longest)]
        for tokens in ends:
            if (pages := self._hit(prompt, tokens)) is not None:
                break
        part_of, part = self._begun(prompt, len(pages or ()))
        return Hit(prompt=prompt, pages=tuple(pages or ()), part_of=part_of, part=part)

    def follow(self, hit: Hit, pages: Sequence[int | None]) -> Hit | None:
        """Find what a subject that forgets has found.

        Args:
            hit: the subject's.
            pages: of this model, those that stand for the pages of ``hit``; None for one that nobody holds,
                -1 where there is none.

        Returns:
            The same hit in pages of this model, or None where one of them was not committed with the prompt.
        """
        held, found, rest = self._holders(), list[int](), [*pages]
        tokens = len(pages) // self.shape.block_pages * self.shape.page_size
        for at, group in enumerate(self._groups):
            keys = self._keys(hit.prompt, at)[: group.pages(tokens)]
            mine, rest = rest[: len(keys)], rest[len(keys) :]
            unseen = pages_unseen(group, tokens)
            if any((page == NULL_PAGE) != (place < unseen) for place, page in enumerate(mine)):
                return None
            found += [NULL_PAGE] * min(unseen, len(mine))
            for key, page in zip(keys[unseen:], mine[unseen:], strict=True):
                known = self._committed(key)
                same = [one for one in known if (not held[one] if page is None else one == page)]
                if not same:
                    return None
                if (first := self._cache[key]) != same[0]:
                    del self._duplicates[same[0]]
                    self._cache[key], self._duplicates[first] = same[0], key
                found += same[:1]
        return Hit(prompt=hit.prompt, pages=tuple(found))

    def adopt(self, sequence: int, hit: Hit) -> Array:
        """See ``PageAllocator``."""
        sequence, tokens = self._new(sequence), self._still(hit)
        self.check_length(sequence, tokens + hit.part)
        self._hold(hit.pages, more=hit.part > 0)
        rest = list(hit.pages)
        counts = [group.pages(tokens) for group in self._groups]
        tables, copies = [[rest.pop(0) for _ in range(count)] for count in counts], []
        if hit.part:
            copies = [(hit.part_of, page := self._take(), hit.part)]
            tables[0].append(page)
        self._begin(sequence, tables, tokens + hit.part)
        return np.array(copies, np.int32).reshape(-1, 3)

    def evict(self, pages: int) -> tuple[int, ...]:
        """See ``PageAllocator``."""
        pages = whole_number("pages", pages, low=0)
        gone = [self._evict_one() for _ in range(min(pages, len(self._evictable)))]
        self._free.extend(gone)
        return tuple(gone)

    def retain(self, prompt: Prompt, priority: int, seconds: int | None) -> None:
        """See ``PageAllocator``."""
        priority = whole_number("priority", priority, low=0, high=100)
        until = None if seconds is None else self._now + whole_number("seconds", seconds, low=1)
        for at in range(len(self._groups)):
            for key in self._keys(prompt, at):
                if key in self._cache:
                    self._worth[self._cache[key]] = priority, until

    def pass_time(self, seconds: int) -> None:
        """See ``PageAllocator``."""
        self._now += whole_number("seconds", seconds, low=0)

    # --- parts ----------------------------------------------------------------------------------------

    def _still(self, hit: Hit) -> int:
        """Return the tokens of a hit; raises ``InvalidCase`` where the cache does not hold it as it says."""
        blocks, odd = divmod(len(hit.pages), self.shape.block_pages)
        tokens = blocks * self.shape.page_size
        if odd or tokens >= max(1, len(hit.prompt.tokens)) or self._hit(hit.prompt, tokens) != [*hit.pages]:
            raise InvalidCase("hit", hit.pages, "must be cached still; look it up again")
        if hit.part or hit.part_of != NULL_PAGE:
            shared = self._shared(hit.prompt, tokens).get(hit.part_of, 0)
            if not 0 < hit.part <= shared:
                raise InvalidCase("hit", (hit.part_of, hit.part), "must be cached still; look it up again")
        return tokens

    def _hold(self, pages: Sequence[int], *, more: bool = False) -> None:
        """Take cached pages for one more holder, with room for one more page.

        Raises:
            OutOfPages: the watermark needs them.
        """
        self._admit(sum(page in self._evictable for page in pages) + more)
        self._evictable = [page for page in self._evictable if page not in pages]
        for step in self._steps:
            step[:] = [[page for page in gone if page not in pages] for gone in step]

    def _run(self, prompt: Prompt, longest: int) -> int:
        """Tokens, up to ``longest``, of the full pages of the only group that are all cached."""
        keys = self._keys(prompt, 0)[: longest // self.shape.page_size]
        there = [key in self._cache for key in keys]
        return (there.index(False) if False in there else len(there)) * self.shape.page_size

    def _hit(self, prompt: Prompt, tokens: int) -> list[int] | None:
        """The pages that a sequence needs to go on behind ``tokens``, or None where one is not cached."""
        pages: list[int] = []
        for at, group in enumerate(self._groups):
            first, keys = pages_unseen(group, tokens), self._keys(prompt, at)[: group.pages(tokens)]
            if not all(key in self._cache for key in keys[first:]):
                return None
            pages += [NULL_PAGE] * first + [self._cache[key] for key in keys[first:]]
        return pages

    def _begun(self, prompt: Prompt, pages: int) -> tuple[int, int]:
        """The cached page that shares most with a prompt behind its full pages, and how many tokens."""
        if not self.capabilities.partial:
            return NULL_PAGE, 0
        shared = self._shared(prompt, pages * self.shape.page_size)
        page = max(shared, key=lambda page: shared[page], default=NULL_PAGE)
        return (page, shared[page]) if shared.get(page) else (NULL_PAGE, 0)

    def _shared(self, prompt: Prompt, first: int) -> dict[int, int]:
        """How many tokens from ``first`` on a cached page behind the same prefix shares with a prompt.

        Never the last token, which has to be computed.
        """
        found, length = {}, first + self.shape.page_size
        for (_, adapter, salt, tokens, images), page in self._cache.items():
            if (adapter, salt) != (prompt.adapter, prompt.salt) or len(tokens) != length:
                continue
            ends = range(min(len(tokens), len(prompt.tokens) - 1), first, -1)
            same = (
                end - first
                for end in ends
                if tokens[:end] == prompt.tokens[:end]
                and cut_images(images, end) == cut_images(prompt.images, end)
            )
            found[page] = next(same, 0)
        return found
