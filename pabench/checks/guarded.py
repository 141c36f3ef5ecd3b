# SPDX-License-Identifier: Apache-2.0
"""Arrays that end, or begin, at a page of memory that nobody may touch.

A read that strays by one element shows in no output: what was read is masked, or multiplied by 0.  Here it
ends the process, which is a verdict when the suite runs in worker processes.
"""

from __future__ import annotations

from dataclasses import replace

from pabench.checks.attention_checks import judge_output
from pabench.checks.outcome import PASSED, Outcome
from pabench.device.base import Device
from pabench.device.rooms import GUARD_AT_END, GUARD_AT_START, in_rooms, make_rooms
from pabench.errors import Unsupported
from pabench.judge.reference import truth
from pabench.problem.case import Case
from pabench.problem.layout import pages_needed
from pabench.problem.tensors import Tensors, build_tensors
from pabench.subjects.backends.base import Backend, attend


def check_guard(case: Case, backend: Backend, device: Device) -> Outcome:
    """No array is read or written before its start or past its end: memory beyond it ends the process."""
    given = snug(build_tensors(case))
    reference = truth(given, backend.profile)
    worst = 0.0
    for words, kind in (("its end", GUARD_AT_END), ("its start", GUARD_AT_START)):
        rooms = make_rooms(device, kind)
        # on the host guarded too, for backends that upload nothing through the device
        tensors = rooms.given(given)
        with in_rooms(device, rooms):
            output = attend(backend, tensors)
        if device.name == "cuda" and not rooms.used:
            raise Unsupported("its arrays on the GPU are its own copies, which nobody can guard")
        outcome = judge_output(tensors, output, backend, reference=reference)
        if not outcome.passed:
            return replace(outcome, text=f"with a guard page at {words}: {outcome.text}")
        worst = max(worst, outcome.max_ratio or 0.0)
    return replace(PASSED, max_ratio=worst)


def snug(tensors: Tensors) -> Tensors:
    """Return ``tensors`` with a block table as wide as the longest sequence asks for.

    Room beyond it would hide a read of the entry after the last one.
    """
    table = tensors.layout.block_table
    width = max(1, pages_needed(int(max(tensors.kv_lens, default=0)), tensors.layout.page_size))
    return replace(tensors, layout=replace(tensors.layout, block_table=table[:, :width].copy()))
