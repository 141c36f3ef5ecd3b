# SPDX-License-Identifier: Apache-2.0
"""Which items of two runs belong together, and whether the machines do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pabench.errors import PabenchError, UsageError
from pabench.run.read import Run
from pabench.run.record import JUDGED, Figure, Record


class NothingToCompare(PabenchError):
    """A run holds no result."""

    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An item in both runs, or in one of them."""

    base: Record | None
    new: Record | None

    @property
    def any(self) -> Record:
        """The newer record that is there."""
        found = self.new or self.base
        assert found is not None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A fact in which the runs differ."""

    name: str
    base: Any
    new: Any


def pairs_of(base: Run, new: Run) -> tuple[Pair, ...]:
    """Return the items of both runs in the order of the base, then those of the new run alone.

    Raises:
        UsageError: runs of two activities, or with no item in common.
        NothingToCompare: one of them holds no result.
    """
    if base.kind != new.kind:
        raise UsageError(
            f"{base.path} holds a {base.kind} run, {new.path} a {new.kind} run: give two of a kind"
        )
    for run in (base, new):
        if not run.records:
            raise NothingToCompare(f"{run.path} holds no result: there is nothing to compare")
    first, second = _by_id(base), _by_id(new)
    if not first.keys() & second.keys():
        shown = [next(iter(found.values())).label for found in (first, second)]
        if shown[0] == shown[1]:  # asked of other lengths, another seed or shape
            shown = [
                f"{label} ({next(iter(found))})" for label, found in zip(shown, (first, second), strict=True)
            ]
        what = f"{base.path} and {new.path} have no item in common"
        raise UsageError(f"{what}: the first of one is {shown[0]!r}, of the other {shown[1]!r}")
    names = dict.fromkeys([*first, *second])
    return tuple(Pair(base=first.get(name), new=second.get(name)) for name in names)


def shared_figures(pairs: Iterable[Pair]) -> Iterator[tuple[Record, str, Figure, Figure]]:
    """Yield new record, name, old and new figure of all that both runs have of items right in both."""
    for pair in pairs:
        before, after = pair.base, pair.new
        if before is not None and after is not None and {before.status, after.status} <= JUDGED:
            for name, old in before.figures.items():
                if (new := after.figures.get(name)) is not None:
                    yield after, name, old, new


def unlike_machines(base: Run, new: Run) -> tuple[Difference, ...]:
    """Return in what the machines differ; times are compared where this is empty."""
    return _differences(_machine(base), _machine(new))


def differences(base: Run, new: Run) -> tuple[Difference, ...]:
    """Return in what the runs differ beside their results: machine, versions, commit, options."""
    return _differences(_facts(base), _facts(new))


def _by_id(run: Run) -> dict[str, Record]:
    return {record.id: record for record in run.records}


def _machine(run: Run) -> dict[str, Any]:
    provenance = run.record["provenance"]
    device, cpu = provenance.get("device") or {}, provenance.get("cpu") or {}
    facts = {"device": device.get("name"), "processor": cpu.get("name"), "cores": cpu.get("usable")}
    if device.get("name") == "cuda":
        facts["GPU"] = device.get("description")
    return facts


def _facts(run: Run) -> dict[str, Any]:
    provenance = run.record["provenance"]
    plain = ("pabench", "git_commit", "git_dirty", "python", "platform", "compiler")
    return {
        **_machine(run),
        **{name: provenance.get(name) for name in plain},
        **_flat("version of ", provenance.get("versions") or {}),
        **_flat("option ", {key: value for key, value in run.record["config"].items() if key != "digests"}),
        **_flat("digest of ", run.record["config"].get("digests") or {}),
        "status": run.record["status"],
    }


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def _differences(base: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Difference, ...]:
    names = dict.fromkeys([*base, *new])
    return tuple(
        Difference(name=name, base=base.get(name), new=new.get(name))
        for name in names
        if base.get(name) != new.get(name)
    )
