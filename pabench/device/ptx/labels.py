# SPDX-License-Identifier: Apache-2.0
"""Labels of a function, which stand for one another only within their braces, and its branch tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pabench.device.ptx.body import identifier
from pabench.device.ptx.parse import Statement, split_operands


def labels_of(body: Sequence[Statement], first: int) -> dict[str, str]:
    """Return the C++ names of the labels in the braces around statement ``first``, not in those within."""
    found: dict[str, str] = {}
    depth = 0
    for one in body[first:]:
        depth += (one.kind == "open") - (one.kind == "close")
        if depth < 0:
            break
        if one.kind == "label" and depth == 0:
            found[one.text] = f"L{first}{identifier(one.text)}"
    return found


def branches_of(body: Sequence[Statement]) -> dict[str, list[str]]:
    """Return the labels of each branch table."""
    found = {}
    for before, one in pairwise(body):
        if before.kind == "label" and one.text.startswith(".branchtargets"):
            found[before.text] = split_operands(one.text.removeprefix(".branchtargets"))
    return found
