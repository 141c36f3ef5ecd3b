# SPDX-License-Identifier: Apache-2.0
"""Corrupt problems: one broken field each, and problems that are odd and still well defined.

Each function takes good tensors and returns broken ones, or None where the case leaves nothing to break.
What a ``Problem`` or a ``PageLayout`` refuses by itself is refused before a backend is asked: as good.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.problem.batch import Batch
from pabench.problem.checks import INT32_MAX
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors

Break = Callable[[Tensors], Tensors | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """A class of corrupt problems.

    Attributes:
        ways: to break a problem so, by name.
        defined: the answer is still defined, so a right one is as good as a refusal.
    """

    ways: dict[str, Break]
    defined: bool = False


def _longest(given: Tensors) -> int:
    return int(np.argmax(given.case.batch.kv_lens))


def _table(change: Callable[[Tensors, Array], Array | None]) -> Break:
    def broken(given: Tensors) -> Tensors | None:
        if not max(given.case.batch.kv_lens):
            return None
        table = change(given, given.layout.block_table.copy())
        return None if table is None else replace(given, layout=replace(given.layout, block_table=table))

    return broken


def _page(page: Callable[[Tensors], int], *, last: bool = False) -> Break:
    def change(given: Tensors, table: Array) -> Array:
        row = _longest(given)
        used = given.layout.pages(row, given.case.batch.kv_lens[row]).size
        table[row, used - 1 if last else 0] = page(given)
        return table

    return _table(change)


def _narrow(given: Tensors, table: Array) -> Array:
    used = given.layout.pages(_longest(given), max(given.case.batch.kv_lens)).size
    return np.ascontiguousarray(table[:, : used - 1])


def _length(value: Callable[[Tensors], int]) -> Break:
    """A length in the array that the case does not have."""

    def broken(given: Tensors) -> Tensors:
        lens = given.kv_lens.copy()
        lens[_longest(given)] = value(given)
        return replace(given, kv_lens=lens)

    return broken


def _case_length(more: int) -> Break:
    """A length in case and array alike, past what the table holds."""

    def broken(given: Tensors) -> Tensors:
        lens = list(given.case.batch.kv_lens)
        lens[_longest(given)] = given.layout.max_pages * given.layout.page_size + more
        batch = Batch(kv_lens=tuple(lens), q_lens=given.case.batch.query_lens)
        case = replace(given.case, batch=batch)
        return replace(given, case=case, kv_lens=np.asarray(lens, np.int32))

    return broken


def _problem(**fields: Any) -> Break:
    return lambda given: replace(
        given, case=replace(given.case, problem=replace(given.case.problem, **fields))
    )


def _wider_values(given: Tensors) -> Tensors | None:
    """Values longer than their storage, in the case alone; those of a latent cache than its keys too."""
    problem = given.case.problem
    return _problem(head_dim_v=problem.head_dim + problem.value_dim)(given)


def _latent(given: Tensors) -> Tensors | None:
    """A cache of keys and values that the case calls latent, of values longer than its keys."""
    size = given.case.problem.head_dim
    latent = {"num_kv_heads": 1, "latent": True, "head_dim_v": size + 1, "sm_scale": 1.0}
    return _problem(**latent)(given)


def _mask(name: str, entry: Callable[[int, int], Any]) -> Break:
    """A mask whose entry of each sequence follows from its numbers of keys and of query tokens."""

    def broken(given: Tensors) -> Tensors:
        batch = given.case.batch
        value = [entry(*lengths) for lengths in zip(batch.kv_lens, batch.query_lens, strict=True)]
        return replace(given, case=replace(given.case, masks=((name, value),)))

    return broken


def _field(name: str, change: Callable[[Array], Array]) -> Break:
    def broken(given: Tensors) -> Tensors:
        fields: dict[str, Any] = {name: change(getattr(given, name))}
        return replace(given, **fields)

    return broken


def _cache(change: Callable[[Array], Array]) -> Break:
    def broken(given: Tensors) -> Tensors | None:
        storage = given.pool.storage
        # an empty pool has no pages to take away and no elements to gap
        return replace(given, pool=given.pool.with_storage(change(storage))) if storage.size else None

    return broken


def _rows(change: Callable[[Array], Array]) -> Break:
    def broken(given: Tensors) -> Tensors | None:
        changed = change(given.qo_indptr.copy())
        return None if np.array_equal(changed, given.qo_indptr) else replace(given, qo_indptr=changed)

    return broken


def _set(array: Array, at: int, value: int) -> Array:
    array[at] = value
    return array


def _misaligned(array: Array) -> Array:
    """A copy at an address that is odd."""
    memory = np.empty(array.nbytes + 1, np.uint8)
    held = np.ndarray(array.shape, array.dtype, buffer=memory.data, offset=1)
    held[...] = array
    return held


def _wide_gaps(array: Array) -> Array:
    """A copy with unused elements between its own."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


