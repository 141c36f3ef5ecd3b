# SPDX-License-Identifier: Apache-2.0
"""Scales of each sequence and KV head: of queries, keys and values that have none for all sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pabench.errors import InvalidCase
from pabench.problem.batch import Batch
from pabench.problem.checks import numbers_tuple
from pabench.problem.problem import MAX_SCALE, Problem

Scales = tuple[tuple[str, tuple[tuple[float, ...], ...]], ...]
"""``q``, ``k`` or ``v``, and its scales: a row for each sequence, a number for each KV head."""


def read_scales(given: Any, problem: Problem, batch: Batch) -> Scales:
    """Return ``given``, a mapping or pairs, as they are kept: q, k, v in this order.

    Raises:
        InvalidCase: scales of what has none here or has some already, of the wrong shape, or out of range.
    """
    pairs = dict(given) if isinstance(given, Mapping | Sequence) and not isinstance(given, str) else None
    if pairs is None or pairs.keys() - set("qkv"):
        raise InvalidCase("scales", given, "must be an object with fields q, k or v")
    found = []
    for kind in (kind for kind in "qkv" if kind in pairs):
        field = f"scales.{kind}"
        if not problem.takes_scale(kind):
            raise InvalidCase(field, pairs[kind], "must be left out: such numbers have no scale here")
        if getattr(problem, f"{kind}_scale") is not None:
            raise InvalidCase(field, pairs[kind], f"must be left out beside {kind}_scale")
        rows = pairs[kind]
        if isinstance(rows, str) or not isinstance(rows, Sequence) or len(rows) != batch.num_seqs:
            raise InvalidCase(field, rows, f"must have a row for each of {batch.num_seqs} sequences")
        lengths = (problem.num_kv_heads,)
        numbers = (
            numbers_tuple(f"{field}[{at}]", row, lengths=lengths, low=1 / MAX_SCALE, high=MAX_SCALE)
            for at, row in enumerate(rows)
        )
        found.append((kind, tuple(numbers)))
    return tuple(found)


def scales_of(scales: Scales, problem: Problem, kind: str, sequence: int) -> tuple[float, ...]:
    """Return the scale of each KV head: of queries (``q``), keys (``k``) or values (``v``)."""
    own = "k" if kind == "v" and problem.latent else kind
    for name, rows in scales:
        if name == own:
            return rows[sequence]
    return problem.q_scales if kind == "q" else problem.kv_scales(kind)
