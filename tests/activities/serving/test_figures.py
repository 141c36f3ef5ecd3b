# SPDX-License-Identifier: Apache-2.0
"""Executors and figures: the step time is that of the formula, latencies are what the clock says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pabench.activities.serving.executors import Machine, ModelExecutor, NullExecutor, StepWork
from pabench.activities.serving.metrics import figures, latency_columns
from pabench.activities.serving.page_model import page_curve
from pabench.activities.serving.series import BUCKETS, curves, series
from pabench.errors import InvalidCase
from pabench.problem.model_presets import model_by_name
from pabench.problem.step_time import StepModel
from tests.support.serving_support import asked, pool, run

MODEL = model_by_name("llama-3-8b")
STEP = StepModel(
    weight_bytes=16e9,
    bandwidth=4e12,
    token_bytes=131_072,
    mean_tokens=1.0,
    page_cost_s=1e-8,
    fixed_cost_s=1e-3,
)


def executor(step: StepModel = STEP, tflops: float = 1e9) -> ModelExecutor:
    return ModelExecutor(step, page_size=16, model=MODEL, machine=Machine(tflops=tflops))


@pytest.mark.parametrize("whole_pages", [False, True])
@pytest.mark.parametrize(("batch", "mean"), [(1, 1000.5), (520, 1000.5), (32, 7.25), (0, 3.0)])
def test_executor_decode_time_is_the_formula(batch: int, mean: float, whole_pages: bool) -> None:
    step = replace(STEP, whole_pages=whole_pages)
    took = executor(step).step(StepWork(1, batch, int(batch * mean)))
    exact = replace(step, mean_tokens=int(batch * mean) / batch if batch else 1.0)
    assert took == pytest.approx(exact.step_s(batch, 16), rel=1e-12)


def test_executor_prompts_cost_their_operations() -> None:
    # 4,096 tokens: 137,472,507,904 operations of attention a layer, 2 a parameter and token
    took = executor(tflops=1e-3).step(StepWork(1, 0, 0, ((4096, 0),)))
    operations = 32 * 137_472_507_904 + 2 * MODEL.parameters * 4096
    assert took == pytest.approx(STEP.fixed_cost_s + operations / 1e9, rel=1e-12)
    two = executor(tflops=1e-3).step(StepWork(1, 0, 0, ((1000, 0), (3096, 1000))))
    assert two == pytest.approx(took, rel=1e-12)


def test_executor_swapped_tokens_cost_their_bytes() -> None:
    still = executor().step(StepWork(1, 4, 400))
    assert executor().step(StepWork(1, 4, 400, (), 1000)) - still == pytest.approx(1000 * 131_072 / 25e9)


def test_executor_null_is_constant() -> None:
    assert NullExecutor(0.5).step(StepWork(1, 100, 10_000)) == 0.5
    with pytest.raises(InvalidCase):
        NullExecutor(0.0)


def test_figures_of_three_requests() -> None:
    requests = asked((5, 3), (4, 1), (3, 2), arrival_s=(0, 0.5, 10))
    served = run(requests, pool())
    columns = latency_columns(requests, served)
    assert columns["ttft_s"].tolist() == [1, 1.5, 1]
    assert columns["e2e_s"].tolist() == [3, 1.5, 2]
    assert columns["tpot_s"].tolist()[::2] == [1, 1]
    assert math.isnan(columns["tpot_s"][1])
    found = figures(requests, served, ttft_limit_s=1.2)
    assert (found["served"], found["skipped"], found["output_tokens"]) == (3, 0, 6)
    assert found["span_s"] == 12
    assert found["requests_per_s"] == 3 / 12
    assert found["goodput_per_s"] == 2 / 12
    assert found["normalised_latency_s"] == pytest.approx((3 / 3 + 1.5 + 2 / 2) / 3)
    assert found["ttft_s_mean"] == pytest.approx(3.5 / 3)
    assert found["total_tokens_per_s"] == (12 + 3) / 12
    # nobody is here for seven of the twelve seconds
    assert found["mean_batch"] == 6 / 5
    assert found["peak_batch"] == 2


def test_figures_count_what_preemption_costs() -> None:
    requests = asked((4, 7), (4, 7))
    found = figures(requests, run(requests, pool(pages=4)), gpus=2)
    assert found["preemptions"] == 1
    assert found["recomputed_tokens"] == 8
    assert found["recompute_overhead"] == 8 / found["sequence_steps"]
    assert found["requests_per_s"] == 2 / 9 / 2
    # eleven gaps of one step, and one of three for the victim
    assert (found["itl_s_p50"], found["itl_s_p99"]) == (1, 3)
    shares = [found[f"{part}_share"] for part in ("tokens", "reserved", "internal", "external", "idle")]
    assert sum(shares) == pytest.approx(1)


def test_figures_of_nothing_are_none() -> None:
    requests = asked((0, 1))
    found = figures(requests, run(requests, pool()))
    assert found["served"] == 0
    assert found["requests_per_s"] is found["ttft_s_mean"] is found["tokens_share"] is None
    assert series(run(requests, pool()).steps, run(requests, pool()).samples, 64)["running"]["mean"] == []


def test_series_are_short_and_keep_the_extremes() -> None:
    requests = asked(*[(4, 300)] * 5, arrival_s=(0, 100, 200, 300, 400))
    served = run(requests, pool(pages=512, width=128))
    short = series(served.steps, served.samples, 512)
    assert len(short["clock_s"]) == len(short["running"]["mean"]) == BUCKETS
    assert max(short["running"]["max"]) == served.steps["running"].max()
    assert short["clock_s"][-1] == served.steps["clock_s"][-1]
    total = np.sum(
        [short["memory"][part] for part in ("tokens", "reserved", "internal", "external", "idle")], axis=0
    )
    assert total == pytest.approx(np.ones(BUCKETS), abs=1e-3)
    quantiles = curves(latency_columns(requests, served))
    assert quantiles["ttft_s"] == sorted(quantiles["ttft_s"])
    assert len(quantiles["tpot_s"]) == 21


def test_page_curve_is_that_of_the_step_model() -> None:
    found = page_curve(STEP, 64 * 2**30, 1000.5)
    assert found["best"] == 46
    assert dict(map(tuple, found["curve"]))[16] == pytest.approx(23_240.9932)
    assert found["low"] < 16 < 128 <= found["high"]
