"""Relations between problems: what must follow from an answer, whatever the answer is."""

from __future__ import annotations

from typing import Any

import pytest

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.registry import check_by_id
from pabench.checks.relation_checks import RELATIONS, Relation
from pabench.strategies import batches, cases, long_batches, prefill_batches

PLACEMENTS = ["identity", "shuffled", "reversed"]
FAMILIES = ["normal", "needle", "spotlight"]


BATCHES: dict[str, Any] = {
    "short": batches,
    "long": long_batches,
    "prompts": prefill_batches,
}


def drawn(examiner: Examiner, relation: Relation) -> Any:
    """Cases for which the relation holds and that the backend declares."""
    features = [name for name in examiner.features if name not in relation.without]
    long = relation.batches == "long"
    choices = {**examiner.choices, **({"head_dims": examiner.head_dims([16, 128])} if long else {})}
    return cases(
        families=FAMILIES,
        placements=PLACEMENTS,
        batch=BATCHES[relation.batches],
        features=features,
        supported=examiner.supports,
        **choices,
    )


@pytest.mark.parametrize("relation", RELATIONS)
def test_relation_holds(backend_examiner: Examiner, relation: str) -> None:
    cases_of = drawn(backend_examiner, RELATIONS[relation])
    # a badge is a promise: look longer
    share = 0.15 if RELATIONS[relation].badge is None else 0.35
    backend_examiner.examine(check_by_id(relation), cases_of, share=share)
