# SPDX-License-Identifier: Apache-2.0
"""The prefix cache of the host allocator: chained hashes, with the tokens compared on every hit.

A node stands for one full page of tokens, and of the images that they stand for, behind one chain of such
pages.  It is found by a hash of its parent's hash and its tokens, and taken only if parent and tokens are
the same: a collision costs a comparison, never a wrong hit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.results import NULL_PAGE, Prompt

Words = tuple[Any, ...]
"""The token ids of a page, and behind them what of them stands for images."""


@dataclass(slots=True, eq=False)
class Node:
    """A page of tokens behind its parent; the root has no parent and names the space instead.

    Attributes:
        page: the page that holds it, or ``NULL_PAGE``.
        host: the page of the lower tier that holds it, or ``NULL_PAGE``.
        children: nodes behind this one, and one more while it is in the lower tier or on its way.
    """

    parent: Node | None
    tokens: Words
    hash: int
    page: int = NULL_PAGE
    host: int = NULL_PAGE
    children: int = 0


class PrefixCache:
    """Which page holds which prefix, and which of them nobody uses.

    Args:
        num_pages: of the pool.
        page_size: tokens of a page.
        hash_bits: how much of a hash is used.

    Attributes:
        cached: bool ``(num_pages + 1,)``: the page is in the cache; never so for ``NULL_PAGE``, the last.
        unused: cached pages that stand in no table, least recently used first.
    """

    def __init__(self, num_pages: int, page_size: int, hash_bits: int) -> None:
        self.cached = np.zeros(num_pages + 1, bool)
        self.unused: OrderedDict[int, None] = OrderedDict()
        self._page_size = page_size
        self._mask = (1 << hash_bits) - 1
        self._roots: dict[tuple[str, str], Node] = {}
        self._buckets: dict[int, list[Node]] = {}
        self._node: dict[int, Node] = {}

    def __len__(self) -> int:
        """Return how many pages are cached."""
        return len(self._node)

    def __contains__(self, page: int) -> bool:
        """Whether a page is in this cache."""
        return page in self._node

    def lookup(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the pages of the longest cached beginning; the last token's page is never among them."""
        return tuple(takewhile(NULL_PAGE.__lt__, self.known(prompt)))

    def known(self, prompt: Prompt) -> Iterator[int]:
        """Give the page of each of ``nodes``, ``NULL_PAGE`` where it is not cached."""
        return (node.page for node in self.nodes(prompt))

    def root(self, prompt: Prompt) -> Node | None:
        """Return the node before the first page of a prompt, or None where nothing like it is held."""
        return self._roots.get((prompt.adapter, prompt.salt))

    def nodes(self, prompt: Prompt, count: int | None = None) -> Iterator[Node]:
        """Give the node of each full page of the first ``count`` tokens, of all but the last without it.

        It ends where nothing that follows is held.
        """
        node = self.root(prompt)
        for tokens in self._pages(prompt, len(prompt.tokens) - 1 if count is None else count):
            node = node and self._find(node, tokens)
            if node is None:
                return
            yield node

    def commit(self, prompt: Prompt, row: Sequence[int]) -> None:
        """Enter the full pages of ``prompt``, which lie in the pages of ``row``; known prefixes stay.

        Raises:
            InvalidCase: a page was committed with other tokens.
        """
        self.check(prompt, row)
        parts = self._pages(prompt, len(prompt.tokens))
        node = self._roots.setdefault((prompt.adapter, prompt.salt), Node(None, (), 0))
        for tokens, page in zip(parts, row, strict=False):
            node = self._find(node, tokens) or self._insert(node, tokens)
            if node.page == NULL_PAGE and page != NULL_PAGE:
                self.enter(node, page)
        self._prune(node)

    def check(self, prompt: Prompt, row: Sequence[int]) -> None:
        """Raise ``InvalidCase`` when a page was committed with other tokens."""
        parts = self._pages(prompt, len(prompt.tokens))
        node = self.root(prompt)
        for tokens, page in zip(parts, row, strict=False):
            node = node and self._find(node, tokens)
            if page in self._node and self._node[page] is not node:
                raise InvalidCase("prompt", prompt, f"page {page} was committed with other tokens")

    def enter(self, node: Node, page: int) -> None:
        """Let ``page`` hold what a node stands for."""
        node.page = page
        self._node[page] = node
        self.cached[page] = True

    def forget(self, page: int) -> None:
        """Take a cached page out of the cache."""
        self.release(self.leave(page))

    def leave(self, page: int) -> Node:
        """Take a cached page out of the cache and return its node, which stays until ``release``."""
        node = self._node.pop(page)
        node.page = NULL_PAGE
        node.children += 1
        self.cached[page] = False
        return node

    def release(self, node: Node) -> None:
        """A node is kept for nothing but its page and those behind it."""
        node.children -= 1
        self._prune(node)

    def rename(self, new: Array) -> None:
        """Let each page have the id ``new[page]``."""
        self._node = {int(new[page]): node for page, node in self._node.items()}
        self.cached[:] = False
        for page, node in self._node.items():
            node.page = page
            self.cached[page] = True
        self.unused = OrderedDict.fromkeys(int(new[page]) for page in self.unused)

    def evict(self, count: int) -> list[int]:
        """Take the ``count`` pages unused for longest out of the cache and return them; there are as many."""
        pages = [self.unused.popitem(last=False)[0] for _ in range(count)]
        for page in pages:
            self.forget(page)
        return pages

    def state(self) -> bytes:
        """Return bytes that tell two states apart."""
        entries = []
        for page, node in sorted(self._node.items()):
            chain, at = [], node
            while at.parent is not None:
                chain.append(at.tokens)
                at = at.parent
            entries.append((page, chain, next(name for name, root in self._roots.items() if root is at)))
        return repr((entries, list(self.unused), np.flatnonzero(self.cached).tolist())).encode()

    def _pages(self, prompt: Prompt, count: int) -> list[Words]:
        """The full pages of the first ``count`` tokens."""
        size, tokens = self._page_size, prompt.tokens
        pages: list[Words] = [tokens[at : at + size] for at in range(0, count - size + 1, size)]
        if prompt.images:
            pages = [page + prompt.images_in(at * size, (at + 1) * size) for at, page in enumerate(pages)]
        return pages

    def _hash(self, parent: Node, tokens: Words) -> int:
        return hash((parent.hash, tokens)) & self._mask

    def _find(self, parent: Node, tokens: Words) -> Node | None:
        for node in self._buckets.get(self._hash(parent, tokens), ()):
            if node.parent is parent and node.tokens == tokens:
                return node
        return None

    def _insert(self, parent: Node, tokens: Words) -> Node:
        node = Node(parent, tokens, self._hash(parent, tokens))
        self._buckets.setdefault(node.hash, []).append(node)
        parent.children += 1
        return node

    def _prune(self, node: Node) -> None:
        """Drop nodes that neither hold a page nor lead to one that does."""
        at: Node | None = node
        while at is not None and at.page == NULL_PAGE and not at.children:
            if at.parent is None:
                self._roots = {name: root for name, root in self._roots.items() if root is not at}
                return
            bucket = self._buckets[at.hash]
            bucket.remove(at)
            if not bucket:
                del self._buckets[at.hash]
            at.parent.children -= 1
            at = at.parent
