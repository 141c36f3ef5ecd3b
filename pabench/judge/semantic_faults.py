"""Explanations that belong to a feature: a soft cap, a bias, a sink or a scale left out or mistaken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pabench.judge.suspect import Fault, Suspect
from pabench.problem.problem import Problem


def semantic_faults(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be with one feature of the problem mistaken."""
    problem, keys, values = suspect.tensors.case.problem, suspect.keys, suspect.values
    for words, other in _other_problems(problem, suspect.head):
        yield suspect.weighted(words, keys, values, problem=other)
    if problem.kv_dtype is not None:
        k_scale, v_scale = (problem.kv_scales(kind)[suspect.kv_head] for kind in "kv")
        for words, k_factor, v_factor in (
            ("keys without their scale", 1.0 / k_scale, 1.0),
            ("values without their scale", 1.0, 1.0 / v_scale),
            ("the scales of keys and values swapped", v_scale / k_scale, k_scale / v_scale),
            ("the scale of the keys on the values too", 1.0, k_scale / v_scale),
            ("the scale of the values on the keys too", v_scale / k_scale, 1.0),
        ):
            if (k_factor, v_factor) != (1.0, 1.0):
                yield suspect.weighted(words, keys * k_factor, values * v_factor)


def _other_problems(problem: Problem, head: int) -> Iterator[tuple[str, Problem]]:
    """Yield words and the problem that was solved in place of the one asked."""
    if problem.soft_cap is not None:
        yield "no soft cap", replace(problem, soft_cap=None)
    if problem.alibi_slopes is not None:
        slopes = problem.alibi_slopes
        yield "no ALiBi bias", replace(problem, alibi_slopes=None)
        yield "an ALiBi bias of the other sign", replace(problem, alibi_slopes=tuple(-s for s in slopes))
        for other in range(problem.num_qo_heads):
            if slopes[other] != slopes[head]:
                words = f"the ALiBi slope of query head {other}"
                yield words, replace(problem, alibi_slopes=(slopes[other],) * problem.num_qo_heads)
    if problem.sinks is not None:
        yield "its sink left out", replace(problem, sinks=None)
