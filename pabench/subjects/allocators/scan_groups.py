# SPDX-License-Identifier: Apache-2.0
"""KV groups of the scan allocator: a row on the device for each sequence and group, and windows that slide.

The kernels grow, cut and end rows, all or none of a request's.  What they cannot do in one launch is to give
up what windows no longer see only if the growth then fits: that is found here, before anything is launched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pabench.problem.dtypes import Array
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.results import NULL_PAGE
from pabench.subjects.allocators.sliding import pages_given_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """What a growth lets go before it takes.

    Attributes:
        rows: that give up pages, in the order of the request.
        keep_from: token of each row that the first page kept begins with.
        pages: table entries that go, by page.
    """

    rows: tuple[int, ...]
    keep_from: tuple[int, ...]
    pages: Mapping[int, int]


def rows_of(sequences: Iterable[int], groups: int) -> list[int]:
    """Return the rows of some sequences, those of one sequence beside each other."""
    return [sequence * groups + group for sequence in sequences for group in range(groups)]


def slide_of(groups: Sequence[KvGroup], requests: Mapping[int, int], lengths: Array, table: Array) -> Slide:
    """Return what the windows and states of growing sequences give up.

    Args:
        groups: of the pool.
        requests: sequence to the tokens that it grows by; one that grows by none gives up nothing.
        lengths: int64 ``(max_seqs,)``.
        table: int32 ``(max_seqs, groups, columns)``.
    """
    rows, keep_from, pages = [], [], Counter[int]()
    for sequence, count in requests.items():
        for at, group in enumerate(groups) if count else ():
            below = pages_given_up(group, int(lengths[sequence]))
            going = [page for page in table[sequence, at, :below].tolist() if page != NULL_PAGE]
            if going:
                rows.append(sequence * len(groups) + at)
                keep_from.append(below * group.page_size)
                pages.update(going)
    return Slide(rows=tuple(rows), keep_from=tuple(keep_from), pages=pages)


def needed_behind(
    slide: Slide,
    groups: Sequence[KvGroup],
    requests: Mapping[int, int],
    lengths: Array,
    table: Array,
    refcounts: Array,
) -> int:
    """Return the pages that a growth takes once its windows have slid, copies of shared last pages included.

    Args:
        slide: of the same request.
        groups, requests, lengths, table: as of ``slide_of``.
        refcounts: table entries that hold each page, int32 ``(num_pages,)``.
    """
    needed, left = 0, Counter(slide.pages)
    for sequence, count in requests.items():
        old = int(lengths[sequence])
        for at, group in enumerate(groups):
            needed += group.pages(old + count) - group.pages(old)
            if count and old % group.page_size:
                last = int(table[sequence, at, old // group.page_size])
                if refcounts[last] - left[last] > 1:
                    needed, left[last] = needed + 1, left[last] + 1
    return needed
