"""How a measurement keeps the L2 cache cold: sets of inputs in turn, as many as push each other out.

A call reads set i, the next one set i + 1, and so on; when a set comes round again, several times the
cache's size has been read since.  A set that is itself several times the cache needs no other.
"""

from __future__ import annotations

import math

from pabench.problem.checks import whole_number

CACHES = 5
"""Sizes of the cache that are read between two uses of a byte."""
MAX_SETS = 64
SAMPLE_NS = 300_000.0
"""A sample shall last so long, that the clock's steps of half a microsecond do not count."""
MAX_CALLS = 512


def rotation_sets(touched_bytes: int, l2_bytes: int) -> int:
    """Return how many sets of inputs take turns, 1 when one alone keeps the cache cold.

    Args:
        touched_bytes: distinct bytes that one call reads and writes.
        l2_bytes: of the cache.

    Raises:
        InvalidCase: a negative size.
    """
    whole_number("touched_bytes", touched_bytes, low=0, high=2**62)
    whole_number("l2_bytes", l2_bytes, low=0, high=2**62)
    wanted = CACHES * l2_bytes
    if touched_bytes >= wanted:
        return 1
    return min(MAX_SETS, math.ceil(wanted / max(1, touched_bytes)) + 1)


def is_cold(touched_bytes: int, l2_bytes: int, sets: int) -> bool:
    """Whether so many sets read the wanted number of caches between two uses of a byte."""
    between = touched_bytes if sets == 1 else (sets - 1) * touched_bytes
    return between >= CACHES * l2_bytes


def calls_per_sample(call_ns: float, sets: int) -> int:
    """Return how many calls make one sample: whole turns of the sets that together last ``SAMPLE_NS``."""
    turns = math.ceil(SAMPLE_NS / max(1.0, call_ns) / sets)
    return sets * max(1, min(turns, MAX_CALLS // sets))
