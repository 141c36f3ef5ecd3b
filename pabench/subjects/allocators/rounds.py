# SPDX-License-Identifier: Apache-2.0
"""The same calls again and again: what is lost or kept a little at a time shows after thousands of them."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pabench.errors import InvalidCase, OutOfPages
from pabench.subjects.allocators.base import PageAllocator

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Name of an operation, and its arguments."""


class Rounds(NamedTuple):
    """What became of them.

    Attributes:
        refused: calls that raised ``OutOfPages`` or ``InvalidCase``, a number each round.
        memory: bytes of Python and numpy that were taken since the start and not given back, after a quarter
            of the rounds, after five eighths and after all.
    """

    refused: list[int]
    memory: list[int]


def run_rounds(
    allocator: PageAllocator, calls: Sequence[Call], times: int, *, watched: bool = True
) -> Rounds:
    """Make ``calls`` in their order, ``times`` over; what they return is dropped at once.

    Args:
        allocator: whose operations they are.
        calls: of one round.
        times: rounds, at least 1.
        watched: whether its memory is; it costs time, and is 0 otherwise.

    Raises:
        Exception: what a call raises that is no refusal.
    """
    refused, memory = [0] * times, [0, 0, 0]
    ours = watched and not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        for number in range(times):
            for name, given, named in calls:
                try:
                    getattr(allocator, name)(*given, **named)
                except (OutOfPages, InvalidCase):
                    refused[number] += 1
            for place, eighths in enumerate((2, 5)):
                if watched and number == times * eighths // 8:
                    memory[place] = _in_use()
        memory[2] = _in_use() if watched else 0
    finally:
        if ours:
            tracemalloc.stop()
    return Rounds(refused, memory)


def rounds_of(allocator: PageAllocator, calls: Sequence[Call], times: int, *, watched: bool = True) -> Rounds:
    """As ``run_rounds``, by an allocator elsewhere in one trip."""
    run: Callable[..., Rounds] = getattr(allocator, "run_rounds", None) or partial(run_rounds, allocator)
    return run(calls, times, watched=watched)


def _in_use() -> int:
    # Python's cache of attributes of types keeps up to 4,096 names that C code made up for a lookup, as each
    # launch on the emulated device does: they count as in use, and belong to nobody
    clear: Callable[[], None] | None = getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
