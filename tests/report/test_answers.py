# SPDX-License-Identifier: Apache-2.0
"""The page answers first: cause, badges, page size and regressions above, one card a cause, platform last."""

from __future__ import annotations

import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import pabench
from pabench.cli.main import run
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.problem import Problem
from pabench.report.model import build_model
from pabench.report.page_table import build_page_table, mark_of
from pabench.report.render import render_html
from pabench.run.failures import save_failure
from pabench.run.read import read_runs
from tests.support.report_data import (
    WORDS,
    cell,
    check,
    conformance_lines,
    failed_cell,
    failed_check,
    sweep_lines,
    write_run,
)

LAST = "its last key missing"


class Tables(HTMLParser):
    """Every table of a page as rows of texts, under the heading or label that names it."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self._label, self._rows, self._cell = "", list[list[str]](), False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("role") == "region":
            self._label = given.get("aria-label") or ""
        if tag == "table":
            self._rows = self.tables.setdefault(self._label, [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
            self._cell = True
        if tag == "br" and self._cell:
            self._rows[-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self._rows[-1][-1] += data


def shown(text: str) -> float:
    """The first number of a text, with its k, M or G, in per cent or not, as it was before it was shown."""
    found = re.match(r"([\d,.]+)(?: ([kMGT])\b)?( %)?", text)
    assert found, text
    factor = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(found[2] or "", 1.0)
    return float(found[1].replace(",", "")) * factor / (100 if found[3] else 1)


CAUSE = f"{LAST} (bound 34 in place of 35)"
PLACE = "sequence 1, query head 0, dim 3: err/T 4.1e+03, got 1, expected 2 within 1e-6"


def saved(
    tmp_path: Path,
    *,
    kv_lens: tuple[int, ...] = (5, 35, 0),
    text: str = f"{PLACE}; the output matches {CAUSE}",
    path: str | None = None,
) -> Path:
    """A run with two checks that one cause fails, cases saved; ``path`` is where it says they are."""
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4, dtype="float32")
    case = Case(problem=problem, batch=Batch(kv_lens=kv_lens, q_lens=(1,) * len(kv_lens)))
    lines = []
    for name in ("decode[spotlight]", "poison"):
        failure = save_failure(
            tmp_path / "run",
            check=name,
            case_id=case.id,
            kind="attention",
            case=case.to_dict(),
            subject="mine.py:decode",
            device="emulated",
            text=text,
        )
        told = {**asdict(failure), "path": failure.path if path is None else path}
        more = {"failure": told, "reason": text, "causes": {LAST: CAUSE}, "max_ratio": 4100.0}
        lines.append(failed_check("mine.py:decode", name, **more))
    unsupported = check("mine.py:decode", "append", status="unsupported", reason="no append", cases=0)
    made = write_run(tmp_path / "made", "conformance", [*lines, unsupported], exit_code=1)
    (tmp_path / "run" / "failures").rename(made / "failures")
    return made


def test_report_answers_one_cause_is_one_card_with_its_block_table(tmp_path: Path) -> None:
    built = build_model(read_runs([saved(tmp_path)]))
    (card,) = built.cards
    assert built.verdict.headline == (
        f"mine.py:decode is wrong: {LAST} (bound 34 in place of 35): 2 checks, one cause."
    )
    assert [failure.check for failure in card.failures] == ["decode[spotlight]", "poison"]
    assert card.place.startswith("sequence 1, query head 0, dim 3: err/T 4.1e+03")
    assert card.picture is not None
    assert "key 34, the last of sequence 1, in slot 2 of logical page 8" in card.picture.said
    words = dict(card.picture.rows)
    assert words["sequence 0"].startswith("5 tokens in pages ")
    assert words["sequence 2"] == "0 tokens, no page"
    assert card.picture.svg.count('stroke="#b5460a"') == 1
    matrix = built.matrices[0]
    assert [row.check for row in matrix.folded] == ["append"]
    assert {cell.anchor for row in matrix.rows for cell in row.cells} == {"fault-1"}


def test_report_answers_marks_nothing_where_the_check_changed_the_case(tmp_path: Path) -> None:
    text = "with pages of 2 tokens: sequence 1, query head 0, dim 3: err/T 9, got 1, expected 2 within 1"
    (card,) = build_model(read_runs([saved(tmp_path, text=text)])).cards
    assert card.picture is None
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=16, page_size=4, dtype="float32")
    case = Case(problem=problem, batch=Batch(kv_lens=(5,), q_lens=(1,)))
    assert mark_of(case, text, LAST).sequence is None
    assert mark_of(case, "sequence 7, query head 0: x", LAST).sequence is None
    named = mark_of(case, "sequence 0, dim 1: x; slot 0 of logical page 1 in physical page 3", "unknown")
    assert (named.sequence, named.page) == (0, 1)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "failures/\x00", "failures/absent", "."])
def test_report_answers_read_no_case_outside_the_run(tmp_path: Path, path: str) -> None:
    run_path = saved(tmp_path, path=path)
    # a case that is whole, in the place that the journal names
    next((run_path / "failures").iterdir()).rename(tmp_path / "elsewhere")
    (card,) = build_model(read_runs([run_path])).cards
    assert card.picture is None


def test_report_answers_leave_out_the_middle_of_a_long_table(tmp_path: Path) -> None:
    (card,) = build_model(read_runs([saved(tmp_path, kv_lens=(5, 395))])).cards
    assert card.picture is not None
    assert card.picture.svg.count(">…</text>") == 1
    assert "in slot 2 of logical page 98" in card.picture.said


@pytest.mark.parametrize("damage", ["", "{", '{"schema": 1}', "x" * 2**21])
def test_report_answers_a_damaged_case_costs_its_picture_alone(tmp_path: Path, damage: str) -> None:
    run_path = saved(tmp_path)
    for folder in (run_path / "failures").iterdir():
        (folder / "case.json").write_text(damage)
    (card,) = build_model(read_runs([run_path])).cards
    assert card.picture is None
    assert build_page_table(tmp_path / "absent", "", "", "u") is None


def test_report_answers_cells_of_one_cause_are_one_card(tmp_path: Path) -> None:
    lines = [failed_cell(size, "azure-conv", 8) for size in (8, 16, 32)] + [cell(64, "azure-conv", 8)]
    built = build_model(read_runs([write_run(tmp_path / "run", "sweep", lines, exit_code=1)]))
    (card,) = built.cards
    assert card.count == "3 cells"
    assert len(card.failures) == 3


def test_report_answers_page_size(tmp_path: Path) -> None:
    def answer(name: str, lines: list[dict[str, Any]]) -> str:
        built = build_model(read_runs([write_run(tmp_path / name, "sweep", lines)]))
        return dict(built.verdict.answers).get("Page size", "")

    whole = sweep_lines(page_sizes=(16, 32), lengths=("fixed:len=1024",))
    alike = [{**line, "modelled_ns": 5000.0} for line in whole]
    assert (
        answer("same", alike)
        == "It makes no difference here: speed within 1 % (modelled), waste alike (counted)."
    )
    flat = [{**line, "modelled_ns": 5000.0} for line in sweep_lines()]
    assert answer("flat", flat).startswith(
        "Take 8: speed differs by less than 1 % (modelled), so waste decides."
    )
    slow = [{**line, "modelled_ns": 6000.0 if line["page_size"] == 8 else 5000.0} for line in sweep_lines()]
    said = answer("slow", slow)
    assert said.startswith("Take 16: 16 and 32 are within 1 % of the fastest, 8 is 20.0 % slower (modelled).")
    # a measured time outranks the model; a host time says nothing of a page size
    words = {**WORDS, "run_ns": "measured"}
    times = {8: 1000, 16: 1300, 32: 1500}
    measured = [{**line, "run_ns": [times[line["page_size"]]] * 3, "provenance": words} for line in slow]
    assert answer("measured", measured).startswith(
        "Take 8: it is the fastest, 32 is 50.0 % slower (measured)."
    )
    bare = [{**line, "modelled_ns": None} for line in sweep_lines()]
    assert answer("bare", bare).endswith("No cell was timed or modelled, so speed does not decide.")
    assert answer("one", sweep_lines(page_sizes=(8,))) == ""


def test_report_answers_a_backend_that_fails_in_half_the_cells_is_never_averaged_away(tmp_path: Path) -> None:
    right = [{**line, "id": f"cell-{at}"} for at, line in enumerate(sweep_lines(page_sizes=(8, 16)))]
    wrong = [
        failed_cell(16, line["lengths"], line["batch"], id=line["id"])
        if line["page_size"] == 16 and at % 4 == 1
        else line
        for at, line in enumerate(right)
    ]
    folder = write_run(tmp_path / "run", "sweep", wrong, exit_code=1)
    built = build_model(read_runs([folder]))
    assert built.verdict.word == "FAIL"
    said = dict(built.verdict.answers)["Page size"]
    assert said.endswith("Cells that went wrong have no speed and are left out: 5 of 9 at 16.")
    (card,) = built.cards
    assert card.count == "5 cells"
    rows = Tables(render_html(read_runs([folder]))).tables["All cells, table"][1:]
    assert sum(any("failed" in text for text in row) for row in rows) == 5
    frame = pabench.compare(write_run(tmp_path / "right", "sweep", right), folder)
    assert sum(frame["change"] == "NEWLY FAILING") == 5
    assert frame.attrs["exit_code"] == 1


def test_report_answers_say_where_page_size_changes_nothing(tmp_path: Path) -> None:
    flat = [{**line, "modelled_tokens_per_s": 401_000.0 + line["page_size"]} for line in sweep_lines()]
    built = build_model(read_runs([write_run(tmp_path / "run", "sweep", flat)]))
    said = {heat.metric.key: heat.flat for heat in built.heat_maps}
    assert said["modelled_tokens_per_s"].startswith("Page size makes no difference")
    assert said["internal_fragmentation"] == ""


def test_report_answers_against_a_base(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = write_run(tmp_path / "base", "sweep", sweep_lines(batches=(8,)))
    more = [
        {**line, "kv_bytes": line["kv_bytes"] + 4096 * (line["page_size"] == 8)}
        for line in sweep_lines(batches=(8,))
    ]
    new = write_run(tmp_path / "new", "sweep", more)
    page = tmp_path / "page.html"
    assert run(["report", str(new), "--base", str(base), "--out", str(page)]) == 0
    html = page.read_text()
    first = html[: html.index('<nav aria-label="On this page">')]
    assert "Against the base" in first
    assert "WORSE: kv_bytes MORE" in first
    (rows,) = (rows for label, rows in Tables(html).tables.items() if label == "What differs from the base")
    assert len(rows) == 1 + 3
    checks = write_run(tmp_path / "checks", "conformance", conformance_lines())
    assert run(["report", str(new), "--base", str(checks), "--out", str(page)]) == 4
    assert "a run of conformance, must be of sweep" in capfd.readouterr().err


def test_report_answers_stand_before_the_platform(tmp_path: Path) -> None:
    html = render_html(read_runs([saved(tmp_path)]))
    order = ["is wrong:", "clauses kept", 'id="fault-1"', "pabench replay", 'id="conformance"']
    order += ['id="warnings"', 'id="ran"', "Example CPU 9000", 'id="data"']
    places = [html.index(text) for text in order]
    assert places == sorted(places)


NAMES = {
    "waste": "internal_fragmentation",
    "gain": "efficiency_gain",
    "pages": "num_pages",
    "slots": "slots",
    "tokens": "tokens",
    "wasted slots": "waste_tokens",
    "contiguous waste": "contiguous_fragmentation",
    "modelled tokens/s": "modelled_tokens_per_s",
}


def test_report_every_number_of_a_sweep_is_read_back_from_the_page(tmp_path: Path) -> None:
    lengths = [f"lognormal:mean={n},cv=1,max=32768" for n in range(1000, 1020)]
    lines = sweep_lines(page_sizes=(8, 16, 32, 64, 128), lengths=lengths, batches=(1, 8, 64))
    assert len(lines) == 300
    tables = Tables(render_html(read_runs([write_run(tmp_path / "run", "sweep", lines)]))).tables
    head, *rows = tables["All cells, table"]
    labels = [text.split("\n")[0].strip() for text in head]
    assert len(rows) == 300
    by_place = {(line["lengths"], str(line["batch"]), str(line["page_size"])): line for line in lines}
    for row in rows:
        line = by_place.pop((row[0], row[1], row[2]))
        for label, key in NAMES.items():
            # three digits on screen, counts in full
            near = 0 if key in ("num_pages", "slots", "tokens", "waste_tokens") else 0.006
            assert shown(row[labels.index(label)]) == pytest.approx(line[key], rel=near, abs=0), (label, row)
        assert shown(row[labels.index("worst")]) == pytest.approx(line["check"]["max_ratio"], rel=0.006)
    assert not by_place
    pooled = tables["Figures by page size"][1:]
    for size, row in zip((8, 16, 32, 64, 128), pooled, strict=True):
        mine = [line for line in lines if line["page_size"] == size]
        waste = sum(line["waste_tokens"] for line in mine) / sum(line["slots"] for line in mine)
        assert shown(row[0]) == size
        assert shown(row[2]) == sum(line["num_pages"] for line in mine)
        assert shown(row[3]) == pytest.approx(waste, rel=0.006)


def test_report_every_number_of_a_failing_run_is_read_back_from_the_page(tmp_path: Path) -> None:
    lines = [check("mine", name, cases=40 + at, max_ratio=0.1 + at / 100) for at, name in enumerate("abcdef")]
    for at in range(30):
        reason = f"sequence {at}, dim 5: err/T {100 + at}"
        lines.append(failed_check("mine", f"x{at}", max_ratio=100.0 + at, cases=7 + at, reason=reason))
    html = render_html(read_runs([write_run(tmp_path / "run", "conformance", lines, exit_code=1)]))
    rows = {row[0].split("\n")[0].strip(): row[1] for row in Tables(html).tables["Attention backends"][1:]}
    for line in lines:
        text = rows[line["check"]]
        cases = re.search(r"([\d,]+) cases", text)
        worst = re.search(r"err/T ([\d.,]+)", text)
        assert cases is not None
        assert worst is not None
        assert int(cases[1]) == line["cases"]
        assert float(worst[1]) == pytest.approx(line["max_ratio"], rel=0.006)
    counts = dict((label, int(value)) for value, label in re.findall(r"<b>(\d+)</b> ([a-z ]+)</li>", html))
    total = sum(line["cases"] for line in lines)
    assert counts["checks passed"] == 6
    assert counts["checks failed"] == 30
    assert f"<b>{total:,}</b> generated cases" in html
    for line in lines[6:]:
        assert line["failure"]["text"] in html
        assert f"<dd>{line['max_ratio']:.0f}</dd>" in html


@pytest.mark.slow
def test_report_in_chromium_fits_and_answers_on_the_first_screen(tmp_path: Path) -> None:
    from tests.support.browser import MISSING, browser, chromium

    if chromium() is None:
        pytest.skip(MISSING)
    lengths = [f"lognormal:mean={n},cv=1,max=32768" for n in range(1000, 1020)]
    sizes = tuple(range(8, 129, 8))
    pages = {}
    many = sweep_lines(page_sizes=(8, 16, 32, 64, 128), lengths=lengths)
    for name, run_path in (
        ("fail", saved(tmp_path)),
        ("wide", write_run(tmp_path / "wide", "sweep", sweep_lines(page_sizes=sizes, batches=(8,)))),
        ("sweep", write_run(tmp_path / "sweep", "sweep", many)),
    ):
        pages[name] = tmp_path / f"{name}.html"
        pages[name].write_text(render_html(read_runs([run_path])), encoding="utf-8")
    with browser(tmp_path / "profile") as page:
        for path in pages.values():
            for width in (390, 1440):
                page.open(path, width=width)
                assert page.size()[0] <= width, (path.name, width)
            assert page.printed_pages() <= 6, path.name
        page.open(pages["fail"], width=1440)
        # cause, picture and the command that runs it again, within the first screen
        for part in (".headline", "#fault-1 h3", "#fault-1 svg", "#fault-1 .command"):
            assert page.box(part)[3] <= 900, part
        page.open(pages["sweep"], width=1440)
        assert page.box(".answers")[3] <= 900
        # 16 page sizes side by side need no scrolling
        page.open(pages["wide"], width=1440)
        assert page.box(".panels svg")[2] <= page.box(".panels .scroll")[2] + 1
