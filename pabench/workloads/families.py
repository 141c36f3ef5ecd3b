# SPDX-License-Identifier: Apache-2.0
"""All length families by name: the synthetic ones and those of the shipped quantile tables."""

from __future__ import annotations

from pabench.problem.lengths import SYNTHETIC, LengthFamily, LengthSpec, parse_lengths
from pabench.workloads.quantiles import empirical_families


def length_families() -> dict[str, LengthFamily]:
    """Return name to family; synthetic ones first."""
    return {**SYNTHETIC, **empirical_families()}


def resolve_lengths(text: str) -> LengthSpec:
    """Read a length spec (``name``, ``name:key=value,...`` or ``list:100,250``) of any family.

    Raises:
        UnknownName: no such family or parameter; the nearest name is offered.
        UsageError: the spec is malformed or a value breaks its rule.
    """
    return parse_lengths(text, length_families())
