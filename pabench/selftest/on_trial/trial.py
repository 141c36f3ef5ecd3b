# SPDX-License-Identifier: Apache-2.0
"""The trial: what a suite sees of a planted fault, and what ours does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.runner import CheckRunner
from pabench.checks.subject_facts import Judged
from pabench.checks.suite import question_by_id, questions_for
from pabench.device.base import Device
from pabench.errors import PabenchError
from pabench.judge.gather import to_float64
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors
from pabench.run.record import BROKEN
from pabench.selftest.on_trial.kernel import Kernel
from pabench.selftest.on_trial.peers import SUITES, Suite

FIRST = (
    *("decode[needle]", "decode[marker]", "prefill[causal]", "decode[normal]", "decode[spotlight]"),
    *("decode[huge]", "empty", "poison", "decode[long]", "decode[groups]", "decode[high-page-ids]"),
    "decode[far]",
)
"""Questions that most faults fall to, asked before the rest."""


class Call(NamedTuple):
    """A call of a suite with its right results, float64."""

    tensors: Tensors
    out: Array
    lse: Array


def calls_of(name: str) -> list[Call]:
    """Return the calls that a suite makes.

    Raises:
        PabenchError: it refuses the right kernel, so that its re-creation is wrong.
    """
    found = []
    for tensors in SUITES[name].cases():
        call = Call(tensors, *Kernel().attend(tensors))
        if not accepts(SUITES[name], Kernel, call):
            raise PabenchError(f"suite {name} refuses the right kernel on {tensors.case.batch.kv_lens}")
        found.append(call)
    return found


def accepts(suite: Suite, fault: type[Kernel], call: Call) -> bool:
    """Return whether a suite lets a kernel pass on a call."""
    kernel = fault()
    plan = kernel.plan(call.tensors)
    kernel.run(plan)
    output = kernel.fetch(plan)
    out = to_float64(output.out, call.tensors.case.problem.storage)
    with np.errstate(all="ignore"):
        return suite.accepts(out, call.out, np.asarray(output.lse, np.float64), call.lse)


def killed_by(
    fault: type[Kernel],
    device: Device,
    note: Callable[[str], None] = lambda text: None,
    *,
    profile: str = "quick",
) -> str | None:
    """Return the question of ours that a fault fails under ``profile``; None where it fails none."""
    runner = CheckRunner(device=device, case_budget=replace(CASE_BUDGETS[profile], shrink=False), seed=0)
    subject = Judged(name=fault.__name__, kind="backend", backend=fault())
    rest = [row.id for row in questions_for("backend") if row.id not in FIRST]
    for name in (*FIRST, *rest):
        note(name)
        if runner.answer(question_by_id(name), subject).result.status in BROKEN:
            return name
    return None
