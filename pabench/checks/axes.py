# SPDX-License-Identifier: Apache-2.0
"""The axes of the drawn space: along which cases differ, cut into classes where kernels change their ways.

Boundaries are those of pages, tiles, splits and whole numbers of 15 and 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from pabench.problem.append import AppendCase
from pabench.problem.case import POISONS, Case
from pabench.problem.dtypes import DTYPES
from pabench.problem.families import FAMILIES
from pabench.problem.features import all_features
from pabench.problem.masks import MASKS
from pabench.problem.merge import MergeCase
from pabench.problem.placement import HUGE_POOL, PLACEMENT_NOTES, TABLE_TAILS
from pabench.problem.pool import KV_LAYOUTS
from pabench.problem.problem import FEATURES
from pabench.strategies.drawn import Range
from pabench.strategies.shapes import ALL_HEAD_DIMS, ALL_PAGE_SIZES, LARGE_GROUPS, spans_kv_heads

DrawnCase = Case | AppendCase | MergeCase
Met = Iterable[tuple[str, int | None]]
"""Classes of a case, each with the number it stands for, if any."""
Taken = Callable[[Range, str], bool]


def _always(declared: Range, name: str) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One way in which cases differ.

    Attributes:
        name: in reports.
        classes: of values, those that the suite means to meet.
        met: the classes of a case; a case may meet several, or none.
        taken: whether a backend takes a class.
    """

    name: str
    classes: tuple[str, ...]
    met: Callable[[DrawnCase], Met]
    taken: Taken = _always


@dataclass(frozen=True, slots=True)
class Interval:
    """Whole numbers from ``low`` to ``high``, as a class."""

    low: int
    high: int

    @property
    def name(self) -> str:
        """``5`` or ``2 to 8``; without an upper end ``257 and more``."""
        if self.low == self.high:
            return f"{self.low:,}"
        return f"{self.low:,} and more" if self.high >= ENDLESS else f"{self.low:,} to {self.high:,}"


ENDLESS = 2**62


def intervals(*lows: int) -> tuple[Interval, ...]:
    """Return the intervals that begin at ``lows``; the last has no end."""
    ends = [low - 1 for low in lows[1:]] + [ENDLESS]
    return tuple(Interval(low, high) for low, high in zip(lows, ends, strict=True))


def _among(found: tuple[Interval, ...], numbers: Iterable[int]) -> Iterator[tuple[str, int]]:
    for number in numbers:
        for one in found:
            if one.low <= number <= one.high:
                yield one.name, number


def _counts(name: str, numbers: Callable[[Case], Iterable[int]], *lows: int, taken: Taken = _always) -> Axis:
    """An axis of whole numbers of attention cases, cut at ``lows``."""
    cut = intervals(*lows)

    def met(case: DrawnCase) -> Met:
        return _among(cut, numbers(case)) if isinstance(case, Case) else ()

    return Axis(name=name, classes=tuple(one.name for one in cut), met=met, taken=taken)


def _named(
    name: str, classes: Iterable[str], of: Callable[[Case], Iterable[str]], taken: Taken = _always
) -> Axis:
    """An axis of names of attention cases."""

    def met(case: DrawnCase) -> Met:
        return ((one, None) for one in of(case)) if isinstance(case, Case) else ()

    return Axis(name=name, classes=tuple(classes), met=met, taken=taken)


ACROSS = "above 16, across KV heads"
GROUPS: dict[str, Callable[[int], bool]] = {
    "1": lambda group: group == 1,
    "2 to 8": lambda group: 2 <= group <= 8,
    "9 to 16": lambda group: 9 <= group <= 16,
    "above 16, multiples of 16": lambda group: group > 16 and group % 16 == 0,
    "above 16, others": lambda group: group > 16 and group % 16 > 0,
}


def _groups(case: DrawnCase) -> Met:
    if isinstance(case, Case):
        heads, kv_heads, group = case.problem.num_qo_heads, case.problem.num_kv_heads, case.problem.group_size
        for name, holds in GROUPS.items():
            if holds(group):
                yield name, group
        if spans_kv_heads(heads, kv_heads):
            yield ACROSS, group


def _takes_groups(declared: Range, name: str) -> bool:
    holds = GROUPS.get(name, GROUPS["above 16, others"])
    return any(holds(group) and declared.takes_group(group) for group in (1, 2, 8, *LARGE_GROUPS))


PAGE_NAMES = ("1", "2 to 8", "no power of two", "16", "32", "64", "128", "256", "512")


def _page_class(size: int) -> str:
    if size & (size - 1):
        return "no power of two"
    return "2 to 8" if 2 <= size <= 8 else f"{size}"


def _pages(case: DrawnCase) -> Met:
    if not isinstance(case, MergeCase):
        yield _page_class(case.problem.page_size), case.problem.page_size


def _takes_pages(declared: Range, name: str) -> bool:
    return any(_page_class(size) == name and declared.takes_page_size(size) for size in ALL_PAGE_SIZES)


