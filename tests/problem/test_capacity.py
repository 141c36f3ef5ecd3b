# SPDX-License-Identifier: Apache-2.0
"""Capacity, step time and model shapes against exact values worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import InvalidCase, UnknownName
from pabench.judge.traffic import attention_flops
from pabench.problem import Batch, Problem, capacity
from pabench.problem.model_presets import MODELS, model_by_name
from pabench.problem.models import ModelShape
from pabench.problem.step_time import StepModel, throughput_gain

GIB = 2**30
STEP = StepModel(
    weight_bytes=16e9,
    bandwidth=4e12,
    token_bytes=131_072,
    mean_tokens=1000.5,
    page_cost_s=1e-8,
    fixed_cost_s=1e-3,
)
POOL = 64 * GIB


@pytest.mark.parametrize(
    ("name", "itemsize", "expected"),
    [
        ("opt-13b", 2, 819_200),
        ("llama-2-7b", 2, 524_288),
        ("llama-3-8b", 2, 131_072),
        ("llama-3-8b", 1, 65_536),
        ("llama-3-70b", 2, 327_680),
        ("qwen3-0.6b", 2, 114_688),
        ("deepseek-v3", 2, 70_272),
    ],
)
def test_models_bytes_of_a_token(name: str, itemsize: int, expected: int) -> None:
    assert model_by_name(name.upper()).token_bytes(itemsize) == expected


def test_models_refuse_what_is_no_model() -> None:
    with pytest.raises(UnknownName, match="did you mean 'llama-3-8b'"):
        model_by_name("llama-3-8")
    good = MODELS["llama-3-8b"]
    changes: list[dict[str, Any]] = [{"num_kv_heads": 7}, {"num_kv_heads": 0}, {"latent_dim": 5}]
    for change in (*changes, {"num_layers": 0}):
        with pytest.raises(InvalidCase):
            replace(good, **change)
    assert all(isinstance(model, ModelShape) and model.source for model in MODELS.values())


def test_capacity_of_opt_13b_on_12_gib() -> None:
    slots = capacity.pool_slots(12 * GIB, 819_200)
    reserved = capacity.reserved_capacity(slots, 2048)
    assert (slots, reserved.sequences) == (15_728, 7)
    assert reserved.unused == 1 - Fraction(7 * 2048, 15_728)
    assert slots // 16 == 983


def test_capacity_of_16_gib_for_llama_3_8b() -> None:
    slots = capacity.pool_slots(16 * GIB, 131_072)
    assert slots == 131_072
    assert capacity.reserved_capacity(slots, 8192).sequences == 16


def test_capacity_counts_a_prefix_of_the_arrivals() -> None:
    lengths = np.array([5, 3, 9, 1])
    assert capacity.padded_capacity(lengths, 26).sequences == 2  # three would pad to 27
    assert capacity.padded_capacity(lengths, 27).sequences == 3
    paged = capacity.paged_capacity(lengths, 20, 4)  # 5 pages: 2 + 1 used, the third needs 3
    assert (paged.sequences, paged.slots) == (2, 12)
    assert capacity.paged_capacity(lengths, 24, 4).sequences == 3
    assert capacity.paged_capacity(lengths, 24, 4, reserve_pages=1).sequences == 2
    assert capacity.paged_capacity(lengths, 0, 4).sequences == 0


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(1, 64), st.integers(0, 4000))
def test_capacity_never_overfills_and_is_the_most_property(
    kv_lens: list[int], page_size: int, slots: int
) -> None:
    lengths = np.array(kv_lens)
    paged = capacity.paged_capacity(lengths, slots, page_size)
    padded = capacity.padded_capacity(lengths, slots)

    def in_pages(count: int) -> int:
        return sum(-(-length // page_size) for length in kv_lens[:count])

    assert in_pages(paged.sequences) * page_size == paged.slots
    assert in_pages(paged.sequences) <= slots // page_size
    if paged.sequences < len(kv_lens):
        assert in_pages(paged.sequences + 1) > slots // page_size
    assert padded.slots == padded.sequences * max(kv_lens[: padded.sequences], default=0) <= slots
    if padded.sequences < len(kv_lens):
        assert (padded.sequences + 1) * max(kv_lens[: padded.sequences + 1]) > slots


def test_capacity_waste_is_page_rounding() -> None:
    lengths = np.array([100, 250, 17, 1024, 16, 1])
    assert capacity.mean_waste(lengths, 16) == Fraction(48, 6)
    assert capacity.mean_waste(lengths, 256) == Fraction(896, 6)
    assert capacity.expected_waste(16) == Fraction(15, 2)
    every = np.arange(1, 257)
    assert capacity.mean_waste(every, 256) == capacity.expected_waste(256)


@pytest.mark.parametrize(("page_size", "expected"), [(16, 7.42), (64, 31.1), (256, 128.38)])
def test_capacity_waste_of_a_growing_sequence(page_size: int, expected: float) -> None:
    steps = np.arange(101, 401)
    assert float(capacity.mean_waste(steps, page_size)) == pytest.approx(expected, abs=1e-12)


def test_capacity_shared_prefix_is_whole_pages() -> None:
    assert [capacity.shared_prefix(1000, size) for size in (16, 64, 256, 512)] == [992, 960, 768, 512]
    losses = [1000 + k - capacity.shared_prefix(1000 + k, 16) for k in range(16)]
    assert Fraction(sum(losses), 16) == capacity.expected_waste(16)


def test_capacity_growth_takes_a_page_where_one_is_full() -> None:
    assert [capacity.growth_pages(length, 1, 4) for length in range(9)] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert capacity.growth_pages(5, 40, 16) == 2


def test_capacity_refuses_bad_input() -> None:
    for bad in (np.array([1.5]), np.array([[1]]), np.array([-1])):
        with pytest.raises(InvalidCase):
            capacity.paged_capacity(bad, 10, 4)
    with pytest.raises(InvalidCase):
        capacity.paged_capacity(np.array([1]), 10, 0)
    with pytest.raises(InvalidCase):
        capacity.pool_slots(10, 0)


def test_step_time_throughput_by_page_size() -> None:
    expected = {
        1: 19_109.1704,
        2: 21_125.7204,
        4: 22_298.9302,
        8: 22_928.2734,
        16: 23_240.9932,
        32: 23_369.2827,
        46: 23_384.7763,
        64: 23_371.2828,
        128: 23_247.9185,
        256: 22_943.2033,
        512: 22_327.8754,
        1024: 21_178.0478,
    }
    for size, value in expected.items():
        assert STEP.full_throughput(POOL, size) == pytest.approx(value, abs=5e-5)
    assert STEP.largest_batch(POOL, 16) == pytest.approx(520.1270, abs=5e-5)
    assert STEP.step_s(STEP.largest_batch(POOL, 16), 16) == pytest.approx(22.379723e-3, abs=5e-10)


def test_step_time_best_page_size() -> None:
    assert STEP.best_page_size(POOL) == pytest.approx(45.79467217919569, rel=1e-12)
    assert replace(STEP, whole_pages=True).best_page_size(POOL) == pytest.approx(
        21.743050095127423, rel=1e-12
    )
    best = STEP.best_interval(POOL)
    assert best.best == 46
    assert best.low <= 16  # the curve is flat within 0.7 % from 16 to 128
    assert best.high >= 128
    for outside in (best.low - 1, best.high + 1):
        assert STEP.full_throughput(POOL, outside) < 0.99 * best.throughput
    for inside in (best.low, best.high):
        assert STEP.full_throughput(POOL, inside) >= 0.99 * best.throughput


def test_step_time_without_page_cost_wants_the_smallest_page() -> None:
    free = replace(STEP, page_cost_s=0.0)
    assert free.best_page_size(POOL) == 1.0
    assert free.best_interval(POOL).best == 1


def test_step_time_of_a_batch() -> None:
    plain = StepModel(weight_bytes=16.06e9, bandwidth=4.8e12, token_bytes=131_072, mean_tokens=1366)
    assert plain.step_s(1, 16) == pytest.approx(3.383134e-3, abs=5e-10)
    assert plain.step_s(32, 16) == pytest.approx(4.539462e-3, abs=5e-10)
    assert plain.throughput(32, 16) == pytest.approx(7_049.29, abs=5e-3)
    assert plain.step_s(256, 16) == pytest.approx(12.894865e-3, abs=5e-10)
    assert plain.throughput(256, 16) == pytest.approx(19_852.86, abs=5e-3)
    each = 131_072 * 1366 / 4.8e12
    gain = throughput_gain(16, 94, fixed_s=16.06e9 / 4.8e12, per_sequence_s=each)
    assert gain == pytest.approx(3.380422, abs=1e-6)
    assert throughput_gain(16, 94, fixed_s=1.0, per_sequence_s=0.0) == 94 / 16
    assert throughput_gain(16, 94, fixed_s=0.0, per_sequence_s=1.0) == 1.0


def test_step_time_work_of_attention() -> None:
    llama = Problem(num_qo_heads=32, num_kv_heads=8, head_dim=128, page_size=16)
    small = Problem(num_qo_heads=4, num_kv_heads=4, head_dim=16, page_size=16)

    def flops(problem: Problem, new: int, total: int) -> int:
        return attention_flops(problem, Batch(kv_lens=(total,), q_lens=(new,)))

    assert flops(llama, 1, 4096) == 67_108_864
    assert flops(llama, 4096, 4096) == 137_472_507_904
    assert flops(replace(llama, causal=False), 4096, 4096) == 274_877_906_944
    assert flops(small, 60, 60) + flops(small, 40, 100) == flops(small, 100, 100)


def test_step_time_refuses_bad_constants() -> None:
    changes: list[dict[str, Any]] = [{"bandwidth": 0.0}, {"token_bytes": -1.0}, {"mean_tokens": 0.0}]
    for change in (*changes, {"page_cost_s": -1.0}):
        with pytest.raises(InvalidCase):
            replace(STEP, **change)
    with pytest.raises(InvalidCase):
        throughput_gain(0, 1, fixed_s=1.0, per_sequence_s=1.0)
    with pytest.raises(InvalidCase):
        throughput_gain(1, 1, fixed_s=0.0, per_sequence_s=0.0)
