"""What cases of a backend are drawn from: what it declares, within the limits of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pabench.problem.case import Case
from pabench.strategies.shapes import HEAD_DIMS


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
        operations: what it offers.
        supported: whether it declares that it can run a case.
    """

    subject: str
    device: str
    dtypes: tuple[str, ...]
    kv_layouts: tuple[str, ...]
    interleaved: tuple[bool, ...]
    max_head_dim: int
    features: tuple[str, ...]
    operations: frozenset[str]
    supported: Callable[[Case], bool]

    @property
    def layouts(self) -> dict[str, Any]:
        """``dtypes``, ``kv_layouts`` and ``interleaved`` of the strategies."""
        return {"dtypes": self.dtypes, "kv_layouts": self.kv_layouts, "interleaved": self.interleaved}

    @property
    def choices(self) -> dict[str, Any]:
        """``layouts`` with the usual head dimensions, for cases that are no attention."""
        return {**self.layouts, "head_dims": self.head_dims()}

    @property
    def far(self) -> dict[str, Any]:
        """Arguments of ``high_page_cases`` and ``vast_page_cases``, which choose their own shapes."""
        return {**self.layouts, "supported": self.supported}

    @property
    def attention(self) -> dict[str, Any]:
        """Arguments of ``cases`` for all that the backend declares."""
        return {**self.choices, "features": self.features, "supported": self.supported}

    def head_dims(self, among: Sequence[int] = HEAD_DIMS) -> tuple[int, ...]:
        """Return those of ``among`` that the backend declares, or all when it declares none of them."""
        return tuple(size for size in among if size <= self.max_head_dim) or tuple(among)

    def offers(self, operation: str) -> bool:
        """Whether the backend declares ``operation``."""
        return operation in self.operations
