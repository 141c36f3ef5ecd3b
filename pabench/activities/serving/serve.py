# SPDX-License-Identifier: Apache-2.0
"""Runs the driver to the end."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

import numpy as np

from pabench.activities.serving.driver import Driver
from pabench.activities.serving.executors import Executor
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.records import Served
from pabench.activities.serving.schedulers import Scheduler
from pabench.subjects.allocators.base import PageAllocator
from pabench.workloads.requests import Requests

PROGRESS_NS = 200_000_000
"""Between two words of how far it is: a step may take microseconds, or a second on an emulated device."""


def serve(
    requests: Requests,
    allocator: PageAllocator,
    scheduler: Scheduler,
    executor: Executor,
    limits: Limits,
    *,
    after_step: Callable[[int], None] = lambda step: None,
    progress: Callable[[int], None] = lambda done: None,
) -> Served:
    """Serve all requests that can be served.

    Args:
        requests: in order of arrival.
        allocator: empty.
        scheduler: who runs.
        executor: how long a step takes.
        limits: of a step.
        after_step: told each step when it is over; what it raises ends the run.
        progress: told now and then, between two steps, how many requests have ended.

    Raises:
        Unsupported: the allocator lacks an operation that scheduler or workload need.
    """
    driver = Driver(requests, allocator, scheduler, executor, limits)
    began = said = perf_counter_ns()
    while driver.step():
        after_step(driver.number)
        if (now := perf_counter_ns()) - said > PROGRESS_NS:
            said = now
            progress(driver.arrivals.ended)
    progress(driver.arrivals.ended)
    return Served(
        steps=driver.steps.columns(),
        samples=driver.samples.columns(),
        log=driver.log,
        arrival_s=np.array(driver.arrivals.at_s),
        gaps_s=np.array(driver.gaps),
        host_s=(perf_counter_ns() - began) / 1e9,
        allocator_ns=dict(driver.seats.ns),
        steps_done=driver.number,
        copies=driver.seats.copies,
        moves=driver.seats.moves,
        moved_pages=driver.seats.moved_pages,
    )
