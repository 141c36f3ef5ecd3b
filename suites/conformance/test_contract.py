"""What a backend owes its caller beyond numbers: clear refusals, no stray access, plans that keep apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.registry import check_by_id
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.problem import Problem
from pabench.strategies import append_cases, batches, cases, ending_full, prefill_batches

CUDA_GRID_AXIS = 65_535
"""Largest extent of a grid in y and z; see the CUDA C++ programming guide, compute capabilities."""

PLACEMENTS = ["identity", "shuffled", "reversed"]
"""Pools with high page ids are large, and these checks copy them."""


def drawable(examiner: Examiner) -> dict[str, Any]:
    """Arguments of ``cases`` that keep to what the backend declares."""
    return {**examiner.choices, "features": examiner.features, "supported": examiner.supports}


def test_corrupt_problems_are_refused(backend_examiner: Examiner) -> None:
    drawn = cases(families=["normal"], placements=PLACEMENTS, **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("reject"), drawn, share=0.35)


def test_corrupt_writes_are_refused(backend_examiner: Examiner) -> None:
    drawn = append_cases(**backend_examiner.choices)
    backend_examiner.examine(check_by_id("append-reject"), drawn, share=0.25)


def flush(batch: Callable[[int], st.SearchStrategy[Batch]]) -> Callable[[int], st.SearchStrategy[Batch]]:
    """Return a strategy half of whose batches leave no room after the last entry of the block table."""
    return lambda page_size: batch(page_size) | ending_full(batch(page_size), page_size)


def test_arrays_are_read_within_their_ends(backend_examiner: Examiner) -> None:
    choices = {**drawable(backend_examiner), "batch": flush(batches)}
    drawn = cases(families=["normal"], placements=PLACEMENTS, **choices)
    backend_examiner.examine(check_by_id("guard"), drawn, share=0.25)


def test_prefill_arrays_are_read_within_their_ends(backend_examiner: Examiner) -> None:
    choices = {**drawable(backend_examiner), "batch": flush(prefill_batches)}
    drawn = cases(families=["normal"], placements=PLACEMENTS, **choices)
    about = "With several rows a sequence too, no array is read beyond its ends."
    guard = check_by_id("guard")
    backend_examiner.examine(guard, drawn, label="prefill", about=about, operation="prefill", share=0.15)


def test_plans_do_not_disturb_each_other(backend_examiner: Examiner) -> None:
    drawn = cases(families=["normal", "needle"], **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("plans"), drawn, share=0.15)


def test_plans_answer_for_what_their_arrays_hold(backend_examiner: Examiner) -> None:
    drawn = cases(families=["normal", "needle"], placements=PLACEMENTS, **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("replay"), drawn, share=0.25)


def test_grids_beyond_one_launch_are_right_or_refused(backend_examiner: Examiner) -> None:
    """One case is one of 65,536 blocks, so few are drawn."""
    dtype = backend_examiner.choices["dtypes"][0]
    layout = backend_examiner.choices["kv_layouts"][0]

    def crowded(kv_len: int) -> Case:
        problem = Problem(
            num_qo_heads=CUDA_GRID_AXIS + 1, num_kv_heads=1, head_dim=16, page_size=2, dtype=dtype
        )
        return Case(problem=problem, batch=Batch(kv_lens=(kv_len,)), kv_layout=layout)

    backend_examiner.examine(check_by_id("launch-limits"), st.integers(1, 3).map(crowded), share=0.02)
