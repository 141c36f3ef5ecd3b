# SPDX-License-Identifier: Apache-2.0
"""Strategies of masks: values of the table's rows, and batches on which they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from pabench.problem.batch import SPECULATIVE_TOKENS, Batch
from pabench.problem.masks import MASKS, Mask
from pabench.problem.problem import Problem
from pabench.strategies.lengths import batches, kv_lengths, speculative_batches
from pabench.strategies.shapes import among, whole


class Drawn:
    """Makes the choices of a mask's ``draw`` with Hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        return int(self._draw(whole(low, high)))

    def among(self, options: Sequence[Any]) -> Any:
        """Return one of ``options``."""
        return self._draw(among(*options))


@st.composite
def mask_values(draw: st.DrawFn, mask: Mask, problem: Problem, batch: Batch) -> Any:
    """Values of ``mask`` for a problem and a batch that it goes with."""
    return mask.draw(Drawn(draw), problem, batch)


def with_fields(problem: Problem, asked: Sequence[str]) -> Problem:
    """Return ``problem`` with what the masks among ``asked`` are drawn with."""
    for name in asked:
        problem = replace(problem, **MASKS[name].fields)
    return problem


@st.composite
def mask_batches(draw: st.DrawFn, page_size: int, *, mask: Mask, rows: bool) -> Batch:
    """Batches on which ``mask`` shows.

    Args:
        draw: given by Hypothesis.
        page_size: of the problem.
        mask: which.
        rows: whether sequences may have several query rows; at most 8 where the mask is one of drafts.
    """
    if not rows:
        return draw(batches(page_size, max_seqs=3, max_len=100, min_len=int(mask.rows_in_keys)))
    batch = draw(speculative_batches(page_size, max_seqs=3, max_len=70))
    lens = list(batch.kv_lens)
    if draw(st.booleans()) and mask.rows_in_keys:
        # whole prompts: every key has a row
        short = draw(st.lists(kv_lengths(page_size, max_len=33, min_len=1), min_size=1, max_size=3))
        return Batch(kv_lens=tuple(short), q_lens=tuple(short))
    if mask.rows_in_keys:
        lens = [kv_len + q_len for kv_len, q_len in zip(lens, batch.query_lens, strict=True)]
    return Batch(kv_lens=tuple(lens), q_lens=batch.query_lens)


@st.composite
def masked_prompts(draw: st.DrawFn, page_size: int) -> Batch:
    """A sequence of 9 to 20 query rows over up to 150 keys, several tiles, beside at most one short one."""
    count = draw(whole(SPECULATIVE_TOKENS + 1, 20))
    pairs = [(draw(whole(count, 150)), count)]
    if draw(st.booleans()):
        short = draw(whole(1, SPECULATIVE_TOKENS))
        pairs.append((draw(whole(short, 80)), short))
    chosen = draw(st.permutations(pairs))
    return Batch(kv_lens=tuple(kv for kv, _ in chosen), q_lens=tuple(q for _, q in chosen))
