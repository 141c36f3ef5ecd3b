# SPDX-License-Identifier: Apache-2.0
"""Backends that do to their process what no exception tells; named by place, so that workers find them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pabench.device.base import Device
from pabench.problem import Tensors
from tests.support.stub_backends import Good


class Segfaults(Good):
    """From 40 tokens on, so that there is something to shrink."""

    def run(self, plan: Any) -> None:
        if max(plan.tensors.kv_lens) >= 40:
            ctypes.string_at(0)
        super().run(plan)


class Aborts(Good):
    def run(self, plan: Any) -> None:
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()


class Exits(Good):
    def run(self, plan: Any) -> None:
        os._exit(0)


class Killed(Good):
    def run(self, plan: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Forks(Good):
    def run(self, plan: Any) -> None:
        os.fork()
        super().run(plan)


class Interrupts(Good):
    def run(self, plan: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


class Skips(Good):
    def run(self, plan: Any) -> None:
        pytest.skip("not today")


class Recurses(Good):
    def run(self, plan: Any) -> None:
        self.run(plan)


class Babbles(Good):
    def run(self, plan: Any) -> None:
        print("garbage " * 1000)  # noqa: T201
        os.write(1, b"more garbage\n" * 1000)
        super().run(plan)


class WritesToTheChannel(Good):
    """A descriptor used after it was closed may be anybody's."""

    def run(self, plan: Any) -> None:
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"garbage\n")
            except OSError:
                continue
        super().run(plan)


class Loops(Good):
    """On more than one sequence."""

    def run(self, plan: Any) -> None:
        while len(plan.tensors.kv_lens) > 1:
            pass
        super().run(plan)


class DiesOnce(Good):
    """On the tenth call within one process: no case does it alone."""

    calls = 0

    def run(self, plan: Any) -> None:
        type(self).calls += 1
        if self.calls == 10:
            os.abort()
        super().run(plan)


class DiesInPlan(Good):
    def plan(self, tensors: Tensors) -> Any:
        ctypes.string_at(0)


class DiesAtLoad:
    def __init__(self, device: Device) -> None:
        os.abort()


class HangsAtLoad:
    def __init__(self, device: Device) -> None:
        time.sleep(3600)


class DiesAtSecondLoad(Good):
    """Ends its process at its second call; a new one does not get beyond loading it."""

    calls = 0

    def __init__(self, device: Device) -> None:
        loaded = Path(os.environ["PABENCH_TEST_LOADED"])
        if loaded.exists():
            self.refuse()
        loaded.touch()
        super().__init__(device)

    def refuse(self) -> None:
        os.abort()

    def run(self, plan: Any) -> None:
        # the first one only shows that it compiles
        self.calls += 1
        if self.calls > 1:
            os.abort()
        super().run(plan)


class RaisesAtSecondLoad(DiesAtSecondLoad):
    def refuse(self) -> None:
        raise OSError("only once")


class DiesWhenTimed(Good):
    """Right in every quick check, whose cases are poisoned."""

    def run(self, plan: Any) -> None:
        if plan.tensors.case.poison != "nan":
            os.abort()
        super().run(plan)


class HangsWhenTimed(Good):
    def run(self, plan: Any) -> None:
        while plan.tensors.case.poison != "nan":
            pass
        super().run(plan)


class BribesTheJudge(Good):
    """Wrong everywhere, in a process in which every verdict is a pass."""

    def __init__(self, device: Device) -> None:
        import pabench.activities.sweep.check as check
        import pabench.activities.sweep.run_cell as run_cell
        import pabench.judge.verdict as verdict

        class Pass:
            passed, max_ratio, text, case, tokens = True, 0.0, "", None, 0

            def to_dict(self) -> dict[str, Any]:
                return {"passed": True}

        for module in (check, run_cell, verdict):
            for name in ("judge", "quick_check"):
                setattr(module, name, lambda *given, **named: Pass())
        super().__init__(device)

    def fetch(self, plan: Any) -> Any:
        found = super().fetch(plan)
        found.out[...] = 0
        return found


class TellsNoTimes(Good):
    """Right, in a process that says of its speed what cannot be."""

    def __init__(self, device: Device) -> None:
        import pabench.activities.sweep.tasks as tasks

        tasks.host_times = lambda *given: {"plan_ns": [1], "run_ns": [float("nan")]}
        super().__init__(device)
