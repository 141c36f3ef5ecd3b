# SPDX-License-Identifier: Apache-2.0
"""Block tables: which physical page holds which logical page of which sequence.

Two spellings of one table, each convertible into the other:

* padded: ``block_table (num_seqs, max_pages) int32``; entries past ``ceil(kv_len / page_size)`` are garbage;
* CSR: ``indptr (num_seqs + 1,)``, ``indices (total_pages,)``, ``last_page_len (num_seqs,)``, all int32.

``last_page_len`` is in ``1..page_size``, and 0 for an empty sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import lengths_tuple, whole_number
from pabench.problem.dtypes import Array


def pages_needed(kv_len: int, page_size: int) -> int:
    """Return ``ceil(kv_len / page_size)``."""
    return -(-kv_len // page_size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CsrTable:
    """A block table without padding; see the module's head for the shapes."""

    indptr: Array
    indices: Array
    last_page_len: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PageLayout:
    """A padded block table over a pool of ``num_pages`` pages of ``page_size`` tokens."""

    page_size: int
    num_pages: int
    block_table: Array

    def __post_init__(self) -> None:
        whole_number("page_size", self.page_size, low=1)
        whole_number("num_pages", self.num_pages, low=0)
        table = np.asarray(self.block_table)
        if table.ndim != 2:
            raise InvalidCase("block_table", table.shape, "must have shape (num_seqs, max_pages)")
        if table.dtype != np.int32:
            raise InvalidCase("block_table", str(table.dtype), "must have dtype int32")

    @property
    def num_seqs(self) -> int:
        """Rows of the table."""
        return int(self.block_table.shape[0])

    @property
    def max_pages(self) -> int:
        """Columns of the table."""
        return int(self.block_table.shape[1])

    def pages(self, sequence: int, kv_len: int) -> Array:
        """Return the physical pages of one sequence in logical order, int32 ``(ceil(kv_len / P),)``."""
        row: Array = self.block_table[sequence, : pages_needed(kv_len, self.page_size)]
        return row

    def validate(self, kv_lens: Sequence[int]) -> None:
        """Raise ``InvalidCase`` unless the table covers ``kv_lens`` with pages of the pool."""
        lengths_tuple("kv_lens", kv_lens)
        if len(kv_lens) != self.num_seqs:
            rule = f"must have one row per sequence, {len(kv_lens)}"
            raise InvalidCase("block_table rows", self.num_seqs, rule)
        for sequence, kv_len in enumerate(kv_lens):
            need = pages_needed(kv_len, self.page_size)
            if need > self.max_pages:
                rule = f"sequence {sequence} of {kv_len} tokens needs {need} pages of {self.page_size}"
                raise InvalidCase("block_table width", self.max_pages, rule)
            row = self.block_table[sequence, :need]
            bad = np.flatnonzero((row < 0) | (row >= self.num_pages))
            if bad.size:
                at = int(bad[0])
                rule = f"must be a page of the pool, 0 to {self.num_pages - 1}"
                raise InvalidCase(f"block_table[{sequence}, {at}]", int(row[at]), rule)

    def to_csr(self, kv_lens: Sequence[int]) -> CsrTable:
        """Return the same table as CSR; ``kv_lens`` says which entries are not padding."""
        self.validate(kv_lens)
        counts = [pages_needed(n, self.page_size) for n in kv_lens]
        rows = [self.block_table[i, :count] for i, count in enumerate(counts)]
        last = [
            n - (count - 1) * self.page_size if count else 0 for n, count in zip(kv_lens, counts, strict=True)
        ]
        return CsrTable(
            indptr=np.concatenate(([0], np.cumsum(counts))).astype(np.int32),
            indices=np.concatenate([*rows, np.empty(0, np.int32)]).astype(np.int32),
            last_page_len=np.asarray(last, dtype=np.int32),
        )


def layout_from_csr(table: CsrTable, *, page_size: int, num_pages: int) -> tuple[PageLayout, tuple[int, ...]]:
    """Return the padded table (padding is -1) and the ``kv_lens`` that a CSR table describes.

    Raises:
        InvalidCase: ``indptr`` does not start at 0, decreases or does not end at the number of indices, an
            index is not a page of the pool, or a ``last_page_len`` is outside ``1..page_size`` (0 for a
            sequence without pages).
    """
    whole_number("page_size", page_size, low=1)
    indptr, indices, last = (_vector(table, name) for name in ("indptr", "indices", "last_page_len"))
    if indptr.size < 1 or indptr[0] != 0:
        raise InvalidCase("indptr", indptr.tolist(), "must be a vector that starts at 0")
    counts = np.diff(indptr)
    if (counts < 0).any():
        raise InvalidCase("indptr", indptr.tolist(), "must not decrease")
    if indptr[-1] != indices.size:
        raise InvalidCase("indptr", int(indptr[-1]), f"must end at the number of indices, {indices.size}")
    # before they go into an int32 table, where a larger one would wrap to a page of the pool
    bad = np.flatnonzero((indices < 0) | (indices >= num_pages))
    if bad.size:
        rule = f"must be a page of the pool, 0 to {num_pages - 1}"
        raise InvalidCase(f"indices[{int(bad[0])}]", int(indices[bad[0]]), rule)
    if last.shape != counts.shape:
        raise InvalidCase("last_page_len", last.shape, f"must have one entry per sequence, {counts.size}")
    lengths = []
    for i, (count, fill) in enumerate(zip(counts.tolist(), last.tolist(), strict=True)):
        if not (1 <= fill <= page_size if count else fill == 0):
            rule = f"must be in 1..{page_size}" if count else "must be 0 for a sequence without pages"
            raise InvalidCase(f"last_page_len[{i}]", fill, rule)
        lengths.append((count - 1) * page_size + fill if count else 0)
    padded = np.full((counts.size, int(counts.max(initial=0))), -1, dtype=np.int32)
    for i, count in enumerate(counts.tolist()):
        padded[i, :count] = indices[indptr[i] : indptr[i] + count]
    return PageLayout(page_size=page_size, num_pages=num_pages, block_table=padded), tuple(lengths)


def _vector(table: CsrTable, name: str) -> Array:
    """A field of ``table`` as an int64 vector."""
    array = np.asarray(getattr(table, name))
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or not array.size):
        shape = f"{array.dtype} of shape {array.shape}"
        raise InvalidCase(name, shape, "must be a vector of whole numbers")
    return array.astype(np.int64)
