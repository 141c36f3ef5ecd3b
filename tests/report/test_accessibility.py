# SPDX-License-Identifier: Apache-2.0
"""Pages in Chromium, by axe-core: WCAG 2.2 AA on phone and desk, both themes, and no scrolling sideways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import MISSING, NO_AXE, Browser, axe, browser, chromium
from tests.support.pages import PAGES

AXE = axe()
pytestmark = [
    pytest.mark.nightly,  # and `make test-pages`
    pytest.mark.skipif(chromium() is None, reason=MISSING),
    pytest.mark.skipif(AXE is None, reason=NO_AXE),
]


@pytest.fixture(scope="module", params=PAGES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One page of each kind."""
    return PAGES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_keep_wcag_aa(width: int, dark: bool, made: Path, page: Browser) -> None:
    page.open(made, width=width, dark=dark)
    assert AXE is not None
    assert page.violations(AXE) == []
    assert page.size()[0] <= width
    assert page.spilled() == []


def test_pages_audit_sees_what_is_wrong(tmp_path: Path, page: Browser) -> None:
    bad = tmp_path / "bad.html"
    pale = "<p style='color: #aaa; background: #fff'>pale</p>"
    wide = "<section style='overflow: hidden'><div style='width: 900px'>wide</div></section>"
    inside = "<div class='scroll' style='overflow-x: auto'><table style='width: 900px'></table></div>"
    bad.write_text(f"<html><body>{pale}{wide}{inside}</body></html>")
    page.open(bad, width=390)
    assert AXE is not None
    rules = {said.partition(":")[0] for said in page.violations(AXE)}
    assert {"color-contrast", "document-title", "html-has-lang"} <= rules
    assert page.spilled() == ["DIV : wide"]
