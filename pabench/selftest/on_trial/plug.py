# SPDX-License-Identifier: Apache-2.0
"""The trial as a plug for the engine: an item a planted fault, which ours must kill whatever the peers do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pabench.device.base import Device
from pabench.device.registry import open_device
from pabench.errors import UnknownName
from pabench.judge.threads import one_blas_thread
from pabench.run.figures import figures_of
from pabench.run.plug import ActivityBase, Answer, BenchBase, Env, Facts
from pabench.run.record import Record, Status
from pabench.selftest.item import KIND, TestItem
from pabench.selftest.on_trial.faults import FAULTS, words_of
from pabench.selftest.on_trial.peers import SUITES
from pabench.selftest.on_trial.trial import Call, accepts, calls_of, killed_by

ALL = "all"


def suite_names(name: str) -> tuple[str, ...]:
    """Return the suites that a name means; raises ``UnknownName``."""
    if name not in (ALL, *SUITES):
        raise UnknownName("suite", name, (ALL, *SUITES))
    return tuple(SUITES) if name == ALL else (name,)


class Trial(ActivityBase):
    """Planted faults for the suites of these names, and for ours."""

    kind = KIND
    noun = "fault"
    bench = "pabench.selftest.on_trial.plug:TrialBench"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def items(self, facts: Facts) -> Sequence[TestItem]:
        """See ``Activity``."""
        return [
            TestItem(
                id=fault.__name__,
                label=fault.__name__,
                test="fault",
                name=fault.__name__,
                asked={"suites": list(self._names)},
            )
            for fault in FAULTS
        ]

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """See ``Activity``."""
        return {"test": "suites", "suites": self._names}


class TrialBench(BenchBase):
    """Implements ``Bench``; the kernels are numpy, so that it needs no compiler."""

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._env = env
        self._device: Device | None = None
        self._calls: dict[str, list[Call]] = {}

    def open(self) -> Mapping[str, Any]:
        """See ``Bench``."""
        self._device = open_device("emulated", must_run=False)
        return {"device": "host", "description": "the host; no kernel runs"}

    def run(self, item: Mapping[str, Any]) -> Answer:
        """See ``Bench``."""
        asked, began = TestItem(**item), time.monotonic()
        fault = next(one for one in FAULTS if one.__name__ == asked.name)
        red: dict[str, int] = {}
        with one_blas_thread():
            for name in asked.asked["suites"]:
                if name not in self._calls:
                    self._env.loading(f"the inputs of {name}")
                    self._calls[name] = calls_of(name)
                self._env.note(name)
                red[name] = sum(not accepts(SUITES[name], fault, call) for call in self._calls[name])
            assert self._device is not None
            by = killed_by(fault, self._device, self._env.note)
        figures = {"refused_calls": sum(red.values())}
        record = replace(
            asked.blank("host"),
            status=Status.FAILED if by is None else Status.PASSED,
            reason=f"LIVES {words_of(fault)}" if by is None else None,
            figures=figures_of(figures, dict.fromkeys(figures, "counted")),
            details={
                "about": words_of(fault),
                "red": red,
                "calls": {name: len(self._calls[name]) for name in red},
                "killed_by": by,
            },
            duration_s=round(time.monotonic() - began, 3),
        )
        return Answer(record=record)


def counts(records: Sequence[Record]) -> dict[str, Any]:
    """Return how many faults each suite kills, and ours."""
    told = [record.details for record in records if "red" in record.details]
    names = list(told[0]["red"]) if told else []
    return {
        "faults": len(told),
        "killed": {name: sum(bool(one["red"][name]) for one in told) for name in names}
        | {"pabench": sum(one["killed_by"] is not None for one in told)},
    }
