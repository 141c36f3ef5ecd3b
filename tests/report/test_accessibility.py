"""Pages in Chromium, by axe-core: WCAG 2.2 AA on phone and desk, both themes, and no scrolling sideways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pabench.comparison.compare import compare_runs
from pabench.report.comparison_page import page_of
from pabench.report.index import render_index
from pabench.report.render import render_report
from pabench.run.read import read_run
from tests.support.browser import MISSING, NO_AXE, Browser, axe, browser, chromium
from tests.support.report_data import check, conformance_lines, failed_check, sweep_lines, write_run

AXE = axe()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason=MISSING),
    pytest.mark.skipif(AXE is None, reason=NO_AXE),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a wrong conformance run and a sweep, a comparison, and an index."""
    folder = tmp_path_factory.mktemp("pages")
    causes = {"its last key missing": "its last key missing (bound 1 in place of 2)"}
    wrong = [failed_check("mine", name, causes=causes) for name in ("decode", "placement")]
    runs = {
        "wrong": write_run(folder / "wrong", "conformance", [*conformance_lines(), *wrong], exit_code=1),
        "right": write_run(folder / "right", "conformance", [check("mine", "decode")]),
        "sweep": write_run(folder / "sweep", "sweep", sweep_lines()),
    }
    found = {"both": render_report([runs["wrong"], runs["sweep"]], folder / "both.html")}
    found["compare"] = folder / "compare.html"
    found["compare"].write_text(page_of(compare_runs(read_run(runs["right"]), read_run(runs["wrong"]))))
    found["index"] = render_index(folder, folder / "index.html")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["both", "compare", "index"])
def test_pages_keep_wcag_aa(name: str, width: int, dark: bool, pages: dict[str, Path], page: Browser) -> None:
    page.open(pages[name], width=width, dark=dark)
    assert AXE is not None
    assert page.violations(AXE) == []
    assert page.size()[0] <= width


def test_pages_audit_sees_what_is_wrong(tmp_path: Path, page: Browser) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><p style='color: #aaa; background: #fff'>pale</p></body></html>")
    page.open(bad, width=390)
    assert AXE is not None
    rules = {said.partition(":")[0] for said in page.violations(AXE)}
    assert {"color-contrast", "document-title", "html-has-lang"} <= rules
