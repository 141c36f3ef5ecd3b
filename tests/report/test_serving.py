# SPDX-License-Identifier: Apache-2.0
"""The serving section of the report, from journal lines alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pabench.errors import UsageError
from pabench.report.model import build_model
from pabench.report.render import render_html
from pabench.report.serving import Lines, build_serving
from pabench.report.serving_charts import lines_svg
from pabench.report.source import build_source
from pabench.run.read import Run, read_run
from pabench.run.schema import read_line
from tests.support.report_data import sweep_lines, write_run

WORDS = {
    **dict.fromkeys(("served", "mean_batch"), "counted"),
    **dict.fromkeys(("span_s", "ttft_s_p50"), "modelled"),
    **dict.fromkeys(
        (f"{part}_share" for part in ("tokens", "reserved", "internal", "external", "idle")), "counted"
    ),
}


def line(name: str = "a", size: int = 16, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": "serving",
        "id": f"{name}{size}",
        "status": "ok",
        "reason": None,
        "allocator": name,
        "scheduler": "fcfs",
        "executor": "model",
        "workload": "w",
        "page_size": size,
        "num_pages": 64,
        "figures": {
            "served": 7,
            "mean_batch": 3.5,
            "span_s": 10.0,
            "ttft_s_p50": 0.25,
            "tokens_share": 0.5,
            "reserved_share": 0.1,
            "internal_share": 0.1 + size / 1000,
            "external_share": 0.1,
            "idle_share": 0.2 - size / 1000,
        },
        "series": {
            "clock_s": [1.0, 2.0],
            "running": {"min": [1, 2], "mean": [1.5, 2.5], "max": [2, 3]},
            "used_share": {"min": [0.1, 0.2], "mean": [0.15, 0.25], "max": [0.2, 0.3]},
        },
        "curves": {"ttft_s": [0.1, 0.2, 0.4], "tpot_s": []},
        "skipped": {"never fits the pool": 2},
        "provenance": WORDS,
    }
    line = found | changes
    read_line(line, "test", schema=1)
    return line


def a_run(tmp_path: Path, *lines: dict[str, Any], **changes: Any) -> Run:
    return read_run(write_run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", "serving", lines, **changes))


def test_report_serving_shows_split_charts_and_notes(tmp_path: Path) -> None:
    view = build_serving(build_source([a_run(tmp_path, line(), line(size=64), line("b"))]))
    assert view is not None
    assert [bar.name for bar in view.bars] == ["a · P 16", "a · P 64", "b · P 16"]
    assert view.bars[0].shares == pytest.approx((0.5, 0.1, 0.116, 0.1, 0.184))
    charts = {chart.uid: chart for chart in view.charts}
    assert set(charts) == {"serving-pages", "serving-batch", "serving-ttft", "serving-waste"}
    assert charts["serving-pages"].lines[0] == ("a · P 16", ((1.0, 15.0), (2.0, 25.0)))
    assert charts["serving-ttft"].lines[0][1] == ((0.0, 100.0), (50.0, 200.0), (100.0, 400.0))
    assert charts["serving-ttft"].y_title == "ms"
    # only the allocator with two page sizes has a line
    ((name, points),) = charts["serving-waste"].lines
    assert name == "fcfs · a"
    assert [size for size, _ in points] == [16, 64]
    assert [share for _, share in points] == pytest.approx([100 * 0.216 / 0.716, 100 * 0.264 / 0.764])
    assert "a at page size 16: 2 requests skipped: never fits the pool." in view.notes
    heads = dict(view.columns)
    assert heads["TTFT p50 (s)"] == "modelled"
    assert dict(zip([head for head, _ in view.columns], view.rows[0][2], strict=True)) == {
        "served": "7",
        "mean batch": "3.50",
        "token states (%)": "50.0",
        "TTFT p50 (s)": "0.250",
    }


def test_report_serving_axes_have_numbers_that_are_read_at_a_glance(tmp_path: Path) -> None:
    """A scale of whole tens has ticks of one digit, which must not become 1e+2."""
    pytest.importorskip("vl_convert")
    points = ((0.0, 0.0), (600.0, 100.0))
    words = {"uid": "u", "title": "t", "word": "counted", "x_title": "x", "y_title": "y", "read": ""}
    chart = Lines(**words, log=False, lines=(("a", points),))
    ticks = re.findall(r">([^<]+)</text>", lines_svg(chart))
    assert {"0", "20", "100", "600"} <= set(ticks), ticks


def test_report_serving_never_mixes_provenance_in_a_column(tmp_path: Path) -> None:
    counted = line("b", provenance={**WORDS, "ttft_s_p50": "counted", "span_s": "counted"})
    view = build_serving(build_source([a_run(tmp_path, line(), counted)]))
    assert view is not None
    columns = [head for head in view.columns if head[0].startswith("TTFT p50")]
    assert columns == [("TTFT p50 (s)", "modelled"), ("TTFT p50 (steps)", "counted")]


def test_report_serving_page_and_verdicts(tmp_path: Path) -> None:
    page = render_html([a_run(tmp_path, line(), line(size=64))])
    assert "PASS" in page
    assert "2 servers served 14 requests" in page
    assert "Where memory is" in page
    assert "<script" not in page.replace('<script type="application/json"', "")
    failure = {"case_id": "c", "text": "t", "path": "failures/c", "replay": "pabench replay x"}
    broken = line(status="failed", reason="invariant 1: lost", figures=None, series=None, failure=failure)
    page = render_html([a_run(tmp_path, broken, exit_code=1)])
    assert "FAIL" in page
    assert "a under fcfs" in page
    assert "pabench replay x" in page
    stopped = line(status="interrupted", reason="stopped by the user")
    assert "INCOMPLETE" in render_html([a_run(tmp_path, stopped, status="interrupted", exit_code=2)])
    lacking = line(status="unsupported", reason="a offers no fork", figures=None, series=None, curves=None)
    page = render_html([a_run(tmp_path, lacking, exit_code=5)])
    assert "NOTHING RAN" in page
    assert "1 item unsupported, by reason" in page
    assert "a offers no fork" in page


def test_report_serving_is_absent_without_servers(tmp_path: Path) -> None:
    assert build_model([read_run(write_run(tmp_path / "run", "sweep", sweep_lines()))]).serving is None


def test_report_serving_reads_what_the_first_schema_had(tmp_path: Path) -> None:
    """Its figure of this name lay beside the reasons, which have another name now."""
    words = {**WORDS, "skipped": "counted"}
    figures = {**line()["figures"], "skipped": 2}
    view = build_serving(build_source([a_run(tmp_path, line(figures=figures, provenance=words))]))
    assert view is not None
    shown = dict(zip([head for head, _ in view.columns], view.rows[0][2], strict=True))
    assert (shown["served"], shown["skipped"]) == ("7", "2")
    assert "a at page size 16: 2 requests skipped: never fits the pool." in view.notes


def test_report_serving_of_both_schemas_is_the_same(tmp_path: Path) -> None:
    first = a_run(tmp_path, line(), line(size=64))
    written = [record.to_line() for record in first.records]
    again = a_run(tmp_path, *written, schema=2)
    assert again.records == first.records
    assert build_serving(build_source([again])) == build_serving(build_source([first]))


def test_report_serving_needs_what_a_server_served() -> None:
    with pytest.raises(UsageError, match="figures = None: must be an object of numbers"):
        line(figures=None, series=None, curves=None, skipped=None, provenance=None)


@pytest.mark.parametrize("skipped", [7, {"never fits the pool": "many"}, ["a"]])
def test_report_serving_refuses_reasons_that_are_none(tmp_path: Path, skipped: Any) -> None:
    with pytest.raises(UsageError, match="skip_reasons"):
        read_line(line() | {"skipped": skipped}, "test", schema=1)
