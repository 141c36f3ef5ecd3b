# SPDX-License-Identifier: Apache-2.0
"""The table of masks: which keys a row sees, beyond the causal flag and the window of a problem.

A new mask is a row here, and a clause of docs/specification.md.  What is drawn, judged, named and asked
follows.
"""

from __future__ import annotations

from typing import Any

from pabench.errors import InvalidCase, UnknownName
from pabench.problem.batch import Batch
from pabench.problem.masks import places, ranges, sets
from pabench.problem.masks.mask import Choose, Mask, Rows, Value
from pabench.problem.problem import Problem

MASKS: dict[str, Mask] = {mask.name: mask for mask in (*places.ROWS, *sets.ROWS, *ranges.ROWS)}
"""Masks by name, in the order in which they apply: what may show more keys before what only hides some."""

Given = tuple[tuple[str, Value], ...]
"""Masks of a case: name and value, in the table's order."""


def read_masks(given: Any, problem: Problem, batch: Batch) -> Given:
    """Return the masks of a case from pairs or a JSON object; raises ``InvalidCase`` or ``UnknownName``."""
    try:
        named = dict(given)
    except (TypeError, ValueError):
        raise InvalidCase("masks", given, "must be an object of names and values") from None
    for name in named:
        if name not in MASKS:
            raise UnknownName("mask", str(name), MASKS)
    found = tuple((name, MASKS[name].read(named[name], problem, batch)) for name in MASKS if name in named)
    for name, _ in found:
        for feature in sorted(MASKS[name].without & problem.features):
            raise InvalidCase("masks", name, f"is not defined with {feature}")
    return found


def plain(value: Value) -> Any:
    """Return ``value`` as JSON has it."""
    return [plain(entry) for entry in value] if isinstance(value, tuple) else value


__all__ = ["MASKS", "Choose", "Given", "Mask", "Rows", "Value", "plain", "read_masks"]
