# SPDX-License-Identifier: Apache-2.0
"""What speaks against a time that was measured: doubts that are printed beside it, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pabench.run.record import Status
from pabench.timing.cold import HOT

TOO_FAST = 1.03
"""More of the measured ceiling than this: the bytes are wrong, or the cache was warm."""
FLOORS = 5.0
"""Samples shorter than so many times of nothing are mostly the clock's."""
SPEED = ("run_ns", "run_cycles", "prepare_ns", "achieved_gbps")


def doubts(timing: Mapping[str, Any], *, samples: int) -> list[str]:
    """Return what a reader of the time has to know.

    Args:
        timing: how it was measured, see ``device_times``; what an older run does not say is no doubt.
        samples: how many there are.
    """
    probe, hot = timing.get("probe") or {}, timing.get("l2") == HOT
    floor_ns, sample_ns = timing.get("event_floor_ns", 0.0), timing.get("sample_ns", math.inf)
    found = {
        "the cache was not cold": not hot and not (timing["cold"] and probe.get("cold", True)),
        "the cache was not hot": hot and probe.get("cold", False),
        "the host waited much longer than the events say": 2 * timing["host_waited_longer"] > samples,
        "the backend synchronizes: launches are in the time": not timing.get("gated", True)
        and timing["method"] == "stream",
        "a timed call allocates memory": timing.get("allocated_bytes", 0) > 0,
        "the backend keeps lines in the L2 cache": not hot and timing.get("persisting_bytes", 0) > 0,
        f"shorter than {FLOORS:g} empty measurements": sample_ns < FLOORS * floor_ns,
        "unstable: the clock moved by more than 5 %": timing.get("clock_unstable", False),
    }
    return [text for text, holds in found.items() if holds]


def refused(line: Mapping[str, Any], fraction: float, ceiling: str = "read ceiling") -> dict[str, Any]:
    """Return what replaces the speed of an item that is faster than memory; its samples stay as evidence."""
    limit = f"{TOO_FAST:.0%}: wrong bytes, or a warm cache"
    return {
        **{name: None for name in SPEED if name in line},
        "status": Status.INCONCLUSIVE,
        "reason": f"no speed: {fraction:.1%} of the measured {ceiling}, must be at most {limit}",
        "timing": {**line.get("timing", {}), "refused_run_ns": line["run_ns"]},
    }
