# SPDX-License-Identifier: Apache-2.0
"""What operations of an allocator take and give: grants, prompts, hits of the prefix cache, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import INT32_MAX, lengths_tuple
from pabench.problem.dtypes import Array

Image = tuple[int, int, str]
"""First position, tokens that stand for it, and a hash of what it shows."""
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
        images: in the order of their positions.  The token ids that stand for two images may be the same.
    """

    tokens: tuple[int, ...]
    adapter: str = ""
    salt: str = ""
    images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", lengths_tuple("tokens", self.tokens, low=-INT32_MAX))
        object.__setattr__(self, "images", checked_images(self.images, len(self.tokens)))
        for name in ("adapter", "salt"):
            if not isinstance(getattr(self, name), str):
                raise InvalidCase(name, getattr(self, name), "must be text")

    def images_in(self, first: int, end: int) -> tuple[tuple[int, int, str, int], ...]:
        """Return what stands for images from token ``first`` to before ``end``.

        Of each image: its first token from ``first`` on, how many there are, its hash, and how many of its
        tokens come before.
        """
        found = []
        for start, count, key in self.images:
            low, high = max(start, first), min(start + count, end)
            if low < high:
                found.append((low - first, high - low, key, low - start))
        return tuple(found)


def checked_images(images: object, most: int) -> tuple[Image, ...]:
    """Return the images of a prompt of ``most`` tokens; raises ``InvalidCase`` for what cannot be."""
    rule = "must be (first position, tokens, hash), one behind the other, within the tokens"
    if not isinstance(images, list | tuple):
        raise InvalidCase("images", images, rule)
    found, free = list[Image](), 0
    for image in images:
        if not isinstance(image, list | tuple) or [type(part) for part in image] != [int, int, str]:
            raise InvalidCase("image", image, rule)
        first, count, key = image
        if first < free or count < 1 or first + count > most:
            raise InvalidCase("image", image, rule)
        free = first + count
        found.append((first, count, key))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What the prefix cache holds of a prompt; good until the pages are taken for something else.

    Attributes:
        prompt: what was looked up.
        pages: full pages that hold its beginning; the last token is never among theirs, since its query has
            to be computed.  With groups, those of one behind those of the other, ``NULL_PAGE`` for what the
            next query does not need.
        part_of: a cached page that begins as the prompt goes on behind ``pages``, ``NULL_PAGE`` for none.
        part: how many tokens of it do; they are copied when the hit is adopted.
    """

    prompt: Prompt
    pages: tuple[int, ...]
    part_of: int = NULL_PAGE
    part: int = 0


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
    fill = np.zeros(max(num_pages, int(table.max(initial=-1)) + 1), np.int64)
    width, live = table.shape[1] // len(sizes), np.flatnonzero(lengths > 0)
    for group, size in enumerate(sizes):
        rows, columns = table[live, group * width : (group + 1) * width], np.arange(width)
        slots = np.minimum(size, lengths[live, None] - columns * size) * (page_size // size)
        there = (slots > 0) & (rows >= 0)
        np.maximum.at(fill, rows[there], slots[there])
    tokens, held = int(fill.sum()), int(np.count_nonzero(fill)) * page_size
    slots_of_all = num_pages * page_size
    return MemorySplit(tokens=tokens, reserved=0, internal=held - tokens, external=slots_of_all - held)
