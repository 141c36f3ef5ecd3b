# SPDX-License-Identifier: Apache-2.0
"""Workloads of a definition as questions to its solutions: one call each, judged like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from pabench.checks.append_checks import check_append_paged
from pabench.checks.attention_checks import attend_watched, judge_output
from pabench.checks.merge_checks import TINY, check_merge
from pabench.checks.outcome import Outcome, failed
from pabench.checks.question import Check, Question
from pabench.device.base import Device
from pabench.errors import Unsupported, UsageError
from pabench.exchange.definition import find_definition, root_of
from pabench.exchange.page_append import PageAppend
from pabench.exchange.paged import PagedAttention
from pabench.exchange.solution import read_solution
from pabench.exchange.stated import Stated, stated
from pabench.exchange.workload import Workload, case_of, own_workloads, read_workloads
from pabench.judge.gather import to_float64
from pabench.judge.reference import truth
from pabench.problem.append import AppendCase
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.recorded import keep
from pabench.problem.tensors import build_tensors
from pabench.subjects.backends.base import Backend
from pabench.subjects.registry import SOLUTION
from pabench.text import shown_path


def check_workload(case: Case, backend: Backend, device: Device) -> Outcome:
    """Output and LSE of this workload are within the bound of the dense float64 oracle."""
    tensors = build_tensors(case)
    output, wrong = attend_watched(tensors, backend, device)
    if wrong:
        return failed(wrong)
    reference = truth(tensors, backend.profile)
    outcome = judge_output(tensors, output, backend, reference=reference)
    return replace(outcome, errors=_errors(output.out, reference.out, case))


def check_append_workload(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """The rows of this workload stand in the cache bit for bit; every other byte is as before."""
    outcome = check_append_paged(case, backend, device)
    return replace(outcome, errors=(0.0, 0.0)) if outcome.passed else outcome


def _errors(out: Any, expected: Array, case: Case) -> tuple[float, float] | None:
    """Largest absolute and relative error; None of what is no output, or where it is not finite."""
    storage = case.problem.storage
    if not isinstance(out, np.ndarray) or out.shape != expected.shape or out.dtype != storage.storage:
        return None
    error = np.abs(to_float64(out, storage) - expected)
    if not error.size or not np.isfinite(error).all():
        return None if error.size else (0.0, 0.0)
    return float(error.max()), float((error / (np.abs(expected) + TINY)).max())


WORKLOAD = Check(id="workload", operation="decode", run=check_workload)
APPEND = Check(id="workload-append", operation="append-paged", run=check_append_workload, kind="append")
MERGE = Check(id="workload-merge", operation="merge", run=check_merge, kind="merge")
WORKLOADS = {check.id: check for check in (WORKLOAD, APPEND, MERGE)}


def workload_check(meant: Stated) -> Check:
    """Return the check of the workloads of a definition."""
    if isinstance(meant, PagedAttention):
        return WORKLOAD
    return APPEND if isinstance(meant, PageAppend) else MERGE


class Asked(NamedTuple):
    """What a solution is asked: its definition, the trace set that it lies in, and the workloads."""

    meant: Stated
    root: Path
    solution: str
    workloads: list[Workload]


def workloads_of(subject: str, file: str | None) -> Asked | None:
    """Return what a subject is asked: the workloads of ``file``, else our own; None where it is no Solution.

    Raises:
        UsageError: a file breaks a rule, or has no workload of this definition.
    """
    if not subject.endswith(SOLUTION):
        return None
    path = Path(subject)
    solution, root = read_solution(path), root_of(path)
    try:
        meant = stated(find_definition(root, solution.definition))
    except Unsupported:
        return None  # the subject's own facts say so
    if file is None:
        return Asked(meant, root, solution.name, own_workloads(meant))
    found = [one for one in read_workloads(Path(file)) if one.definition in (None, meant.definition.name)]
    if not found:
        rule = f"has no workload of the definition {meant.definition.name!r}"
        raise UsageError(f"workloads {shown_path(file)} {rule}, which {solution.name!r} solves")
    return Asked(meant, root, solution.name, found)


def workload_question(subject: str, file: str | None, uuid: str) -> Question:
    """Return the question that a workload is; its recording, where it has one, is kept for the judge.

    Raises:
        UsageError: as ``workloads_of``, or inputs that are missing or do not fit.
    """
    asked = workloads_of(subject, file)
    if asked is None:
        raise UsageError(f"{subject}: no solution of a definition that is taken")
    workload = next(one for one in asked.workloads if one.uuid == uuid)
    case, recording = case_of(workload, asked.meant, asked.root)
    if recording is not None:
        keep(recording)
    decode = isinstance(case, Case) and case.batch.is_decode
    check = workload_check(asked.meant)
    return Question(
        check=check,
        clauses=(),
        draw=lambda declared: st.just(case),
        label=uuid,
        operation=check.operation if decode or check is not WORKLOAD else "prefill",
        shrinks=False,
    )
