# SPDX-License-Identifier: Apache-2.0
"""Explanations that belong to a feature: a soft cap, a bias, a sink or a scale left out or mistaken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from pabench.judge.suspect import Fault, Suspect
from pabench.problem.problem import MAX_SCALE, Problem

SCALES = (("qkv", "the scales"), ("q", "the scale of the queries"), ("kv", "the cache's scales"))


def semantic_faults(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be with one feature of the problem mistaken."""
    problem, keys, values = suspect.tensors.case.problem, suspect.keys, suspect.values
    for words, other in (*_other_scales(problem), *_other_problems(problem, suspect.head)):
        yield suspect.weighted(words, keys, values, problem=other)
    if problem.q_dtype is not None and suspect.scale("q") != 1.0:
        yield suspect.weighted("queries without their scale", keys / suspect.scale("q"), values)
    if suspect.tensors.case.scales:
        yield from _scales_of_sequences(suspect)
    if problem.kv_dtype is not None:
        k_scale, v_scale = (suspect.scale(kind) for kind in "kv")
        for words, k_factor, v_factor in (
            ("keys without their scale", 1.0 / k_scale, 1.0),
            ("values without their scale", 1.0, 1.0 / v_scale),
            ("the scales of keys and values swapped", v_scale / k_scale, k_scale / v_scale),
            ("the scale of the keys on the values too", 1.0, k_scale / v_scale),
            ("the scale of the values on the keys too", v_scale / k_scale, 1.0),
        ):
            if (k_factor, v_factor) != (1.0, 1.0):
                yield suspect.weighted(words, keys * k_factor, values * v_factor)
        for head in range(problem.num_kv_heads):
            k_factor, v_factor = (
                suspect.scale(kind, head) / own for kind, own in (("k", k_scale), ("v", v_scale))
            )
            for words, on_keys, on_values in (
                ("the scale of the keys", k_factor, 1.0),
                ("the scale of the values", 1.0, v_factor),
                ("the scales of keys and values", k_factor, v_factor),
            ):
                if (on_keys, on_values) != (1.0, 1.0):
                    said = f"{words} of KV head {head} in place of {suspect.kv_head}"
                    yield suspect.weighted(said, keys * on_keys, values * on_values)


def _scales_of_sequences(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be with scales of another sequence."""
    case, head = suspect.tensors.case, suspect.kv_head
    for sequence in range(case.batch.num_seqs):
        factor = {kind: case.scales_of(kind, sequence)[head] / suspect.scale(kind) for kind in "qkv"}
        for kinds, words in SCALES:
            q, k, v = (factor[kind] if kind in kinds else 1.0 for kind in "qkv")
            if (q * k, v) != (1.0, 1.0):
                said = f"{words} of sequence {sequence} in place of {suspect.sequence}"
                yield suspect.weighted(said, suspect.keys * (q * k), suspect.values * v)


def _other_scales(problem: Problem) -> Iterator[tuple[str, Problem]]:
    """Yield words and the problem of another softmax scale."""
    scale, default = problem.scale, 1.0 / math.sqrt(problem.head_dim)
    wrong = [
        ("no softmax scale", 1.0),
        ("the softmax scale applied twice", scale * scale),
        ("the default softmax scale in place of its own", default),
        ("the softmax scale 1 / head_dim", 1.0 / problem.head_dim),
        ("a base-2 softmax of natural logits", scale * math.log(2.0)),
        ("logits multiplied by log2(e) once too often", scale / math.log(2.0)),
        ("the softmax scale of the other sign", -scale),
    ]
    tried = {scale}
    for words, other in wrong:
        if other not in tried and (other == 0 or 1 / MAX_SCALE <= abs(other) <= MAX_SCALE):
            tried.add(other)
            yield words, replace(problem, sm_scale=other)


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
        sinks = problem.sinks
        own = sinks[head]
        twice = {"twice": own + math.log(2.0), "three times": own + math.log(3.0)}
        for times, sink in twice.items():
            yield f"its sink counted {times}", _with_sink(problem, sink)
        if problem.soft_cap is not None:
            capped = problem.soft_cap * math.tanh(own / problem.soft_cap)
            yield "its sink capped as a logit is", _with_sink(problem, capped)
        if own:
            yield "a sink of 0 in place of its own", _with_sink(problem, 0.0)
            yield "its sink scaled as a logit is", _with_sink(problem, own * problem.scale)
            yield "its sink in base 2", _with_sink(problem, own * math.log(2.0))
        seen = {own}
        for other in range(problem.num_qo_heads):
            if sinks[other] not in seen:
                seen.add(sinks[other])
                yield f"the sink of query head {other}", _with_sink(problem, sinks[other])


def _with_sink(problem: Problem, sink: float) -> Problem:
    """The problem with this sink for all heads."""
    return replace(problem, sinks=(max(-MAX_SCALE, min(MAX_SCALE, sink)),) * problem.num_qo_heads)
