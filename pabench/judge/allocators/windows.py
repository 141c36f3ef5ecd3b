# SPDX-License-Identifier: Apache-2.0
"""What the next query of a sequence needs of a KV group, as the judge counts it: page by page."""

from __future__ import annotations

from pabench.subjects.allocators.groups import KvGroup


def pages_unseen(group: KvGroup, length: int) -> int:
    """Return how many of its first pages no query behind ``length`` tokens needs.

    A query sees itself and the tokens before it, ``window`` in all.  A state stands for its last token.
    """
    unseen = 0
    for column in range(length // group.page_size):
        last = (column + 1) * group.page_size - 1
        gone = {"full": False, "window": last <= length - group.window, "state": last < length - 1}
        unseen += gone[group.kind]
    return unseen
