# SPDX-License-Identifier: Apache-2.0
"""The error bound on trial as a plug for the engine: an item some right kernels, which all must pass."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pabench.judge.threads import one_blas_thread
from pabench.run.figures import figures_of
from pabench.run.plug import ActivityBase, Answer, BenchBase, Env, Facts
from pabench.run.record import Status
from pabench.selftest.calibration import KINDS, calibrate
from pabench.selftest.item import KIND, TestItem

BATCH = 50
"""Right kernels of one item; the first of a batch that fails is its reason, all are in its details."""


class Calibration(ActivityBase):
    """Simulated right kernels.

    Args:
        trials: how many.
        seed: of cases and kernels.
    """

    kind = KIND
    noun = "batch"
    bench = "pabench.selftest.bound:CalibrationBench"

    def __init__(self, trials: int, *, seed: int) -> None:
        self._trials, self._seed = trials, seed

    def items(self, facts: Facts) -> Sequence[TestItem]:
        """See ``Activity``."""
        items = []
        for start in range(0, self._trials, BATCH):
            stop = min(start + BATCH, self._trials)
            items.append(
                TestItem(
                    id=f"seed{self._seed}-{start}-{stop}",
                    label=f"right kernels {start} to {stop - 1}",
                    test="right kernels",
                    name="bound",
                    asked={"start": start, "stop": stop, "seed": self._seed},
                )
            )
        return items

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """See ``Activity``."""
        return {"test": "calibrate", "trials": self._trials, "seed": self._seed}


class CalibrationBench(BenchBase):
    """Implements ``Bench``; needs no device and no compiler."""

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._env = env

    def open(self) -> Mapping[str, Any]:
        """See ``Bench``."""
        return {"device": "host", "description": "the host; no kernel runs"}

    def run(self, item: Mapping[str, Any]) -> Answer:
        """See ``Bench``."""
        asked, began = TestItem(**item), time.monotonic()
        largest: dict[str, dict[str, float]] = {}
        failures = []
        with one_blas_thread():
            for found in calibrate(**asked.asked):
                self._env.note(f"{found.kind} {found.number}")
                of_kind = largest.setdefault(found.kind, {})
                of_kind[found.dtype] = max(of_kind.get(found.dtype, 0.0), found.ratio)
                if found.failure is not None:
                    failures.append(found.failure)
        trials = asked.asked["stop"] - asked.asked["start"]
        figures = {
            "trials": trials,
            "false_alarms": len(failures),
            "max_ratio": max(ratio for of_kind in largest.values() for ratio in of_kind.values()),
        }
        record = replace(
            asked.blank("host"),
            status=Status.FAILED if failures else Status.PASSED,
            reason=f"FALSE ALARM {failures[0]}" if failures else None,
            figures=figures_of(figures, dict.fromkeys(figures, "counted")),
            details={"largest_ratio": largest, "failures": failures},
            duration_s=round(time.monotonic() - began, 3),
        )
        return Answer(record=record)


def largest_ratios(records: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Return the largest err/T by kind of case and dtype over all records."""
    found: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for record in records:
        for kind, ratios in record.details.get("largest_ratio", {}).items():
            for dtype, ratio in ratios.items():
                found[kind][dtype] = max(found[kind].get(dtype, 0.0), float(ratio))
    return found
