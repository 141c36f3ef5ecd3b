# SPDX-License-Identifier: Apache-2.0
"""Controls as a plug for the engine: kernels with a planted fault, and look-alikes, on the checked device.

An item passes when the checked device says what it must: the fault of its class at a marked line under every
schedule, nothing of a look-alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pabench.controls.hold import control_device
from pabench.controls.model import RIGHT, Control
from pabench.controls.table import controls_dir, load_controls
from pabench.controls.verdict import judge
from pabench.device.checked import CheckedDevice
from pabench.run.figures import figures_of
from pabench.run.plug import ActivityBase, Answer, BenchBase, Env, Facts
from pabench.run.record import Record, Status
from pabench.selftest.item import KIND, TestItem

LAUNCH_WORKERS = 2
"""OS threads of one launch: blocks that wait for one another shall also meet side by side."""
SILENCE_S = 600.0
"""A control is compiled and asked under many schedules; each launch ends by itself."""


class Controls(ActivityBase):
    """Each control under each schedule.

    Args:
        controls: what ``load_controls`` returned, or some of it.
        seeds: how many schedules, from 0.
        device: of the checked device, ``emulated`` or a PTX device; ``cuda`` compares the emulated one with
            compute-sanitizer on the GPU.
        kernels: a folder to use in place of the project's ``kernels_cuda``.
    """

    kind = KIND
    noun = "control"
    bench = "pabench.selftest.controls:ControlBench"

    def __init__(self, controls: Sequence[Control], *, seeds: int, device: str, kernels: Path | None) -> None:
        self._controls, self._seeds, self._device = tuple(controls), seeds, device
        self._kernels = None if kernels is None else str(kernels)

    def setup(self) -> Mapping[str, Any]:
        """See ``Activity``."""
        return {"seeds": self._seeds, "device": self._device, "kernels": self._kernels}

    def items(self, facts: Facts) -> Sequence[TestItem]:
        """See ``Activity``."""
        return [
            TestItem(
                id=control.id,
                label=f"{control.id}: {control.about}",
                test="control",
                name=control.id,
                asked={"id": control.id},
            )
            for control in self._controls
        ]

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """See ``Activity``."""
        return {"test": "controls", **self.setup()}

    def silence_s(self, deadline_s: float) -> float:
        """See ``Activity``."""
        return max(deadline_s, SILENCE_S)


class ControlBench(BenchBase):
    """Implements ``Bench``.

    Args:
        setup: ``seeds``, ``device``, ``kernels``.
        env: hears what is loaded.
    """

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._setup, self._env = setup, env
        self._folder = controls_dir()
        self._known = {control.id: control for control in load_controls(self._folder)}
        self._device: CheckedDevice
        self._sanitizer: Path | None = None

    def open(self) -> Mapping[str, Any]:
        """See ``Bench``."""
        name, kernels = self._setup["device"], self._setup["kernels"]
        self._env.loading(f"device {name!r}")
        if name == "cuda":
            from pabench.controls.sanitizer import find_sanitizer

            self._sanitizer = find_sanitizer()
        self._device = control_device(
            "emulated" if self._sanitizer else name,
            kernels=None if kernels is None else Path(kernels),
            workers=LAUNCH_WORKERS,
        )
        beside = "beside compute-sanitizer" if self._sanitizer else "alone"
        return {"device": name, "description": f"the checked {self._device.name} device {beside}"}

    def run(self, item: Mapping[str, Any]) -> Answer:
        """See ``Bench``."""
        asked, began = TestItem(**item), time.monotonic()
        control = self._known[asked.name]
        verdict = judge(control, self._folder, self._device, range(self._setup["seeds"]))
        problem, told = verdict.problem, verdict.to_json()
        if self._sanitizer is not None:
            from pabench.controls.compare import compare

            both = compare(verdict, self._folder, self._sanitizer)
            problem, told = both.problem, both.to_json() | {"state": both.state}
        figures = {"flagged": verdict.flagged, "seeds": verdict.seeds}
        record = replace(
            asked.blank(self._setup["device"]),
            status=Status.FAILED if problem else Status.PASSED,
            reason=problem,
            figures=figures_of(figures, dict.fromkeys(figures, "counted")),
            details={name: value for name, value in told.items() if name not in ("id", "problem", *figures)},
            duration_s=round(time.monotonic() - began, 3),
        )
        return Answer(record=record)


def counts(records: Sequence[Record]) -> dict[str, int]:
    """Return ``controls, right, twins, false_alarms``: right are the controls found, named and placed right.

    A look-alike that fails in any way, also by a wrong result, counts as a false alarm.
    """
    twins = [one for one in records if one.details.get("expected") == RIGHT]
    faulty = [one for one in records if one not in twins]
    return {
        "controls": len(faulty),
        "right": sum(one.status == Status.PASSED for one in faulty),
        "twins": len(twins),
        "false_alarms": sum(one.status != Status.PASSED for one in twins),
    }


def tool_counts(records: Sequence[Record]) -> dict[str, int]:
    """Return ``looked_for, flagged, missed, twins_flagged`` of compute-sanitizer.

    A control that it had to be ended at counts as missed: the tool said nothing.
    """
    faulty = [one for one in records if one.details.get("expected") != RIGHT]
    looked = [one for one in faulty if one.details.get("compute_sanitizer") is not None]
    flagged = sum(one.details["state"] == "flagged" for one in looked)
    return {
        "looked_for": len(looked),
        "flagged": flagged,
        "missed": len(looked) - flagged,
        "twins_flagged": sum(one.details.get("state") == "flagged" for one in records if one not in faulty),
    }
