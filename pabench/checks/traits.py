# SPDX-License-Identifier: Apache-2.0
"""What can be said of a case beside its verdict: the names that a ledger entry's ``when`` takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pabench.checks.case_files import AnyCase
from pabench.judge.allocators.history import HistoryCase
from pabench.problem.case import Case
from pabench.problem.dtypes import DTYPES
from pabench.problem.features import all_features
from pabench.problem.merge import MergeCase
from pabench.strategies.shapes import spans_kv_heads


def rows_without_keys(case: AnyCase) -> bool:
    """A causal sequence has keys, and more query rows than keys: its first rows see none."""
    if not isinstance(case, Case) or not case.problem.causal:
        return False
    lengths = zip(case.batch.query_lens, case.batch.kv_lens, strict=True)
    return any(q_len > kv_len > 0 for q_len, kv_len in lengths)


def empty_sequence(case: AnyCase) -> bool:
    """A sequence has no key at all."""
    return isinstance(case, Case) and 0 in case.batch.kv_lens


def several_rows(case: AnyCase) -> bool:
    """A sequence has more than one query row."""
    return isinstance(case, Case) and not case.batch.is_decode


def no_query_rows(case: AnyCase) -> bool:
    """A sequence has no query row."""
    return isinstance(case, Case) and 0 in case.batch.query_lens


def negative_slopes(case: AnyCase) -> bool:
    """A slope of ALiBi is below 0."""
    return isinstance(case, Case) and min(case.problem.alibi_slopes or (0.0,)) < 0


def own_heads(case: AnyCase) -> bool:
    """Each query head has a KV head of its own."""
    return isinstance(case, Case) and case.problem.group_size == 1


def heads_across_kv_heads(case: AnyCase) -> bool:
    """A group above 16 that is no multiple of 16, with another KV head after it: a tile of 16 spans two."""
    return isinstance(case, Case) and spans_kv_heads(case.problem.num_qo_heads, case.problem.num_kv_heads)


def poisoned(case: AnyCase) -> bool:
    """Slots that no query may read hold NaN or infinity."""
    return isinstance(case, Case) and case.poison in ("nan", "inf")


def _has(feature: str, case: AnyCase) -> bool:
    return isinstance(case, Case) and feature in case.features


def _stored_as(dtype: str, case: AnyCase) -> bool:
    if isinstance(case, HistoryCase):
        return False
    return (case.dtype if isinstance(case, MergeCase) else case.problem.dtype) == dtype


TRAITS: dict[str, Callable[[AnyCase], bool]] = {
    "rows-without-keys": rows_without_keys,
    "empty-sequence": empty_sequence,
    "several-rows": several_rows,
    "no-query-rows": no_query_rows,
    "negative-slopes": negative_slopes,
    "own-heads": own_heads,
    "heads-across-kv-heads": heads_across_kv_heads,
    "poisoned": poisoned,
    **{feature: partial(_has, feature) for feature in all_features()},
    **{dtype: partial(_stored_as, dtype) for dtype in DTYPES},
}
"""Name to predicate."""
