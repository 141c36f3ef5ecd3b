# SPDX-License-Identifier: Apache-2.0
"""Checks of gathering the pages of a batch into dense rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.checks.watched import watched
from pabench.device.base import Device
from pabench.judge.cached import row_numbers
from pabench.problem.case import Case
from pabench.problem.dtypes import Array, encode
from pabench.problem.tensors import Tensors, build_tensors
from pabench.subjects.backends.base import Backend, offered


def check_gather(case: Case, backend: Backend, device: Device) -> Outcome:
    """Tokens come out of their pages in order, bit for bit; formats also as numbers, rounded once."""
    tensors = build_tensors(case)
    gather = offered(backend, "gather")
    where = {"block_table": tensors.layout.block_table, "kv_lens": tensors.kv_lens}
    # scales of a sequence are not the cache's, which gather is told
    for raw in (True, False) if case.problem.kv_dtype is not None and not case.scales else (True,):
        call = partial(gather, tensors.pool, case.problem, **where, raw=raw)
        found, stray = watched(device, {**where, "the cache": tensors.pool.storage}, call)
        if stray:
            return failed(stray)
        for kind, name, rows in zip("kv", ("key", "value"), found, strict=True):
            wrong = _difference(tensors, rows, _expected(tensors, kind, raw=raw))
            if wrong:
                how = "as stored" if raw else "times its scales"
                return failed(f"{name} {wrong}, {how}")
    return PASSED


def _expected(tensors: Tensors, kind: str, *, raw: bool) -> Array:
    """Rows of all sequences, read page by page."""
    problem, pool = tensors.case.problem, tensors.pool
    view = pool.k if kind == "k" else pool.v
    rows = [np.empty((0, problem.num_kv_heads, problem.row_units(kind)), view.dtype)]
    for sequence, kv_len in enumerate(tensors.case.batch.kv_lens):
        for position in range(kv_len):
            logical, offset = divmod(position, problem.page_size)
            page = int(tensors.layout.block_table[sequence, logical])
            token = view[page, offset] if pool.kv_layout == "NHD" else view[page, :, offset]
            rows.append(token[None])
    stored = np.concatenate(rows)
    if raw:
        return stored
    scales = np.asarray(problem.kv_scales(kind), np.float32).astype(np.float64)[:, None]
    # at most 8 bits times 24 are exact in float64, and so are those of a scale of 4 bits between them
    with np.errstate(invalid="ignore"):
        return encode(row_numbers(problem, stored, kind) * scales, problem.storage)


def _difference(tensors: Tensors, got: Any, expected: Array) -> str | None:
    """Say where rows differ in any bit but those of a NaN, or None."""
    if not isinstance(got, np.ndarray) or (got.shape, got.dtype) != (expected.shape, expected.dtype):
        given = f"{got.dtype}{list(got.shape)}" if hasattr(got, "shape") else type(got).__name__
        return f"rows are {given}, must be {expected.dtype}{list(expected.shape)}"
    bits = np.dtype(f"u{got.dtype.itemsize}")
    where = np.argwhere(np.ascontiguousarray(got).view(bits) != expected.view(bits))
    if not where.size:
        return None
    row, head, dim = (int(i) for i in where[0])
    ends = np.cumsum(tensors.case.batch.kv_lens)
    sequence = int(np.searchsorted(ends, row, side="right"))
    token = row - int(ends[sequence]) + tensors.case.batch.kv_lens[sequence]
    page = int(tensors.layout.block_table[sequence, token // tensors.layout.page_size])
    place = f"of sequence {sequence}, token {token} (page {page}), KV head {head}, dim {dim}"
    return f"{place} is wrong: {got[row, head, dim]}, must be {expected[row, head, dim]}"
