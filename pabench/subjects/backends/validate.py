# SPDX-License-Identifier: Apache-2.0
"""What every adapter checks before it touches memory: reject or correct, never a wild read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pabench.errors import InvalidCase, Unsupported
from pabench.problem.append import table_slots
from pabench.problem.batch import Batch
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array, DType, dtype_by_name
from pabench.problem.layout import PageLayout
from pabench.problem.pool import NO_GAPS, KvPool, pool_parts, pool_shape
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import PADDED_ROWS, Capabilities


def check_attention(name: str, capabilities: Capabilities, tensors: Tensors) -> None:
    """Raise unless ``tensors`` agree with their case and the backend can run it.

    Raises:
        Unsupported: the backend declares that it cannot.
        InvalidCase: a shape, dtype, length or page id that breaks a rule.
    """
    case = tensors.case
    reason = capabilities.why_not(case)
    if reason:
        raise Unsupported(f"{name}: {reason}")
    problem, batch = case.problem, case.batch
    expected = (batch.num_query_tokens, problem.num_qo_heads, problem.head_dim)
    more = PADDED_ROWS in capabilities.operations and tensors.q.shape[1:] == expected[1:]
    if tensors.q.shape != expected and not (more and tensors.q.shape[0] > expected[0]):
        words = ", or more rows" if PADDED_ROWS in capabilities.operations else ""
        raise InvalidCase("q", tensors.q.shape, f"must have shape {expected}{words}")
    if tensors.q.dtype != problem.q_storage.storage:
        raise InvalidCase("q", str(tensors.q.dtype), f"must be stored as {problem.q_storage.storage}")
    pool, layout = tensors.pool, tensors.layout
    wanted = (case.kv_layout, case.interleaved)
    if (pool.kv_layout, pool.interleaved) != wanted:
        given = (pool.kv_layout, pool.interleaved)
        raise InvalidCase("cache layout", given, f"must be {wanted} as in the case")
    parts = pool_parts(problem, case.gaps)
    if pool.parts != parts:
        raise InvalidCase("parts of a page", pool.parts, f"must be {parts} as in the case")
    stored = problem.kv_storage.storage
    if pool.storage.dtype != stored:
        raise InvalidCase("cache", str(pool.storage.dtype), f"must be stored as {stored}")

    def shape(num_pages: int) -> tuple[int, ...]:
        layout, interleaved = case.kv_layout, case.interleaved
        return pool_shape(problem, num_pages, kv_layout=layout, interleaved=interleaved, gaps=case.gaps)

    axes = len(shape(1))
    if pool.storage.ndim != axes:
        raise InvalidCase("cache", pool.storage.shape, f"must have {axes} axes, see KvPool")
    cache = shape(pool.num_pages)
    if pool.storage.shape != cache:
        raise InvalidCase("cache", pool.storage.shape, f"must have shape {cache}")
    if tensors.kv_lens.dtype != np.int32:
        raise InvalidCase("kv_lens", str(tensors.kv_lens.dtype), "must have dtype int32")
    if tensors.kv_lens.tolist() != list(batch.kv_lens):
        raise InvalidCase("kv_lens", tensors.kv_lens.tolist(), "must be those of the case")
    if tensors.qo_indptr.dtype != np.int32:
        raise InvalidCase("qo_indptr", str(tensors.qo_indptr.dtype), "must have dtype int32")
    if tensors.qo_indptr.tolist() != batch.qo_indptr.tolist():
        raise InvalidCase("qo_indptr", tensors.qo_indptr.tolist(), "must be that of the case")
    if layout.page_size != problem.page_size:
        raise InvalidCase("page_size", layout.page_size, f"must be that of the case, {problem.page_size}")
    if layout.num_pages != pool.num_pages:
        raise InvalidCase("num_pages", layout.num_pages, f"must be the pages of the cache, {pool.num_pages}")
    tensors.layout.validate(batch.kv_lens)


def check_append(
    pool: KvPool,
    keys: Array,
    values: Array,
    slot_mapping: Array,
    dtype: str,
    *,
    problem: Problem | None = None,
) -> int:
    """Raise ``InvalidCase`` unless tokens of ``dtype`` fit their slots in the cache; return its page size.

    The cache is stored as ``problem`` says, or as the tokens are.
    """
    slots = np.asarray(slot_mapping)
    if slots.ndim != 1 or slots.dtype.kind not in "iu":
        raise InvalidCase(
            "slot_mapping", f"{slots.dtype}{list(slots.shape)}", "must be a vector of whole numbers"
        )
    page_size = _check_tokens(pool, keys, values, len(slots), dtype_by_name(dtype), problem)
    capacity = pool.num_pages * page_size
    bad = np.flatnonzero((slots >= capacity) | (slots < -1))
    if bad.size:
        at = int(bad[0])
        raise InvalidCase(f"slot_mapping[{at}]", int(slots[at]), f"must be -1 or a slot below {capacity}")
    _check_distinct("slot_mapping", slots[slots >= 0])
    return page_size


def check_append_paged(
    pool: KvPool,
    problem: Problem,
    keys: Array,
    values: Array,
    *,
    block_table: Array,
    kv_lens: Array,
    qo_indptr: Array,
) -> None:
    """Raise ``InvalidCase`` unless the new tokens have places of their own in their sequences' pages."""
    for field, array in (("kv_lens", kv_lens), ("qo_indptr", qo_indptr)):
        if array.ndim != 1 or array.dtype != np.int32:
            given = f"{array.dtype}{list(array.shape)}"
            raise InvalidCase(field, given, "must be a vector of int32")
    if len(qo_indptr) != len(kv_lens) + 1 or qo_indptr[0] != 0 or (np.diff(qo_indptr) < 0).any():
        rule = f"must rise from 0 and have {len(kv_lens) + 1} entries, one more than kv_lens"
        raise InvalidCase("qo_indptr", qo_indptr.tolist(), rule)
    page_size = _check_tokens(pool, keys, values, int(qo_indptr[-1]), problem.storage, problem)
    if page_size != problem.page_size:
        raise InvalidCase("cache", pool.storage.shape, f"must have pages of {problem.page_size} tokens")
    layout = PageLayout(page_size=page_size, num_pages=pool.num_pages, block_table=block_table)
    layout.validate(kv_lens.tolist())
    batch = Batch(kv_lens=tuple(kv_lens.tolist()), q_lens=tuple(np.diff(qo_indptr).tolist()))
    for sequence, (q_len, kv_len) in enumerate(zip(batch.query_lens, batch.kv_lens, strict=True)):
        if q_len > kv_len:
            raise InvalidCase(f"kv_lens[{sequence}]", kv_len, f"must hold its {q_len} new tokens")
    _check_distinct("slots of the new tokens", np.asarray(table_slots(layout, batch)))


