# SPDX-License-Identifier: Apache-2.0
"""What decides which tests run names tests that are there, and is read as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import GONE
from tests.support import costs


def test_costs_name_no_test_that_is_gone(request: pytest.FixtureRequest) -> None:
    if request.config.args != ["tests"]:
        pytest.skip("only a run of the whole folder has collected every test")
    options = request.config.option
    if options.keyword or options.markexpr not in ("", "not slow"):
        pytest.skip("-k and -m leave tests out")
    assert request.config.stash[GONE] == []


def test_costs_are_read_as_written(tmp_path: Path) -> None:
    lines, file = tmp_path / "lines", tmp_path / "costs.txt"
    lines.write_text("9.000 b/test_b.py::test_y\n0.099 b/test_b.py::test_x\n0.100 a.py::test_z[a b-c]\n")
    with lines.open("a") as more:
        more.write("5.000 a.py::test_every_trace_beside_the_checkout[azure]\n")
        more.write("2.040 b/test_b.py::test_y\n")
    costs.write(costs.measured(lines), file)
    assert file.read_text() == costs.HEAD + "a.py\n  0.1 test_z[a b-c]\nb/test_b.py\n  2.0 test_y\n"
    assert costs.read(file) == {"a.py::test_z[a b-c]": 0.1, "b/test_b.py::test_y": 2.0}
