# SPDX-License-Identifier: Apache-2.0
"""Throughput of a full pool by page size, for the lengths that a run has seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pabench.problem.advice import advise
from pabench.problem.step_time import StepModel

CURVE = tuple(2**power for power in range(11))


def page_curve(step: StepModel, pool_bytes: float, mean_tokens: float) -> dict[str, Any]:
    """Return ``curve`` as (page size, tokens a second), the interval within 1 % of the best, and advice.

    Args:
        step: constants.
        pool_bytes: of the pool.
        mean_tokens: cached tokens of a decoding sequence, over all steps of a run.
    """
    model = replace(step, mean_tokens=max(mean_tokens, 0.5))
    best = model.best_interval(pool_bytes)
    return {
        "mean_tokens": mean_tokens,
        "curve": [[size, model.full_throughput(pool_bytes, size)] for size in CURVE],
        "best": best.best,
        "low": best.low,
        "high": best.high,
        "advice": advise(model, pool_bytes).sentence,
    }
