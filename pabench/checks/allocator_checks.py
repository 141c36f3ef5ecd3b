# SPDX-License-Identifier: Apache-2.0
"""Checks of page allocators: a history of operations is a case, the invariants are the judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pabench.checks.outcome import PASSED, Outcome, failed, raised
from pabench.checks.question import Maker
from pabench.checks.table_decode import judge_tables
from pabench.device.base import Device
from pabench.errors import DeviceFault, Unsupported
from pabench.judge.allocators.concurrent import PoolTrial
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.rounds import rounds_of


def judge_operation(trial: Trial, history: Sequence[Operation]) -> Outcome:
    """Do the last operation of ``history`` on a trial that has seen the others."""
    name = history[-1][0]
    try:
        violation = trial.perform(history[-1])
    except Exception as error:
        outcome = raised(error)
        return replace(outcome, text=f"operation {len(history)} ({name}): {outcome.text}")
    return failed(f"operation {len(history)} ({name}): {violation}") if violation else PASSED


def check_history(case: HistoryCase, new: Maker, device: Device) -> Outcome:
    """Pages are neither lost, doubled nor swapped by any history; refusals change nothing."""
    device.reschedule(case.schedule)
    trial, outcome = _replayed(case, new)
    return check_repeats(trial, new) if outcome.passed else outcome


def check_table_decode(case: HistoryCase, new: Maker, device: Device) -> Outcome:
    """After any history a decode kernel that reads the cache through the tables gives what the tokens say."""
    device.reschedule(case.schedule)
    trial, outcome = _replayed(case, new)
    return judge_tables(trial, device) if outcome.passed else outcome


def check_repeats(trial: Trial, new: Maker) -> Outcome:
    """Make the calls of a history once more, where ids are declared to repeat.

    Where they equal the model's there is nothing left to ask.
    """
    first = trial.subject
    if first.capabilities.determinism != "ids" or first.capabilities.model_ids:
        return PASSED
    again = new(first.shape)
    (refused,) = rounds_of(again, trial.calls, 1, watched=False).refused
    if refused != trial.refused:
        return failed(f"invariant 11: the same history refused {trial.refused} calls, then {refused}")
    if not np.array_equal(again.block_table(), first.block_table()):
        return failed("invariant 11: the same history gave other pages, declared are the same ids")
    return PASSED


def check_concurrent(case: HistoryCase, new: Maker, device: Device) -> Outcome:
    """Threads that take and give pages at the same time never share one, and lose none."""
    allocator = new(case.shape)
    launches = getattr(allocator, "launches", None)
    if launches is None:
        raise Unsupported(f"{allocator.name} serves a whole request in order, not thread by thread")
    device.reschedule(case.schedule)
    trial = PoolTrial(launches())
    for number, operation in enumerate(case.operations, start=1):
        try:
            violation = trial.perform(operation)
        except DeviceFault as error:
            violation = str(error)
        if violation:
            return failed(f"operation {number} ({operation[0]}): {violation}")
    return PASSED


def _replayed(case: HistoryCase, new: Maker) -> tuple[Trial, Outcome]:
    allocator = new(case.shape)
    wanted = {name for name, _ in case.operations} - {"drain", "rounds"}
    if missing := sorted(wanted - allocator.capabilities.operations):
        raise Unsupported(f"{allocator.name} offers no {', '.join(missing)}")
    trial = Trial(allocator)
    for count in range(1, len(case.operations) + 1):
        outcome = judge_operation(trial, case.operations[:count])
        if not outcome.passed:
            return trial, outcome
    return trial, PASSED
