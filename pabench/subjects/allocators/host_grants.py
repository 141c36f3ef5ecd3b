# SPDX-License-Identifier: Apache-2.0
"""Grants of the host allocator, made without the cost of a frozen dataclass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from pabench.problem.dtypes import Array
from pabench.subjects.allocators.results import Granted, no_copies, no_positions

NO_COPIES, NO_POSITIONS = no_copies(), no_positions()
for _empty in (NO_COPIES, NO_POSITIONS):
    _empty.flags.writeable = False

# the places of the fields in an object: to write there is what the dataclass does, field by field, in the end
_new = object.__new__
_put_slots, _put_copies, _put_refused = (
    cast(Any, getattr(Granted, name)).__set__ for name in ("new_slots", "copies", "refused")
)


def granted(new_slots: Callable[[], Array], copies: Array = NO_COPIES) -> Granted:
    """Return a grant that refuses nothing."""
    made = _new(Granted)
    _put_slots(made, new_slots)
    _put_copies(made, copies)
    _put_refused(made, NO_POSITIONS)
    return made


class PageRun(Granted):
    """A grant of neighbouring slots: two numbers until somebody asks."""

    __slots__ = ("_count", "_first")

    copies: Array = NO_COPIES
    refused: Array = NO_POSITIONS

    @property
    def new_slots(self) -> Array:
        """The slots, int64, an array of its own each time."""
        of: Any = self
        return np.arange(of._first, of._first + of._count)


_put_first, _put_count = (cast(Any, getattr(PageRun, name)).__set__ for name in ("_first", "_count"))


def within_page(slot: int, tokens: int) -> Granted:
    """Return a grant of neighbouring slots, from ``slot`` on."""
    made = _new(PageRun)
    _put_first(made, slot)
    _put_count(made, tokens)
    return made


class PageList(Granted):
    """A grant of the first slots of whole pages: the pages until somebody asks."""

    __slots__ = ("_pages", "_size", "_tokens")

    copies: Array = NO_COPIES
    refused: Array = NO_POSITIONS

    @property
    def new_slots(self) -> Array:
        """The slots, int64, an array of its own each time."""
        of: Any = self
        return slots_of(of._pages, 0, of._tokens, of._size)


_put_pages, _put_tokens, _put_size = (
    cast(Any, getattr(PageList, name)).__set__ for name in ("_pages", "_tokens", "_size")
)


def page_list(pages: Array, tokens: int, page_size: int) -> Granted:
    """Return a grant of ``tokens`` from the start of the first page on; ``pages`` is its own from now on."""
    made = _new(PageList)
    _put_pages(made, pages)
    _put_tokens(made, tokens)
    _put_size(made, page_size)
    return made


def slots_of(pages: Array, offset: int, tokens: int, page_size: int) -> Array:
    """Return the slots of ``tokens`` from ``offset`` of the first page on, int64."""
    slots: Array = pages.astype(np.int64)[:, None] * page_size + np.arange(page_size)
    return slots.reshape(-1)[offset : offset + tokens]
