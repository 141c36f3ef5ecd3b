# SPDX-License-Identifier: Apache-2.0
"""How long the serving driver takes with the null executor.  Times are printed, never asserted.

Workloads of more and more requests of one kind show whether a request costs more as the workload grows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pabench.activities.serving.executors import NullExecutor
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.records import Served
from pabench.activities.serving.schedulers import SCHEDULERS
from pabench.activities.serving.serve import serve
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.workloads.families import resolve_lengths
from pabench.workloads.requests import Requests, draw_requests, requests_of_trace
from pabench.workloads.traces import read_trace

Note = Callable[[str, int], None]
TRACE = Path(__file__).resolve().parents[2] / ".." / "shared" / "traces" / "azure_llm_2023_conv.csv"


def served(requests: Requests, *, max_seqs: int = 256, prompt: int = 16384) -> Served:
    shape = PoolShape(num_pages=2**16, page_size=16, max_seqs=max_seqs, max_pages_per_seq=prompt // 16)
    return serve(requests, HostAllocator(shape), SCHEDULERS["fcfs"], NullExecutor(), Limits())


def drawn(count: int, output: int) -> Requests:
    lengths = resolve_lengths("uniform:low=1,high=600"), resolve_lengths(f"fixed:len={output}")
    return draw_requests(*lengths, count=count, seed=0)


@pytest.mark.parametrize("max_seqs", [256, 1024])
def test_serving_decode_steps(benchmark: Any, per_unit: Note, max_seqs: int) -> None:
    """Long outputs: nearly all of the work is decode steps."""
    requests = drawn(2 * max_seqs, 1000)
    benchmark.pedantic(served, args=(requests,), kwargs={"max_seqs": max_seqs}, rounds=3, warmup_rounds=1)
    per_unit("sequence step", requests.num_requests * 999)


@pytest.mark.parametrize("count", [1000, 10_000, 100_000])
def test_serving_requests(benchmark: Any, per_unit: Note, count: int) -> None:
    """Short outputs: what a request costs to come and go, for ever more of them."""
    requests = drawn(count, 20)
    benchmark.pedantic(served, args=(requests,), rounds=1)
    per_unit("request", count)


def test_serving_azure_conversation(benchmark: Any, per_unit: Note) -> None:
    """The Azure conversation trace of 19,366 requests, all at once, reading included."""
    if not TRACE.is_file():
        pytest.skip("the trace is not beside the checkout (it is not part of the project)")

    def whole() -> None:
        served(requests_of_trace(read_trace(TRACE)))

    benchmark.pedantic(whole, rounds=2)
    per_unit("request", 19_366)