def check_pages(pool: KvPool, problem: Problem, *, block_table: Array, kv_lens: Array) -> None:
    """Raise ``InvalidCase`` unless the pages of the sequences lie in a cache as ``problem`` has it."""
    gaps = NO_GAPS if pool.parts is None else pool.parts.gaps
    shape = pool_shape(
        problem, pool.num_pages, kv_layout=pool.kv_layout, interleaved=pool.interleaved, gaps=gaps
    )
    stored = problem.kv_storage.storage
    if pool.storage.shape != shape or pool.storage.dtype != stored:
        given = f"{pool.storage.dtype}{list(pool.storage.shape)}"
        raise InvalidCase("cache", given, f"must be {stored}{list(shape)}")
    if kv_lens.ndim != 1 or kv_lens.dtype != np.int32:
        raise InvalidCase("kv_lens", f"{kv_lens.dtype}{list(kv_lens.shape)}", "must be a vector of int32")
    layout = PageLayout(page_size=problem.page_size, num_pages=pool.num_pages, block_table=block_table)
    layout.validate(kv_lens.tolist())
    Batch(kv_lens=tuple(kv_lens.tolist()))


def check_copies(pools: Sequence[KvPool], copies: Array, count: int) -> None:
    """Raise ``InvalidCase`` unless the first ``count`` copies lie in the caches and do not meet."""
    if not pools:
        raise InvalidCase("pools", 0, "must be at least one")
    pool = pools[0]
    for other in pools[1:]:
        if (other.storage.shape, other.kv_layout, other.interleaved) != (
            *(pool.storage.shape, pool.kv_layout, pool.interleaved),
        ):
            raise InvalidCase("pools", other.storage.shape, f"must be alike, like {pool.storage.shape}")
    if copies.ndim != 2 or copies.shape[1] != 3 or copies.dtype != np.int32:
        raise InvalidCase("copies", f"{copies.dtype}{list(copies.shape)}", "must be int32[n, 3]")
    whole_number("count", count, low=0, high=len(copies))
    page_size = pool.k.shape[1 if pool.kv_layout == "NHD" else 2]
    ends = (("source", pool.num_pages - 1), ("target", pool.num_pages - 1), ("slots", page_size))
    for column, (what, high) in enumerate(ends):
        for row, number in enumerate(copies[:count, column].tolist()):
            whole_number(f"copies[{row}] {what}", number, low=0, high=high)
    sources, targets = copies[:count, 0].tolist(), copies[:count, 1].tolist()
    _check_distinct("targets of copies", copies[:count, 1], what="page")
    for row, target in enumerate(targets):
        if target in sources:
            raise InvalidCase(f"copies[{row}] target", target, "must not be a source as well")


