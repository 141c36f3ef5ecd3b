"""What operations of an allocator take and give: grants, prompts, hits of the prefix cache, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import INT32_MAX, lengths_tuple
from pabench.problem.dtypes import Array

NULL_PAGE = -1
"""Stands in a table where there is no page: past the end of a sequence, or given up by a sliding window."""


def no_copies() -> Array:
    """Return a list of no copies, int32 ``(0, 3)``."""
    return np.empty((0, 3), np.int32)


def no_positions() -> Array:
    """Return a list of no positions, int64 ``(0,)``."""
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Granted:
    """Room for new tokens.

    Attributes:
        new_slots: the slots, or a function that gives them, which holds copies of all it needs: many callers
            of a large grant never ask.
        copies: int32 ``(n, 3)``: copy the first ``copies[i, 2]`` slots of page ``copies[i, 0]`` to page
            ``copies[i, 1]`` before anything is written (copy on write).
        refused: int64 positions in the batch that were not served; empty unless the batch mode is ``prefix``
            or ``any``.
    """

    new_slots: Array | Callable[[], Array]
    copies: Array = field(default_factory=no_copies)
    refused: Array = field(default_factory=no_positions)

    @property
    def slots(self) -> Array:
        """Slots (page * page_size + offset) of the new tokens, int64: request by request, in order.

        With groups each request has them group by group, with the group's page size.
        """
        return self.new_slots() if callable(self.new_slots) else self.new_slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids, and the name spaces in which equal tokens give equal keys and values.

    Attributes:
        tokens: token ids, from the start of the sequence.
        adapter: weights that act on it (such as a LoRA); other weights, other values.
        salt: keeps users apart that must not see each other's timing.
    """

    tokens: tuple[int, ...]
    adapter: str = ""
    salt: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", lengths_tuple("tokens", self.tokens, low=-INT32_MAX))
        for name in ("adapter", "salt"):
            if not isinstance(getattr(self, name), str):
                raise InvalidCase(name, getattr(self, name), "must be text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What the prefix cache holds of a prompt; good until the pages are taken for something else.

    Attributes:
        prompt: what was looked up.
        pages: full pages that hold its beginning; the last token is never among theirs, since its query has
            to be computed.  With groups, those of one behind those of the other, ``NULL_PAGE`` for what the
            next query does not need.
    """

    prompt: Prompt
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySplit:
    """Where the slots of the pool are: the four parts add up to all slots.

    After figure 2 of Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention", 2023.

    Attributes:
        tokens: slots that hold a token.
        reserved: slots kept for a token that will come.
        internal: slots held for a token that never will, or of which nobody knows that it will.
        external: slots held by nobody.
    """

    tokens: int
    reserved: int
    internal: int
    external: int


def split_of(
    lengths: Array, table: Array, sizes: Sequence[int], *, page_size: int, num_pages: int
) -> MemorySplit:
    """Return where slots are of which none is reserved; shared pages count once, as full as their fullest.

    A token in a group with fewer tokens a page takes as many slots as are its share of the page.

    Args:
        lengths: tokens of every sequence, -1 where it is not live.
        table: of their pages, one group behind the other.
        sizes: tokens of a page, of each group.
        page_size: slots of a page, which all of ``sizes`` divide.
        num_pages: of the pool.
    """
    fill: dict[int, int] = {}
    width = table.shape[1] // len(sizes)
    for sequence in np.flatnonzero(lengths > 0).tolist():
        length = int(lengths[sequence])
        for group, size in enumerate(sizes):
            row = table[sequence, group * width :][: min(width, -(-length // size))].tolist()
            for column, page in enumerate(row):
                if page >= 0:
                    slots = min(size, length - column * size) * (page_size // size)
                    fill[page] = max(fill.get(page, 0), slots)
    tokens, held, slots = sum(fill.values()), len(fill) * page_size, num_pages * page_size
    return MemorySplit(tokens=tokens, reserved=0, internal=held - tokens, external=slots - held)
