# SPDX-License-Identifier: Apache-2.0
"""The suite draws the same cases with a seed, whatever has been imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

from pabench.cli.main import run
from pabench.errors import EnvironmentRefused
from pabench.strategies.drawing import INNER, no_foreign_constants

COLLECT = providers._get_local_constants  # as it is before any fixture
SPAN = 10**15
FOREIGN = tuple(range(7 * 10**14, 7 * 10**14 + 40))


def drawn() -> list[int]:
    """Numbers of a span in which no constant is met by chance."""
    numbers: list[int] = []

    @settings(max_examples=300, database=None)
    @seed(5)
    @given(st.integers(0, SPAN))
    def take(number: int) -> None:
        numbers.append(number)

    take()
    return numbers


def import_foreign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import a local module full of constants."""
    path = folder / "foreign_constants.py"
    path.write_text("\n".join(f"C{n} = {value}" for n, value in enumerate(FOREIGN)))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "foreign_constants", importlib.import_module("foreign_constants"))


@pytest.fixture(autouse=True)
def hypothesis_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_get_local_constants", COLLECT)
    providers.CONSTANTS_CACHE.cache.clear()


def test_drawing_is_the_same_after_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with no_foreign_constants():
        before = drawn()
    import_foreign(tmp_path, monkeypatch)
    assert set(drawn()) & set(FOREIGN), "Hypothesis no longer draws constants of local modules"
    with no_foreign_constants():
        assert drawn() == before


def test_drawing_leaves_hypothesis_as_it_was() -> None:
    with no_foreign_constants():
        assert providers._get_local_constants is not COLLECT
    assert providers._get_local_constants is COLLECT


@pytest.mark.parametrize("name", INNER)
def test_drawing_refuses_a_hypothesis_that_keeps_them_elsewhere(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(providers, name)
    words = f"has no {name}: a seed would not name its cases"
    with pytest.raises(EnvironmentRefused, match=words), no_foreign_constants():
        pass
    assert run(["conformance", "--profile", "quick"]) == EnvironmentRefused.exit_code
    assert words in capfd.readouterr().err
