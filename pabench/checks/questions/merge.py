# SPDX-License-Identifier: Apache-2.0
"""Merging attention states, outputs and log-sum-exps over parts of the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pabench.checks.merge_checks import check_merge, check_merge_empty, check_merge_in_place
from pabench.checks.part_checks import MOST_PARTS, check_parts
from pabench.checks.question import Check, Question
from pabench.problem.merge import SPREADS
from pabench.strategies import cases, merge_cases
from pabench.strategies.drawn import Range

MERGE = Check(id="merge", operation="merge", run=check_merge, kind="merge")
EMPTY = Check(id="merge-empty", operation="merge", run=check_merge_empty, kind="merge")
IN_PLACE = Check(id="merge-in-place", operation="merge-in-place", run=check_merge_in_place, kind="merge")
PARTS = Check(id="parts", operation="merge", run=check_parts)


def _states(**choices: Any) -> Callable[[Range], Any]:
    return lambda declared: merge_cases(**declared.merges, **choices)


def _parts(declared: Range) -> Any:
    # a part has another last key than the whole, and would count a sink of its own
    features = [name for name in declared.features if name not in ("window", "alibi", "sinks")]
    return cases(
        families=["normal", "needle", "spotlight", "ascending"],
        placements=["identity", "shuffled", "reversed"],
        min_len=MOST_PARTS,
        **declared.attention | {"features": features},
    )


MERGES = (
    *(
        Question(
            check=MERGE,
            clauses=("M1", "M3", "C7"),
            draw=_states(spreads=[spread]),
            label=spread,
            about=f"Merged states are within the bound: {words}.",
            share=0.5,
        )
        for spread, words in SPREADS.items()
    ),
    Question(check=EMPTY, clauses=("M2",), draw=_states()),
    Question(check=IN_PLACE, clauses=("M5",), draw=_states(), share=0.5),
    Question(check=PARTS, clauses=("M4",), draw=_parts, share=0.25),
)
