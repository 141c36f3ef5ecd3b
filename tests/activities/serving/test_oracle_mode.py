# SPDX-License-Identifier: Apache-2.0
"""Oracle mode and the kernel executor: planted faults in the allocator are found and made small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pabench.activities.serving.executors import NullExecutor, StepWork
from pabench.activities.serving.kernel import KernelExecutor
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.oracle_mode import Watch, failing_history
from pabench.activities.serving.recorded import JudgedAllocator, RecordedAllocator, Violation
from pabench.activities.serving.schedulers import SCHEDULERS
from pabench.activities.serving.serve import serve
from pabench.device.base import Device
from pabench.device.registry import open_device
from pabench.errors import EnvironmentRefused
from pabench.judge.allocators.history import HistoryCase, history_from_dict, perform, shortest_history
from pabench.judge.allocators.invariants import violation
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Granted
from pabench.workloads.families import resolve_lengths
from pabench.workloads.requests import draw_requests
from tests.support.serving_support import asked

SHAPE = PoolShape(num_pages=64, page_size=4, max_seqs=8, max_pages_per_seq=16)


class Leaky(HostAllocator):
    """Loses a page whenever a sequence of more than 20 tokens is freed."""

    def free(self, sequences: Sequence[int]) -> None:
        long = sum(self._lengths[sequence] > 20 for sequence in sequences)
        super().free(sequences)
        self._ring.take(int(long))


class Crossed(HostAllocator):
    """Swaps two pages of a table once a sequence has five: every page has one owner, tokens are permuted."""

    def append_batch(self, sequences: Any, tokens: Any) -> Granted:
        granted = super().append_batch(sequences, tokens)
        for sequence in np.flatnonzero(self._lengths == 17):
            row = self._table[sequence]
            row[[0, 1]] = row[[1, 0]]
        return granted


def emulated() -> Device:
    try:
        return open_device("emulated")
    except EnvironmentRefused as error:
        pytest.skip(str(error))


def test_oracle_mode_finds_a_leak_and_makes_it_small() -> None:
    requests = draw_requests(
        resolve_lengths("uniform:low=1,high=18"), resolve_lengths("fixed:len=8"), count=60, seed=0
    )
    recorded = RecordedAllocator(Leaky(SHAPE))
    with pytest.raises(Violation, match=r"after step \d+: invariant 1"):
        serve(requests, recorded, SCHEDULERS["fcfs"], NullExecutor(), Limits(), after_step=Watch(recorded, 7))
    case = failing_history(recorded, Leaky)
    assert case is not None
    # one sequence comes, grows beyond 20, and goes
    names = [name for name, _ in case.operations]
    assert names[0] == "alloc"
    assert names[-1] == "free"
    assert set(names[1:-1]) == {"append_batch"}
    assert len(names) <= 9
    assert history_from_dict(case.to_dict()) == case
    again = Leaky(SHAPE)
    for operation in case.operations:
        assert violation(again) is None
        perform(again, operation)
    assert violation(again) is not None


def test_oracle_mode_leaves_a_right_allocator_alone() -> None:
    recorded = RecordedAllocator(HostAllocator(SHAPE))
    watch = Watch(recorded, 2)
    served = serve(
        asked(*[(9, 9)] * 20), recorded, SCHEDULERS["fcfs"], NullExecutor(), Limits(), after_step=watch
    )
    assert watch.checks == served.steps_done // 2 > 5
    assert failing_history(recorded, HostAllocator) is None


def test_oracle_mode_same_figures_as_without() -> None:
    requests = asked(*[(9, 9)] * 20, (30, 3))

    def served(allocator: PageAllocator) -> Array:
        columns = serve(
            requests, allocator, SCHEDULERS["sarathi"], NullExecutor(), Limits(token_budget=16)
        ).steps
        return np.stack([columns[name] for name in sorted(columns) if name != "allocator_ns"])

    plain = served(HostAllocator(SHAPE))
    assert np.array_equal(plain, served(RecordedAllocator(HostAllocator(SHAPE))))
    assert np.array_equal(plain, served(JudgedAllocator(HostAllocator(SHAPE))))


def test_history_that_breaks_by_raising_is_found() -> None:
    class Falls(HostAllocator):
        def fork(self, parent: int, child: int) -> None:
            raise RuntimeError("no")

    stream = {"stream": 0, "adapter": "", "salt": ""}
    start = {"tokens": 3, "final_tokens": None, **stream}
    operations = [("alloc", {"sequence": at, **start}) for at in range(4)]
    operations += [("fork", {"parent": 2, "child": 5, "stream": 0}), ("free", {"sequences": [0, 1]})]
    case = shortest_history(SHAPE, operations, Falls, rounds=50)
    assert case is not None
    assert [name for name, _ in case.operations][-1] == "fork"
    assert len(case.operations) <= 2


def test_judged_allocator_sees_permuted_tables_that_no_count_shows() -> None:
    recorded = RecordedAllocator(Crossed(SHAPE))
    requests = asked(*[(10, 12)] * 4)
    serve(requests, recorded, SCHEDULERS["fcfs"], NullExecutor(), Limits(), after_step=Watch(recorded, 1))
    with pytest.raises(Violation, match=r"invariant (5|7)"):
        serve(requests, JudgedAllocator(Crossed(SHAPE)), SCHEDULERS["fcfs"], NullExecutor(), Limits())


def test_kernel_executor_serves_fifty_requests_to_the_end() -> None:
    requests = draw_requests(
        resolve_lengths("uniform:low=1,high=20"), resolve_lengths("uniform:low=1,high=10"), count=50, seed=3
    )
    judged = JudgedAllocator(HostAllocator(SHAPE))
    executor = KernelExecutor(judged, emulated(), NullExecutor())
    served = serve(requests, judged, SCHEDULERS["fcfs"], executor, Limits(reserve_pages=1))
    assert sum(at is not None for at in served.log.finish_s) == 50
    assert executor.launches == served.steps_done
    assert executor.decoded >= served.steps["decode_tokens"].sum()
    assert 0 < executor.max_ratio <= 1


def test_kernel_executor_fails_on_what_a_table_leads_to() -> None:
    judged = JudgedAllocator(HostAllocator(SHAPE))
    executor = KernelExecutor(judged, emulated(), NullExecutor())
    stream = {"stream": 0, "adapter": "", "salt": ""}
    judged.do("alloc", {"sequence": 0, "tokens": 9, "final_tokens": None, **stream})
    table = judged.subject._table  # type: ignore[attr-defined]
    # attention does not see the order of full pages, but the last one holds a single token
    table[0, [0, 2]] = table[0, [2, 0]]
    with pytest.raises(Violation, match="decoding through the tables"):
        executor.step(StepWork(1, 1, 9))


def test_kernel_executor_runs_each_kth_step() -> None:
    judged = JudgedAllocator(HostAllocator(SHAPE))
    executor = KernelExecutor(judged, emulated(), NullExecutor(), every=4)
    served = serve(asked((5, 12)), judged, SCHEDULERS["fcfs"], executor, Limits())
    assert (served.steps_done, executor.launches) == (12, 3)


def test_history_case_is_plain() -> None:
    recorded = RecordedAllocator(Leaky(SHAPE))
    serve(asked((22, 2), (3, 2)), recorded, SCHEDULERS["fcfs"], NullExecutor(), Limits())
    case = failing_history(recorded, Leaky)
    assert isinstance(case, HistoryCase)
    assert all(isinstance(value, int) for _, given in case.operations for value in given.get("sequences", []))
