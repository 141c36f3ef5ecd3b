# SPDX-License-Identifier: Apache-2.0
"""The worker's side of a serving run: makes the workload once, which one server after another serves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pabench.activities.serving.clock import clock_of, page_model
from pabench.activities.serving.columns import write_columns
from pabench.activities.serving.config import config_from_dict
from pabench.activities.serving.executors import Executor
from pabench.activities.serving.metrics import by_priority, figures, latency_columns, provenance_of
from pabench.activities.serving.oracle_mode import Watch, failing_history
from pabench.activities.serving.recorded import JudgedAllocator, RecordedAllocator, Violation
from pabench.activities.serving.records import Served
from pabench.activities.serving.schedulers import scheduler_by_name
from pabench.activities.serving.series import curves, series
from pabench.activities.serving.serve import serve
from pabench.activities.serving.server import Server, servers_of
from pabench.activities.serving.transfers import transfer_figures
from pabench.activities.serving.workload import Workload, make_workload
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.judge.allocators.leftovers import leftovers
from pabench.run.alive import alive
from pabench.run.ending import error_text
from pabench.run.figures import figures_of
from pabench.run.files import plain
from pabench.run.plug import Answer, BenchBase, Env, FailingCase
from pabench.run.record import Record, Status
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.reference import ALLOCATOR
from pabench.subjects.registry import load_allocator
from pabench.subjects.versions import subject_facts

INVARIANTS = "allocator-invariants"
HOST = {"device": "emulated", "description": "the host; nothing here runs a kernel"}
"""Where allocators of the host alone are; a history of theirs is replayed without a GPU."""


class ServingBench(BenchBase):
    """Implements ``Bench``.

    Args:
        setup: ``config`` (a ``ServingConfig``), ``device`` (a ``DeviceRequest``), and ``columns``, the folder
            that files of columns go to.
        env: hears how far a server is.
    """

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._config, self._env = config_from_dict(setup["config"]), env
        self._request, self._columns = DeviceRequest(**setup["device"]), Path(setup["columns"])
        self._where: Mapping[str, str] = HOST
        self._workload: Workload
        self._device: Device | None = None

    def open(self) -> Mapping[str, Any]:
        """Make the workload; open a device only where it was named, or something runs on it."""
        config, what = self._config, f"the trace {self._config.trace}" if self._config.trace else "requests"
        for size in config.page_sizes:
            clock_of(config, size)  # refuses constants that are none
        with alive(lambda: self._env.loading(what)):
            self._workload = make_workload(config)
        servers = [server.to_dict() for server in servers_of(config, self._workload)]
        on_device = [load_allocator(name).on_device for name in config.allocators]
        launches = config.executor == "kernel" or any(on_device)
        if self._request.name != "auto" or launches:
            self._env.loading(f"device {self._request.name!r}")
            self._device = self._request.open(must_run=launches)
            self._where = {"device": self._device.name, "description": self._device.description}
        requests = {
            "num_requests": self._workload.requests.num_requests,
            "workload": self._workload.text,
            "workload_id": self._workload.id,
        }
        subjects = subject_facts(ALLOCATOR, config.allocators)
        return {**self._where, "servers": servers, "requests": requests, "subjects": subjects}

    def run(self, item: Mapping[str, Any]) -> Answer:
        """See ``Bench``."""
        server, began = Server(**item), time.monotonic()
        found = self._answer(server)
        took = round(time.monotonic() - began, 3)
        return replace(found, record=replace(found.record, duration_s=took))

    def _answer(self, server: Server) -> Answer:
        blank, subject = server.blank(self._where["device"]), None
        try:
            subject = self._subject(server)
            served, more, provenance = self._serve(server, subject)
        except Unsupported as lacking:
            return Answer(record=replace(blank, status=Status.UNSUPPORTED, reason=str(lacking)))
        except EnvironmentRefused:
            raise
        except Violation as found:
            record = replace(blank, status=Status.FAILED, reason=str(found))
            return Answer(record=record, failing=self._history(server, subject))
        except Exception as error:
            # whatever it raises is its own; what it leaves of this process, nobody knows
            record = replace(blank, status=Status.CRASHED, reason=error_text(error))
            written = isinstance(subject, RecordedAllocator)
            return Answer(
                record=record, failing=self._history(server, subject) if written else None, lost=True
            )
        write_columns(self._columns, server.id, self._workload.requests, served)
        return Answer(record=self._record(blank, served, more, provenance))

    def _subject(self, server: Server) -> PageAllocator:
        """The allocator as it is driven: written down, or held to the model, where that is asked for."""
        if self._device is not None:
            self._device.reschedule(0)
        made = self._make(server, self._shape(server))
        if self._config.executor == "kernel":
            return JudgedAllocator(made)
        return RecordedAllocator(made) if self._config.check_steps else made

    def _make(self, server: Server, shape: PoolShape) -> PageAllocator:
        entry = load_allocator(server.allocator)
        device: Any = self._device  # there wherever an allocator uses it
        return entry.make(device, shape)

    def _shape(self, server: Server) -> PoolShape:
        return self._config.shape(server.page_size, self._workload.longest(self._config))

    def _serve(self, server: Server, subject: PageAllocator) -> tuple[Served, dict[str, Any], str]:
        config, requests = self._config, self._workload.requests
        executor: Executor = clock_of(config, server.page_size)
        kernel = None
        if isinstance(subject, JudgedAllocator) and self._device is not None:
            from pabench.activities.serving.kernel import KernelExecutor

            executor = kernel = KernelExecutor(subject, self._device, executor, every=config.kernel_steps)
        watch = Watch(subject, config.check_steps)
        served = serve(
            requests,
            subject,
            scheduler_by_name(config.scheduler),
            executor,
            config.limits(subject.shape),
            after_step=watch,
            progress=lambda done: self._env.note(f"{done:,} of {requests.num_requests:,}"),
        )
        if found := leftovers(subject):
            raise Violation(found)
        more: dict[str, Any] = {"checked_steps": watch.checks} if watch.checks else {}
        if kernel is not None:
            more["kernel"] = kernel.told
        return served, more, executor.provenance

    def _record(self, blank: Record, served: Served, more: Mapping[str, Any], provenance: str) -> Record:
        config, requests = self._config, self._workload.requests
        found = figures(
            requests,
            served,
            gpus=config.gpus,
            ttft_limit_s=config.ttft_limit_s,
            tpot_limit_s=config.tpot_limit_s,
        )
        skips = dict(Counter(served.log.skipped.values()))
        found |= transfer_figures(config, served)
        if (pages := page_model(config, served)) is not None:
            more = {**more, "page_model": pages}
        reasons = ", ".join(f"{why} ({count:,})" for why, count in skips.items())
        nothing = {"status": Status.UNSUPPORTED, "reason": f"no request could be served: {reasons}"}
        ended: dict[str, Any] = {"status": Status.PASSED} if found["served"] else nothing
        return replace(
            blank,
            **ended,
            figures=figures_of(found, provenance_of(found, provenance)),
            details={
                **blank.details,
                "series": series(served.steps, served.samples, int(blank.details["num_pages"])),
                "curves": curves(latency_columns(requests, served)),
                "skip_reasons": skips,
                **({"priorities": classes} if (classes := by_priority(requests, served)) else {}),
                **more,
            },
        )

    def _again(self, server: Server) -> RecordedAllocator:
        """Serve once more and write down what is done."""
        self._env.note("it failed; serving again to write down what is done")
        recorded = RecordedAllocator(self._make(server, self._shape(server)))
        with suppress(Violation):
            self._serve(server, recorded)
        return recorded

    def _history(self, server: Server, subject: PageAllocator | None) -> FailingCase | None:
        """The shortest history found that breaks the allocator; None where no history can hold what was done.

        What is at fault only at the end has not been written down, so that it is served again.
        """
        if subject is None or self._config.prefix_cache:
            return None
        if not isinstance(subject, RecordedAllocator):
            subject = self._again(server)

        def new(shape: PoolShape) -> PageAllocator:
            self._env.note("it failed; looking for the shortest history")
            return self._make(server, shape)

        case = failing_history(subject, new)
        if case is None:
            return None
        # lengths and sequences come from arrays
        return FailingCase(check=INVARIANTS, kind="history", case=plain(case.to_dict()), id=case.id)