def _head_dims(case: DrawnCase) -> Met:
    size = case.head_dim if isinstance(case, MergeCase) else case.problem.head_dim
    yield f"{size}", size


def _kv_heads(case: DrawnCase) -> Met:
    if not isinstance(case, MergeCase):
        yield from _among(KV_HEADS, [case.problem.num_kv_heads])


KV_HEADS = intervals(1, 2, 5)


def _edges(size: int, case: Case) -> Iterator[str]:
    """Where the last key of a sequence stands among runs of ``size`` tokens."""
    for length in case.batch.kv_lens:
        if size > 2 and length > size - 2:
            rest = length % size
            name = {0: "full", 1: "one over", size - 1: "one short"}.get(rest)
            if name is not None:
                yield name


EDGES = ("full", "one over", "one short")


def _rows_and_keys(case: Case) -> Iterator[str]:
    for q_len, kv_len in zip(case.batch.query_lens, case.batch.kv_lens, strict=True):
        if q_len > 1:
            yield "as many" if q_len == kv_len else "fewer rows" if q_len < kv_len else "more rows"


def _windows(case: Case) -> Iterator[int]:
    if case.problem.window is not None:
        yield case.problem.window


def _features(case: Case) -> Iterable[str]:
    return sorted(case.features) or ("none",)


BEYOND = tuple(name for name in all_features() if name not in FEATURES)


def _takes_beyond(declared: Range, name: str) -> bool:
    rows = declared.offers("prefill") or declared.offers("speculative")
    return name == "none" or (
        name in declared.features and (name not in MASKS or rows or not MASKS[name].several_rows)
    )


def _takes_rows(declared: Range, name: str) -> bool:
    many = declared.offers("prefill")
    return many or name in ("0", "1") or (declared.offers("speculative") and name == "2 to 8")


def _stored(case: DrawnCase) -> Met:
    yield (case.dtype if isinstance(case, MergeCase) else case.problem.dtype), None


def _strides(case: DrawnCase) -> Met:
    if not isinstance(case, MergeCase):
        yield case.kv_layout, None
        yield (STRIDES[case.interleaved]), None


STRIDES = ("K and V apart", "K and V in one pool")


def _takes_strides(declared: Range, name: str) -> bool:
    if name in KV_LAYOUTS:
        return name in declared.kv_layouts
    return STRIDES.index(name) in (int(one) for one in declared.interleaved)


AXES: tuple[Axis, ...] = (
    Axis(name="query heads a KV head", classes=(*GROUPS, ACROSS), met=_groups, taken=_takes_groups),
    Axis(name="KV heads", classes=tuple(one.name for one in KV_HEADS), met=_kv_heads),
    Axis(
        name="head_dim",
        classes=tuple(map(str, ALL_HEAD_DIMS)),
        met=_head_dims,
        taken=lambda declared, name: declared.takes_head_dim(int(name)),
    ),
    Axis(name="page_size", classes=PAGE_NAMES, met=_pages, taken=_takes_pages),
    _counts("keys of a sequence", lambda case: case.batch.kv_lens, 0, 1, 2, 201, 3001, 2**15, 2**16),
    _named("last page", EDGES, lambda case: _edges(case.problem.page_size, case)),
    _named("last tile of 32", EDGES, partial(_edges, 32)),
    _named("last split of 256", EDGES, partial(_edges, 256)),
    _counts("sequences with keys", lambda case: [sum(n > 0 for n in case.batch.kv_lens)], 0, 1, 2, 6, 33),
    _counts(
        "query rows of a sequence", lambda case: case.batch.query_lens, 0, 1, 2, 9, 65, 257, taken=_takes_rows
    ),
    _named(
        "query rows and keys",
        ("fewer rows", "as many", "more rows"),
        _rows_and_keys,
        lambda declared, name: declared.offers("speculative") or declared.offers("prefill"),
    ),
    _counts(
        "window", _windows, 1, 2, 201, 511, 4098, taken=lambda declared, name: "window" in declared.features
    ),
    _named(
        "features",
        ("none", *FEATURES),
        _features,
        lambda declared, name: (
            name == "none"
            or (name in declared.features and (name != "non-causal" or declared.offers("prefill")))
        ),
    ),
    _named(
        "caches, formats and sets of keys",
        ("none", *BEYOND),
        lambda case: sorted(case.features.intersection(BEYOND)) or ("none",),
        _takes_beyond,
    ),
    Axis(
        name="dtype", classes=tuple(DTYPES), met=_stored, taken=lambda declared, name: name in declared.dtypes
    ),
    Axis(name="cache layout", classes=(*KV_LAYOUTS, *STRIDES), met=_strides, taken=_takes_strides),
    _named(
        "placement of pages",
        PLACEMENT_NOTES,
        lambda case: [case.placement],
        lambda declared, name: name != HUGE_POOL or declared.takes_huge_pools,
    ),
    _named("unused table entries", TABLE_TAILS, lambda case: [case.tail]),
    _named("slots nobody reads", POISONS, lambda case: [case.poison]),
    _named("input family", FAMILIES, lambda case: [case.family]),
)
