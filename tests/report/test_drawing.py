# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pabench.report import drawing
from pabench.report.drawing import Drawer, NoCharts
from pabench.report.render import render_report
from tests.support.report_data import sweep_lines, write_run

POINT = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"values": [{"x": 1}]},
    "mark": "point",
    "encoding": {"x": {"field": "x", "type": "quantitative"}},
}
REFUSAL = 'input(); print(\'{"error": "ValueError: a\\\\nb"}\', flush=True)'
ENDS = {
    "trap": ("import os; os.kill(os.getpid(), 5)", "was ended by SIGTRAP"),
    "status": ("raise SystemExit(9)", "exited with status 9"),
    "silent": ("import time; time.sleep(60)", "took longer than 1 s"),
    "half": ("print('{', flush=True); import time; time.sleep(60)", "they cannot be drawn"),
    "refusal": (REFUSAL, "refuses one (ValueError: a b)"),
}


def test_drawing_uses_one_process_for_all_charts() -> None:
    drawer = Drawer()
    assert drawer.svg(POINT).startswith("<svg")
    process = drawer._process
    assert drawer.svg(POINT).startswith("<svg")
    assert process is drawer._process
    drawer.close()
    assert process is not None
    assert process.returncode is not None


@pytest.mark.parametrize("kind", ENDS)
def test_report_without_its_drawing_process_is_complete(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = ENDS[kind]
    monkeypatch.setattr(drawing, "CHILD", (sys.executable, "-c", code))
    monkeypatch.setattr(drawing, "DEADLINE_S", 1.0 if kind == "silent" else 30.0)
    monkeypatch.setattr(drawing, "_drawer", Drawer())
    run = write_run(tmp_path / "run", "sweep", sweep_lines(batches=(8,)))
    html = render_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg" not in html
    assert "No charts on this page: " in html
    assert said in html
    assert "<details open><summary>The same as" in html
    drawing._drawer.close()


def test_drawing_starts_again_after_its_process_died() -> None:
    drawer = Drawer()
    drawer.svg(POINT)
    assert drawer._process is not None
    drawer._process.kill()
    drawer._process.wait()
    with pytest.raises(NoCharts, match="SIGKILL"):
        drawer.svg(POINT)
    drawer.close()
    assert drawer.svg(POINT).startswith("<svg")
    drawer.close()


@pytest.mark.parametrize("limit", ["-v 3000000", "-n 20"])
def test_report_is_written_where_nothing_can_be_drawn(limit: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "sweep", sweep_lines(batches=(8,)))
    words = [sys.executable, "-m", "pabench", "report", str(run)]
    done = subprocess.run(
        ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *words],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    html = (run / "report.html").read_text(encoding="utf-8")
    assert ("No charts on this page" in html) != ("<svg" in html)
