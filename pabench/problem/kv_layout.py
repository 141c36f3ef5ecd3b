# SPDX-License-Identifier: Apache-2.0
"""Where the numbers of a KV cache lie in one allocation, and whether two readings of it agree.

Engines and what moves pages between them (offload, disaggregation) read the same bytes through layouts of
their own: layer by layer or page by page, K and V apart or packed, pages padded or not.  A layout here is a
start and a stride for each of six axes, in elements; two that disagree move other tokens without an error.
Seen: LMCache#4467, vllm#42095, vllm#49716.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import one_of, whole_number
from pabench.problem.dtypes import Array

AXES = ("layer", "block", "kv", "head", "token", "dim")
"""Layer, page, K or V, KV head, token within the page, and number within the head."""
MOST = 2**62
"""Elements of an allocation: more than any memory holds, and sums of a few fit 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """A reading of an allocation.

    Attributes:
        sizes: entries of each of ``AXES``.
        strides: elements from one entry of an axis to the next.
        elements: of the allocation.
        start: element where the first entry of all axes lies.

    Raises:
        InvalidCase: an axis lacks, entries that lie outside of the allocation, or two in one place.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    elements: int
    start: int = 0

    def __post_init__(self) -> None:
        for field in fields(self)[:2]:
            values = getattr(self, field.name)
            if not isinstance(values, list | tuple) or len(values) != len(AXES):
                raise InvalidCase(field.name, values, f"must be one for each of {', '.join(AXES)}")
            checked = (
                whole_number(f"{field.name}[{axis}]", value, low=1, high=MOST)
                for axis, value in zip(AXES, values, strict=True)
            )
            object.__setattr__(self, field.name, tuple(checked))
        for name in ("elements", "start"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), low=0, high=MOST))
        if self.last >= self.elements:
            raise InvalidCase(
                "elements", self.elements, f"must hold element {self.last}, the last that is read"
            )
        taken, before = 1, ""
        for stride, size, axis in self._steps(AXES):
            if stride < taken:
                rule = f"must be at least {taken}, or entries lie where those of axis {before} do"
                raise InvalidCase(f"stride of axis {axis}", stride, rule)
            taken, before = stride * (size - 1) + taken, axis

    @property
    def last(self) -> int:
        """The last element that is read."""
        steps = zip(self.sizes, self.strides, strict=True)
        return self.start + sum((size - 1) * stride for size, stride in steps)

    def place(self, *entry: int) -> int:
        """Return the element of an entry: layer, block, kv, head, token, dim."""
        return self.start + sum(at * stride for at, stride in zip(entry, self.strides, strict=True))

    def pieces(self) -> tuple[int, int]:
        """Return in how many pieces one page of all layers lies, and the elements of each."""
        length, count = 1, 1
        for stride, size, _ in self._steps(tuple(axis for axis in AXES if axis != "block")):
            if count == 1 and stride == length:
                length *= size
            else:
                count *= size
        return count, length

    def copies(self, pages: Sequence[int]) -> int:
        """Return how many copies move some pages; those that follow one another without a gap go in one.

        Raises:
            InvalidCase: a page that there is not, or one that is named twice.
        """
        ids = np.sort([whole_number("page", page, low=0, high=self.sizes[1] - 1) for page in pages])
        if (np.diff(ids) == 0).any():
            raise InvalidCase("pages", list(pages), "must each be named once")
        count, length = self.pieces()
        return count * (runs_of(ids) if self.strides[1] == length else ids.size)

    def _steps(self, axes: Sequence[str]) -> list[tuple[int, int, str]]:
        """Strides, sizes and names of axes with more than one entry, the closest first."""
        found = zip(self.strides, self.sizes, AXES, strict=True)
        return sorted(step for step in found if step[1] > 1 and step[2] in axes)


def runs_of(pages: Array) -> int:
    """Return in how many runs of ids that follow one another some pages lie, each named once."""
    return int(np.count_nonzero(np.diff(np.sort(pages)) != 1)) + 1 if pages.size else 0


LAYER_FIRST = ("layer", "kv", "block", "token", "head", "dim")
"""A tensor for each layer, and K and V apart in it, as vLLM's workers have it."""
PAGE_FIRST = ("block", "layer", "kv", "token", "head", "dim")
"""All layers of a page in one piece."""


def laid_out(order: Sequence[str], *, block_elements: int | None = None, **sizes: int) -> KvLayout:
    """Return the layout in which the last axis of an order is the closest.

    Args:
        order: all of ``AXES``, the outermost first, as ``LAYER_FIRST``.
        block_elements: from page to page, where pages are padded; None for as many as they hold.
        sizes: entries of each axis, by its name.

    Raises:
        InvalidCase: an axis lacks or is named twice, or pages longer than ``block_elements``.
    """
    if sorted(order) != sorted(AXES):
        raise InvalidCase("order", list(order), f"must name each of {', '.join(AXES)} once")
    for axis in sizes:
        one_of("axis", axis, AXES)
    if lacking := [axis for axis in AXES if axis not in sizes]:
        raise InvalidCase("sizes", sorted(sizes), f"must name {', '.join(lacking)}")
    strides, step = {}, 1
    for axis in reversed(order):
        if axis == "block" and block_elements is not None:
            step = whole_number("block_elements", block_elements, low=step, high=MOST)
        strides[axis] = step
        step *= whole_number(f"sizes[{axis}]", sizes[axis], low=1)
    by_axis = [(sizes[axis], strides[axis]) for axis in AXES]
    return KvLayout(
        sizes=tuple(size for size, _ in by_axis), strides=tuple(each for _, each in by_axis), elements=step
    )


def unlike(one: KvLayout, other: KvLayout) -> str | None:
    """Return the first token that two readings of one allocation find in other places, in words, or None.

    Places follow from start and strides, so that no number has to be looked at: they are the same for all
    entries where they are for the first, and for the second along each axis.
    """
    for axis, mine, yours in zip(AXES, one.sizes, other.sizes, strict=True):
        if mine != yours:
            return f"one reading has {mine} entries of axis {axis}, the other {yours}"
    if one.elements != other.elements:
        return f"one reading is of {one.elements} elements, the other of {other.elements}"
    entries = np.vstack([np.zeros(len(AXES), int), np.eye(len(AXES), dtype=int)[::-1]])
    for entry in entries.tolist():
        there = all(at < size for at, size in zip(entry, one.sizes, strict=True))
        first, second = one.place(*entry), other.place(*entry)
        if there and first != second:
            named = ", ".join(f"{axis} {at}" for axis, at in zip(AXES, entry, strict=True))
            return f"{named} is element {first} in one reading, {second} in the other"
    return None
