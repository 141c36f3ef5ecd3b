# SPDX-License-Identifier: Apache-2.0
"""Sequences that begin with pages of an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number

Fork = tuple[int, int, int]
"""``(sequence, parent, pages)``: the first ``pages`` pages of ``sequence`` are those of ``parent``."""


def checked_forks(forks: Any, kv_lens: Sequence[int], page_size: int) -> tuple[Fork, ...]:
    """Return ``forks`` in the order of their sequences; raises ``InvalidCase``.

    A parent comes before its child in the batch, a sequence has one parent at most, and what is shared are
    pages that both have filled.
    """
    try:
        given = [tuple(fork) for fork in forks]
    except TypeError:
        raise InvalidCase("shared_prefix", forks, "must be a list of (sequence, parent, pages)") from None
    found: dict[int, Fork] = {}
    for i, fork in enumerate(given):
        field = f"shared_prefix[{i}]"
        if len(fork) != 3:
            raise InvalidCase(field, fork, "must be (sequence, parent, pages)")
        child = whole_number(f"{field}.sequence", fork[0], low=1, high=len(kv_lens) - 1)
        parent = whole_number(f"{field}.parent", fork[1], low=0, high=child - 1)
        full = min(kv_lens[child], kv_lens[parent]) // page_size
        if child in found:
            raise InvalidCase(field, fork, "must not name a sequence twice")
        found[child] = (child, parent, whole_number(f"{field}.pages", fork[2], low=1, high=full))
    return tuple(found[child] for child in sorted(found))
