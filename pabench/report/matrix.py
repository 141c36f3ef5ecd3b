"""The conformance matrix: which check said what about which subject, and each failure in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pabench.report.findings import FindingRow, finding_rows
from pabench.report.source import Line, Source
from pabench.report.words import DASH, digits, number, plural

SEVERITY = (
    *("interrupted", "unsupported", "inconclusive", "passed", "known-failure"),
    *("failed", "hung", "crashed"),
)
CELL_STATES = ("passed", "failed", "crashed", "unsupported", "unchecked")
UNJUDGED = ("absent", "unsupported", "interrupted")
BAD = ("failed", "crashed", "hung")
KINDS = {"backend": "Attention backends", "allocator": "Page allocators"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixCell:
    """One check of one subject; ``state`` is ``absent`` where it was not asked."""

    state: str
    cases: str
    worst: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One check over all subjects."""

    check: str
    about: str
    cells: tuple[MatrixCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Checks down, subjects across; ``subjects`` are (name, device with version and mode, summary)."""

    title: str
    subjects: tuple[tuple[str, str, str], ...]
    rows: tuple[MatrixRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure in words; ``traceback`` is that of a subject that raised, empty without one."""

    title: str
    state: str
    worst: str
    text: str
    case_id: str
    path: str
    replay: str
    findings: tuple[FindingRow, ...] = ()
    traceback: str = ""


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


def build_matrices(source: Source) -> tuple[Matrix, ...]:
    """Return one matrix per kind of subject, backends first; empty for a sweep alone."""
    kinds = dict.fromkeys(line.data.get("subject_kind") or "backend" for line in source.checks)
    order = sorted(kinds, key=lambda kind: (kind != "backend", kind != "allocator"))
    return tuple(_matrix(kind, [x for x in source.checks if _kind(x) == kind]) for kind in order)


def build_failures(source: Source) -> tuple[Failure, ...]:
    """Return every failed or crashed check, cell and server, in the order of the journals."""
    bad = [line for line in source.lines if line.state in BAD and not _is_result(line)]
    return tuple(map(_failure, bad))


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


def line_title(line: Line) -> str:
    """Return what a line is about: a check, a stress cell, a cell, a server or a model."""
    data = line.data
    if data["kind"] in ("conformance", "stress"):
        return f"{data['subject']} on {data['device']}: {data['check']}"
    if data["kind"] == "serving":
        return f"{data['allocator']} under {data['scheduler']}, page size {data['page_size']}"
    if data["kind"] == "model":
        return f"{data['model']} through {data['subject']}, page size {data['page_size']}"
    if data["kind"] == "sweep":
        return f"{data['backend']} on {data['device']}: cell {cell_title(line)}"
    return f"{data['subject']}: {data['label']}"


def cell_title(line: Line) -> str:
    """Return a cell in words, ``page size 16, fixed:len=1024, batch 8``."""
    data = line.data
    return f"page size {data['page_size']}, {data['lengths']}, batch {data['batch']}"


def _kind(line: Line) -> str:
    return str(line.data.get("subject_kind") or "backend")


def _matrix(kind: str, lines: Sequence[Line]) -> Matrix:
    subjects = list(dict.fromkeys((line.data["subject"], line.data["device"]) for line in lines))
    found: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        found.setdefault((line.data["check"], line.data["subject"], line.data["device"]), []).append(line)
    rows = []
    for check in dict.fromkeys(line.data["check"] for line in lines):
        abouts = [line.data.get("about") or "" for line in lines if line.data["check"] == check]
        cells = tuple(_cell(found.get((check, *subject), [])) for subject in subjects)
        rows.append(MatrixRow(check=check, about=max(abouts, key=len), cells=cells))
    heads = []
    for position, subject in enumerate(subjects):
        asked = [row.cells[position] for row in rows if row.cells[position].state not in UNJUDGED]
        passed = sum(cell.state == "passed" for cell in asked)
        name, device = subject
        heads.append((name, _device(lines, name, device), f"{passed} of {len(asked)} passed"))
    title = KINDS.get(kind, f"{kind.capitalize()} subjects")
    return Matrix(title=title, subjects=tuple(heads), rows=tuple(rows))


def _device(lines: Sequence[Line], subject: str, device: str) -> str:
    """The device, and what another project's package ran there and how."""
    words = [device]
    for line in lines:
        if (line.data["subject"], line.data["device"]) == (subject, device):
            words += [str(line.data[name]) for name in ("version", "mode") if line.data.get(name)]
    return ", ".join(dict.fromkeys(words))


def _cell(lines: Sequence[Line]) -> MatrixCell:
    """Several runs may have asked the same: the worst answer stands, the cases add up."""
    if not lines:
        return MatrixCell(state="absent", cases="", worst="", reason="")
    worst = max(lines, key=lambda line: SEVERITY.index(line.state))
    cases = sum(line.data.get("cases") or 0 for line in lines)
    steps = sum(line.data.get("operations") or 0 for line in lines)
    ratio = _largest([number(line.data.get("max_ratio")) for line in lines])
    return MatrixCell(
        state=worst.state,
        cases=", ".join(
            plural(count, one) for count, one in ((cases, "case"), (steps, "operation")) if count
        ),
        worst="" if ratio is None else f"err/T {digits(ratio)}",
        reason=worst.data.get("reason") or "",
    )


def _is_result(line: Line) -> bool:
    """Whether what looks bad is what was looked for: a stress cell into the deadline."""
    return line.state == "hung" and line.data["kind"] == "stress"


def _failure(line: Line) -> Failure:
    data, failure, check = line.data, line.data.get("failure") or {}, line.data.get("check")
    own = check if isinstance(check, dict) else data
    path = failure.get("path") or ""
    return Failure(
        title=line_title(line),
        state=line.state,
        worst=digits(number(own.get("max_ratio"))),
        text=failure.get("text") or own.get("text") or data.get("reason") or "The journal gives no reason.",
        case_id=failure.get("case_id") or own.get("case_id") or DASH,
        path=path,
        replay=failure.get("replay") or (f"pabench replay {path}" if path else ""),
        findings=finding_rows(data.get("findings")),
        traceback=str(data.get("traceback") or ""),
    )


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    # NaN is the worst error of all, and max() would lose it
    return next((v for v in known if v != v), max(known)) if known else None
