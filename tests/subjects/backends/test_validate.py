# SPDX-License-Identifier: Apache-2.0
"""Tensors that do not fit their case are refused before a kernel sees an address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.errors import InvalidCase, UnknownName, Unsupported
from pabench.problem import Batch, Case, KvPool, PageLayout, Problem, Tensors, build_tensors
from pabench.subjects.backends.base import Capabilities
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.validate import check_attention
from tests.support.probe import DEVICE

PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=8, page_size=4)


class NoDevice:
    """A device that must not be asked for anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the device was asked for {name}")


BACKEND = RawKernelBackend(NoDevice())


def tensors() -> Tensors:
    return build_tensors(Case(problem=PROBLEM, batch=Batch(kv_lens=(9, 0, 4)), placement="identity"))


def with_table(row: int, column: int, page: int) -> Callable[[Tensors], Tensors]:
    def change(given: Tensors) -> Tensors:
        table = given.layout.block_table.copy()
        table[row, column] = page
        return replace(given, layout=replace(given.layout, block_table=table))

    return change


def with_storage(storage: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], Tensors]:
    return lambda given: replace(given, pool=given.pool.with_storage(storage(given.pool.storage)))


WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "page past the pool": (
        with_table(0, 1, 4),
        "block_table[0, 1] = 4: must be a page of the pool, 0 to 3",
    ),
    "negative page": (with_table(2, 0, -1), "block_table[2, 0] = -1: must be a page of the pool, 0 to 3"),
    "narrow table": (
        lambda t: replace(t, layout=replace(t.layout, block_table=t.layout.block_table[:, :2])),
        "block_table width = 2: sequence 0 of 9 tokens needs 3 pages of 4",
    ),
    "few rows": (
        lambda t: replace(t, layout=replace(t.layout, block_table=t.layout.block_table[:2])),
        "block_table rows = 2: must have one row per sequence, 3",
    ),
    "q of other heads": (
        lambda t: replace(t, q=t.q[:, :3]),
        "q = (3, 3, 8): must have shape (3, 4, 8), or more rows",
    ),
    "q as float64": (
        lambda t: replace(t, q=t.q.astype(np.float64)),
        "q = 'float64': must be stored as float32",
    ),
    "cache as float16": (
        with_storage(lambda storage: storage.astype(np.float16)),
        "cache = 'float16': must be stored as float32",
    ),
    "cache of fewer heads": (
        with_storage(lambda storage: storage[:, :, :, :1].copy()),
        "cache = (2, 4, 4, 1, 8): must have shape (2, 4, 4, 2, 8)",
    ),
    "cache of smaller pages": (
        with_storage(lambda storage: storage[:, :, :2].copy()),
        "cache = (2, 4, 2, 2, 8): must have shape (2, 4, 4, 2, 8)",
    ),
    "cache of 3 axes": (
        with_storage(lambda storage: storage.reshape(2, 4, -1)),
        "cache = (2, 4, 64): must have 5 axes, see KvPool",
    ),
    "cache of fewer pages": (
        with_storage(lambda storage: storage[:, :3].copy()),
        "num_pages = 4: must be the pages of the cache, 3",
    ),
    "query rows of another batch": (
        lambda t: replace(t, qo_indptr=np.array([0, 1, 1, 3], np.int32)),
        "qo_indptr = [0, 1, 1, 3]: must be that of the case",
    ),
    "query rows as int64": (
        lambda t: replace(t, qo_indptr=t.qo_indptr.astype(np.int64)),
        "qo_indptr = 'int64': must have dtype int32",
    ),
    "cache not as e4m3": (
        lambda t: replace(t, case=replace(t.case, problem=replace(PROBLEM, kv_dtype="e4m3"))),
        "cache = 'float32': must be stored as uint8",
    ),
    "other layout": (
        lambda t: replace(t, pool=replace(t.pool, kv_layout="HND")),
        "cache layout = ('HND', False): must be ('NHD', False) as in the case",
    ),
    "interleaved unasked": (
        lambda t: replace(t, pool=KvPool(storage=t.pool.storage, kv_layout="NHD", interleaved=True)),
        "cache layout = ('NHD', True): must be ('NHD', False) as in the case",
    ),
    "lengths of another case": (
        lambda t: replace(t, kv_lens=np.array([9, 0, 5], np.int32)),
        "kv_lens = [9, 0, 5]: must be those of the case",
    ),
    "lengths as int64": (
        lambda t: replace(t, kv_lens=t.kv_lens.astype(np.int64)),
        "kv_lens = 'int64': must have dtype int32",
    ),
    "other page size": (
        lambda t: replace(t, layout=PageLayout(page_size=8, num_pages=4, block_table=t.layout.block_table)),
        "page_size = 8: must be that of the case, 4",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_backends_validate_refuses_before_memory_is_touched(fault: str) -> None:
    change, text = WRONG[fault]
    with pytest.raises(InvalidCase) as caught:
        BACKEND.plan(change(tensors()))
    assert str(caught.value) == text


def test_backends_validate_takes_garbage_where_it_may_be() -> None:
    given = with_table(1, 0, -7)(with_table(0, 2, 3)(tensors()))
    RawKernelBackend(DEVICE).plan(given)


def test_backends_validate_says_what_it_cannot() -> None:
    prefill = build_tensors(Case(problem=PROBLEM, batch=Batch(kv_lens=(9,), q_lens=(9,))))
    narrow = Capabilities(dtypes=frozenset({"float32"}), features=frozenset({"window"}))
    with pytest.raises(Unsupported, match=r"^mine: no prefill$"):
        check_attention("mine", narrow, prefill)
    drafts = build_tensors(Case(problem=PROBLEM, batch=Batch(kv_lens=(9, 3), q_lens=(8, 1))))
    with pytest.raises(Unsupported, match=r"^mine: no speculative$"):
        check_attention("mine", narrow, drafts)
    featured = replace(PROBLEM, causal=False, window=3, soft_cap=30.0, sinks=(0.0,) * 4)
    with pytest.raises(Unsupported, match=r"^mine: no soft-cap, no sinks$"):
        check_attention("mine", narrow, build_tensors(Case(problem=featured, batch=Batch(kv_lens=(9,)))))
    check_attention(
        "mine", narrow, build_tensors(Case(problem=replace(PROBLEM, window=3), batch=Batch(kv_lens=(9,))))
    )
    with pytest.raises(UnknownName, match="unknown feature 'windows'; did you mean 'window'"):
        Capabilities(dtypes=frozenset(), features=frozenset({"windows"}))
    wide, short = replace(PROBLEM, head_dim=257), replace(narrow, max_head_dim=256)
    with pytest.raises(Unsupported, match=r"^mine: head_dim 257 is above 256$"):
        check_attention("mine", short, build_tensors(Case(problem=wide, batch=Batch(kv_lens=(1,)))))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"slots": [0, 16]}, "slot_mapping[1] = 16: must be -1 or a slot below 16"),
        ({"slots": [-2, 0]}, "slot_mapping[0] = -2: must be -1 or a slot below 16"),
        ({"slots": [3, 3]}, "slot_mapping = [3, 3]: must not name a slot twice"),
        ({"slots": [2**31 * 2, 3]}, "slot_mapping[0] = 4294967296: must be -1 or a slot below 16"),
        ({"slots": [0.0, 1.0]}, "slot_mapping = 'float64[2]': must be a vector of whole numbers"),
        ({"slots": [[0], [1]]}, "slot_mapping = 'int64[2, 1]': must be a vector of whole numbers"),
        ({"slots": 3}, "slot_mapping = 'int64[]': must be a vector of whole numbers"),
        ({"slots": [1]}, "keys = (2, 2, 8): must have shape (1, 2, 8)"),
        ({"keys": np.zeros((2, 1, 8), np.float32)}, "keys = (2, 1, 8): must have shape (2, 2, 8)"),
        ({"values": np.zeros((2, 2, 8))}, "values = 'float64': must be stored as float32"),
        ({"dtype": "float16"}, "cache = 'float32[2, 4, 4, 2, 8]': must have 5 axes and be stored as float16"),
    ],
)
def test_backends_validate_refuses_appends(changes: dict[str, Any], text: str) -> None:
    pool = tensors().pool
    rows = np.zeros((2, 2, 8), np.float32)
    slots = np.asarray(changes.get("slots", [0, 1]))
    with pytest.raises(InvalidCase) as caught:
        BACKEND.append(
            pool,
            changes.get("dtype", "float32"),
            changes.get("keys", rows),
            changes.get("values", rows),
            slots,
        )
    assert str(caught.value) == text


def test_backends_validate_knows_its_dtypes() -> None:
    rows = np.zeros((1, 2, 8), np.float32)
    with pytest.raises(UnknownName, match="float32"):
        BACKEND.append(tensors().pool, "float23", rows, rows, np.zeros(1, np.int64))
