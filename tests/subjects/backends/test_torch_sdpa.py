# SPDX-License-Identifier: Apache-2.0
"""PyTorch's attention as a backend: right everywhere it says so, honest about its arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import EnvironmentRefused, InvalidCase
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, KvPool, Problem, build_tensors
from pabench.problem.dtypes import DTYPES, Array
from pabench.problem.families import FAMILIES
from pabench.problem.placement import PLACEMENTS, TABLE_TAILS
from pabench.problem.problem import CACHE_FEATURES, SCALE_FEATURES
from pabench.problem.profile import NumericsProfile
from pabench.selftest.calibration import KINDS, random_case
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.torch_sdpa import TorchSdpaBackend


class Host:
    """The part of a device that the backend looks at."""

    name = "emulated"


def backend() -> TorchSdpaBackend:
    return TorchSdpaBackend(Host())  # type: ignore[arg-type]


def verdict_of(case: Case, profile: NumericsProfile | None = None) -> Verdict:
    tensors = build_tensors(case)
    result = attend(backend(), tensors)
    return judge(tensors, result.out, result.lse, profile or TorchSdpaBackend.profile)


def make_case(
    *,
    heads: tuple[int, int] = (6, 2),
    dtype: str = "float32",
    kv_lens: tuple[int, ...] = (1, 100, 0, 333),
    q_lens: tuple[int, ...] | None = None,
    page_size: int = 16,
    head_dim: int = 64,
    causal: bool = True,
    sm_scale: float | None = None,
    **options: Any,
) -> Case:
    problem = Problem(
        num_qo_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        page_size=page_size,
        dtype=dtype,
        causal=causal,
        sm_scale=sm_scale,
    )
    defaults: dict[str, Any] = {"poison": "nan", "tail": "out-of-pool", "spare_pages": 3}
    return Case(problem=problem, batch=Batch(kv_lens=kv_lens, q_lens=q_lens), **(defaults | options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_torch_sdpa_is_right_in_every_family_and_dtype(family: str, dtype: str) -> None:
    verdict = verdict_of(make_case(family=family, dtype=dtype))
    assert verdict.passed, verdict.text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_torch_sdpa_rounds_its_weights_as_its_profile_says(dtype: str) -> None:
    verdict = verdict_of(make_case(dtype=dtype, kv_lens=(500,)), NumericsProfile(p_dtype="float32"))
    assert not verdict.passed


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("kv_lens", "q_lens"),
    [((40, 3, 64), (8, 5, 64)), ((0, 2, 33), (3, 3, 1)), ((17,), (17,)), ((9, 4), (0, 2))],
)
def test_torch_sdpa_prefill_aligns_at_the_bottom_right(
    kv_lens: tuple[int, ...], q_lens: tuple[int, ...], interleaved: bool, layout: str
) -> None:
    for causal in (True, False):
        case = make_case(
            kv_lens=kv_lens,
            q_lens=q_lens,
            interleaved=interleaved,
            kv_layout=layout,
            causal=causal,
            page_size=5,
        )
        verdict = verdict_of(case)
        assert verdict.passed, verdict.text


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_torch_sdpa_is_right_on_any_case_property(data: st.DataObject) -> None:
    group, kv_heads = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    kv_lens = data.draw(st.lists(st.integers(0, 90), min_size=1, max_size=4))
    q_lens = data.draw(st.lists(st.integers(1, 6), min_size=len(kv_lens), max_size=len(kv_lens)))
    case = make_case(
        heads=(group * kv_heads, kv_heads),
        dtype=data.draw(st.sampled_from(sorted(DTYPES))),
        kv_lens=tuple(kv_lens),
        q_lens=data.draw(st.sampled_from([None, tuple(q_lens)])),
        page_size=data.draw(st.integers(1, 40)),
        head_dim=data.draw(st.sampled_from([1, 8, 33, 80, 128])),
        sm_scale=data.draw(st.sampled_from([None, 0.3, -0.2])),
        causal=data.draw(st.booleans()),
        family=data.draw(st.sampled_from(sorted(FAMILIES))),
        poison=data.draw(st.sampled_from(["nan", "inf", "huge"])),
        placement=data.draw(st.sampled_from([name for name in PLACEMENTS if name != "high"])),
        tail=data.draw(st.sampled_from(TABLE_TAILS)),
        kv_layout=data.draw(st.sampled_from(["NHD", "HND"])),
        interleaved=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 2**20)),
    )
    verdict = verdict_of(case)
    assert verdict.passed, verdict.text


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in (*CACHE_FEATURES, *SCALE_FEATURES, "masks", "formats")]
)
def test_torch_sdpa_is_right_with_every_feature(kind: str) -> None:
    for number in range(40):
        verdict = verdict_of(random_case(kind, np.random.default_rng([KINDS.index(kind), number, 1])))
        assert verdict.passed, verdict.text


def test_torch_sdpa_empty_sequences_give_zero_and_minus_infinity() -> None:
    tensors = build_tensors(make_case(kv_lens=(0, 3, 0)))
    result = attend(backend(), tensors)
    assert result.lse is not None
    assert not result.out[[0, 2]].any()
    assert np.isneginf(result.lse[[0, 2]]).all()
    assert np.isfinite(result.lse[1]).all()


def test_torch_sdpa_runs_again_with_the_same_plan_and_leaves_its_inputs() -> None:
    tensors = build_tensors(make_case(dtype="bfloat16"))
    before = tensors.pool.storage.copy()
    subject = backend()
    plan = subject.plan(tensors)
    subject.run(plan)
    first = subject.fetch(plan)
    subject.run(plan)
    second = subject.fetch(plan)
    np.testing.assert_array_equal(first.out, second.out)
    np.testing.assert_array_equal(tensors.pool.storage, before)


def test_torch_sdpa_refuses_pages_outside_the_pool() -> None:
    tensors = build_tensors(make_case(kv_lens=(40,)))
    table = tensors.layout.block_table.copy()
    table[0, 1] = tensors.layout.num_pages
    with pytest.raises(InvalidCase, match=r"block_table\[0, 1\]"):
        backend().plan(replace(tensors, layout=replace(tensors.layout, block_table=table)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_torch_sdpa_append_writes_its_slots_and_nothing_else(
    dtype: str, layout: str, interleaved: bool
) -> None:
    pages, page_size, heads, dim = 4, 3, 2, 8
    rng, width = np.random.default_rng(3), DTYPES[dtype].itemsize
    page = (page_size, heads, dim) if layout == "NHD" else (heads, page_size, dim)
    shape = (pages, 2, *page) if interleaved else (2, pages, *page)

    def random_bits(size: tuple[int, ...]) -> Any:
        # any bits at all, NaN payloads included
        return rng.integers(0, 256, (*size, width), dtype=np.uint8).view(DTYPES[dtype].storage)[..., 0]

    pool = KvPool(storage=random_bits(shape), kv_layout=layout, interleaved=interleaved)
    keys, values = random_bits((4, heads, dim)), random_bits((4, heads, dim))
    slots = np.array([11, -1, 0, 4])
    before = pool.storage.tobytes()
    written = pool.with_storage(backend().append(pool, dtype, keys, values, slots))
    assert pool.storage.tobytes() == before
    expected = pool.with_storage(pool.storage.copy())
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            at = (slot // page_size, slot % page_size)
            for view, rows in ((expected.k, keys), (expected.v, values)):
                view[at if layout == "NHD" else (at[0], slice(None), at[1])] = rows[token]
    assert written.storage.tobytes() == expected.storage.tobytes()


def test_torch_sdpa_append_refuses_slots_outside_the_pool() -> None:
    pool = KvPool(storage=np.zeros((2, 3, 4, 1, 8), np.float32), kv_layout="NHD", interleaved=False)
    rows = np.zeros((1, 1, 8), np.float32)
    for slot in (12, -2):
        with pytest.raises(InvalidCase, match=r"slot_mapping\[0\]"):
            backend().append(pool, "float32", rows, rows, np.array([slot]))


def test_torch_sdpa_without_cuda_refuses_the_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    device = Host()
    device.name = "cuda"
    with pytest.raises(EnvironmentRefused, match="finds no CUDA device"):
        TorchSdpaBackend(device)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_sdpa_shares_a_cache_that_is_on_the_gpu_already(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Resident:
        """Stands for CuPy's array, which numpy may not read: PyTorch takes it by its address."""

        def __init__(self, array: Array) -> None:
            self.array = array
            self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim

        def view(self, dtype: Any) -> Resident:
            return Resident(self.array.view(dtype))

    taken: list[Resident] = []

    def as_tensor(array: Resident, *, device: torch.device) -> torch.Tensor:
        taken.append(array)
        return torch.from_numpy(array.array)  # which knows no uint16 in older versions

    tensors = build_tensors(make_case(dtype=dtype))
    right = attend(backend(), tensors)
    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    resident = replace(tensors, pool=tensors.pool.with_storage(Resident(tensors.pool.storage)))
    output = attend(backend(), resident)
    np.testing.assert_array_equal(output.out, right.out)
    (given,) = taken
    assert given.dtype == (np.int16 if dtype == "bfloat16" else tensors.pool.storage.dtype)