def check_states(outs: Array, lses: Array, dtype: str) -> None:
    """Raise ``InvalidCase`` unless ``outs`` and ``lses`` are states to merge, stored as ``dtype``."""
    stored = dtype_by_name(dtype).storage
    if outs.ndim != 4 or not outs.shape[0] or outs.dtype != stored:
        given = f"{outs.dtype}{list(outs.shape)}"
        raise InvalidCase("outs", given, f"must have 4 axes, a state at least, and be stored as {stored}")
    if lses.shape != outs.shape[:3] or lses.dtype != np.float32:
        rule = f"must be float32 of shape {outs.shape[:3]}"
        raise InvalidCase("lses", f"{lses.dtype}{list(lses.shape)}", rule)


def _check_tokens(
    pool: KvPool, keys: Array, values: Array, count: int, dtype: DType, problem: Problem | None
) -> int:
    """Raise unless ``count`` keys and values of ``dtype`` fit the cache; return its page size."""
    stored = (problem.kv_storage if problem else dtype).storage
    axes = 5
    if problem is not None:
        gaps = NO_GAPS if pool.parts is None else pool.parts.gaps
        layout, interleaved = pool.kv_layout, pool.interleaved
        axes = len(pool_shape(problem, 1, kv_layout=layout, interleaved=interleaved, gaps=gaps))
        if pool.parts != pool_parts(problem, gaps):
            raise InvalidCase("parts of a page", pool.parts, f"must be {pool_parts(problem)}, or have gaps")
    elif pool.parts is not None:
        axes = pool.storage.ndim
    if pool.storage.ndim != axes or pool.storage.dtype != stored:
        given = f"{pool.storage.dtype}{list(pool.storage.shape)}"
        raise InvalidCase("cache", given, f"must have {axes} axes and be stored as {stored}")
    shape, of_values = pool.k.shape, pool.v.shape
    page_size, num_kv_heads = shape[1:3] if pool.kv_layout == "NHD" else (shape[2], shape[1])
    dims = (problem.head_dim, problem.value_dim) if problem else (shape[3], of_values[3])
    units = (problem.row_units("k"), problem.row_units("v")) if problem else dims
    if (shape[3], of_values[3]) != units:
        raise InvalidCase("cache", (shape[3], of_values[3]), f"must have rows of {units} elements")
    for field, array, dim in (("keys", keys, dims[0]), ("values", values, dims[1])):
        expected = (count, num_kv_heads, dim)
        if array.shape != expected:
            raise InvalidCase(field, array.shape, f"must have shape {expected}")
        if array.dtype != dtype.storage:
            raise InvalidCase(field, str(array.dtype), f"must be stored as {dtype.storage}")
    return int(page_size)


def _check_distinct(field: str, numbers: Array, *, what: str = "slot") -> None:
    if np.unique(numbers).size != numbers.size:
        raise InvalidCase(field, numbers.tolist(), f"must not name a {what} twice")
