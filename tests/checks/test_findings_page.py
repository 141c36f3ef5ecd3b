# SPDX-License-Identifier: Apache-2.0
"""docs/findings.md says what the ledgers say, and marks each kind apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from pabench.checks.findings_page import findings_table, generated_parts, renewed
from pabench.checks.ledger import shipped_ledger

PAGE = Path(__file__).resolve().parents[2] / "docs" / "findings.md"


def test_findings_page_is_that_of_the_ledgers() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert renewed(text) == text
    for entry in (*shipped_ledger("allocator"), *shipped_ledger("backend")):
        assert text.count(f"[{entry.case}](") == 1


def test_findings_page_keeps_defects_and_conventions_apart() -> None:
    parts = generated_parts()
    entries = shipped_ledger("backend")
    for kind in ("defect", "convention"):
        table = parts[f"backend {kind}s"]
        assert {e.case for e in entries if f"[{e.case}](" in table} == {
            e.case for e in entries if e.kind == kind
        }


def test_findings_page_that_lacks_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="no <!-- backend defects: generated -->"):
        renewed(PAGE.read_text(encoding="utf-8").replace("<!-- end of backend defects -->", ""))


def test_findings_table_keeps_a_bar_inside_its_cell() -> None:
    entry = shipped_ledger("allocator")[0]
    object.__setattr__(entry, "reason", "a|b")
    assert "| a\\|b |" in findings_table([entry])
