# SPDX-License-Identifier: Apache-2.0
"""What cases of a backend are drawn from: what it declares, within the limits of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.placement import HUGE_POOL
from pabench.problem.problem import Problem
from pabench.problem.shape import Shape
from pabench.strategies.shapes import (
    ALL_HEAD_DIMS,
    ALL_PAGE_SIZES,
    HEAD_DIMS,
    LARGE_GROUPS,
    PAGE_SIZES,
)

PROBED_PAGE_SIZES = (16, 1, 64, 128, 256)
"""Sizes of pages that a backend is offered to see whether it takes a head_dim or a group at all."""
PROBED_HEAD_DIMS = (128, 64, 16, 80)
PROBED_HEADS = ((4, 2), (2, 2), (1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The range that a backend declares, as arguments of the strategies.

    A narrow backend is judged by as many cases as a wide one: strategies draw what it declares and little
    else, and ``supported`` has the last word.

    Attributes:
        subject: name of the backend.
        device: name of the device that it runs on.
        dtypes: storage types, at least one.
        kv_layouts: NHD, HND or both.
        interleaved: whether K and V may be strided views of one pool.
        max_head_dim: largest head dimension.
        features: what it declares beyond plain attention.
        always: those of them that every case must have.
        operations: what it offers.
        supported: whether it declares that it can run a case.
        takes: the same, asked of cases that nobody is going to judge.
        only: the one shape that it is compiled for, or None.
        num_states: how many states it merges at a time, or None.
    """

    subject: str
    device: str
    dtypes: tuple[str, ...]
    kv_layouts: tuple[str, ...]
    interleaved: tuple[bool, ...]
    max_head_dim: int
    features: tuple[str, ...]
    always: tuple[str, ...]
    operations: frozenset[str]
    supported: Callable[[Case], bool]
    takes: Callable[[Case], bool]
    only: Shape | None = None
    num_states: int | None = None

    @property
    def layouts(self) -> dict[str, Any]:
        """``dtypes``, ``kv_layouts`` and ``interleaved`` of the strategies."""
        return {"dtypes": self.dtypes, "kv_layouts": self.kv_layouts, "interleaved": self.interleaved}

    @property
    def choices(self) -> dict[str, Any]:
        """``layouts`` with the usual head dimensions, for cases that are no attention."""
        return {**self.layouts, "head_dims": self.head_dims()}

    @property
    def appends(self) -> dict[str, Any]:
        """Arguments of ``append_cases``."""
        return {**self.choices, "only": self.only}

    @property
    def merges(self) -> dict[str, Any]:
        """Arguments of ``merge_cases``."""
        heads = None if self.only is None else self.only.num_qo_heads
        return {
            "dtypes": self.dtypes,
            "head_dims": self.head_dims(),
            "num_heads": heads,
            "num_states": self.num_states,
        }

    @property
    def far(self) -> dict[str, Any]:
        """Arguments of ``high_page_cases`` and ``huge_pool_cases``, which choose their own shapes."""
        return {**self.layouts, "always": self.always, "supported": self.supported}

    @property
    def attention(self) -> dict[str, Any]:
        """Arguments of ``cases`` for all that the backend declares."""
        return {
            **self.choices,
            "page_sizes": self.page_sizes(),
            "features": self.features,
            "always": self.always,
            "max_head_dim": self.max_head_dim,
            "supported": self.supported,
            "only": self.only,
        }

    def head_dims(self, among: Sequence[int] = HEAD_DIMS) -> tuple[int, ...]:
        """Return those of ``among`` that the backend takes, else any that it takes, else ``among``."""
        return self.those_of(among, self.takes_head_dim) or self.those_of(
            ALL_HEAD_DIMS, self.takes_head_dim, otherwise=among
        )

    def page_sizes(self, among: Sequence[int] = PAGE_SIZES) -> tuple[int, ...]:
        """Return those of ``among`` that the backend takes, else any that it takes, else ``among``."""
        return self.those_of(among, self.takes_page_size) or self.those_of(
            ALL_PAGE_SIZES, self.takes_page_size, otherwise=among
        )

    def groups(self, among: Sequence[int] = LARGE_GROUPS) -> tuple[int, ...]:
        """Return those of ``among`` that the backend takes, with one KV head at least; none is no error."""
        return self.those_of(among, self.takes_group)

    @staticmethod
    def those_of(
        values: Sequence[int], taken: Callable[[int], bool], *, otherwise: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """Return the ``values`` that are ``taken``, or ``otherwise`` where none is."""
        return tuple(value for value in values if taken(value)) or tuple(otherwise)

    def takes_head_dim(self, size: int) -> bool:
        """Whether the backend takes a plain case with this head dimension, whatever the pages."""
        if self.only is not None:
            return size == self.only.head_dim
        if size > self.max_head_dim:
            return False
        return any(self._takes(heads, size, page) for heads, page in product(PROBED_HEADS, PROBED_PAGE_SIZES))

    def takes_page_size(self, size: int) -> bool:
        """Whether the backend takes a plain case with pages of so many tokens."""
        if self.only is not None:
            return size == self.only.page_size
        return any(self._takes(heads, dim, size) for heads, dim in product(PROBED_HEADS, self._probed_dims))

    def takes_group(self, group: int) -> bool:
        """Whether the backend takes a plain case with so many query heads for one KV head, or two."""
        if self.only is not None:
            return group * self.only.num_kv_heads == self.only.num_qo_heads
        return any(
            self._takes((group * heads, heads), dim, page)
            for heads, dim, page in product((2, 1), self._probed_dims, PROBED_PAGE_SIZES)
        )

    @property
    def _probed_dims(self) -> tuple[int, ...]:
        return tuple(dim for dim in PROBED_HEAD_DIMS if dim <= self.max_head_dim) or (self.max_head_dim,)

    @property
    def takes_huge_pools(self) -> bool:
        """Whether the backend can be given a pool larger than memory here."""
        return self.device == "emulated" and any(
            self._takes(heads, 16, page, placement=HUGE_POOL)
            for heads, page in product(PROBED_HEADS, PROBED_PAGE_SIZES)
        )

    def _takes(
        self, heads: tuple[int, int], head_dim: int, page_size: int, *, placement: str = "shuffled"
    ) -> bool:
        q_len = 1 if self.offers("decode") else 16
        return any(
            self.takes(
                Case(
                    problem=Problem(
                        num_qo_heads=heads[0],
                        num_kv_heads=heads[1],
                        head_dim=head_dim,
                        page_size=page_size,
                        dtype=dtype,
                    ),
                    batch=Batch(kv_lens=(17,), q_lens=(q_len,)),
                    kv_layout=layout,
                    placement=placement,
                )
            )
            for dtype, layout in product(self.dtypes, self.kv_layouts)
        )

    def offers(self, operation: str) -> bool:
        """Whether the backend declares ``operation``."""
        return operation in self.operations
