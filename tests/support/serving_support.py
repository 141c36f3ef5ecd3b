# SPDX-License-Identifier: Apache-2.0
"""Small servers for the tests of ``pabench.activities.serving``."""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.activities.serving.executors import NullExecutor
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.records import Served
from pabench.activities.serving.schedulers import SCHEDULERS
from pabench.activities.serving.serve import serve
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.workloads.requests import Requests
from tests.support.allocator_support import make_allocator
from tests.support.probe import DEVICE


def asked(
    *pairs: tuple[int, int], arrival_s: tuple[float, ...] = (), forks: int = 1, **more: Any
) -> Requests:
    """Requests of (prompt, output) tokens."""
    columns = np.array(pairs, np.int64).reshape(-1, 2)
    return Requests(
        name="test",
        prompt_tokens=columns[:, 0],
        output_tokens=columns[:, 1],
        arrival_s=np.array(arrival_s, np.float64),
        forks=forks,
        **more,
    )


def pool(
    pages: int = 64, size: int = 4, seqs: int = 8, *, width: int = 32, name: str = "host", swap: int = 0
) -> PageAllocator:
    """An empty allocator."""
    shape = PoolShape(
        num_pages=pages, page_size=size, max_seqs=seqs, max_pages_per_seq=width, swap_pages=swap
    )
    return make_allocator(name, DEVICE, shape)


def run(
    requests: Requests,
    allocator: PageAllocator,
    scheduler: str = "fcfs",
    *,
    step_s: float = 1.0,
    **limits: Any,
) -> Served:
    """Serve with steps of one second."""
    limits = {"sample_steps": 1, **limits}
    return serve(requests, allocator, SCHEDULERS[scheduler], NullExecutor(step_s), Limits(**limits))
