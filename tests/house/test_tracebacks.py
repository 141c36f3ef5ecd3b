# SPDX-License-Identifier: Apache-2.0
"""What is said of an exception: one line with the place in the code under test, and the whole traceback."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.checks.outcome import raised
from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.tracebacks import MAX_TEXT, MAX_TRACEBACK, described, formatted, place_of

SOURCE = """
import numpy as np
from pabench.problem.checks import whole_number
from pabench.errors import InvalidCase


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Rude(Exception):
    def __str__(self):
        raise SystemExit(3)


def types():
    return len(3)


def in_numpy():
    return np.concatenate([np.zeros(2), np.zeros((2, 2))])


def in_library():
    return np.linalg.inv(np.zeros((2, 2)))


def in_ours():
    return whole_number("x", "no", low=0)


def silent():
    raise Silent


def rude():
    raise Rude


def lines():
    raise ValueError("first\\nsecond")


def long():
    raise ValueError("x" * 100_000)


def unwritable():
    raise ValueError("\\udcff")


def deep(n=0):
    return deep(n + 1)


def generated():
    exec("1 / 0")
"""


@pytest.fixture
def win(tmp_path: Path) -> Any:
    path = tmp_path / "win.py"
    path.write_text(SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("win_with_faults", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def error_of(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("raised nothing")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("types", r"TypeError: object of type 'int' has no len\(\) \(win\.py:18 in types\)"),
        ("in_numpy", r"ValueError: all the input .* \(win\.py:22 in in_numpy\)"),
        ("in_library", r"LinAlgError: Singular matrix \(win\.py:26 in in_library\)"),
        ("in_ours", r"InvalidCase: x = 'no': .* \(win\.py:30 in in_ours\)"),
        ("silent", r"Silent: \(its message raises RuntimeError\) \(win\.py:34 in silent\)"),
        ("rude", r"Rude: \(its message raises SystemExit\) \(win\.py:38 in rude\)"),
        ("lines", r"ValueError: first second \(win\.py:42 in lines\)"),
        ("long", r"ValueError: x+\.\.\. \(win\.py:46 in long\)"),
        ("deep", r"RecursionError: maximum recursion depth exceeded.* \(win\.py:54 in deep\)"),
        ("generated", r"ZeroDivisionError: division by zero \(<string>:1\)"),
    ],
)
def test_tracebacks_name_the_line_of_the_code_under_test(win: Any, name: str, text: str) -> None:
    error = error_of(getattr(win, name))
    said = described(error)
    assert re.fullmatch(text, said)
    assert len(said) <= MAX_TEXT + 60
    outcome = raised(error)
    assert (outcome.text, outcome.crashed, outcome.passed) == (said, True, False)
    assert outcome.traceback is not None
    assert len(outcome.traceback) <= MAX_TRACEBACK + 3


def test_tracebacks_are_kept_whole_and_can_be_written(win: Any) -> None:
    text = formatted(error_of(win.types))
    assert text.startswith("Traceback (most recent call last):")
    assert 'win.py", line 18, in types\n    return len(3)' in text
    assert text.endswith("TypeError: object of type 'int' has no len()\n")
    assert "\\udcff" in formatted(error_of(win.unwritable)).encode("utf-8").decode("utf-8")
    assert "in silent" in formatted(error_of(win.silent))
    assert "in rude" in formatted(error_of(win.rude))
    assert formatted(error_of(win.long)).startswith("...x")


def test_tracebacks_without_a_foreign_frame() -> None:
    # an error of our own says all; anything else of ours is a fault here, and its place helps
    try:
        whole_number("x", "no", low=0)
    except InvalidCase as error:
        ours = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    assert place_of(ours) is None
    assert place_of(ValueError("never raised")) is None
    assert described(ValueError()) == "ValueError"


def test_tracebacks_fall_back_to_what_is_installed() -> None:
    try:
        np.linalg.inv(np.zeros((2, 2)))
    except np.linalg.LinAlgError as error:
        inside = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    assert re.fullmatch(r"_?linalg\.py:\d+ in \w+", str(place_of(inside)))


def test_tracebacks_of_a_file_that_is_no_python(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text("x = (\n", encoding="utf-8")
    error = error_of(lambda: compile(path.read_text(), str(path), "exec"))
    assert described(error) == "SyntaxError: '(' was never closed (odd.py:1)"
