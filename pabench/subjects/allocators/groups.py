# SPDX-License-Identifier: Apache-2.0
"""KV groups: layers that keep the same of a sequence, with pages of their own.

A model with windows or recurrent layers caches of one sequence all tokens in some layers, the last ones in
others, and a state instead of tokens in the rest.  Layers of one kind form a group.  All groups take pages,
equal in bytes, from one pool; a page holds as many tokens as its group has room for in those bytes.
After vLLM's hybrid KV cache manager.
"""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import InvalidCase
from pabench.problem.checks import one_of, whole_number
from pabench.problem.layout import pages_needed

GROUP_KINDS = ("full", "window", "state")


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGroup:
    """What the layers of one group keep of a sequence.

    Attributes:
        kind: ``full``: every token; ``window``: the tokens that the next query sees; ``state``: what the last
            token left behind, so that a page is good at its end alone and no token can be taken back.
        page_size: tokens of one page; of a state, tokens between two states that can be shared.
        window: tokens that a query sees, its own among them; 0 where the kind is another.
    """

    kind: str = "full"
    page_size: int
    window: int = 0

    def __post_init__(self) -> None:
        one_of("kind of a group", self.kind, GROUP_KINDS)
        size = whole_number("page_size of a group", self.page_size, low=1)
        object.__setattr__(self, "page_size", size)
        low, high = (1, 2**31 - 1) if self.kind == "window" else (0, 0)
        window = whole_number(f"window of a group of kind {self.kind}", self.window, low=low, high=high)
        object.__setattr__(self, "window", window)

    def pages(self, tokens: int) -> int:
        """Return the table entries of ``tokens``, those given up among them."""
        return pages_needed(tokens, self.page_size)


def checked_groups(groups: object, page_size: int) -> tuple[KvGroup, ...]:
    """Return the groups of a pool, whose page sizes divide ``page_size``.

    Raises:
        InvalidCase: what is no list of groups, or a page size that does not divide.
    """
    if not isinstance(groups, list | tuple) or not all(isinstance(group, KvGroup) for group in groups):
        raise InvalidCase("groups", groups, "must be a list of KvGroup")
    for number, group in enumerate(groups):
        if page_size % group.page_size:
            rule = f"must divide the page_size of the pool, {page_size}, at which hits end"
            raise InvalidCase(f"page_size of group {number}", group.page_size, rule)
    return tuple(groups)
