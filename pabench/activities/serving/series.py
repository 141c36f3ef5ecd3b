# SPDX-License-Identifier: Apache-2.0
"""Long columns made short: what a chart can show and a journal line can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pabench.activities.serving.metrics import PARTS
from pabench.problem.dtypes import Array

BUCKETS = 100
QUANTILES = np.linspace(0, 1, 21)


def series(steps: Mapping[str, Array], samples: Mapping[str, Array], num_pages: int) -> dict[str, Any]:
    """Return least, mean and most of batch and of page use, and mean memory shares, by bucket of steps.

    ``steps`` and ``samples`` are cut into at most ``BUCKETS`` runs of about equal size, each named by the
    clock at its end.
    """
    found: dict[str, Any] = {"clock_s": _ends(steps["clock_s"])}
    for name, column, scale in (
        ("running", steps["running"], 1.0),
        ("used_share", steps["used_pages"], num_pages),
    ):
        parts = [part / scale for part in _parts(column)]
        found[name] = {
            "min": [_round(part.min()) for part in parts],
            "mean": [_round(part.mean()) for part in parts],
            "max": [_round(part.max()) for part in parts],
        }
    found["waiting"] = [_round(part.mean()) for part in _parts(steps["waiting"])]
    slots = sum(float(samples[name][0]) for name in PARTS) if samples["tokens"].size else 1.0
    found["memory"] = {"clock_s": _ends(samples["clock_s"])} | {
        name: [_round(part.mean() / slots) for part in _parts(samples[name])] for name in PARTS
    }
    return found


def curves(columns: Mapping[str, Array]) -> dict[str, list[float]]:
    """Return 21 quantiles, from least to most, of TTFT and TPOT in seconds; empty where there are none."""
    found = {}
    for name in ("ttft_s", "tpot_s"):
        values = columns[name][~np.isnan(columns[name])]
        found[name] = [_round(value) for value in np.quantile(values, QUANTILES)] if values.size else []
    return found


def _parts(column: Array) -> list[Array]:
    count = min(BUCKETS, column.size)
    return np.array_split(column, count) if count else []


def _ends(column: Array) -> list[float]:
    return [_round(part[-1]) for part in _parts(column)]


def _round(value: float) -> float:
    return float(f"{float(value):.5g}")
