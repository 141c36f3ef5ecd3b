# SPDX-License-Identifier: Apache-2.0
"""How long a case may take before it counts as hanging."""

from __future__ import annotations

DEFAULT_DEADLINE_S = 60.0
MAX_DEADLINE_S = 86_400.0
SLOW_FACTOR = 5
"""How much longer a case may take where its PTX is compiled and run, or every access is checked."""


def deadline_on(device: str, *, checked: bool, deadline_s: float = DEFAULT_DEADLINE_S) -> float:
    """Return the usual deadline on a device: ``deadline_s``, ``SLOW_FACTOR`` times that on a slow one."""
    return deadline_s * (SLOW_FACTOR if checked or device.partition(":")[0] == "ptx" else 1)


def deadline_help(unit: str, deadline_s: float = DEFAULT_DEADLINE_S, *, checked: bool = True) -> str:
    """Return the help of ``--deadline`` for one ``unit`` of work, where there is ``--checked`` or not."""
    slow = "on ptx and with --checked" if checked else "on ptx"
    return f"Timeout per {unit}, in seconds.  [default: {deadline_s:g}; {SLOW_FACTOR * deadline_s:g} {slow}]"


def poll_seconds(deadline_s: float) -> int:
    """Return how long a kernel may spin: less than the deadline, so that it says where it waits."""
    return max(1, int(deadline_s / 2))
