# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pabench.errors import EnvironmentRefused
from pabench.report import charts, render
from pabench.report.render import render_report
from pabench.report.svg import finish_svg
from tests.support.report_data import (
    LENGTHS,
    PROVENANCE,
    cell,
    conformance_lines,
    failed_cell,
    failed_check,
    sweep_lines,
    write_run,
)

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "url(https://example.org/x)",
    "' onmouseover='alert(1)",
    "שלום עולם",
    "a\u202eb\x00\x1b[31m\ud800",
    "datum.step",
    "x" * 5000,
    "]]><!--",
    "&lt;b&gt;",
]


class Page(HTMLParser):
    """What a browser would see: elements with attributes, text, styles, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if self.open.pop() != tag:
            raise AssertionError(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        {"style": self.styles, "script": self.scripts}.get(inside, self.text).append(data)


def check_closed(html: str) -> Page:
    """Assert that the page reaches nothing outside itself and runs nothing; return it parsed."""
    page = Page(html)
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form", "image", "use")
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            assert key not in ("src", "srcset", "style", "background", "action", "xlink:href")
            assert "url(" not in value or key == "aria-label"
            if key == "href":
                assert value.startswith("#")
        if tag == "script":
            assert attributes == {"type": "application/json", "id": "pabench-data"}
        if tag == "meta":
            assert "http-equiv" not in attributes
    styles = "".join(page.styles)
    assert "url(" not in styles
    assert "@import" not in styles
    assert "expression(" not in styles
    assert len(page.scripts) == 1
    return page


def made(tmp_path: Path, lines: list[dict[str, Any]], kind: str = "sweep", **changes: Any) -> str:
    run = write_run(tmp_path / kind, kind, lines, **changes)
    return render_report([run], tmp_path / f"{kind}.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("full")
    checks = [*conformance_lines(), failed_check("rawkernel", "split")]
    cells = [*sweep_lines()[1:], failed_cell(8, LENGTHS[0], 1)]
    runs = [
        write_run(folder / "conformance", "conformance", checks, exit_code=1),
        write_run(folder / "sweep", "sweep", cells, exit_code=1),
    ]
    return render_report(runs, folder / "report.html").read_text(encoding="utf-8")


def test_report_page_loads_and_runs_nothing(full: str) -> None:
    check_closed(full)
    assert "http:" not in full
    assert "https:" not in full


def test_report_page_has_its_parts_in_order(full: str) -> None:
    ids = [a["id"] for tag, a in check_closed(full).elements if tag == "section"]
    assert ids == [
        "verdict",
        "failures",
        "conformance",
        "sweep",
        "cells",
        "roofline",
        "warnings",
        "method",
        "ran",
        "data",
    ]


def test_report_page_links_lead_somewhere_and_ids_are_unique(full: str) -> None:
    elements = check_closed(full).elements
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        for label in attributes.get("aria-labelledby", "").split():
            assert label in ids


def test_report_page_every_chart_is_labelled_and_has_a_table(full: str) -> None:
    charts_drawn = re.findall(r"<svg.*?</svg>", full, flags=re.S)
    assert len(charts_drawn) == 1 + 3 * 3
    for svg in charts_drawn:
        assert re.search(r'^<svg[^>]* role="img"', svg)
        assert re.search(r"<title id=.+?</title><desc id=.+?</desc>", svg, flags=re.S)
    assert full.count("<details><summary>The same as") == 1 + 3


def test_report_page_prints_the_number_in_each_square(full: str) -> None:
    svg = next(s for s in re.findall(r"<svg.*?</svg>", full, flags=re.S) if "Waste by page size and" in s)
    drawn = re.findall(r">([\d.]+ %)</text>", svg)
    assert len(drawn) == 9


def test_report_page_hatches_and_names_a_wrong_cell(full: str) -> None:
    svg = next(s for s in re.findall(r"<svg.*?</svg>", full, flags=re.S) if "Modelled decode" in s)
    assert ">failed</text>" in svg
    assert svg.count('stroke="#b4bec9"') == 1


def test_report_page_dark_theme_recolours_every_chart_colour(full: str) -> None:
    recoloured = set(re.findall(r'\.chart \[fill="(#\w+)"\]', full))
    for svg in re.findall(r"<svg.*?</svg>", full, flags=re.S):
        used = set(re.findall(r'(?:fill|stroke)="(#\w+)"', svg))
        assert used <= recoloured
        assert set(re.findall(r'fill="([a-z]\w*)"', svg)) <= {"none", "transparent"}


def test_report_page_says_failure_and_replay(full: str) -> None:
    text = " ".join(check_closed(full).text)
    assert "pabench replay runs/c/failures/9b1d6c0e4a7f2283" in text
    assert "physical page 12, expected 41" in text


def test_report_page_folds_the_traceback_of_a_failure(tmp_path: Path) -> None:
    trace = "Traceback (most recent call last):\n  <b onclick=x>\nKeyError: '</pre></details><script>'"
    page = check_closed(
        made(tmp_path, [failed_check("mine", "decode", traceback=trace)], kind="conformance", exit_code=1)
    )
    assert trace in "".join(page.text)
    assert (
        "Traceback (most"
        not in check_closed(
            made(tmp_path / "none", [failed_check("mine", "decode")], kind="conformance", exit_code=1)
        ).text
    )


def test_report_page_data_is_complete_json(full: str) -> None:
    data = json.loads(check_closed(full).scripts[0])
    assert [run["kind"] for run in data["runs"]] == ["conformance", "sweep"]
    assert len(data["cells"]["rows"]) == 27
    place = data["cells"]["columns"].index("exact")
    assert data["cells"]["rows"][0][place]["efficiency_gain"]


@pytest.mark.slow
def test_report_page_is_the_same_for_the_same_runs(tmp_path: Path, full: str) -> None:
    run = write_run(tmp_path / "run", "sweep", sweep_lines(batches=(1, 8)))
    one = render_report([run], tmp_path / "one.html").read_bytes()
    assert one == render_report([run], tmp_path / "two.html").read_bytes()
    program = "import sys; from pathlib import Path; from pabench.report.render import render_report; "
    program += "render_report([Path(sys.argv[1])], Path(sys.argv[2]))"
    root = Path(__file__).resolve().parents[2]
    other = tmp_path / "three.html"
    command = [sys.executable, "-c", program, str(run), str(other)]
    subprocess.run(command, cwd=root, env={"PYTHONHASHSEED": "7"}, check=True)
    assert other.read_bytes() == one


@pytest.mark.parametrize("name", HOSTILE)
def test_report_page_hostile_names_stay_text(tmp_path: Path, name: str) -> None:
    lines = [
        cell(8, name, 8, backend=name, device=name, dtype=name, heads=name, modelled_gpu=name),
        cell(16, name, 8, backend=name, device=name, dtype=name, heads=name, modelled_gpu=name),
        failed_cell(8, name + "2", 8, backend=name, reason=name),
        cell(8, name, 9, status="unsupported", reason=name, check=None),
    ]
    provenance = {**PROVENANCE, "cpu": {"name": name, "count": 1}, "versions": {name: name}, "compiler": name}
    html = made(tmp_path, lines, provenance=provenance, command=name, config={name: name})
    page = check_closed(html)
    checks = [failed_check(name, name, about=name, device=name, subject_kind=name, reason=name)]
    checks[0]["traceback"] = name
    checks[0]["failure"] = dict.fromkeys(("case_id", "text", "path", "replay"), name)
    check_closed(made(tmp_path, checks, kind="conformance"))
    assert "\u202e" not in html
    if len(name) < 100 and name.isprintable():
        assert name in "".join(page.text)
        assert name in json.dumps(json.loads(page.scripts[0]), ensure_ascii=False).replace('\\"', '"')


def test_report_page_of_300_cells_is_below_a_megabyte(tmp_path: Path) -> None:
    lengths = [f"lognormal:mean={n},cv=1,max=32768" for n in range(1000, 1020)]
    lines = sweep_lines(page_sizes=(8, 16, 32, 64, 128), lengths=lengths, batches=(1, 8, 64))
    assert len(lines) == 300
    assert len(made(tmp_path, lines)) < 1_000_000


def test_report_page_of_1000_cells_is_small_and_quick(tmp_path: Path) -> None:
    lines = [
        line
        for backend in ("rawkernel", "torch-sdpa", "third", "fourth")
        for line in sweep_lines(
            page_sizes=(8, 16, 32, 64, 128),
            lengths=[*(f"fixed:len={n}" for n in range(1, 10)), "azure-conv"],
            batches=(1, 2, 4, 8, 64),
            backend=backend,
        )
    ]
    assert len(lines) == 1000
    run = write_run(tmp_path / "run", "sweep", lines)
    start = time.process_time()
    out = render_report([run], tmp_path / "report.html")
    assert time.process_time() - start < 5
    assert out.stat().st_size < 3_000_000
    check_closed(out.read_text(encoding="utf-8"))


def test_report_page_without_a_chart_library_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert charts.charts_missing() == "vl-convert-python cannot be imported (ModuleNotFoundError)"
    html = made(tmp_path, sweep_lines())
    assert "<svg" not in html
    assert html.count("<details open><summary>The same as") == 4
    assert "No charts on this page: vl-convert-python cannot be imported" in html


def test_report_page_without_charts_loads_no_chart_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "charts_missing", lambda: "asked for in vain")
    run = write_run(tmp_path / "run", "conformance", conformance_lines())
    page = render_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No charts on this page" not in page
    assert "No charts on this page: asked for in vain" in made(tmp_path, sweep_lines(batches=(8,)))


def test_report_page_of_an_empty_run(tmp_path: Path) -> None:
    page = check_closed(made(tmp_path, [], exit_code=5))
    assert "NOTHING RAN" in " ".join(page.text)


def test_report_page_a_chart_too_many_becomes_an_open_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "MAX_CHARTS", 2)
    html = made(tmp_path, sweep_lines(batches=(8,)))
    assert html.count("<svg") == 2
    assert html.count("<details open>") == 2


def test_report_page_unwritable_place_leaves_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "sweep", [])
    with pytest.raises(EnvironmentRefused, match="cannot write"):
        render_report([run], tmp_path / "absent" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(EnvironmentRefused, match="cannot write"):
        render_report([run], tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "run"]


@pytest.mark.parametrize("element", ["script", "style", "a", "image", "foreignObject"])
def test_report_svg_refuses_what_could_act(element: str) -> None:
    with pytest.raises(ValueError, match=element):
        finish_svg(
            f'<svg xmlns="http://www.w3.org/2000/svg"><{element}/></svg>', uid="u", title="t", description="d"
        )


def test_report_svg_drops_ids_links_and_long_numbers() -> None:
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg"><g id="a" onclick="x()" clip-path="url(#b)" style="x">'
        '<text x="1.23456">&lt;b&gt;</text></g><g/></svg>'
    )
    svg = finish_svg(drawn, uid="u", title="a<b", description="d")
    assert svg == (
        '<svg role="img" aria-labelledby="u-t u-d" class="chart"><title id="u-t">a&lt;b</title>'
        '<desc id="u-d">d</desc><g><text x="1.23">&lt;b&gt;</text></g></svg>'
    )


@pytest.mark.parametrize("drawn", ["no xml", "<html/>"])
def test_report_svg_refuses_other_documents(drawn: str) -> None:
    with pytest.raises(ValueError, match=r"XML|not an SVG"):
        finish_svg(drawn, uid="u", title="t", description="d")
