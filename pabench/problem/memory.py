# SPDX-License-Identifier: Apache-2.0
"""What a batch costs in pages, slots and table bytes: exact, from the lengths and the page size alone.

With n sequences of L_i tokens and pages of P tokens, N_i = ceil(L_i / P) and slots = P * sum(N_i):

* internal fragmentation = 1 - sum(L) / slots, the share of the allocated slots that no token fills;
* contiguous fragmentation = 1 - sum(L) / (n * max(L)), the same share were each sequence given a slab as long
  as the longest (Kwon et al., SOSP 2023, section 2, without the room reserved for tokens yet to come);
* efficiency gain = n * max(L) / slots, slots of the slabs over slots of the pages.

Shares are ``fractions.Fraction``, so that equal means equal; a batch without tokens has all of them 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from pabench.problem.checks import lengths_tuple, whole_number
from pabench.problem.layout import pages_needed

TABLE_ENTRY_BYTES = 4
"""Block tables hold int32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """Figures of one batch at one page size.

    Attributes:
        num_pages: pages that hold at least one token; no page is shared.
        slots: tokens that those pages have room for.
        tokens: tokens held.
        waste_tokens: ``slots - tokens``, the empty ends of last pages.
        internal_fragmentation: ``waste_tokens / slots``.
        contiguous_fragmentation: the same for slabs of the longest length.
        efficiency_gain: slots of such slabs over ``slots``; below 1 when rounding up to pages costs more.
        block_table_bytes: int32 table of ``n`` rows and as many columns as the longest sequence has pages.
        csr_table_bytes: ``indptr (n + 1)``, ``indices (num_pages)`` and ``last_page_len (n)``, all int32.
    """

    num_pages: int
    slots: int
    tokens: int
    waste_tokens: int
    internal_fragmentation: Fraction
    contiguous_fragmentation: Fraction
    efficiency_gain: Fraction
    block_table_bytes: int
    csr_table_bytes: int


def memory_figures(kv_lens: Iterable[int], page_size: int) -> MemoryFigures:
    """Return the figures of a batch of ``kv_lens`` tokens at ``page_size`` tokens a page.

    Raises:
        InvalidCase: a length is negative or no whole number, or ``page_size`` is below 1.
    """
    page_size = whole_number("page_size", page_size, low=1)
    lengths = lengths_tuple("kv_lens", kv_lens)
    pages = [pages_needed(length, page_size) for length in lengths]
    num_pages, tokens = sum(pages), sum(lengths)
    slots, slab_slots = num_pages * page_size, len(lengths) * max(lengths, default=0)
    return MemoryFigures(
        num_pages=num_pages,
        slots=slots,
        tokens=tokens,
        waste_tokens=slots - tokens,
        internal_fragmentation=_share(slots - tokens, slots),
        contiguous_fragmentation=_share(slab_slots - tokens, slab_slots),
        efficiency_gain=_share(slab_slots, slots),
        block_table_bytes=len(lengths) * max(pages, default=0) * TABLE_ENTRY_BYTES,
        csr_table_bytes=(2 * len(lengths) + 1 + num_pages) * TABLE_ENTRY_BYTES,
    )


def _share(part: int, whole: int) -> Fraction:
    return Fraction(part, whole) if whole else Fraction(0)
