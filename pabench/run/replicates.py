# SPDX-License-Identifier: Apache-2.0
"""Replicates: one item asked of several fresh processes, a journal line each, read back as one record.

Samples of one process share its state (placement of memory, clocks), and tell nothing of the next.  A line of
a replicate has ``item``, the id that all replicates of it have in common, and ``replicate``, 1 for the first
process; ``folded`` makes the record of the item, and ``by_replicate`` takes a series apart again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from pabench.run.record import JUDGED, Figure, Provenance, Record, Status

OF_A_CLOCK = frozenset({Provenance.MEASURED, Provenance.HOST})
WORST = (Status.CRASHED, Status.HUNG, Status.FAILED, Status.INCONCLUSIVE, Status.UNSUPPORTED)
"""One such process decides; the first that fits counts."""


def folded(records: Iterable[Record]) -> tuple[Record, ...]:
    """Return a record an item, in the order of their first lines.

    Series hold the samples of all processes in their order, single numbers of a clock are medians over them,
    ``flags`` are those of any.  What went wrong in one process is the result of the item, with the figures of
    that process: it is not averaged away.  ``replicates`` says of each process which it was, how many
    samples each series has of it, its single numbers, and how it was timed.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        name = str(record.details["item"]) if _is_replicate(record) else record.id
        found.setdefault((record.kind, name), []).append(record)
    made: list[Record] = []
    for (_, name), group in found.items():
        made += [_fold(name, group)] if all(map(_is_replicate, group)) else group
    return tuple(made)


def by_replicate(record: Record, name: str) -> Any:
    """Return the value of a figure; of a series of several processes, a list of samples for each."""
    value, told = record.figures[name].value, record.details.get("replicates")
    if not isinstance(value, list) or not isinstance(told, list) or len(told) < 2:
        return value
    # what a line of somebody else's says is not believed
    parts = [one.get("samples") if isinstance(one, dict) else None for one in told]
    counts = [part[name] for part in parts if isinstance(part, dict) and type(part.get(name)) is int]
    if len(counts) < len(told) or min(counts) < 1 or sum(counts) != len(value):
        return value
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    return [value[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _is_replicate(record: Record) -> bool:
    item, replicate = record.details.get("item"), record.details.get("replicate")
    return isinstance(item, str) and bool(item) and type(replicate) is int and replicate > 0


def _fold(name: str, group: Sequence[Record]) -> Record:
    ended = [one for one in group if one.status != Status.INTERRUPTED] or list(group)
    ended = sorted(ended, key=lambda one: int(one.details["replicate"]))
    worst = next((one for status in WORST for one in ended if one.status == status), None)
    good = [one for one in ended if one.status in JUDGED]
    first = worst or (good or ended)[0]
    alike = [one for one in ended if one.status == first.status]
    reason = first.reason
    if worst is not None and len(alike) < len(ended):
        reason = f"in {len(alike)} of {len(ended)} processes: {reason}"
    details = {key: value for key, value in first.details.items() if key not in ("item", "replicate")}
    flags = [flag for one in ended for flag in one.details.get("flags") or ()]
    if flags:
        details["flags"] = list(dict.fromkeys(flags))
    if worst is None:
        details["replicates"] = [_told(one) for one in good or ended]
    seconds = [one.duration_s for one in ended if one.duration_s is not None]
    return replace(
        first,
        id=name,
        reason=reason,
        figures={key: _figure(key, good) for key in first.figures}
        if worst is None and good
        else first.figures,
        details=details,
        duration_s=round(sum(seconds), 3) if seconds else None,
    )


def _figure(name: str, records: Sequence[Record]) -> Figure:
    found = [one.figures[name] for one in records if name in one.figures]
    first, values = found[0], [figure.value for figure in found if figure.value is not None]
    if any(figure.provenance != first.provenance for figure in found) or len(values) < 2:
        return first
    if all(isinstance(value, list) for value in values):
        return replace(first, value=[sample for value in values for sample in value])
    if first.provenance in OF_A_CLOCK and all(map(_number, values)):
        return replace(first, value=median(values))
    return first


def _told(record: Record) -> dict[str, Any]:
    figures = record.figures.items()
    return {
        "replicate": record.details["replicate"],
        "samples": {name: len(one.value) for name, one in figures if isinstance(one.value, list)},
        "figures": {
            name: one.value for name, one in figures if one.provenance in OF_A_CLOCK and _number(one.value)
        },
        **({"timing": record.details["timing"]} if "timing" in record.details else {}),
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
