# SPDX-License-Identifier: Apache-2.0
"""Relations between problems: what must follow from an answer, whatever the answer is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pabench.checks.question import Check, Question
from pabench.checks.relation_checks import RELATIONS, Relation
from pabench.problem.masks import MASKS
from pabench.strategies import batches, cases, long_batches, prefill_batches
from pabench.strategies.drawn import Range

PLACEMENTS = ("identity", "shuffled", "reversed")
FAMILIES = ("normal", "needle", "spotlight")
BATCHES: dict[str, Any] = {"short": batches, "long": long_batches, "prompts": prefill_batches}


def _drawing(relation: Relation) -> Callable[[Range], Any]:
    """Cases for which the relation holds and that the backend declares."""

    def draw(declared: Range) -> Any:
        features = [name for name in declared.features if name not in relation.without]
        long = {"head_dims": declared.head_dims([16, 128])} if relation.batches == "long" else {}
        return cases(
            families=FAMILIES,
            placements=PLACEMENTS,
            batch=BATCHES[relation.batches],
            required=[relation.needs] if relation.needs else [],
            **declared.attention | long | {"features": features},
        )

    return draw


RELATED = tuple(
    Question(
        check=Check(id=name, operation=relation.operation, run=relation),
        clauses=relation.clauses,
        draw=_drawing(relation),
        needs=relation.needs,
        against=relation.without.union(MASKS),
        # a badge is a promise: look longer
        share=0.15 if relation.badge is None else 0.35,
    )
    for name, relation in RELATIONS.items()
)
