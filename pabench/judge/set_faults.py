# SPDX-License-Identifier: Apache-2.0
"""Explanations of a wrong row whose keys are a set: which mask was mistaken, and how."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pabench.judge.cache_faults import cache_faults
from pabench.judge.format_faults import format_faults
from pabench.judge.semantic_faults import semantic_faults
from pabench.judge.suspect import Fault, Suspect
from pabench.problem.dtypes import Array
from pabench.problem.masks import MASKS, Rows
from pabench.problem.visibility import apply_masks, unseen_tokens


def set_faults(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be with a mask mistaken, then what else there is to mistake."""
    for words, seen in _mistaken(suspect):
        if not seen.any() and suspect.tensors.case.problem.sinks is None:
            nothing = np.zeros_like(suspect.got_out)
            yield Fault(words=words, name=words, out=nothing, slack=nothing, lse=-math.inf)
        elif seen.any() and not np.array_equal(seen, np.asarray(suspect.keys_seen)):
            kept = np.flatnonzero(seen)
            yield suspect.weighted(words, *suspect.tokens(kept), at=kept, name=words)
    # these know nothing of places
    if len(suspect.keys) and suspect.tensors.case.problem.alibi_slopes is None:
        yield from semantic_faults(suspect)
        yield from cache_faults(suspect)
        yield from format_faults(suspect)


def read_poison(suspect: Suspect) -> str | None:
    """Name the mistaken masks that let the row read keys that hold poison because no row sees them.

    None where the output is a number, or where this does not explain it.
    """
    case = suspect.tensors.case
    if suspect.keys_seen is None or case.poison not in ("nan", "inf") or not np.isnan(suspect.got_out).any():
        return None
    dead = unseen_tokens(case, suspect.sequence)
    found = [words for words, seen in _mistaken(suspect) if (seen & dead).any()]
    if not found or not suspect.output_wrong:
        return None
    # several mistakes read poison, and it is the same
    return f"the output is NaN, and keys that no row sees hold {case.poison}: as with {' or '.join(found)}"


def _mistaken(suspect: Suspect) -> Iterator[tuple[str, Array]]:
    """Yield in words how a mask may be mistaken, and the keys that the row sees then."""
    case = suspect.tensors.case
    batch, sequence = case.batch, suspect.sequence
    rows = Rows(
        sequence=sequence,
        q_len=batch.query_lens[sequence],
        kv_len=batch.kv_lens[sequence],
        page_size=case.problem.page_size,
    )
    masks = [(MASKS[name].sees, MASKS[name].widens, value) for name, value in case.masks]
    for place, (name, value) in enumerate(case.masks):
        for words, mistake in MASKS[name].mistakes.items():
            applied = [*masks[:place], (mistake, MASKS[name].widens, value), *masks[place + 1 :]]
            yield words, apply_masks(case.problem, rows, applied)[suspect.query_index]
