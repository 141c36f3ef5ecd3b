# SPDX-License-Identifier: Apache-2.0
"""The executor of a configuration that tells the time, and what its step model says of page sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pabench.activities.serving.config import ServingConfig
from pabench.activities.serving.executors import Executor, Machine, ModelExecutor, NullExecutor
from pabench.activities.serving.page_model import page_curve
from pabench.activities.serving.records import Served
from pabench.problem.step_time import StepModel
from pabench.workloads.model_config import model_of


def clock_of(config: ServingConfig, page_size: int) -> Executor:
    """Return the executor that says how long a step takes at a page size."""
    if config.constants is None:
        return NullExecutor(config.step_s)
    machine = Machine(tflops=config.constants["tflops"], swap_gbps=config.constants["swap_gbps"])
    step = _step(config, config.constants)
    return ModelExecutor(step, page_size=page_size, model=model_of(config.model), machine=machine)


def page_model(config: ServingConfig, served: Served) -> dict[str, Any] | None:
    """Return throughput by page size for the mean length of a run; None without a model or a decode step."""
    decoded = int(served.steps["decode_tokens"].sum())
    if config.constants is None or not decoded:
        return None
    mean = float(served.steps["context_tokens"].sum()) / decoded
    return page_curve(_step(config, config.constants), config.pool_slots * config.token_bytes, mean)


def _step(config: ServingConfig, constants: Mapping[str, float]) -> StepModel:
    return StepModel(
        token_bytes=config.token_bytes,
        mean_tokens=1.0,
        weight_bytes=constants["weight_bytes"],
        bandwidth=constants["bandwidth"],
        page_cost_s=constants["page_cost_s"],
        fixed_cost_s=constants["fixed_cost_s"],
    )
