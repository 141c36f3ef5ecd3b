# SPDX-License-Identifier: Apache-2.0
"""The notebook of the documents runs, cell by cell, and shows what its last lines are."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def shown_by(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; return the value of its last line, None when that is no expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body=body, type_ignores=[]), "cell", "exec"), names)
    return None if last is None else eval(ast.unparse(last), names)  # noqa: S307


def cells_of(name: str) -> list[str]:
    """The code of a notebook, cell by cell."""
    found = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    assert found["nbformat"] == 4
    return ["".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_notebook_runs() -> None:
    names: dict[str, Any] = {}
    _, right, wrong, table = (shown_by(cell, names) for cell in cells_of("check.ipynb"))
    assert right.passed, right
    assert "<strong>PASS decode: 2 checks" in right._repr_html_()
    assert not wrong.passed
    assert "<strong>FAIL its last key missing" in wrong._repr_html_()
    assert [cause.words.split(" (")[0] for cause in wrong.causes] == ["its last key missing"]
    assert table["status"].tolist() == ["failed", "failed"]


def test_notebook_of_a_comparison_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)  # where a notebook runs
    names: dict[str, Any] = {}
    unit, table, same, worse = (shown_by(cell, names) for cell in cells_of("compare.ipynb"))
    assert unit == ("counted", "bytes")
    assert set(table.columns) == {"rawkernel", "rawkernel-mma"}
    assert same == ({"SAME"}, 0)
    assert worse[["figure", "ratio", "change"]].to_numpy().tolist() == [["counted_kv_bytes", 2.0, "MORE"]]
    assert names["found"].attrs["exit_code"] == 1
