# SPDX-License-Identifier: Apache-2.0
"""When the requests of a trace come: the unit of its times, and the earliest arrival of each."""

from __future__ import annotations

import numpy as np

from pabench.problem.dtypes import Array
from pabench.workloads.columns import Columns
from pabench.workloads.fields import TraceError
from pabench.workloads.formats import UNITS, TraceFormat

LEAST_GAP = 50.0
"""Milliseconds between distinct times, on average, below which they may as well be seconds."""
UNIT_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EPOCH = (10**9, 10**10)
"""Seconds since 1970, from 2001 to 2286: other units of the same moments lie elsewhere."""


def unit_of(found: Columns, form: TraceFormat, moments: bool, asked: str | None, waits: bool) -> str:
    """Return the unit of the times, a key of ``UNITS``; empty where there are none.

    Args:
        found: rows.
        form: their format.
        moments: whether the times are dates and times of day.
        asked: as an option says, None for none.
        waits: whether rows wait for others, which need no time.

    Raises:
        TraceError: the option contradicts the file, or is needed; or a row lacks its time.
    """
    stamps = found.stamp[~np.isnan(found.stamp)]
    default = form.unit.rstrip("?")
    if not stamps.size and not waits:
        if asked is not None:
            raise TraceError(f"--time-unit {asked}: it has no times")
        return ""
    if stamps.size < found.stamp.size and not waits:
        lacking = int(np.isnan(found.stamp).argmax())
        raise TraceError(f"row {found.number[lacking]}: has no time, as other rows have")
    if moments:
        if asked is not None:
            raise TraceError(f"--time-unit {asked}: its times are dates and times of day")
        return "s"
    if not form.unit.endswith("?"):
        return asked or default
    since = _since_1970(stamps)
    if form.csv is not None and since is not None and asked not in (None, since):
        raise TraceError(f"--time-unit {asked}: its times are {UNIT_WORDS[since]} since 1970")
    if asked is not None or all_equal(stamps):
        return asked or default
    if since is not None:
        return since
    # sessions are AIPerf's and Dynamo's, which have milliseconds
    if default == "ms" and (waits or (_mean_gap(stamps) >= LEAST_GAP and not (stamps % 1).any())):
        return default
    shown = f"{stamps.min():g} to {stamps.max():g}"
    raise TraceError(f"its times, {shown}, may be seconds or milliseconds: give --time-unit")


def _since_1970(stamps: Array) -> str | None:
    """The unit in which all stamps are moments from 2001 on; None where they are none in any."""
    for unit, seconds in UNITS.items():
        if (stamps * seconds >= EPOCH[0]).all() and (stamps * seconds < EPOCH[1]).all():
            return unit
    return None


def all_equal(stamps: Array) -> bool:
    """Whether all times that are there are one, so that their unit does not matter."""
    there = stamps[~np.isnan(stamps)]
    return not there.size or bool((there == there[0]).all())


def _mean_gap(stamps: Array) -> float:
    distinct = np.unique(stamps)
    return float((distinct[-1] - distinct[0]) / max(distinct.size - 1, 1))


def times_of(found: Columns, after: Array, scale: float) -> tuple[Array, Array]:
    """Return earliest arrival and delay of each row in seconds, for a unit of ``scale`` seconds."""
    delay = np.nan_to_num(found.delay) * scale
    # those since 1970 lose less when they begin at 0 before they are scaled
    first = float(np.nanmin(found.stamp)) if not np.isnan(found.stamp).all() else 0.0
    since = (found.stamp - first) * scale
    if not (after >= 0).any():
        return np.nan_to_num(since), delay
    arrival = since.tolist()
    waits = delay.tolist()
    for at, before in enumerate(after.tolist()):
        least = 0.0 if before < 0 else arrival[before] + waits[at]
        # NaN compares as false
        arrival[at] = max(arrival[at], least) if arrival[at] == arrival[at] else least
    return np.array(arrival), delay
