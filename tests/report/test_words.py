# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.report.words import (
    BYTES,
    TIMES,
    clean,
    common_unit,
    digits,
    join,
    number,
    percent,
    scaled,
    whole,
)
from pabench.text import clean_text, plural


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.033, "0.0330"),
        (1.0, "1.00"),
        (9.996, "10.0"),
        (999.6, "1,000"),
        (1234.5, "1,230"),
        (-2.5, "−2.50"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "NaN"),
        (1e-9, "1.00e−09"),
        (1e20, "1.00e+20"),
    ],
)
def test_report_words_three_digits(value: float | None, text: str) -> None:
    assert digits(value) == text


@given(st.floats(1e-4, 1e14))
def test_report_words_digits_stay_within_half_a_unit_property(value: float) -> None:
    assert float(digits(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "text"), [(999_600.0, "1.00 M"), (1_234.0, "1.23 k"), (5.0, "5.00"), (2.5e12, "2.50 T")]
)
def test_report_words_scaled(value: float, text: str) -> None:
    assert scaled(value) == text


def test_report_words_counts_and_shares() -> None:
    assert whole(33424) == "33,424"
    assert whole(None) == "–"
    assert percent(3 / 91) == "3.30 %"
    assert (plural(1, "cell"), plural(2, "cell")) == ("1 cell", "2 cells")
    assert (join(["a"]), join(["a", "b"]), join(["a", "b", "c"])) == ("a", "a and b", "a, b and c")


def test_report_words_units_follow_the_median() -> None:
    assert common_unit([2e6, 3e6, 5e9], TIMES) == (1e6, "ms")
    assert common_unit([], TIMES) == (1.0, "ns")
    assert common_unit([4096.0], BYTES) == (1024.0, "KiB")


def test_report_words_numbers_as_the_journal_writes_them() -> None:
    assert number("inf") == math.inf
    assert number(True) is None
    assert number({}) is None


def test_report_words_invisible_characters_are_spelled_out() -> None:
    assert clean_text("a\u202eb\x00c\x1b[0m\ud800\ue000") == "a\\u202eb\\u0000c\\u001b[0m\\ud800\\ue000"
    assert clean_text("two\nlines\tand tab, שלום") == "two\nlines\tand tab, שלום"


def test_report_words_long_text_says_what_is_missing() -> None:
    cut = clean({"backend": "x" * 500, "text": "y" * 500})
    assert cut["backend"] == "x" * 120 + "… (380 more characters in the journal)"
    assert cut["text"] == "y" * 500
