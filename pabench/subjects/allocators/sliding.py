# SPDX-License-Identifier: Apache-2.0
"""What windows and states of KV groups have left behind, and how far a sequence can be cut all the same."""

from __future__ import annotations

from pabench.subjects.allocators.groups import KvGroup


def pages_given_up(group: KvGroup, length: int) -> int:
    """Return how many pages lie wholly before what the query behind ``length`` tokens needs."""
    behind = _behind(group)
    return max(0, length - behind) // group.page_size if behind >= 0 else 0


def uncuttable(group: KvGroup, length: int, tokens: int, given_up: int) -> str | None:
    """Return why a sequence of ``tokens`` that has given up pages cannot be cut to ``length``, or None."""
    if group.kind == "state" and length != tokens:
        return f"must stay {tokens}: a state cannot be rewound"
    shortest = given_up * group.page_size + _behind(group)
    if given_up and length < shortest:
        return f"must be at least {shortest}, for what is before was given up"
    return None


def _behind(group: KvGroup) -> int:
    """Tokens before a query that it needs, the last of a state; of kind ``full`` all, which says -1."""
    return {"full": -1, "window": group.window - 1, "state": 1}[group.kind]
