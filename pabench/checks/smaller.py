# SPDX-License-Identifier: Apache-2.0
"""Smaller cases than a given one, most promising first: lengths before shapes before the rest.

Hypothesis shrinks what fails within its own process; what kills the process is shrunk from outside, by trying
these one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pabench.checks.case_files import AnyCase
from pabench.errors import PabenchError
from pabench.judge.allocators.history import HistoryCase
from pabench.problem.append import AppendCase
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.merge import MergeCase

T = TypeVar("T")
PLAIN: dict[str, Any] = {
    "interleaved": False,
    "spare_pages": 0,
    "seed": 0,
    "poison": "zero",
    "tail": "minus-one",
    "placement": "identity",
    "shared_prefix": (),
}
"""The simplest value of each field that is not about sizes."""
SMALL_HEAD_DIM = 16


def smaller_cases(case: AnyCase) -> Iterator[AnyCase]:
    """Yield valid cases of the same kind that ask less than ``case``; none is ``case`` itself."""
    for change in _changes(case):
        try:
            candidate = change()
        except PabenchError:
            continue  # a rule of the case forbids it
        if candidate != case:
            yield candidate


def shorter(items: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Yield parts of ``items``: either half, then all but one."""
    half = len(items) // 2
    if half:
        yield tuple(items[:half])
        yield tuple(items[half:])
    if len(items) > 2:
        yield from (tuple(items[:index]) + tuple(items[index + 1 :]) for index in range(len(items)))


def _changes(case: AnyCase) -> Iterator[Callable[[], AnyCase]]:
    if isinstance(case, Case):
        yield from _attention(case)
    elif isinstance(case, AppendCase):
        if case.is_paged:
            yield from _sequences(case)
        for slots in shorter(case.slots):
            yield lambda slots=slots: replace(case, slots=slots)  # type: ignore[misc]
        top = max(case.slots, default=0) // case.problem.page_size + 1
        yield lambda: replace(case, num_pages=max(1, top))
    elif isinstance(case, MergeCase):
        yield from _states(case)
    else:
        # the last operation is the one that crashed
        for operations in shorter(case.operations[:-1]):
            yield lambda kept=operations: replace(case, operations=(*kept, *case.operations[-1:]))  # type: ignore[misc]
        yield lambda: replace(case, operations=case.operations[-1:])
    if not isinstance(case, HistoryCase):
        if not isinstance(case, MergeCase):
            yield from _heads(case)
        for field, value in PLAIN.items():
            if hasattr(case, field):
                yield lambda field=field, value=value: replace(case, **{field: value})  # type: ignore[misc]


def _attention(case: Case) -> Iterator[Callable[[], Case]]:
    kv_lens, q_lens = case.batch.kv_lens, case.batch.query_lens

    def batch(kept: Sequence[int], lengths: Sequence[int] = kv_lens) -> Case:
        chosen = Batch(kv_lens=tuple(lengths[i] for i in kept), q_lens=tuple(q_lens[i] for i in kept))
        return replace(case, batch=chosen)

    everyone = range(len(kv_lens))
    for kept in shorter(everyone):
        yield lambda kept=kept: batch(kept)  # type: ignore[misc]
    for position, length in enumerate(kv_lens):
        for less in dict.fromkeys((0, 1, length // 2, length - 1)):
            if 0 <= less < length:
                changed = [*kv_lens[:position], less, *kv_lens[position + 1 :]]
                yield lambda changed=changed: batch(everyone, changed)  # type: ignore[misc]


def _sequences(case: AppendCase) -> Iterator[Callable[[], AppendCase]]:
    """Fewer sequences of a case with a block table, and fewer new tokens."""
    rows, kv_lens, q_lens = case.block_table or (), case.batch.kv_lens, case.batch.query_lens

    def of(kept: Sequence[int], new: Sequence[int] = q_lens) -> AppendCase:
        return replace(
            case,
            slots=(),
            block_table=tuple(rows[i] for i in kept),
            kv_lens=tuple(kv_lens[i] for i in kept),
            q_lens=tuple(new[i] for i in kept),
        )

    everyone = range(len(rows))
    for kept in shorter(everyone):
        yield lambda kept=kept: of(kept)  # type: ignore[misc]
    for position, new in enumerate(q_lens):
        if new > 1:
            fewer = [*q_lens[:position], 1, *q_lens[position + 1 :]]
            yield lambda fewer=fewer: of(everyone, fewer)  # type: ignore[misc]


def _states(case: MergeCase) -> Iterator[Callable[[], MergeCase]]:
    for field, least in (("num_states", 1), ("num_rows", 1), ("num_heads", 1), ("head_dim", SMALL_HEAD_DIM)):
        size = getattr(case, field)
        for less in dict.fromkeys((least, size // 2, size - 1)):
            if least <= less < size:
                yield lambda field=field, less=less: replace(case, **{field: less})  # type: ignore[misc]
    yield lambda: replace(case, empty="none")
    yield lambda: replace(case, spread="close")


def _heads(case: Case | AppendCase) -> Iterator[Callable[[], AnyCase]]:
    problem = case.problem
    yield lambda: replace(case, problem=replace(problem, num_qo_heads=1, num_kv_heads=1))
    yield lambda: replace(case, problem=replace(problem, num_qo_heads=problem.group_size, num_kv_heads=1))
    if problem.head_dim > SMALL_HEAD_DIM:
        yield lambda: replace(case, problem=replace(problem, head_dim=SMALL_HEAD_DIM))
