# SPDX-License-Identifier: Apache-2.0
"""The quick check of a cell: no figure of speed for a kernel that is wrong.

The backend runs a bounded problem cut out of the cell (same page size, dtype, head dimension, layout and
group size; shortest, longest and middle lengths of the batch), every slot that no query may read poisoned
with NaN, and the oracle judges output and log-sum-exp.  The input families complement one another:
``needle`` and ``spotlight`` show which slot was read, ``normal`` any key too many or too few (in the
log-sum-exp), ``ascending`` a missing last key and an accumulator that is not rescaled.  With ``--inputs``
cells of its heads are judged on captured activations besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.judge.verdict import Verdict, judge
from pabench.problem.captured import CAPTURED
from pabench.problem.case import Case
from pabench.problem.layout import pages_needed
from pabench.problem.placement import HIGH_PAGE_BASE
from pabench.problem.tensors import build_tensors
from pabench.subjects.backends.base import Backend, attend
from pabench.workloads.captured import asked_capture

CHECK_FAMILIES = ("needle", "spotlight", "normal", "ascending")
CHECK_KV_HEADS = 2
"""Two KV heads are enough to tell them apart."""
CHECK_TOKENS = 448
"""Tokens that the longest sequence keeps; the others keep at most a quarter of it."""
CHECK_TOKENS_LIMIT = 4096
"""The longest keeps enough to cross one page, as long as a page is not larger than this."""
HIGH_POOL_BYTES = 2**31
"""Largest pool, nearly all of it never touched, for page ids above 65,536 on the emulated device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What the check of one cell found.

    Attributes:
        passed: every case is within the bound.
        max_ratio: worst err/T over the cases.
        text: one line for people.
        case: the case that failed, or the one with the worst ratio.
        tokens: KV tokens over all cases.
    """

    passed: bool
    max_ratio: float
    text: str
    case: Case
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return the ``check`` object of the journal line."""
        return {
            "passed": self.passed,
            "max_ratio": self.max_ratio,
            "text": self.text,
            "case_id": self.case.id,
            "tokens": self.tokens,
        }


def check_lengths(kv_lens: Sequence[int], page_size: int) -> tuple[int, ...]:
    """Return the lengths that stand for ``kv_lens``: shortest, longest, middle, cut to a budget.

    A long sequence loses whole pages, so that the fill of its last page, where kernels go wrong, stays.  The
    longest keeps two pages at least, when they are not too long for a quick check.
    """
    ordered = sorted(kv_lens)
    longest = max(CHECK_TOKENS, min(2 * page_size, CHECK_TOKENS_LIMIT))
    picks = [
        (ordered[-1], longest),
        (ordered[0], CHECK_TOKENS // 4),
        (ordered[len(ordered) // 2], longest // 4),
    ]
    return tuple(_cut(length, budget, page_size) for length, budget in picks[: len(ordered)])


def _cut(length: int, budget: int, page_size: int) -> int:
    if length <= budget:
        return length
    shorter = length - -(-(length - budget) // page_size) * page_size
    return shorter if shorter > 0 else budget


def check_cases(cell: Cell) -> tuple[Case, ...]:
    """Return the cases that the quick check of ``cell`` judges."""
    problem = cell.problem
    kv_heads = min(problem.num_kv_heads, CHECK_KV_HEADS)
    small = replace(problem, num_kv_heads=kv_heads, num_qo_heads=kv_heads * problem.group_size)
    lengths = check_lengths(cell.batch.kv_lens, problem.page_size)
    cases = [
        cell.case(lengths, problem=small, family=family, poison="nan", tail="out-of-pool", spare_pages=2)
        for family in CHECK_FAMILIES
    ]
    one_head = replace(problem, num_kv_heads=1, num_qo_heads=problem.group_size)
    high = cell.case(lengths, problem=one_head, family="needle", poison="nan", placement="high")
    # a GPU would have to be given the whole pool
    if cell.device != "cuda" and _pool_bytes(high) <= HIGH_POOL_BYTES:
        cases.append(high)
    capture = asked_capture()
    if capture is not None and capture.fits(problem):
        inside = tuple(min(length, capture.longest) for length in lengths)
        real = replace(problem, sm_scale=capture.sm_scale)
        cases.append(cell.case(inside, problem=real, family=CAPTURED, inputs=capture.id, poison="nan"))
    return tuple(cases)


def _pool_bytes(case: Case) -> int:
    pages = HIGH_PAGE_BASE + sum(pages_needed(n, case.problem.page_size) for n in case.batch.kv_lens) + 8
    return pages * case.problem.page_size * case.problem.token_bytes


def quick_check(
    cell: Cell, backend: Backend, *, announce: Callable[[Case], None] = lambda case: None
) -> CheckResult:
    """Run and judge the check of ``cell``; stops at the first case that fails.

    ``announce`` is told each case before it runs.  Whatever the backend raises passes through.
    """
    worst: tuple[Verdict, Case] | None = None
    tokens = 0
    for case in check_cases(cell):
        announce(case)
        tensors = build_tensors(case)
        result = attend(backend, tensors)
        without_lse = not backend.capabilities.lse
        verdict = judge(tensors, result.out, result.lse, backend.profile, allow_missing_lse=without_lse)
        tokens += sum(case.batch.kv_lens)
        if worst is None or not verdict.passed or verdict.max_ratio > worst[0].max_ratio:
            worst = (verdict, case)
        if not verdict.passed:
            break
    if worst is None:
        raise RuntimeError("a cell has at least one case")
    verdict, case = worst
    text = f"{case.family}: {verdict.text}" if not verdict.passed else verdict.text
    return CheckResult(
        passed=verdict.passed, max_ratio=verdict.max_ratio, text=text, case=case, tokens=tokens
    )
