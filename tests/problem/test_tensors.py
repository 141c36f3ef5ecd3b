# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import InvalidCase
from pabench.problem import tensors as tensors_module
from pabench.problem.batch import Batch
from pabench.problem.case import POISONS, Case
from pabench.problem.dtypes import DTYPES, Array, decode
from pabench.problem.families import FAMILIES
from pabench.problem.placement import PLACEMENTS
from pabench.problem.poison import poison_value
from pabench.problem.pool import KV_LAYOUTS, KvPool, pool_shape
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors, build_tensors

PROBLEM = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=8, page_size=4)
CASE = Case(problem=PROBLEM, batch=Batch(kv_lens=(5, 0, 9, 8)), spare_pages=3, poison="nan")

LAYOUTS: list[dict[str, Any]] = [
    {"kv_layout": layout, "interleaved": interleaved, "placement": placement}
    for layout in KV_LAYOUTS
    for interleaved in (False, True)
    for placement in PLACEMENTS
]


def _gather(tensors: Tensors, view: Array) -> list[Array]:
    """Tokens of each sequence in order, one at a time and straight from the convention's definition."""
    page_size = tensors.case.problem.page_size
    out = []
    for sequence, kv_len in enumerate(tensors.case.batch.kv_lens):
        rows = []
        for token in range(kv_len):
            page = view[int(tensors.layout.block_table[sequence, token // page_size])]
            offset = token % page_size
            rows.append(page[offset] if tensors.case.kv_layout == "NHD" else page[:, offset])
        out.append(np.asarray(rows))
    return out


def _bits(array: Array) -> bytes:
    return array.tobytes()


@pytest.mark.parametrize("change", LAYOUTS, ids=str)
def test_tensors_same_tokens_in_any_layout_and_place(change: dict[str, Any]) -> None:
    plain = build_tensors(CASE)
    moved = build_tensors(replace(CASE, **change))
    assert _bits(moved.q) == _bits(plain.q)
    for name in ("k", "v"):
        expected = _gather(plain, getattr(plain.pool, name))
        for want, got in zip(expected, _gather(moved, getattr(moved.pool, name)), strict=True):
            assert want.shape == got.shape
            assert _bits(want) == _bits(got)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_same_case_same_bytes(family: str, dtype: str) -> None:
    case = replace(CASE, family=family, problem=replace(PROBLEM, dtype=dtype), seed=7)
    first, second = build_tensors(case), build_tensors(replace(case))
    assert _bits(first.q) == _bits(second.q)
    assert _bits(first.pool.storage) == _bits(second.pool.storage)
    assert _bits(first.layout.block_table) == _bits(second.layout.block_table)
    other = build_tensors(replace(case, seed=8))
    assert _bits(other.pool.storage) != _bits(first.pool.storage)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sm_scale", [None, 0.0, -0.5, 2.0**-20, 2.0**20])
def test_tensors_of_every_family_are_finite(family: str, dtype: str, sm_scale: float | None) -> None:
    problem = replace(PROBLEM, dtype=dtype, sm_scale=sm_scale)
    tensors = build_tensors(replace(CASE, family=family, poison="zero", problem=problem))
    for array in (tensors.q, tensors.pool.storage):
        assert np.isfinite(decode(array, problem.storage)).all()


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", [c for c in LAYOUTS if c["placement"] != "high"], ids=str)
def test_tensors_poison_everywhere_no_query_may_read(change: dict[str, Any], dtype: str, poison: str) -> None:
    case = replace(CASE, poison=poison, problem=replace(PROBLEM, dtype=dtype), **change)
    tensors = build_tensors(case)
    may_read = _readable(tensors)
    assert may_read.sum() == sum(case.batch.kv_lens)
    value = poison_value(poison, case.problem.storage)
    for view in (tensors.pool.k, tensors.pool.v):
        slots = view if case.kv_layout == "NHD" else view.swapaxes(1, 2)
        assert (slots[~may_read] == value).all() or (poison == "nan" and dtype != "bfloat16")
        spare = decode(slots[~may_read], case.problem.storage)
        want = {"zero": 0.0, "nan": np.nan, "inf": np.inf, "huge": case.problem.storage.maximum}[poison]
        np.testing.assert_array_equal(spare, np.full(spare.shape, want))
        assert not (decode(slots[may_read], case.problem.storage) == 0).all()
        assert np.isfinite(decode(slots[may_read], case.problem.storage)).all()


def _readable(tensors: Tensors) -> Array:
    page_size = tensors.case.problem.page_size
    mask = np.zeros((tensors.pool.num_pages, page_size), dtype=bool)
    for sequence, kv_len in enumerate(tensors.case.batch.kv_lens):
        for token in range(kv_len):
            mask[tensors.layout.block_table[sequence, token // page_size], token % page_size] = True
    return mask


@pytest.mark.parametrize("interleaved", [False, True])
def test_tensors_large_pool_is_poisoned_around_the_used_pages(
    interleaved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors_module, "FULL_POISON_BYTES", 0)
    case = replace(CASE, placement="high", interleaved=interleaved)
    tensors = build_tensors(case)
    used = {int(p) for i, n in enumerate(case.batch.kv_lens) for p in tensors.layout.pages(i, n)}
    wrapped = {page % 2**16 for page in used}
    around = {q for p in used for q in (p - 1, p, p + 1) if 0 <= q < tensors.pool.num_pages} | wrapped | {0}
    may_read = _readable(tensors)
    for view in (tensors.pool.k, tensors.pool.v):
        for page in around:
            assert np.isnan(view[page][~may_read[page]]).all()
            assert np.isfinite(view[page][may_read[page]]).all()


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from(KV_LAYOUTS),
    st.booleans(),
    st.integers(0, 99),
)
def test_tensors_table_and_shapes_property(
    kv_lens: list[int], page_size: int, kv_layout: str, interleaved: bool, seed: int
) -> None:
    case = Case(
        problem=replace(PROBLEM, page_size=page_size),
        batch=Batch(kv_lens=tuple(kv_lens), q_lens=tuple(n % 3 for n in kv_lens)),
        kv_layout=kv_layout,
        interleaved=interleaved,
        seed=seed,
    )
    tensors = build_tensors(case)
    tensors.layout.validate(kv_lens)
    assert tensors.q.shape == (sum(n % 3 for n in kv_lens), 6, 8)
    assert tensors.kv_lens.dtype == tensors.qo_indptr.dtype == np.int32
    assert tensors.kv_lens.tolist() == kv_lens
    assert tensors.pool.num_pages == tensors.layout.num_pages
    page = (page_size, 2, 8) if kv_layout == "NHD" else (2, page_size, 8)
    assert tensors.pool.k.shape == tensors.pool.v.shape == (tensors.layout.num_pages, *page)


def test_tensors_contents_do_not_follow_the_placement_of_one_sequence() -> None:
    """A batch of one once drew contents and placement from the same stream."""
    case = replace(CASE, batch=Batch(kv_lens=(400,)), problem=replace(PROBLEM, page_size=1))
    tensors = build_tensors(case)
    keys = _gather(tensors, tensors.pool.k)[0]
    first = np.random.default_rng(np.random.SeedSequence(case.seed, spawn_key=(1,)))
    assert first.permutation(403)[:400].tolist() == tensors.layout.pages(0, 400).tolist()
    assert abs(np.corrcoef(tensors.layout.pages(0, 400), keys[:, 0, 0])[0, 1]) < 0.25


@pytest.mark.parametrize("kv_layout", KV_LAYOUTS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_strides_are_numpys(kv_layout: str, interleaved: bool, dtype: str) -> None:
    problem = replace(PROBLEM, dtype=dtype, page_size=5)
    shape = pool_shape(problem, 7, kv_layout=kv_layout, interleaved=interleaved)
    pool = KvPool(
        storage=np.zeros(shape, problem.storage.storage), kv_layout=kv_layout, interleaved=interleaved
    )
    assert pool.num_pages == 7
    token, head = (1, 2) if kv_layout == "NHD" else (2, 1)
    for view in (pool.k, pool.v):
        strides = [stride // problem.storage.itemsize for stride in view.strides]
        assert pool.element_strides == (strides[0], strides[token], strides[head])
        assert strides[3] == 1
    assert pool.storage.nbytes == 7 * 5 * problem.token_bytes
    assert not np.shares_memory(pool.k, pool.v)
    copy = pool.with_storage(pool.storage.copy())
    assert not np.shares_memory(copy.k, pool.k)
    assert (copy.kv_layout, copy.interleaved) == (kv_layout, interleaved)


def test_pool_rejects_layout() -> None:
    with pytest.raises(InvalidCase, match="kv_layout = 'HDN': must be one of NHD, HND"):
        KvPool(storage=np.zeros(1), kv_layout="HDN", interleaved=False)
    with pytest.raises(InvalidCase, match="kv_layout = 'x'"):
        pool_shape(PROBLEM, 1, kv_layout="x", interleaved=False)


def _logits(case: Case) -> Array:
    """Logits of the first sequence's first KV head, by the definition of attention."""
    tensors = build_tensors(case)
    keys = decode(_gather(tensors, tensors.pool.k)[0], case.problem.storage)[:, 0]
    return np.asarray(case.problem.scale * keys @ decode(tensors.q, case.problem.storage)[0, 0])


@pytest.mark.parametrize("sm_scale", [None, -0.25, 1.0])
@pytest.mark.parametrize(
    ("family", "low", "high"),
    [("all-negative", -60, -15), ("huge", 110, 190), ("ascending", -50, 50), ("marker", 0, 0)],
)
def test_families_reach_the_logits_they_want(
    family: str, low: float, high: float, sm_scale: float | None
) -> None:
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=128, page_size=16, sm_scale=sm_scale)
    logits = _logits(Case(problem=problem, batch=Batch(kv_lens=(300,)), family=family))
    assert low <= logits.min()
    assert logits.max() <= high
    if family == "ascending":
        assert np.corrcoef(logits, np.arange(300))[0, 1] > 0.95
        assert logits[-1] - logits[0] > 60


@pytest.mark.parametrize(
    ("family", "lead", "keys"), [("needle", 15, 1), ("one-hot", 120, 1), ("spotlight", 8, 8)]
)
def test_families_with_a_leader(family: str, lead: float, keys: int) -> None:
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=128, page_size=16)
    for seed in range(10):
        logits = np.sort(
            _logits(Case(problem=problem, batch=Batch(kv_lens=(300,)), family=family, seed=seed))
        )
        few = max(1, keys // 2)  # a spotlight at an end of the sequence has half of its keys
        assert logits[-few] - logits[-keys - 1] > lead


def test_families_marker_and_constant_values() -> None:
    case = replace(CASE, family="marker", poison="zero")
    values = _gather(build_tensors(case), build_tensors(case).pool.v)[2]
    np.testing.assert_array_equal(values[:, 0].argmax(axis=1), np.arange(9) % 8)
    assert values.sum() == 9 * 2
    constant = build_tensors(replace(CASE, family="constant-value"))
    rows = _gather(constant, constant.pool.v)[2]
    assert (rows == rows[0]).all()
    cancelling = build_tensors(replace(CASE, family="cancelling-value"))
    signs = np.sign(_gather(cancelling, cancelling.pool.v)[2][:, 0, 0])
    np.testing.assert_array_equal(signs, [1, -1] * 4 + [1])


@pytest.mark.parametrize("layout", LAYOUTS[::3])
def test_tensors_are_the_same_whatever_was_asked_before(layout: dict[str, Any]) -> None:
    first = build_tensors(replace(CASE, poison="zero"))
    before = (first.q.tobytes(), first.pool.storage.tobytes())
    moved = build_tensors(replace(CASE, **layout))
    for tensors in (first, moved):
        # whoever writes into what he was given changes nobody else's
        tensors.q[...] = 7
        tensors.pool.storage[...] = 7
    again = build_tensors(replace(CASE, poison="zero"))
    assert (again.q.tobytes(), again.pool.storage.tobytes()) == before
    other = build_tensors(replace(CASE, poison="zero", seed=CASE.seed + 1))
    assert other.q.tobytes() != before[0]
