# SPDX-License-Identifier: Apache-2.0
"""What a measurement does about the L2 cache, and how it is seen whether that did it.

``cold-rotate``: a call reads set i, the next one set i + 1, and so on; when a set comes round again, several
times the cache's size has been read since.  A set that is itself several times the cache needs no other.
``cold-flush``: one set and one call a sample, behind a read of several times the cache: for a batch that has
no room for sets.  ``hot``: one set again and again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pabench.problem.checks import whole_number

ROTATE, FLUSH, HOT = POLICIES = ("cold-rotate", "cold-flush", "hot")

CACHES = 5
"""Sizes of the cache that are read between two uses of a byte."""
MAX_SETS = 64
SAMPLE_NS = 300_000.0
"""A sample shall last so long, that the clock's steps of half a microsecond do not count."""
MAX_CALLS = 512
GATED_CALLS = 32
"""Launches that are queued behind a gate, where there is no graph; a stream takes about a thousand."""


def sets_of(policy: str, touched_bytes: int, l2_bytes: int) -> int:
    """Return how many sets of inputs ``policy`` needs."""
    return rotation_sets(touched_bytes, l2_bytes) if policy == ROTATE else 1


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


def calls_per_sample(call_ns: float, sets: int, *, most: int = MAX_CALLS) -> int:
    """Return how many calls make one sample: whole turns of the sets that together last ``SAMPLE_NS``.

    Args:
        call_ns: of one call.
        sets: that take turns.
        most: calls, save for the one turn that is always made.
    """
    turns = math.ceil(SAMPLE_NS / max(1.0, call_ns) / sets)
    return sets * max(1, min(turns, most // sets))


@dataclass(frozen=True, slots=True, kw_only=True)
class L2Probe:
    """Nanoseconds of a read in a small array that was read before.

    Attributes:
        hot_ns: read again at once.
        dram_ns: after far more than the cache was read.
        after_ns: after what the policy does between two uses of a byte.
    """

    hot_ns: float
    dram_ns: float
    after_ns: float

    @property
    def tells(self) -> bool:
        """Whether hot and cold can be told apart at all."""
        return self.dram_ns > APART * self.hot_ns > 0

    @property
    def cold(self) -> bool:
        """Whether the array was pushed out: its reads are nearer to memory's than to the cache's."""
        return self.after_ns > math.sqrt(self.hot_ns * self.dram_ns)


APART = 1.2
"""Memory slower than the cache by less than this part: the probe tells nothing."""
