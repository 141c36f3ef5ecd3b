# SPDX-License-Identifier: Apache-2.0
"""The conformance matrix: which check said what about which subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pabench.report.faults import BAD, Card, cause_of
from pabench.report.source import Line, Source
from pabench.report.words import digits, number
from pabench.text import plural

SEVERITY = (
    *("interrupted", "unsupported", "inconclusive", "passed", "known-failure"),
    *("failed", "hung", "crashed"),
)
CELL_STATES = ("passed", "failed", "crashed", "unsupported", "unchecked")
UNJUDGED = ("absent", "unsupported", "interrupted")
KINDS = {"backend": "Attention backends", "allocator": "Page allocators"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixCell:
    """One check of one subject.

    Attributes:
        state: ``absent`` where it was not asked.
        reason: why it is not passed; of a failure its cause, which has a card at ``anchor``.
    """

    state: str
    cases: str
    worst: str
    reason: str
    anchor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One check over all subjects."""

    check: str
    about: str
    cells: tuple[MatrixCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Checks down, subjects across.

    Attributes:
        subjects: (name, device with version and mode, summary).
        rows: checks that some subject was judged by.
        folded: checks that no subject here supports.
    """

    title: str
    subjects: tuple[tuple[str, str, str], ...]
    rows: tuple[MatrixRow, ...]
    folded: tuple[MatrixRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellChecks:
    """The quick checks of a sweep's cells, for one backend on one device."""

    subject: str
    device: str
    passed: int
    failed: int
    crashed: int
    unsupported: int
    unchecked: int
    worst: str


def build_matrices(source: Source, cards: Sequence[Card]) -> tuple[Matrix, ...]:
    """Return one matrix per kind of subject, backends first; empty for a sweep alone."""
    kinds = dict.fromkeys(line.data.get("subject_kind") or "backend" for line in source.checks)
    order = sorted(kinds, key=lambda kind: (kind != "backend", kind != "allocator"))
    causes = cause_of(cards)
    return tuple(_matrix(kind, [x for x in source.checks if _kind(x) == kind], causes) for kind in order)


def build_cell_checks(source: Source) -> tuple[CellChecks, ...]:
    """Return the summary of the cells' quick checks, one row a backend and device."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in source.cells:
        groups.setdefault((line.data["backend"], line.data["device"]), []).append(line)
    rows = []
    for (backend, device), lines in groups.items():
        ratios = [number((line.data.get("check") or {}).get("max_ratio")) for line in lines]
        counts = {state: sum(line.state == state for line in lines) for state in CELL_STATES}
        counts["crashed"] += sum(line.state == "hung" for line in lines)
        rows.append(CellChecks(subject=backend, device=device, worst=digits(_largest(ratios)), **counts))
    return tuple(rows)


def _kind(line: Line) -> str:
    return str(line.data.get("subject_kind") or "backend")


def _matrix(kind: str, lines: Sequence[Line], causes: Mapping[tuple[str, str], Card]) -> Matrix:
    subjects = list(dict.fromkeys((line.data["subject"], line.data["device"]) for line in lines))
    found: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        found.setdefault((line.data["check"], line.data["subject"], line.data["device"]), []).append(line)
    rows = []
    for check in dict.fromkeys(line.data["check"] for line in lines):
        abouts = [line.data.get("about") or "" for line in lines if line.data["check"] == check]
        cells = tuple(
            _cell(found.get((check, *subject), []), causes.get((str(subject[0]), str(check))))
            for subject in subjects
        )
        rows.append(MatrixRow(check=check, about=max(abouts, key=len), cells=cells))
    heads = []
    for position, subject in enumerate(subjects):
        asked = [row.cells[position] for row in rows if row.cells[position].state not in UNJUDGED]
        passed = sum(cell.state == "passed" for cell in asked)
        name, device = subject
        heads.append((name, _device(lines, name, device), f"{passed} of {len(asked)} passed"))
    title = KINDS.get(kind, f"{kind.capitalize()} subjects")
    folded = [row for row in rows if {cell.state for cell in row.cells} <= {"absent", "unsupported"}]
    return Matrix(
        title=title,
        subjects=tuple(heads),
        rows=tuple(row for row in rows if row not in folded),
        folded=tuple(folded),
    )


def _device(lines: Sequence[Line], subject: str, device: str) -> str:
    """The device, and what another project's package ran there and how."""
    words = [device]
    for line in lines:
        if (line.data["subject"], line.data["device"]) == (subject, device):
            words += [str(line.data[name]) for name in ("version", "mode") if line.data.get(name)]
    return ", ".join(dict.fromkeys(words))


def _cell(lines: Sequence[Line], card: Card | None) -> MatrixCell:
    """Several runs may have asked the same: the worst answer stands, the cases add up."""
    if not lines:
        return MatrixCell(state="absent", cases="", worst="", reason="")
    worst = max(lines, key=lambda line: SEVERITY.index(line.state))
    cases = sum(line.data.get("cases") or 0 for line in lines)
    steps = sum(line.data.get("operations") or 0 for line in lines)
    ratio = _largest([number(line.data.get("max_ratio")) for line in lines])
    told = card if worst.state in BAD else None
    return MatrixCell(
        state=worst.state,
        cases=", ".join(
            plural(count, one) for count, one in ((cases, "case"), (steps, "operation")) if count
        ),
        worst="" if ratio is None else f"err/T {digits(ratio)}",
        reason=told.words if told else worst.data.get("reason") or "",
        anchor=told.anchor if told else "",
    )


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    # NaN is the worst error of all, and max() would lose it
    return next((v for v in known if v != v), max(known)) if known else None
