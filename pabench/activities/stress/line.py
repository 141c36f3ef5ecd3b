"""The journal line of a stress cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pabench.activities.stress.cell import StressCell


def stress_line(
    cell: StressCell, device: str, *, status: str, reason: str | None = None, figures: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """Return the line of a cell that has ended.

    Args:
        cell: what was done.
        device: the name of the one it was done on.
        status: ``ok``, ``timeout``, ``failed`` (a promise was broken), ``unsupported`` or ``crashed``.
        reason: why it is not ``ok``.
        figures: by name; those whose names end in ``_ns`` are times of the host, the others were counted.
    """
    return {
        "kind": "stress",
        "id": cell.id,
        "subject": cell.allocator,
        "device": device,
        "check": cell.label,
        "scenario": cell.scenario,
        "size": cell.size,
        "num_pages": cell.size or cell.num_pages,
        "page_size": cell.page_size,
        "rounds": cell.rounds,
        "seed": cell.seed,
        "status": status,
        "reason": reason,
        **figures,
        "provenance": {name: "host" if name.endswith("_ns") else "counted" for name in figures},
    }
