"""Runs a table of controls on checked devices, several at a time, and counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pabench.controls.hold import control_device
from pabench.controls.launch import kernel_source
from pabench.controls.model import Control
from pabench.controls.verdict import Verdict, judge
from pabench.cores import usable_cores
from pabench.device.checked import CheckedDevice

LAUNCH_WORKERS = 2
"""OS threads of one launch: blocks that wait for one another shall also meet side by side."""


def run_controls(
    controls: Sequence[Control],
    folder: Path,
    *,
    seeds: Sequence[int],
    kernels: Path | None = None,
    device_name: str = "emulated",
    on_verdict: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Judge the checker by each of ``controls``, whose files lie in ``folder``, under each of ``seeds``.

    Args:
        controls: what ``load_controls`` returned, or some of it.
        folder: where their kernel files lie.
        seeds: schedules.
        kernels: a folder to use in place of the project's ``kernels_cuda``.
        device_name: of the checked device, ``emulated`` or a PTX device.
        on_verdict: called in the calling thread, in the order of ``controls``.

    Raises:
        CompileError: a file does not compile.
        EnvironmentRefused: there is no C++ compiler.
    """
    mine = threading.local()

    def device() -> CheckedDevice:
        if not hasattr(mine, "device"):
            mine.device = control_device(device_name, kernels=kernels, workers=LAUNCH_WORKERS)
        found: CheckedDevice = mine.device
        return found

    def build(control: Control) -> None:
        device().load(kernel_source(control, folder, device()))

    first_of_file = list({control.file: control for control in reversed(controls)}.values())
    verdicts: list[Verdict] = []
    build(first_of_file[0])  # with it the runtime, which all the others need
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        try:
            list(pool.map(build, first_of_file[1:]))
            for verdict in pool.map(lambda control: judge(control, folder, device(), seeds), controls):
                on_verdict(verdict)
                verdicts.append(verdict)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return verdicts


def counts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return ``controls, right, twins, false_alarms``: right are the controls found, named and placed right.

    A twin that fails in any way, also by a wrong result, counts as a false alarm.
    """
    faulty = [v for v in verdicts if v.control.faulty]
    twins = [v for v in verdicts if not v.control.faulty]
    return {
        "controls": len(faulty),
        "right": sum(v.problem is None for v in faulty),
        "twins": len(twins),
        "false_alarms": sum(v.problem is not None for v in twins),
    }
