# SPDX-License-Identifier: Apache-2.0
"""One cell from start to finish: check, times, model, and the journal line that holds them."""

from __future__ import annotations

from collections.abc import Callable

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.check import check_cases, quick_check
from pabench.activities.sweep.counted import TRAFFIC_FIGURES, TRAFFIC_TIMES
from pabench.activities.sweep.line import answer, blank_line
from pabench.activities.sweep.model import MODELLED_FIGURES, modelled
from pabench.activities.sweep.times import NoFigures, Speed, WrongOutput
from pabench.checks.outcome import words_of
from pabench.device.base import device_kind
from pabench.device.checked import KernelFindings
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.problem.case import Case
from pabench.problem.tensors import build_tensors
from pabench.run.plug import Answer
from pabench.run.record import Status
from pabench.subjects.backends.base import Backend
from pabench.timing.gpus import Gpu


def why_unsupported(cell: Cell, backend: Backend) -> str | None:
    """Return why ``backend`` declares that it cannot do ``cell``, or None."""
    devices = backend.capabilities.devices
    if devices and device_kind(cell.device) not in devices:
        return f"no device {cell.device}"
    return backend.capabilities.why_not(cell.case(cell.batch.kv_lens))


def run_cell(
    cell: Cell,
    backend: Backend,
    speed: Speed,
    gpu: Gpu,
    *,
    announce: Callable[[Case], None] = lambda case: None,
) -> Answer:
    """Check, time and model one cell.

    The backend may be in another process, where ``speed`` finds it.  ``announce`` is told each case before it
    runs.  A backend that raises makes a ``crashed`` cell, a wrong one a ``failed`` cell without any figure of
    speed.

    Raises:
        EnvironmentRefused: the machine lacks what every cell of this backend needs, a compiler for instance.
        SubjectEnded: the backend's process ended.
    """
    line = blank_line(cell)
    if speed.checked:
        line |= dict.fromkeys((*TRAFFIC_FIGURES, *TRAFFIC_TIMES))
    try:
        reason = why_unsupported(cell, backend)
        if reason:
            return answer(line, Status.UNSUPPORTED, reason)
        check = quick_check(cell, backend, announce=announce)
        line["check"] = check.to_dict()
        if not check.passed:
            return answer(line, Status.FAILED, check.text, check.case)
        figures, words = speed.of(cell, backend, announce)
    except EnvironmentRefused:
        raise
    except (KernelFindings, WrongOutput) as error:
        return answer(line, Status.FAILED, str(error))
    except Unsupported as error:
        return answer(line, Status.UNSUPPORTED, str(error))
    except NoFigures as error:
        return answer(line, Status.CRASHED, str(error))
    except (Exception, SystemExit) as error:  # a backend is anybody's code, and may raise anything
        return answer(line, Status.CRASHED, words_of(error))
    line |= figures | modelled(cell, gpu)
    line["provenance"] |= words | {"run_token_heads": "counted"}
    line["provenance"] |= dict.fromkeys(MODELLED_FIGURES, "modelled")
    return answer(line, Status.PASSED)


def preflight(cell: Cell, backend: Backend) -> bool:
    """Plan the smallest problem of ``cell``; return False when ``backend`` does not support it.

    Raises:
        EnvironmentRefused: this machine cannot run ``backend``.
    """
    try:
        if why_unsupported(cell, backend):
            return False
        backend.plan(build_tensors(check_cases(cell)[0]))
    except EnvironmentRefused:
        raise
    except (Exception, SystemExit):
        pass  # goes wrong in the cell too, and is told in its journal line
    return True
