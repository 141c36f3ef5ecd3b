# SPDX-License-Identifier: Apache-2.0
"""One plan for all layers of a model, as servers use it: planned once a step, run for each layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pabench.checks.attention_checks import find_difference, judge_output
from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.checks.plan_checks import copied_output
from pabench.device.base import Device
from pabench.problem.case import Case
from pabench.problem.tensors import Tensors, build_tensors, lay_out, sequences_of
from pabench.subjects.backends.base import AttentionOutput, Backend, layered

LAYERS = 3


def check_layers(case: Case, backend: Backend, device: Device) -> Outcome:
    """One plan runs over several layers with other queries, keys and values, and each layer is right.

    All layers run before one is fetched; then in the other order without planning again, and once more after
    it, which changes no bit.
    """
    subject = layered(backend)
    layers = [_layer(case, number) for number in range(LAYERS)]
    first = subject.plan(layers[0])
    plans = [first, *(subject.layer(first, layer.q, layer.pool) for layer in layers[1:])]
    subject.prepare(first)
    outputs, worst = _all(subject, plans), 0.0
    for number, (layer, output) in enumerate(zip(layers, outputs, strict=True), start=1):
        outcome = judge_output(layer, output, backend)
        if not outcome.passed:
            return replace(outcome, text=f"layer {number} of {LAYERS} on one plan: {outcome.text}")
        worst = max(worst, outcome.max_ratio or 0.0)
    again = {"in the other order": _all(subject, plans[::-1])[::-1]}
    subject.prepare(first)
    again["planned again"] = _all(subject, plans)
    for words, found in again.items():
        for number, (output, before) in enumerate(zip(found, outputs, strict=True), start=1):
            if changed := find_difference(case, output, before):
                return failed(f"layer {number} of {LAYERS} on one plan, {words}, changes {changed}")
    return replace(PASSED, max_ratio=worst)


def _layer(case: Case, number: int) -> Tensors:
    """The tensors of ``case``, or of another layer: other numbers in the same pages."""
    if not number:
        return build_tensors(case)
    return lay_out(case, sequences_of(build_tensors(replace(case, seed=case.seed + number))))


def _all(subject: Any, plans: list[Any]) -> list[AttentionOutput]:
    for plan in plans:
        subject.run_layer(plan)
    return [copied_output(subject.fetch(plan)) for plan in plans]
