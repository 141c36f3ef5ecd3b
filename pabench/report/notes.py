# SPDX-License-Identifier: Apache-2.0
"""Warnings and skips, in full: what a reader must know before trusting the figures above."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pabench.report.source import Source
from pabench.report.titles import line_title
from pabench.report.words import number
from pabench.text import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Items not done for one reason: (what, which ones)."""

    reason: str
    items: tuple[str, ...]


def build_warnings(source: Source, notes: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return every warning as a sentence."""
    found = list(notes)
    for run in source.runs:
        if run.torn:
            found.append(
                f"The journal of {run.name} ends in a torn line, which is left out: the run was killed."
            )
        if run.record["status"] != "finished":
            found.append(f"The run {run.name} is {run.record['status']}: figures may be missing below.")
        if number(run.record.get("not_run")):
            left = plural(run.record["not_run"], "item")
            found.append(f"{left} of the run {run.name} did not begin: --budget or --maxfail ended it first.")
    repeated = [key for key, count in Counter(line.data["id"] for line in source.cells).items() if count > 1]
    if repeated:
        found.append(
            f"{plural(len(repeated), 'cell')} stand in more than one place of the journals; the table "
            "shows each, a heat map the last one that has a figure."
        )
    twice = Counter((line.run, line.data["id"]) for line in source.lines if line.data["kind"] != "cell")
    if several := [key for key, count in twice.items() if count > 1]:
        found.append(
            f"{plural(len(several), 'item')} stand more than once in the journal of one run; "
            "of several answers the worst stands."
        )
    unstated = sorted({key for line in source.cells for key in _unstated(line.data)})
    if unstated:
        found.append(f"No provenance is stated for: {', '.join(unstated)}.")
    unchecked = sum(line.state == "unchecked" for line in source.cells)
    if unchecked:
        found.append(f"{plural(unchecked, 'cell')} ran without a check of the result.")
    found += _different_machines(source)
    return tuple(found)


def build_skips(source: Source) -> tuple[Skip, ...]:
    """Return what was unsupported, grouped by reason, every item named."""
    groups: dict[str, list[str]] = {}
    for line in source.lines:
        if line.state != "unsupported":
            continue
        reason = line.data.get("reason") or "no reason given"
        groups.setdefault(reason, []).append(line_title(line))
    return tuple(Skip(reason=reason, items=tuple(items)) for reason, items in groups.items())


FIGURES = (
    "num_pages",
    "slots",
    "tokens",
    "waste_tokens",
    "internal_fragmentation",
    "contiguous_fragmentation",
    "efficiency_gain",
    "block_table_bytes",
    "csr_table_bytes",
    "kv_bytes",
    "run_token_heads",
    "plan_ns",
    "prepare_ns",
    "run_ns",
    "modelled_ns",
    "modelled_tokens_per_s",
    "counted_kv_bytes",
    "closed_form_kv_bytes",
    "counted_load_sectors",
    "counted_store_sectors",
    "distinct_sectors",
    "sectors_per_request",
    "wavefronts",
    "bank_conflicts",
    "page_table_reads",
    "counted_modelled_ns",
    "counted_bound",
    "closed_form_modelled_ns",
    "modelled_bound",
    *("expected_floor_ns", "predicted_ns", "floor_ns", "achieved_gbps", "read_fraction", "floor_fraction"),
)


def _unstated(data: dict[str, Any]) -> list[str]:
    words = data.get("provenance") or {}
    return [key for key in FIGURES if data.get(key) is not None and key not in words]


def _different_machines(source: Source) -> list[str]:
    """Runs merged into one page that were not made alike."""
    found = []
    for label, key in (("pabench versions", "pabench"), ("commits", "git_commit"), ("processors", "cpu")):
        values = [run.record["provenance"].get(key) for run in source.runs]
        names = {str(v.get("name") if isinstance(v, dict) else v) for v in values}
        if len(names) > 1:
            shown = ", ".join(sorted(names))
            found.append(f"The runs on this page were made with different {label}: {shown}.")
    return found
