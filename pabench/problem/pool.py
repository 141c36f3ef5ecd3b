"""The KV cache as one allocation, and its K and V views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pabench.problem.checks import one_of
from pabench.problem.problem import Problem

KV_LAYOUTS = ("NHD", "HND")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KvPool:
    """K and V pages in one array of numpy or a library with numpy's slicing.

    Attributes:
        storage: ``(2, num_pages, *page)`` or, interleaved, ``(num_pages, 2, *page)``, where ``page`` is
            ``(page_size, num_kv_heads, head_dim)`` for NHD, ``(num_kv_heads, page_size, head_dim)`` for HND.
        kv_layout: ``NHD`` or ``HND``.
        interleaved: K and V of a page lie side by side, so that the views of K and V are strided.
    """

    storage: Any
    kv_layout: str
    interleaved: bool

    def __post_init__(self) -> None:
        one_of("kv_layout", self.kv_layout, KV_LAYOUTS)

    @property
    def k(self) -> Any:
        """View of the keys, ``(num_pages, *page)``."""
        return self.storage[:, 0] if self.interleaved else self.storage[0]

    @property
    def v(self) -> Any:
        """View of the values, ``(num_pages, *page)``."""
        return self.storage[:, 1] if self.interleaved else self.storage[1]

    @property
    def num_pages(self) -> int:
        """Pages in the pool."""
        return int(self.storage.shape[0 if self.interleaved else 1])

    @property
    def element_strides(self) -> tuple[int, int, int]:
        """Elements between neighbouring pages, tokens and KV heads; the same for K and V."""
        first, second, head_dim = self.storage.shape[-3:]
        page = first * second * head_dim * (2 if self.interleaved else 1)
        outer, inner = second * head_dim, head_dim
        return (page, outer, inner) if self.kv_layout == "NHD" else (page, inner, outer)

    def with_storage(self, storage: Any) -> KvPool:
        """Return the same pool over another array of the same shape, on a device for instance."""
        return replace(self, storage=storage)


def pool_shape(problem: Problem, num_pages: int, *, kv_layout: str, interleaved: bool) -> tuple[int, ...]:
    """Return the shape of ``KvPool.storage``."""
    one_of("kv_layout", kv_layout, KV_LAYOUTS)
    tokens_heads = (problem.page_size, problem.num_kv_heads)
    page = (*(tokens_heads if kv_layout == "NHD" else tokens_heads[::-1]), problem.head_dim)
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
