# SPDX-License-Identifier: Apache-2.0
"""Sections that installed packages bring: their tables, and what becomes of broken ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from markupsafe import Markup

from pabench.report import sections
from pabench.report.model import ReportModel, build_model
from pabench.report.render import render_html
from pabench.report.sections import MAX_ROWS, Section
from pabench.report.source import Line, Source
from pabench.run.read import Run
from pabench.run.record import Record, Status, Subject
from tests.report.test_page import check_closed
from tests.support.report_data import PROVENANCE

HOSTILE = "<script>alert(1)</script>\u202e"


def run_of(kind: str = "toy", count: int = 2) -> Run:
    records = tuple(
        Record(
            kind=kind,
            id=str(place),
            label=f"word {place}",
            subject=Subject(kind="word", name=HOSTILE),
            device="none",
            status=Status.PASSED,
        )
        for place in range(count)
    )
    record = {
        "kind": kind,
        "status": "finished",
        "exit_code": 0,
        "command": "toy",
        "started": "2026-01-02T03:04:05Z",
        "finished": "2026-01-02T03:04:06Z",
        "provenance": PROVENANCE,
        "config": {},
    }
    return Run(path=Path("toy"), record=record, records=records, torn=False)


def rows(lines: Sequence[Line]) -> list[tuple[object, ...]]:
    return [(line.data["label"], line.data["subject"], Markup("<b>bold</b>"), 3.5) for line in lines]


def section(**changes: Any) -> Section:
    given: dict[str, Any] = {"title": HOSTILE, "columns": ("word", "who", "html", "n"), "rows": rows}
    return Section(**{**given, **changes})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Announces objects as sections, of ``toy`` unless told otherwise."""

    def announce(*found: object, name: str = "toy") -> None:
        module = ModuleType("foreign_sections")
        points = []
        for place, one in enumerate(found):
            setattr(module, f"S{place}", one)
            points.append(EntryPoint(name=name, value=f"foreign_sections:S{place}", group=sections.GROUP))
        monkeypatch.setitem(sys.modules, "foreign_sections", module)
        monkeypatch.setattr(sections, "entry_points", lambda *, group: points)

    return announce


def test_sections_lay_out_texts_and_no_html(installed: Callable[..., None]) -> None:
    installed(section(about="Shorter is better."))
    html = render_html([run_of()])
    page = check_closed(html)
    text = "".join(page.text)
    assert "word 1" in text
    assert "<b>bold</b>" in text
    assert "Shorter is better." in text
    assert "What else was asked" not in text
    assert "\u202e" not in html
    links = {attributes.get("href") for tag, attributes in page.elements if tag == "a"}
    assert "#section-1" in links


def test_sections_of_nobody_leave_the_general_table(installed: Callable[..., None]) -> None:
    installed(section(), name="another")
    built = build_model([run_of()])
    assert built.sections == ()
    assert len(built.others) == 2
    assert not [text for text in built.warnings if "section" in text]


def test_sections_do_not_replace_ours(installed: Callable[..., None]) -> None:
    installed(section(), name="stress")
    assert build_model([]).sections == ()
    source = Source(runs=(), by_kind={"stress": ()})
    assert sections.build_sections(source, {}) == ((), ())


def raises(lines: Sequence[Line]) -> list[tuple[object, ...]]:
    raise KeyError("label")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((section(rows=raises),), "KeyError: 'label' (test_sections.py"),
        ((section(columns=("one",)),), "a row of 4 cells: must be 1"),
        ((section(columns=()),), "0 columns: must be 1 to 24"),
        (("no section",), "foreign_sections:S0 is str, must be a Section"),
        ((section(), section()), "two packages bring one: foreign_sections:S0 and foreign_sections:S1"),
        ((section(rows=lambda lines: 3),), "TypeError"),
    ],
)
def test_sections_that_are_broken_cost_themselves_alone(
    found: tuple[object, ...], words: str, installed: Callable[..., None]
) -> None:
    installed(*found)
    built: ReportModel = build_model([run_of()])
    assert built.sections == ()
    assert len(built.others) == 2
    (said,) = [text for text in built.warnings if text.startswith("The section of toy is broken")]
    assert words in said


def test_sections_have_an_end(installed: Callable[..., None]) -> None:
    installed(section())
    (view,) = build_model([run_of(count=MAX_ROWS + 5)]).sections
    assert (len(view.rows), view.left_out) == (MAX_ROWS, 5)
