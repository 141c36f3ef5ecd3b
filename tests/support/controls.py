# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the checked device on many controls, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pabench.controls.hold import control_device
from pabench.controls.model import Control
from pabench.controls.table import controls_dir
from pabench.controls.verdict import Verdict, judge
from pabench.cores import usable_cores
from pabench.selftest.controls import LAUNCH_WORKERS


def verdicts_of(controls: Sequence[Control], *, seeds: int, device: str = "emulated") -> list[Verdict]:
    """Judge each of ``controls`` under ``seeds`` schedules, a device a thread."""
    mine = threading.local()

    def verdict(control: Control) -> Verdict:
        if not hasattr(mine, "device"):
            mine.device = control_device(device, workers=LAUNCH_WORKERS)
        return judge(control, controls_dir(), mine.device, range(seeds))

    first = [verdict(controls[0])]  # with it the runtime, which all the others need
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        return [*first, *pool.map(verdict, controls[1:])]
