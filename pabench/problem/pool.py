# SPDX-License-Identifier: Apache-2.0
"""The KV cache as one allocation, and its K and V views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import lengths_tuple, one_of
from pabench.problem.dtypes import Array
from pabench.problem.formats.format import ALIGNMENT
from pabench.problem.problem import Problem

KV_LAYOUTS = ("NHD", "HND")
NONE = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """Elements of a pool that belong to somebody else, of K and of V: nobody reads or writes them.

    Attributes:
        pages: behind each page.
        rows: behind the numbers of each token and head.
        starts: before the first page; where K and V share their pages, that of V is 0.
    """

    pages: tuple[int, int] = NONE
    rows: tuple[int, int] = NONE
    starts: tuple[int, int] = NONE

    @property
    def features(self) -> frozenset[str]:
        """What a backend must have for them."""
        asked = {"page-gaps": self.pages, "kv-strides": (*self.rows, *self.starts)}
        return frozenset(name for name, numbers in asked.items() if any(numbers))


NO_GAPS = Gaps()


def checked_gaps(problem: Problem, interleaved: bool, gaps: Gaps) -> Gaps:
    """Return ``gaps`` as plain integers; raises ``InvalidCase`` where a cache cannot have them."""
    if problem.latent and interleaved:
        raise InvalidCase("interleaved", True, "must be false with a latent cache")
    found = {}
    for field, name in (("pages", "page_gaps"), ("rows", "row_gaps"), ("starts", "starts")):
        pair = lengths_tuple(name, getattr(gaps, field))
        if len(pair) != 2:
            raise InvalidCase(name, pair, "must have 2 entries, for K and for V")
        if problem.latent and pair[1]:
            raise InvalidCase(f"{name}[1]", pair[1], "must be 0 with a latent cache")
        if interleaved and field == "starts" and pair[1]:
            raise InvalidCase("starts[1]", pair[1], "must be 0 where K and V lie side by side in a page")
        if problem.kv_format is not None and problem.kv_format.scale is not None:
            for at, gap in enumerate(pair):
                if gap % ALIGNMENT:
                    rule = f"must be a multiple of {ALIGNMENT} where rows hold their scales"
                    raise InvalidCase(f"{name}[{at}]", gap, rule)
        found[field] = pair[0], pair[1]
    return Gaps(**found)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageParts:
    """What a page is made of where K and V differ, are one, or have gaps.

    Attributes:
        page_size: tokens of a page.
        num_kv_heads: heads of a token.
        head_dim: elements of a row of K.
        value_dim: elements of a row of V.
        latent: values are the first elements of the keys, and have no place of their own.
        gaps: what lies between, and belongs to nobody here.
    """

    page_size: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    latent: bool
    gaps: Gaps

    def page(self, kind: str, kv_layout: str) -> tuple[int, int, int]:
        """Return the shape of a page of K (``kind="k"``) or V (``"v"``), without gaps."""
        size, heads = self.page_size, self.num_kv_heads
        elements = self.head_dim if kind == "k" else self.value_dim
        return (size, heads, elements) if kv_layout == "NHD" else (heads, size, elements)

    @property
    def row_strides(self) -> tuple[int, int]:
        """Elements that a row of K, and of V, takes with its gap."""
        return self.head_dim + self.gaps.rows[0], self.value_dim + self.gaps.rows[1]

    @property
    def strides(self) -> tuple[int, int]:
        """Elements that a page of K, and of V, takes with its gaps; 0 for a V that lies in K."""
        rows, (keys, values) = self.page_size * self.num_kv_heads, self.row_strides
        return rows * keys + self.gaps.pages[0], 0 if self.latent else rows * values + self.gaps.pages[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KvPool:
    """K and V pages in one array of numpy or a library with numpy's slicing.

    Attributes:
        storage: ``(2, num_pages, *page)`` or, interleaved, ``(num_pages, 2, *page)``, where ``page`` is
            ``(page_size, num_kv_heads, row)`` for NHD, ``(num_kv_heads, page_size, row)`` for HND, and a row
            is ``head_dim`` elements, or the bytes of a format whose rows hold their scales.
            With ``parts`` it has no such shape: ``(num_pages, elements)``, K before V in each row, when
            interleaved or latent; else one axis, all pages of K before those of V.  With an offset before
            either it is always one axis.
        kv_layout: ``NHD`` or ``HND``.
        interleaved: K and V of a page lie side by side, so that the views of K and V are strided.
        parts: what a page is made of, None where K and V are alike and nothing lies between.
    """

    storage: Any
    kv_layout: str
    interleaved: bool
    parts: PageParts | None = None

    def __post_init__(self) -> None:
        one_of("kv_layout", self.kv_layout, KV_LAYOUTS)

    @property
    def k(self) -> Any:
        """View of the keys, ``(num_pages, *page)``."""
        if self.parts is not None:
            return self._part(self.parts, "k")
        return self.storage[:, 0] if self.interleaved else self.storage[0]

    @property
    def v(self) -> Any:
        """View of the values, ``(num_pages, *page)``."""
        if self.parts is not None:
            return self._part(self.parts, "v")
        return self.storage[:, 1] if self.interleaved else self.storage[1]

    def _part(self, parts: PageParts, kind: str) -> Any:
        if parts.latent and kind == "v":
            return self._part(parts, "k")[..., : parts.value_dim]
        outer, inner, row = parts.page(kind, self.kv_layout)
        pages, step = self._pages(parts, kind), parts.row_strides[kind == "v"]
        first = parts.strides[0] if kind == "v" and self._shared(parts) else 0
        rows = pages[:, first : first + outer * inner * step].reshape(pages.shape[0], outer, inner, step)
        return rows if step == row else rows[..., :row]

    def _shared(self, parts: PageParts) -> bool:
        """Whether a page holds K and V."""
        return self.interleaved or parts.latent

    def _pages(self, parts: PageParts, kind: str) -> Any:
        """View of the pages that hold K or V, gaps included, ``(num_pages, elements)``."""
        if len(self.storage.shape) > 1:
            return self.storage
        count, (keys, values), (start, between) = self.num_pages, parts.strides, parts.gaps.starts
        stride = keys + values if self._shared(parts) else keys
        if kind == "v" and not self._shared(parts):
            start, stride = start + count * keys + between, values
        return self.storage[start : start + count * stride].reshape(count, stride)

    @property
    def num_pages(self) -> int:
        """Pages in the pool."""
        if self.parts is not None:
            axes = self.storage.shape
            taken = axes[0] - sum(self.parts.gaps.starts)
            return int(axes[0] if len(axes) > 1 else taken // sum(self.parts.strides))
        return int(self.storage.shape[0 if self.interleaved else 1])

    @property
    def element_strides(self) -> tuple[int, int, int]:
        """Elements between neighbouring pages, tokens and KV heads of K, and of V where it is like K."""
        return self.strides("k")

    def strides(self, kind: str) -> tuple[int, int, int]:
        """Return the elements between neighbouring pages, tokens and KV heads of K (``k``) or V (``v``)."""
        if self.parts is not None:
            within = "k" if self.parts.latent else kind
            first, second, _ = self.parts.page(within, self.kv_layout)
            row = self.parts.row_strides[within == "v"]
            page = sum(self.parts.strides) if self.interleaved else self.parts.strides[within == "v"]
        else:
            first, second, row = self.storage.shape[-3:]
            page = first * second * row * (2 if self.interleaved else 1)
        outer = second * row
        return (page, outer, row) if self.kv_layout == "NHD" else (page, row, outer)

    def with_storage(self, storage: Any) -> KvPool:
        """Return the same pool over another array of the same shape, on a device for instance."""
        return replace(self, storage=storage)

    def with_pages(self, pages: Array) -> KvPool:
        """Return a pool on the host of copies of ``pages``, in their order, gaps included."""
        if self.parts is None or len(self.storage.shape) > 1:
            axis = 0 if self.parts is not None or self.interleaved else 1
            return self.with_storage(np.take(self.storage, pages, axis))
        found, at = list[Array](), 0
        kinds = "k" if self._shared(self.parts) else "kv"
        for kind, start in zip(kinds, self.parts.gaps.starts, strict=False):
            held = self._pages(self.parts, kind)
            found += [self.storage[at : at + start], held[pages].reshape(-1)]
            at += start + held.size
        return self.with_storage(np.concatenate(found))


def pool_parts(problem: Problem, gaps: Gaps = NO_GAPS) -> PageParts | None:
    """Return what the pages of ``problem`` are made of; None where K and V are alike and have no gaps."""
    if problem.head_dim_v is None and not problem.latent and gaps == NO_GAPS:
        return None
    return PageParts(
        page_size=problem.page_size,
        num_kv_heads=problem.num_kv_heads,
        head_dim=problem.row_units("k"),
        value_dim=problem.row_units("v"),
        latent=problem.latent,
        gaps=gaps,
    )


def pool_shape(
    problem: Problem,
    num_pages: int,
    *,
    kv_layout: str,
    interleaved: bool,
    gaps: Gaps = NO_GAPS,
) -> tuple[int, ...]:
    """Return the shape of ``KvPool.storage``."""
    one_of("kv_layout", kv_layout, KV_LAYOUTS)
    parts = pool_parts(problem, gaps)
    if parts is not None:
        stride, before = sum(parts.strides), sum(gaps.starts)
        if (interleaved or parts.latent) and not before:
            return num_pages, stride
        return (before + num_pages * stride,)
    tokens_heads = (problem.page_size, problem.num_kv_heads)
    page = (*(tokens_heads if kv_layout == "NHD" else tokens_heads[::-1]), problem.row_units("k"))
    return (num_pages, 2, *page) if interleaved else (2, num_pages, *page)


def pages_of(storage: Any, pages: Any) -> Any:
    """Return some pages of ``KvPool.storage``, in that order, as a storage of their own; of a list, of each.

    What is no array of five axes is returned as it is, for whoever looks at it to refuse.
    """
    if isinstance(storage, list):
        return [pages_of(one, pages) for one in storage]
    if getattr(storage, "ndim", None) != 5:
        return storage
    # K and V apart, or side by side; a pool of one page or two is never asked for some of them
    apart = storage.shape[0] == 2 and storage.shape[1] != 2
    return storage[:, pages] if apart else storage[pages]
