# SPDX-License-Identifier: Apache-2.0
"""The worker's side of a sweep: a judge that owns a process per backend, and runs one cell after another."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pabench.activities.sweep.cell import Cell, cell_from_dict
from pabench.activities.sweep.line import answer, blank_line, failing_case
from pabench.activities.sweep.operation import Operation, operation_from_dict
from pabench.activities.sweep.operations_judged import run_operation
from pabench.activities.sweep.run_cell import preflight, run_cell
from pabench.activities.sweep.times import TASKS, Speed, Tasks
from pabench.checks.remote.errors import SubjectEnded
from pabench.checks.remote.fork_server import shared_fork_server
from pabench.checks.remote.subject import RemoteSubject
from pabench.controls.hold import open_verified
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import DeviceFault, PabenchError, Unsupported
from pabench.problem.case import Case
from pabench.run.plug import Answer, BenchBase, Env
from pabench.run.record import Status
from pabench.subjects.backends.base import Backend
from pabench.subjects.process.tasks import run_task
from pabench.subjects.reference import BACKEND
from pabench.subjects.registry import load_backend
from pabench.subjects.versions import subject_facts
from pabench.timing.gpus import gpu_by_name


class SweepBench(BenchBase):
    """Implements ``Bench``.

    Args:
        setup: ``device`` (a ``DeviceRequest``), ``backends`` (names), ``gpu`` (of the modelled figures),
            ``optional``: whether a backend that cannot be loaded makes unsupported cells and no refusal,
            ``deadline_s`` (None: the backends in this very process), and ``known``: what ``open`` of another
            worker has returned.
        env: told each case before it runs.
    """

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._request, self._env = DeviceRequest(**setup["device"]), env
        self._names, self._optional = tuple(setup["backends"]), bool(setup["optional"])
        self._deadline_s, self._known = setup["deadline_s"], setup["known"]
        self._gpu = gpu_by_name(setup["gpu"])
        self._device: Device | None = None
        self._here: dict[str, Backend] = {}
        self._apart: dict[str, RemoteSubject] = {}
        self._absent: dict[str, str] = {}
        self._asked: dict[str, int | None] = {}
        self._stack = contextlib.ExitStack()
        self._announced: Case | None = None

    def open(self) -> Mapping[str, Any]:
        """Load the backends, each where it is to run."""
        if self._known is not None:
            self._absent = dict(self._known["absent"])
            return dict(self._known)
        if self._deadline_s is None or self._request.checked:
            self._env.loading(f"device {self._request.name!r}")
            self._device = open_verified(self._request)
        for name in self._names:
            self._env.loading(f"backend {name!r}")
            try:
                self._load(name)
            except PabenchError as error:
                if not self._optional:
                    raise
                self._absent[name] = str(error)
        device, description = self._device_facts()
        modes = {name: getattr(backend, "mode", None) for name, backend in self._here.items()}
        modes |= {name: made.facts.mode for name, made in self._apart.items()}
        return {
            "device": device,
            "description": description,
            "absent": dict(self._absent),
            "subjects": subject_facts(BACKEND, self._names, modes),
        }

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """Plan the smallest problem of a cell (``preflight``), or measure the ceilings (``hardware``).

        A compiler that is missing shows before any file is written.
        """
        if "preflight" in what:
            cell = cell_from_dict(what["preflight"])
            if cell.backend in self._absent:
                return {"tried": False}
            try:
                return {"tried": preflight(cell, self._backend(cell.backend)[0])}
            except SubjectEnded:
                return {"tried": True}  # told in the cell that ends it too
        if (name := self._present()) is None:
            return {"hardware": None}
        try:
            return {"hardware": self._backend(name)[1](f"{TASKS}:ceilings", {})}
        except SubjectEnded as ended:
            raise DeviceFault(f"the ceilings of this GPU cannot be measured: {ended.ending.text}") from None

    def run(self, item: Mapping[str, Any]) -> Answer:
        """Run one cell or operation; the end of the process in which it ran is its verdict."""
        began = time.monotonic()
        asked = operation_from_dict(item)
        found = self._run_cell(cell_from_dict(item)) if asked is None else self._run_operation(asked)
        return replace(found, record=replace(found.record, duration_s=round(time.monotonic() - began, 3)))

    def _run_operation(self, operation: Operation) -> Answer:
        if (name := self._present()) is None:
            return operation.answered(Status.UNSUPPORTED, "no backend is there in whose process it could run")
        try:
            self._freshen(name, operation.replicate)
            found = run_operation(operation, self._backend(name)[1], checked=self._request.checked)
        except SubjectEnded as ended:
            status = Status.HUNG if ended.ending.hung else Status.CRASHED
            found = operation.answered(status, ended.ending.text)
        if operation.device == "cuda" and found.record.status != Status.PASSED:
            self._renew(name)
        return found

    def _run_cell(self, cell: Cell) -> Answer:
        self._announced = None
        try:
            self._freshen(cell.backend, cell.replicate)
            found = self._answer(cell)
        except SubjectEnded as ended:
            status = Status.HUNG if ended.ending.hung else Status.CRASHED
            found = answer(blank_line(cell), status, ended.ending.text, self._announced)
        if found.record.status == Status.CRASHED and found.failing is None and self._announced is not None:
            found = replace(found, failing=failing_case(self._announced))
        if cell.device == "cuda" and found.record.status != Status.PASSED:
            self._renew(cell.backend)
        return found

    def close(self) -> None:
        """End the backends' processes."""
        self._stack.close()
        self._apart.clear()

    def _answer(self, cell: Cell) -> Answer:
        if cell.backend in self._absent:
            return answer(blank_line(cell), Status.UNSUPPORTED, self._absent[cell.backend])
        backend, task = self._backend(cell.backend)
        speed = Speed(task=task, checked=self._request.checked, gpu=self._gpu.name)
        return run_cell(cell, backend, speed, self._gpu, announce=partial(self._announce, cell.backend))

    def _announce(self, name: str, case: Case) -> None:
        self._announced = case
        self._env.case(failing_case(case))
        if name in self._apart:
            self._apart[name].begin_case()

    def _backend(self, name: str) -> tuple[Backend, Tasks]:
        """A backend, and who runs functions of ours beside it."""
        if name not in self._here and name not in self._apart:
            self._load(name)
        if name in self._here:
            backend = self._here[name]
            return backend, partial(run_task, subject=backend, device=self._device)
        return self._apart[name].backend, self._apart[name].task

    def _load(self, name: str) -> None:
        if self._deadline_s is None:
            if self._device is None:
                self._device = open_verified(self._request)
            self._here[name] = load_backend(name, self._device)
            return
        fork_server = shared_fork_server(place=self._names.index(name))
        made = RemoteSubject(fork_server, self._request, BACKEND, name, deadline_s=self._deadline_s)
        made = self._stack.enter_context(made)
        if made.facts.lacking is not None:
            raise Unsupported(made.facts.lacking)
        self._apart[name] = made

    def _present(self) -> str | None:
        """The first backend that could be loaded: kernels that are no backend's run in its process."""
        return next((name for name in self._names if name not in self._absent), None)

    def _freshen(self, name: str, replicate: int | None) -> None:
        """Give each replicate a process of the backend that has timed for no other."""
        before = self._asked.setdefault(name, replicate)
        if before != replicate and name in self._apart:
            self._apart[name].restart()
        self._asked[name] = replicate

    def _renew(self, name: str) -> None:
        """Start a process again whose CUDA context is lost: no later call in it would work."""
        if name not in self._apart:
            return
        try:
            self._apart[name].device.synchronize()
        except DeviceFault:
            self._apart[name].restart()
        except SubjectEnded:
            pass  # the next call starts it

    def _device_facts(self) -> tuple[str, str]:
        if told := [subject.facts for subject in self._apart.values()]:
            return told[0].device_name, "; ".join(dict.fromkeys(one.device_description for one in told))
        if self._device is None:
            self._device = open_verified(self._request)
        return self._device.name, self._device.description
