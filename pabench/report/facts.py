# SPDX-License-Identifier: Apache-2.0
"""What ran: where, with which versions, by which command."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pabench.report.source import RunView, Source
from pabench.report.words import DASH, digits
from pabench.run.files import json_line
from pabench.text import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run's facts as (label, value); ``command`` and ``config`` are set apart as code."""

    name: str
    kind: str
    command: str
    facts: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    config: tuple[tuple[str, str], ...]


def build_facts(source: Source) -> tuple[RunFacts, ...]:
    """Return the facts of each run, in the order of the runs."""
    return tuple(_run(source, index, run) for index, run in enumerate(source.runs))


def duration(record: dict[str, Any]) -> str:
    """Return how long a run took, in words; a dash where it did not end."""
    try:
        seconds = (_time(record["finished"]) - _time(record["started"])).total_seconds()
    except (KeyError, TypeError, ValueError, AttributeError):
        return DASH
    if seconds < 120:
        return f"{digits(max(0.0, seconds))} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _run(source: Source, index: int, run: RunView) -> RunFacts:
    record, provenance = run.record, run.record["provenance"]
    device, cpu = _object(provenance, "device"), _object(provenance, "cpu")
    lines = [line.data for line in source.lines if line.run == index]
    name = device.get("name") or ", ".join(sorted({line["device"] for line in lines if line.get("device")}))
    seeds = sorted({line["seed"] for line in lines if line.get("seed") is not None})
    if not seeds and record["config"].get("seed") is not None:
        seeds = [record["config"]["seed"]]
    facts = [
        ("Status", _status(run)),
        ("Started", str(record["started"]).replace("T", " ").replace("Z", " UTC")),
        ("Duration", duration(record)),
        ("Device", " · ".join(str(part) for part in (name, device.get("description")) if part)),
        ("Seed" if len(seeds) == 1 else "Seeds", ", ".join(map(str, seeds))),
        ("pabench", _version(provenance)),
        ("Python", provenance.get("python")),
        ("Platform", provenance.get("platform")),
        ("Processor", _cpu(cpu)),
        ("Compiler", provenance.get("compiler")),
    ]
    return RunFacts(
        name=run.name,
        kind=str(record["kind"]),
        command=str(record["command"]),
        facts=tuple((label, str(value)) for label, value in facts if value not in (None, "")),
        versions=tuple((key, str(value)) for key, value in sorted(_object(provenance, "versions").items())),
        config=tuple((key, _value(value)) for key, value in sorted(record["config"].items())),
    )


def _status(run: RunView) -> str:
    code = run.record.get("exit_code")
    return f"{run.record['status']}, exit code {'none yet' if code is None else code}"


def _version(provenance: dict[str, Any]) -> str | None:
    version, commit = provenance.get("pabench"), provenance.get("git_commit")
    if not commit:
        return version
    changed = " with uncommitted changes" if provenance.get("git_dirty") else ""
    return f"{version} at commit {str(commit)[:12]}{changed}"


def _cpu(cpu: dict[str, Any]) -> str | None:
    count, usable = cpu.get("count"), cpu.get("usable")
    if not isinstance(count, int):
        return cpu.get("name")
    few = f", {usable} usable" if isinstance(usable, int) and usable != count else ""
    return f"{cpu.get('name') or 'unnamed'} ({plural(count, 'core')}{few})"


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json_line(value)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
