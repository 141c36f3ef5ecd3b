# SPDX-License-Identifier: Apache-2.0
"""Sections of the page that installed packages bring for activities of their own: a table each, texts alone.

A package announces a ``Section`` under the name of its activity:

    [project.entry-points."pabench.sections"]
    my-activity = "my_package.pabench_section:SECTION"

It is imported only where a journal has items of that activity.  A section that is broken costs itself and a
warning: its items are then in the table of what else was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from pabench.report.source import KINDS, Line, Source
from pabench.text import TEXT_LIMIT, clean_text
from pabench.tracebacks import described

GROUP = "pabench.sections"
MAX_ROWS = 1000
"""Rows of one section; the journal has the rest."""
MAX_COLUMNS = 24

Rows = Iterable[Sequence[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """How an activity's items look on the page.

    Attributes:
        title: its heading.
        columns: heads of the table, at most ``MAX_COLUMNS``.
        rows: makes the rows from the lines of all runs, a text or number for each column; no HTML.
        about: how to read it, one or two sentences.
    """

    title: str
    columns: tuple[str, ...]
    rows: Callable[[Sequence[Line]], Rows]
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionView:
    """A section as the template lays it out; ``left_out`` rows are in the journal alone."""

    kind: str
    anchor: str
    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int


def build_sections(
    source: Source, own: Mapping[str, Section]
) -> tuple[tuple[SectionView, ...], tuple[str, ...]]:
    """Return the sections that have no template of their own, and a warning for each that is broken.

    Args:
        source: all lines.
        own: sections of pabench's own kinds of items; others are those of installed packages.
    """
    views: list[SectionView] = []
    warnings: list[str] = []
    for kind in source.by_kind:
        if kind in own:
            views.append(_laid_out(kind, own[kind], source.of(kind), anchor=f"section-{len(views) + 1}"))
            continue
        points = [] if kind in KINDS else [one for one in entry_points(group=GROUP) if one.name == kind]
        if not points:
            continue
        try:
            views.append(_view(kind, points, source.of(kind), anchor=f"section-{len(views) + 1}"))
        except Exception as error:  # somebody else's code: whatever it raises costs its own section alone
            said = clean_text(described(error))
            warnings.append(f"The section of {kind} is broken, its items are listed below: {said}.")
    return tuple(views), tuple(warnings)


def _view(kind: str, points: Sequence[EntryPoint], lines: Sequence[Line], *, anchor: str) -> SectionView:
    if len({point.value for point in points}) > 1:
        raise ValueError(f"two packages bring one: {' and '.join(point.value for point in points)}")
    section = points[0].load()
    if not isinstance(section, Section):
        raise TypeError(f"{points[0].value} is {type(section).__name__}, must be a Section")
    return _laid_out(kind, section, lines, anchor=anchor)


def _laid_out(kind: str, section: Section, lines: Sequence[Line], *, anchor: str) -> SectionView:
    columns = tuple(_text(column) for column in section.columns)
    if not 1 <= len(columns) <= MAX_COLUMNS:
        raise ValueError(f"{len(columns)} columns: must be 1 to {MAX_COLUMNS}")
    rows = [tuple(_text(cell) for cell in row) for row in section.rows(lines)]
    if wrong := [row for row in rows if len(row) != len(columns)]:
        raise ValueError(f"a row of {len(wrong[0])} cells: must be {len(columns)}, one for each column")
    return SectionView(
        kind=kind,
        anchor=anchor,
        title=_text(section.title),
        about=_text(section.about),
        columns=columns,
        rows=tuple(rows[:MAX_ROWS]),
        left_out=max(0, len(rows) - MAX_ROWS),
    )


def _text(value: object) -> str:
    # a plain str: a subclass may know a way around the template's escaping
    return clean_text(str.__str__(str(value)), TEXT_LIMIT)
