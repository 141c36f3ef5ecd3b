# SPDX-License-Identifier: Apache-2.0
"""What a backend owes its caller beyond numbers: clear refusals, no stray access, plans that keep apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from pabench.checks.guarded import check_guard
from pabench.checks.layer_checks import check_layers
from pabench.checks.plan_checks import check_launch_limits, check_plans, check_replay
from pabench.checks.question import Check, Question
from pabench.checks.questions.append import APPEND_REJECT
from pabench.checks.reject_checks import check_reject
from pabench.checks.served_checks import check_dummy_lengths, check_padded_rows
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.features import all_features
from pabench.problem.problem import Problem
from pabench.strategies import batches, cases, ending_full, prefill_batches
from pabench.strategies.drawn import Range
from pabench.subjects.backends.base import DUMMY_LENGTHS, LAYERS, PADDED_ROWS

REJECT = Check(id="reject", operation="decode", run=check_reject)
GUARD = Check(id="guard", operation="decode", run=check_guard)
PLANS = Check(id="plans", operation="decode", run=check_plans)
REPLAY = Check(id="replay", operation="replay", run=check_replay)
LAYERED = Check(id="layers", operation=LAYERS, run=check_layers)
DUMMIES = Check(id="dummy-lengths", operation=DUMMY_LENGTHS, run=check_dummy_lengths)
PADDED = Check(id="padded-rows", operation=PADDED_ROWS, run=check_padded_rows)
LAUNCH_LIMITS = Check(id="launch-limits", operation="decode", run=check_launch_limits)

CUDA_GRID_AXIS = 65_535
"""Largest extent of a grid in y and z; see the CUDA C++ programming guide, compute capabilities."""
PLACEMENTS = ("identity", "shuffled", "reversed")
"""Pools with high page ids are large, and these checks copy them."""

Batches = Callable[[int], st.SearchStrategy[Batch]]


def _plain(declared: Range, *families: str, **more: Any) -> Any:
    return cases(families=families, placements=PLACEMENTS, **more, **declared.attention)


def _grown(page_size: int) -> st.SearchStrategy[Batch]:
    """Lengths that outgrow what a plan for one key would cut into, beside usual ones."""
    return batches(page_size) | batches(page_size, max_seqs=2, min_len=513, max_len=1400)


def _flush(batch: Batches) -> Callable[[Range], Any]:
    """Half of the batches leave no room after the last entry of the block table."""

    def of_page(page_size: int) -> st.SearchStrategy[Batch]:
        return batch(page_size) | ending_full(batch(page_size), page_size)

    return lambda declared: cases(
        families=["normal"], placements=PLACEMENTS, batch=of_page, **declared.attention
    )


def _crowded(declared: Range) -> Any:
    """One case is one of 65,536 blocks, so few are drawn."""
    dtype, layout = declared.dtypes[0], declared.kv_layouts[0]

    def of_length(kv_len: int) -> Case:
        problem = Problem(
            num_qo_heads=CUDA_GRID_AXIS + 1, num_kv_heads=1, head_dim=16, page_size=2, dtype=dtype
        )
        return Case(problem=problem, batch=Batch(kv_lens=(kv_len,)), kv_layout=layout)

    return st.integers(1, 3).map(of_length)


CONTRACT = (
    Question(check=REJECT, clauses=("C1",), draw=lambda declared: _plain(declared, "normal"), share=0.35),
    APPEND_REJECT,
    Question(check=GUARD, clauses=("C3",), draw=_flush(batches), share=0.25),
    Question(
        check=GUARD,
        clauses=("C3",),
        draw=_flush(prefill_batches),
        label="prefill",
        about="With several rows a sequence too, no array is read beyond its ends.",
        operation="prefill",
        share=0.15,
    ),
    Question(
        check=PLANS,
        clauses=("C4",),
        draw=lambda declared: cases(families=["normal", "needle"], **declared.attention),
        share=0.15,
    ),
    Question(
        check=REPLAY,
        clauses=("C6",),
        draw=lambda declared: _plain(declared, "normal", "needle"),
        share=0.25,
    ),
    Question(
        check=DUMMIES,
        clauses=("C9",),
        draw=lambda declared: _plain(declared, "normal", "needle", batch=_grown),
        share=0.25,
    ),
    Question(
        check=PADDED,
        clauses=("C10",),
        draw=lambda declared: _plain(declared, "normal", "needle"),
        share=0.15,
    ),
    Question(
        check=PADDED,
        clauses=("C10",),
        draw=lambda declared: _plain(declared, "normal", batch=prefill_batches),
        label="prefill",
        about="With several rows a sequence too, rows of padding change nothing.",
        operation="prefill",
        unasked=lambda declared: None if declared.offers(PADDED_ROWS) else f"offers no {PADDED_ROWS}",
        share=0.1,
    ),
    Question(
        check=LAYERED,
        clauses=("C8",),
        draw=lambda declared: cases(families=["normal", "needle"], **declared.attention),
        share=0.15,
    ),
    Question(
        check=LAYERED,
        clauses=("C8",),
        draw=lambda declared: _plain(declared, "normal", batch=prefill_batches),
        label="prefill",
        about="With several rows a sequence too, one plan serves several layers.",
        unasked=lambda declared: None if declared.offers("prefill") else "offers no prefill",
        share=0.1,
    ),
    Question(
        check=LAUNCH_LIMITS,
        clauses=("C2",),
        draw=_crowded,
        share=0.02,
        against=frozenset(all_features()),
    ),
)
