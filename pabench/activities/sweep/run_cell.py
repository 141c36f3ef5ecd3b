"""One cell from start to finish: check, times, model, and the journal line that holds them."""

from __future__ import annotations

from collections.abc import Callable

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.check import check_cases, quick_check
from pabench.activities.sweep.counted import TRAFFIC_FIGURES, TRAFFIC_TIMES, counted
from pabench.activities.sweep.device_times import WrongOutput, device_times
from pabench.activities.sweep.line import CellResult, blank_line
from pabench.activities.sweep.measure import measure
from pabench.activities.sweep.model import MODELLED_FIGURES, modelled
from pabench.activities.sweep.stopwatch import Stopwatch
from pabench.device.base import Device
from pabench.device.checked import CheckedDevice, KernelFindings
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.problem.case import Case
from pabench.problem.tensors import build_tensors
from pabench.subjects.backends.base import Backend
from pabench.timing.gpus import Gpu

HOST_FIGURES = ("plan_ns", "run_ns")
DEVICE_WORDS = {"plan_ns": "host", "run_ns": "measured", "achieved_gbps": "measured", "dram_bytes": "counted"}


def why_unsupported(cell: Cell, backend: Backend) -> str | None:
    """Return why ``backend`` declares that it cannot do ``cell``, or None."""
    devices = backend.capabilities.devices
    if devices and cell.device not in devices:
        return f"no device {cell.device}"
    return backend.capabilities.why_not(cell.case(cell.batch.kv_lens))


def run_cell(
    cell: Cell,
    backend: Backend,
    device: Device,
    gpu: Gpu,
    *,
    stopwatch: Stopwatch | None = None,
    announce: Callable[[Case], None] = lambda case: None,
) -> CellResult:
    """Check, time and model one cell.

    With a ``stopwatch`` the device's own events time it, else the host's clock.  ``announce`` is told each
    case before it runs.  A backend that raises makes a ``crashed`` cell, a wrong one a ``failed`` cell
    without any figure of speed.

    Raises:
        EnvironmentRefused: the machine lacks what every cell of this backend needs, a compiler for instance.
    """
    line = blank_line(cell, gpu)
    if isinstance(device, CheckedDevice):
        line |= dict.fromkeys((*TRAFFIC_FIGURES, *TRAFFIC_TIMES))
    reason = why_unsupported(cell, backend)
    if reason:
        return CellResult(line=line | {"status": "unsupported", "reason": reason})
    try:
        check = quick_check(cell, backend, announce=announce)
        line["check"] = check.to_dict()
        if not check.passed:
            return CellResult(line=line | {"status": "failed", "reason": check.text}, failing=check.case)
        if isinstance(device, CheckedDevice):
            # looked at so closely, a kernel has no time that means anything
            figures = counted(cell, backend, device, gpu, announce=announce)
            words = dict.fromkeys(TRAFFIC_FIGURES, "counted") | dict.fromkeys(TRAFFIC_TIMES, "modelled")
        elif stopwatch is not None:
            figures = device_times(cell, backend, device, stopwatch, announce=announce)
            words = dict(DEVICE_WORDS)
        else:
            figures = measure(cell, backend, device, announce=announce).to_dict()
            words = dict.fromkeys(HOST_FIGURES, "host")
    except EnvironmentRefused:
        raise
    except (KernelFindings, WrongOutput) as error:
        return CellResult(line=line | {"status": "failed", "reason": str(error)})
    except Unsupported as error:
        return CellResult(line=line | {"status": "unsupported", "reason": str(error)})
    except (Exception, SystemExit) as error:  # a backend is anybody's code, and may raise anything
        return CellResult(line=line | {"status": "crashed", "reason": f"{type(error).__name__}: {error}"})
    line |= figures | modelled(cell, gpu)
    line["provenance"] |= words | {"run_token_heads": "counted"}
    line["provenance"] |= dict.fromkeys(MODELLED_FIGURES, "modelled")
    return CellResult(line=line)


def preflight(cell: Cell, backend: Backend) -> bool:
    """Plan the smallest problem of ``cell``; return False when ``backend`` does not support it.

    Raises:
        EnvironmentRefused: this machine cannot run ``backend``.
    """
    if why_unsupported(cell, backend):
        return False
    try:
        backend.plan(build_tensors(check_cases(cell)[0]))
    except EnvironmentRefused:
        raise
    except (Exception, SystemExit):
        pass  # goes wrong in the cell too, and is told in its journal line
    return True
