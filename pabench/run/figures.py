# SPDX-License-Identifier: Apache-2.0
"""Figures from plain numbers: the unit follows from the name, the provenance is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pabench.run.record import Failure, Figure, Provenance, Record, Status, Subject

SUFFIXES = {
    "_ns": "ns",
    "_s": "s",
    "_cycles": "cycles",
    "_bytes": "bytes",
    "_gbps": "GB/s",
    "_tokens": "tokens",
    "_pages": "pages",
    "_sectors": "sectors of 32 bytes",
    "_per_s": "per second",
}
"""Ends of names to units; the longest that fits counts."""
NAMES = {
    "slots": "slots",
    "tokens": "tokens",
    "num_pages": "pages",
    "cases": "cases",
    "operations": "operations",
    "max_ratio": "err/T",
    "requests": "requests",
    "served": "requests",
    "refused": "requests",
    "steps": "steps",
    "waste_tokens": "tokens",
    **dict.fromkeys(("skipped", "mean_batch", "peak_batch", "preemptions"), "requests"),
    "sequence_steps": "sequence-steps",
    "sequence_steps_per_host_s": "sequence-steps per second",
    "ratios": "err/T",
    "outputs": "rows",
    "hits": "tokens",
    "copies": "pages",
    **dict.fromkeys(("margin", "error", "noise"), "logits"),
}
STATISTIC = re.compile(r"_(mean|p[0-9]{1,2})$")
"""End of the name of a statistic, which has the unit of what it is of."""


OWN = (
    *("kind", "id", "label", "subject", "subject_kind", "version", "mode", "device"),
    *("status", "reason", "failure", "provenance", "duration_s"),
)
"""Fields of a flat record that are neither figures nor details."""


def record_of_flat(flat: Mapping[str, Any]) -> Record:
    """Return the record that ``Record.flat`` made ``flat`` of, or a writer who thinks in flat lines.

    ``provenance`` names the figures; what is none of a record's own fields is a detail.
    """
    words = flat["provenance"]
    failure = flat.get("failure")
    return Record(
        kind=flat["kind"],
        id=flat["id"],
        label=flat["label"],
        subject=Subject(
            kind=flat["subject_kind"],
            name=flat["subject"],
            version=flat.get("version"),
            mode=flat.get("mode"),
        ),
        device=flat["device"],
        status=Status(flat["status"]),
        reason=flat.get("reason"),
        failure=None if failure is None else Failure(**failure),
        figures=figures_of(flat, words),
        details={name: value for name, value in flat.items() if name not in OWN and name not in words},
        duration_s=flat.get("duration_s"),
    )


def unit_of(name: str) -> str:
    """Return the unit of a figure by its name; empty for a plain number."""
    if name in NAMES:
        return NAMES[name]
    name = STATISTIC.sub("", name)
    fitting = [suffix for suffix in SUFFIXES if name.endswith(suffix)]
    return SUFFIXES[max(fitting, key=len)] if fitting else ""


def figures_of(values: Mapping[str, Any], provenance: Mapping[str, str]) -> dict[str, Figure]:
    """Return a figure for each name in ``provenance``; a value that is not there is None.

    Args:
        values: by name.
        provenance: by name: ``measured``, ``counted``, ``modelled`` or ``host``.
    """
    return {
        name: Figure(value=values.get(name), unit=unit_of(name), provenance=Provenance(word))
        for name, word in provenance.items()
    }