CORRUPTIONS: dict[str, Corruption] = {
    "page id out of the pool": Corruption(
        ways={
            "-1": _page(lambda given: -1),
            "the first beyond the pool": _page(lambda given: given.layout.num_pages, last=True),
            "the largest int32": _page(lambda given: INT32_MAX),
        }
    ),
    "table too small": Corruption(
        ways={
            "narrower than the lengths": _table(_narrow),
            "of width 0": _table(lambda given, table: np.zeros((table.shape[0], 0), np.int32)),
            "a row short": _table(lambda given, table: table[:-1]),
        }
    ),
    "table of another shape or type": Corruption(
        ways={
            "int64": _table(lambda given, table: table.astype(np.int64)),
            "float32": _table(lambda given, table: table.astype(np.float32)),
            "flat": _table(lambda given, table: table.ravel()),
        }
    ),
    "negative length": Corruption(
        ways={
            "-1": _length(lambda given: -1),
            "the smallest int32": _length(lambda given: -(2**31)),
        }
    ),
    "length over capacity": Corruption(
        ways={
            "one token past the table, in the array": _length(
                lambda given: given.layout.max_pages * given.layout.page_size + 1
            ),
            "one token past the table": _case_length(1),
            "the largest int32": _length(lambda given: INT32_MAX),
        }
    ),
    "lengths of another shape or type": Corruption(
        ways={
            "one short": _field("kv_lens", lambda lens: lens[:-1]),
            "int64": _field("kv_lens", lambda lens: lens.astype(np.int64)),
            "float32": _field("kv_lens", lambda lens: lens.astype(np.float32)),
        }
    ),
    "query rows not in order": Corruption(
        ways={
            "falling": _rows(lambda indptr: _set(indptr, 1, int(indptr[-1]) + 1)),
            "starting at 1": _rows(lambda indptr: _set(indptr, 0, 1)),
            "ending past q": _rows(lambda indptr: _set(indptr, -1, int(indptr[-1]) + 1)),
            "one entry short": _rows(lambda indptr: indptr[:-1]),
        }
    ),
    "q of another shape or type": Corruption(
        ways={
            "one row short": _field("q", lambda q: q[1:]),
            "float64": _field("q", lambda q: q.astype(np.float64)),
            "one element short": _field("q", lambda q: np.ascontiguousarray(q[:, :, :-1])),
            "heads and elements in one": _field("q", lambda q: q.reshape(len(q), -1)),
        }
    ),
    "cache of another shape or type": Corruption(
        ways={
            "float64": _cache(lambda storage: storage.astype(np.float64)),
            "one element short": _cache(lambda storage: np.ascontiguousarray(storage[..., :-1])),
            "4 axes": _cache(lambda storage: storage.reshape(-1, *storage.shape[2:])),
            "no page": _cache(lambda storage: storage[:, :0] if storage.shape[0] == 2 else storage[:0]),
        }
    ),
    "scale that is no number": Corruption(
        ways={
            "sm_scale NaN": _problem(sm_scale=math.nan),
            "sm_scale infinite": _problem(sm_scale=math.inf),
            "k_scale NaN": _problem(kv_dtype="e4m3", k_scale=(math.nan,)),
            "q_scale NaN": _problem(q_dtype="e4m3", q_scale=(math.nan,)),
            "v_scale infinite": _problem(kv_dtype="e4m3", v_scale=(math.inf,)),
        }
    ),
    "cache that is not what the problem says": Corruption(
        ways={
            "values longer than stored": _wider_values,
            "latent values longer than keys": _latent,
            "rows of int8 with their scales": _problem(
                kv_dtype="int8-token-head", k_scale=None, v_scale=None
            ),
            "rows of NVFP4": _problem(kv_dtype="nvfp4", k_scale=None, v_scale=None),
            "a scale of queries that have none": _problem(q_scale=(2.0,)),
            "queries of e5m2": _problem(q_dtype="e5m2"),
            "scales of another number of sequences": lambda given: replace(
                given,
                case=replace(
                    given.case,
                    problem=replace(given.case.problem, kv_dtype="e4m3", k_scale=None, v_scale=None),
                    scales=(
                        ("k", ((1.0,) * given.case.problem.num_kv_heads,) * (given.case.batch.num_seqs + 1)),
                    ),
                ),
            ),
            "a scale too many": _problem(kv_dtype="e5m2", k_scale=(1.0,) * 99),
            "scales beside those of the rows": _problem(kv_dtype="mxfp8", k_scale=(1.0,)),
            "gaps behind pages that have none": lambda given: replace(
                given, case=replace(given.case, page_gaps=(8, 0))
            ),
        }
    ),
    "keys that contradict themselves": Corruption(
        ways={
            "a tree with a cycle": _mask("draft-tree", lambda kv_len, q_len: [*range(1, q_len), 0]),
            "a list of tokens past the length": _mask("token-lists", lambda kv_len, q_len: [kv_len]),
            "a list of pages past the length": _mask("page-lists", lambda kv_len, q_len: [kv_len]),
            "spans that overlap": _mask("image-spans", lambda kv_len, q_len: [[0, kv_len], [0, kv_len]]),
            "a first token behind its page": _mask("starts-in-page", lambda kv_len, q_len: 2**20),
        }
    ),
    "heads that do not divide": Corruption(
        ways={
            "3 query heads, 2 KV heads": _problem(num_qo_heads=3, num_kv_heads=2),
            "more KV heads than query heads": _problem(num_qo_heads=2, num_kv_heads=4),
            "no KV head": _problem(num_kv_heads=0),
        }
    ),
    "page size that is none": Corruption(
        ways={
            "0": _problem(page_size=0),
            "-16": _problem(page_size=-16),
            "of the table another": lambda given: replace(
                given, layout=replace(given.layout, page_size=given.layout.page_size + 1)
            ),
        }
    ),
    "misaligned memory": Corruption(
        defined=True,
        ways={
            "q at an odd address": _field("q", _misaligned),
            "cache at an odd address": _cache(_misaligned),
            "table at an odd address": _table(lambda given, table: _misaligned(table)),
            "lengths at an odd address": _field("kv_lens", _misaligned),
        },
    ),
    "strided memory": Corruption(
        defined=True,
        ways={
            "q with gaps": _field("q", _wide_gaps),
            "cache with gaps": _cache(_wide_gaps),
            "table with gaps": _table(lambda given, table: _wide_gaps(table)),
            "q column-major": _field("q", np.asfortranarray),
        },
    ),
}
"""Classes of corrupt problems, by name."""
