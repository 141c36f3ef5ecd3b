"""The KV cache as one allocation, and its K and V views."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.problem.checks import one_of
from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem

KV_LAYOUTS = ("NHD", "HND")
NO_GAPS = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageParts:
    """What a page is made of where K and V differ, are one, or have gaps behind their pages.

    Attributes:
        page_size: tokens of a page.
        num_kv_heads: heads of a token.
        head_dim: elements of a row of K.
        value_dim: elements of a row of V.
        latent: values are the first elements of the keys, and have no place of their own.
        gaps: elements behind each page of K, and of V, that nobody reads or writes.
    """

    page_size: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    latent: bool
    gaps: tuple[int, int]

    def page(self, kind: str, kv_layout: str) -> tuple[int, int, int]:
        """Return the shape of a page of K (``kind="k"``) or V (``"v"``)."""
        size, heads = self.page_size, self.num_kv_heads
        elements = self.head_dim if kind == "k" else self.value_dim
        return (size, heads, elements) if kv_layout == "NHD" else (heads, size, elements)

    @property
    def strides(self) -> tuple[int, int]:
        """Elements that a page of K, and of V, takes with its gap; 0 for a V that lies in K."""
        rows = self.page_size * self.num_kv_heads
        values = 0 if self.latent else rows * self.value_dim + self.gaps[1]
        return rows * self.head_dim + self.gaps[0], values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KvPool:
    """K and V pages in one array of numpy or a library with numpy's slicing.

    Attributes:
        storage: ``(2, num_pages, *page)`` or, interleaved, ``(num_pages, 2, *page)``, where ``page`` is
            ``(page_size, num_kv_heads, row)`` for NHD, ``(num_kv_heads, page_size, row)`` for HND, and a row
            is ``head_dim`` elements, or the bytes of a format whose rows hold their scales.
            With ``parts`` it has no such shape: ``(num_pages, elements)``, K before V in each row, when
            interleaved or latent; else one axis, all pages of K before those of V.
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
        page = parts.page(kind, self.kv_layout)
        keys, values = parts.strides
        storage, first = self.storage, 0 if kind == "k" else keys
        if len(storage.shape) == 1:
            count = self.num_pages
            start, stride = (0, keys) if kind == "k" else (count * keys, values)
            storage, first = storage[start : start + count * stride].reshape(count, stride), 0
        return storage[:, first : first + math.prod(page)].reshape(storage.shape[0], *page)

    @property
    def num_pages(self) -> int:
        """Pages in the pool."""
        if self.parts is not None:
            axes = self.storage.shape
            return int(axes[0] if len(axes) > 1 else axes[0] // sum(self.parts.strides))
        return int(self.storage.shape[0 if self.interleaved else 1])

    @property
    def element_strides(self) -> tuple[int, int, int]:
        """Elements between neighbouring pages, tokens and KV heads of K, and of V where it is like K."""
        return self.strides("k")

    def strides(self, kind: str) -> tuple[int, int, int]:
        """Return the elements between neighbouring pages, tokens and KV heads of K (``k``) or V (``v``)."""
        if self.parts is not None:
            within = "k" if self.parts.latent else kind
            first, second, row = self.parts.page(within, self.kv_layout)
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
        ends = self.num_pages * self.parts.strides[0]
        halves = (self.storage[:ends], self.storage[ends:])
        rows = (half.reshape(self.num_pages, -1)[pages] for half in halves)
        return self.with_storage(np.concatenate([row.reshape(-1) for row in rows]))


def pool_parts(problem: Problem, gaps: tuple[int, int] = NO_GAPS) -> PageParts | None:
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
    gaps: tuple[int, int] = NO_GAPS,
) -> tuple[int, ...]:
    """Return the shape of ``KvPool.storage``."""
    one_of("kv_layout", kv_layout, KV_LAYOUTS)
    parts = pool_parts(problem, gaps)
    if parts is not None:
        stride = sum(parts.strides)
        return (num_pages, stride) if interleaved or parts.latent else (num_pages * stride,)
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
