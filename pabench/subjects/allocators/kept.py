# SPDX-License-Identifier: Apache-2.0
"""What an allocator has handed out, kept as it is, and asked again later: nothing of it may have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from pabench.subjects.allocators.results import Granted, Hit

MOST_TABLES = 32
"""Tables kept of one allocator, the newest: each is as large as all its rows."""

Digests = dict[str, str]
"""Part of what was handed out to a digest of what it says."""


def digests(result: Any, table: Any = None) -> Digests:
    """Return what a result, and the table read after it, say now; a part that raises says what it raises."""
    found: dict[str, Callable[[], Any]] = {}
    if isinstance(result, Granted):
        found = {"slots": lambda: result.slots, "copies": lambda: result.copies}
        found["refused"] = lambda: result.refused
    elif isinstance(result, Hit):
        found = {"hit": lambda: (*result.pages, result.part_of, result.part)}
    elif isinstance(result, np.ndarray):
        found = {"moves": lambda: result}
    if table is not None:
        found["table"] = lambda: table
    return {part: _digest(read) for part, read in found.items()}


def _digest(read: Callable[[], Any]) -> str:
    try:
        array = np.asarray(read())
        if not array.size:
            return str(array.shape)  # most grants copy and refuse nothing
        # whole numbers say the same in whatever type they are written
        array = array.astype(np.int64) if array.dtype.kind in "iu" else array
        return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class KeptResults:
    """Results in the order of the operations, and the newest tables."""

    def __init__(self) -> None:
        self._results: list[Any] = []
        self._tables: dict[int, Any] = {}

    def keep(self, result: Any, table: Any) -> None:
        """Keep a result and the table that was read after it."""
        number = len(self._results)
        self._results.append(result)
        self._tables[number] = table
        self._tables.pop(number - MOST_TABLES, None)

    def again(self) -> list[Digests]:
        """Ask for all of it again: one entry an operation, in their order."""
        return [digests(result, self._tables.get(number)) for number, result in enumerate(self._results)]
