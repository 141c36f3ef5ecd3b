"""Workloads of a definition as questions to its solutions: one call each, judged like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from pabench.checks.attention_checks import attend_watched, judge_output
from pabench.checks.outcome import Outcome, failed
from pabench.checks.question import Check, Question
from pabench.device.base import Device
from pabench.errors import Unsupported, UsageError
from pabench.exchange.definition import find_definition, root_of
from pabench.exchange.paged import PagedAttention, paged_attention
from pabench.exchange.solution import read_solution
from pabench.exchange.workload import Workload, case_of, own_workloads, read_workloads
from pabench.judge.gather import to_float64
from pabench.judge.reference import truth
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.recorded import keep
from pabench.problem.tensors import build_tensors
from pabench.subjects.backends.base import Backend
from pabench.subjects.registry import SOLUTION
from pabench.text import shown_path

TINY = 1e-8
"""Added to what an error is relative to."""


def check_workload(case: Case, backend: Backend, device: Device) -> Outcome:
    """Output and LSE of this workload are within the bound of the dense float64 oracle."""
    tensors = build_tensors(case)
    output, wrong = attend_watched(tensors, backend, device)
    if wrong:
        return failed(wrong)
    reference = truth(tensors, backend.profile)
    outcome = judge_output(tensors, output, backend, reference=reference)
    return replace(outcome, errors=_errors(output.out, reference.out, case))


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


class Asked(NamedTuple):
    """What a solution is asked: its definition, the trace set that it lies in, and the workloads."""

    attention: PagedAttention
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
        attention = paged_attention(find_definition(root, solution.definition))
    except Unsupported:
        return None  # the subject's own facts say so
    if file is None:
        return Asked(attention, root, solution.name, own_workloads(attention))
    found = [one for one in read_workloads(Path(file)) if one.definition in (None, attention.definition.name)]
    if not found:
        rule = f"has no workload of the definition {attention.definition.name!r}"
        raise UsageError(f"workloads {shown_path(file)} {rule}, which {solution.name!r} solves")
    return Asked(attention, root, solution.name, found)


def workload_question(subject: str, file: str | None, uuid: str) -> Question:
    """Return the question that a workload is; its recording, where it has one, is kept for the judge.

    Raises:
        UsageError: as ``workloads_of``, or inputs that are missing or do not fit.
    """
    asked = workloads_of(subject, file)
    if asked is None:
        raise UsageError(f"{subject}: no solution of paged attention")
    workload = next(one for one in asked.workloads if one.uuid == uuid)
    case, recording = case_of(workload, asked.attention, asked.root)
    if recording is not None:
        keep(recording)
    return Question(
        check=WORKLOAD,
        clauses=(),
        draw=lambda declared: st.just(case),
        label=uuid,
        operation="decode" if case.batch.is_decode else "prefill",
        shrinks=False,
    )
