# SPDX-License-Identifier: Apache-2.0
"""The version matrix of docs/backends.md agrees with the adapters, row by row."""

from __future__ import annotations

from pathlib import Path

from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.matrix import COLUMNS, NOT_OFFERED, matrix_line, matrix_rows
from tests.support.probe import DEVICE

PAGE = Path(__file__).resolve().parents[3] / "docs" / "backends.md"


def test_matrix_in_the_docs_is_that_of_the_adapters() -> None:
    text = PAGE.read_text(encoding="utf-8").splitlines()
    start = text.index(matrix_line({column: column for column in COLUMNS}))
    shown = text[start + 2 : start + 2 + len(ADAPTERS)]
    rows = matrix_rows(DEVICE)
    assert [line.split("`")[1] for line in shown] == list(rows)
    # a package that is not here has no row to compare; those that need a GPU always have theirs
    made = {name: row for name, row in rows.items() if row is not None}
    assert {name for name, adapter in ADAPTERS.items() if adapter.needs_gpu} <= made.keys()
    for line, name in zip(shown, rows, strict=True):
        if name in made:
            assert line == matrix_line(made[name])
        peer = ADAPTERS[name].peers[0]
        assert f"| {peer.title} {peer.version} |" in line
    assert text[start + 2 + len(ADAPTERS)] == ""


def test_matrix_says_of_every_adapter_what_it_leaves_out() -> None:
    assert NOT_OFFERED.keys() == ADAPTERS.keys()
    for name, row in matrix_rows(DEVICE).items():
        if row is not None and row["LSE"] == "no":
            assert "LSE" in NOT_OFFERED[name]
