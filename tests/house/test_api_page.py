# SPDX-License-Identifier: Apache-2.0
"""docs/api.md is what signatures and docstrings say."""

from __future__ import annotations

import pabench
from tests.support.api_page import PAGE, SHOWN, text


def test_the_api_page_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == text(), "run `make api`"


def test_the_api_page_has_all_that_pabench_exports() -> None:
    shown = {name.removeprefix("pabench.") for name, _ in SHOWN}
    assert {name for name in pabench.__all__ if not name.startswith("_")} <= shown
