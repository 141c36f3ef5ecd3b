# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.report.charts import charts_missing
from pabench.report.interactive import explorer, render_interactive
from pabench.run.read import read_runs
from tests.support.browser import MISSING, browser, chromium
from tests.support.report_data import cell, check, sweep_lines, write_run

HOSTILE = "</script><script>alert(1)</script>"


def test_interactive_has_each_figure_with_unit_and_provenance(tmp_path: Path) -> None:
    chart = explorer(read_runs([write_run(tmp_path / "run", "sweep", sweep_lines())]))
    figure, across, colour, *_ = chart["params"]
    assert figure["value"].startswith("internal_fragmentation [")
    assert all(
        re.fullmatch(r".+ \[([^,]+, )?(counted|modelled|measured|host)\]", one)
        for one in figure["bind"]["options"]
    )
    assert (across["value"], "batch" in across["bind"]["options"]) == ("page_size", True)
    assert colour["value"] == "lengths"
    assert "page_size" not in colour["bind"]["options"]
    assert len(chart["data"]["values"]) == len(sweep_lines())
    waste = {row["page_size"]: row[figure["value"]] for row in chart["data"]["values"]}
    assert set(waste) == {line["page_size"] for line in sweep_lines()}


def test_interactive_refuses_runs_without_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_run(tmp_path / "run", "sweep", [])
    assert run(["report", str(empty), "--interactive"]) == 4
    assert "the runs hold no figures to draw" in capsys.readouterr().err
    assert run(["report", "--index", str(tmp_path), "--interactive"]) == 4


@pytest.mark.slow
@pytest.mark.skipif(charts_missing() is not None, reason=f"no charts here: {charts_missing()}")
@pytest.mark.skipif(chromium() is None, reason=MISSING)
def test_interactive_page_draws_without_a_network(tmp_path: Path) -> None:
    lines = [*sweep_lines(), cell(64, HOSTILE, 8)]
    runs = [
        write_run(tmp_path / "run", "sweep", lines),
        write_run(tmp_path / "c", "conformance", [check("m", "x")]),
    ]
    out = render_interactive(runs, tmp_path / "page.html")
    html = out.read_text()
    assert html.count("<script>") == 2
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert not re.search(r"<(link|img|iframe|script)|@import|url\(", own)
    with browser(tmp_path / "profile") as page:
        page.let_scripts_run(True)
        page.open(out, width=1000)
        look = "document.querySelector('#chart svg') ? done(true) : setTimeout(look, 50)"
        drawn = f"new Promise(done => {{ const look = () => {look}; look(); }})"
        assert page.evaluate(drawn)
        assert page.evaluate("document.querySelectorAll('#chart svg .mark-symbol path').length") >= len(lines)
        menus = json.loads(
            page.evaluate("JSON.stringify([...document.querySelectorAll('select')].map(s => s.value))")
        )
        assert menus[1] == "page_size"
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
