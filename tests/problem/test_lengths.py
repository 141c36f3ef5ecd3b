# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.lengths import MAX_LENGTH, SYNTHETIC, parse_lengths


def _draw(text: str, batch: int = 20_000, page_size: int = 16) -> np.ndarray:
    return np.asarray(parse_lengths(text).draw(batch, seed=5, page_size=page_size))


def test_lengths_fixed() -> None:
    assert set(_draw("fixed")) == {1024}
    assert set(_draw("fixed:len=7")) == {7}
    assert set(_draw("fixed:len=0")) == {0}


def test_lengths_uniform_statistics() -> None:
    drawn = _draw("uniform:low=3,high=12")
    counts = np.bincount(drawn)[3:]
    assert counts.size == 10
    # 2,000 expected in each of ten bins: 99.999 percent within 4.5 standard deviations of 42
    assert np.abs(counts - 2000).max() < 190


def test_lengths_lognormal_statistics() -> None:
    drawn = _draw("lognormal:mean=1000,cv=0.5")
    assert drawn.mean() == pytest.approx(1000, rel=0.02)
    assert drawn.std() / drawn.mean() == pytest.approx(0.5, rel=0.05)
    assert np.median(drawn) == pytest.approx(1000 / 1.25**0.5, rel=0.02)
    assert _draw("lognormal:mean=1000,cv=9,max=2000").max() == 2000
    assert set(_draw("lognormal:mean=100,cv=0")) == {100}
    assert _draw("lognormal:mean=1,cv=3").min() == 1


def test_lengths_zipf_statistics() -> None:
    drawn = _draw("zipf:s=1,max=100")
    harmonic = sum(1 / k for k in range(1, 101))
    assert np.mean(drawn == 1) == pytest.approx(1 / harmonic, rel=0.05)
    assert np.mean(drawn == 2) == pytest.approx(1 / 2 / harmonic, rel=0.07)
    assert drawn.max() <= 100
    assert np.bincount(_draw("zipf:s=0,max=4")).tolist() == pytest.approx(
        [0, 5000, 5000, 5000, 5000], rel=0.1
    )
    assert set(_draw("zipf:s=2000,max=100")) == {1}


def test_lengths_bimodal_and_one_long() -> None:
    drawn = _draw("bimodal:short=10,long=1000,fraction=0.1")
    assert set(drawn) == {10, 1000}
    assert np.mean(drawn == 1000) == pytest.approx(0.1, abs=0.01)
    lengths = _draw("one-long:short=3,long=99", batch=50)
    assert sorted(lengths)[-2:] == [3, 99]


@pytest.mark.parametrize("page_size", [1, 8, 256])
def test_lengths_on_page_edges(page_size: int) -> None:
    multiple = _draw("page-multiple", page_size=page_size)
    assert (multiple % page_size == 0).all()
    assert multiple.min() >= page_size
    assert multiple.max() <= 2048
    assert len(set(multiple)) > 4
    assert ((_draw("page-plus-one", page_size=page_size) - 1) % page_size == 0).all()


def test_lengths_list() -> None:
    spec = parse_lengths(" list:100, 250,17 ")
    assert spec.text == "list:100,250,17"
    assert spec.draw(99, seed=0, page_size=16) == (100, 250, 17)


@pytest.mark.parametrize("name", [n for n in SYNTHETIC if not n.startswith("page-")])
def test_lengths_same_seed_any_page_size(name: str) -> None:
    spec = parse_lengths(name)
    assert spec.draw(32, seed=1, page_size=8) == spec.draw(32, seed=1, page_size=64)
    if name not in ("fixed", "one-long", "bimodal"):
        assert spec.draw(32, seed=1, page_size=8) != spec.draw(32, seed=2, page_size=8)


@given(
    st.sampled_from(sorted(SYNTHETIC)), st.integers(1, 300), st.integers(0, 2**64 - 1), st.integers(1, 512)
)
def test_lengths_draws_are_in_range_property(name: str, batch: int, seed: int, page_size: int) -> None:
    drawn = parse_lengths(name).draw(batch, seed=seed, page_size=page_size)
    assert len(drawn) == batch
    assert all(isinstance(n, int) and 0 < n <= MAX_LENGTH for n in drawn)


@given(st.integers(1, MAX_LENGTH), st.floats(0, 1), st.integers(1, MAX_LENGTH))
def test_lengths_text_reads_back_property(short: int, fraction: float, long: int) -> None:
    spec = parse_lengths(f"bimodal:short={short},fraction={fraction!r},long={long}")
    again = parse_lengths(spec.text)
    assert (again.text, again.parameters) == (spec.text, spec.parameters)
    assert spec.parameters == {"short": short, "long": long, "fraction": fraction}


def test_lengths_texts_of_close_specs_differ() -> None:
    assert parse_lengths("fixed:len=1234567").text == "fixed:len=1234567"
    assert parse_lengths("lognormal:cv=1.0000001").text != parse_lengths("lognormal").text


@pytest.mark.parametrize(
    ("text", "error", "rule"),
    [
        ("unifrom", UnknownName, "unknown length family 'unifrom'; did you mean 'uniform'"),
        ("", UnknownName, "unknown length family ''"),
        ("uniform:hi=3", UnknownName, "unknown parameter of uniform 'hi'; did you mean 'high'"),
        ("fixed:", UsageError, "nothing after the colon"),
        ("fixed:len", UsageError, "'len' must read key=value"),
        ("fixed:len=1,", UsageError, "'' must read key=value"),
        ("fixed:len=1,len=2", UsageError, "'len' is given twice"),
        ("fixed:len=-1", InvalidCase, "fixed:len = '-1': must be a whole number of tokens"),
        ("fixed:len=1.5", InvalidCase, "must be a whole number of tokens"),
        ("fixed:len=nan", InvalidCase, "must be a whole number of tokens"),
        ("fixed:len=²", InvalidCase, "must be a whole number of tokens"),
        (f"fixed:len={MAX_LENGTH + 1}", InvalidCase, f"must be at most {MAX_LENGTH}"),
        ("fixed:len=" + "9" * 5000, InvalidCase, "must be a whole number of tokens"),
        ("uniform:low=0", InvalidCase, "uniform:low = 0: must be at least 1"),
        ("uniform:low=5,high=4", InvalidCase, "uniform:low = 5: must be at most high = 4"),
        ("lognormal:mean=nan", InvalidCase, "lognormal:mean = nan: must be finite"),
        ("lognormal:mean=0.5", InvalidCase, "must be at least 1"),
        ("lognormal:cv=x", InvalidCase, "lognormal:cv = 'x': must be a number"),
        ("lognormal:cv=-1", InvalidCase, "must be at least 0"),
        ("bimodal:fraction=1.5", InvalidCase, "must be at most 1"),
        ("list", UsageError, "item 1 is '', must be a whole number >= 0"),
        ("list:", UsageError, "item 1 is ''"),
        ("list:1,,2", UsageError, "item 2 is ''"),
        ("list:1,x", UsageError, "item 2 is 'x'"),
        ("list:1,-2", UsageError, "item 2 is '-2'"),
        ("list:1,NaN", UsageError, "item 2 is 'NaN'"),
        ("list:2147483648", InvalidCase, r"lengths[0] = 2147483648: must be at most 2147483647"),
        ("list:" + "9" * 5000, UsageError, "must be at most 2147483647"),
    ],
)
def test_lengths_parse_errors(text: str, error: type[UsageError], rule: str) -> None:
    with pytest.raises(error) as caught:
        parse_lengths(text)
    assert rule in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(("batch", "seed", "page_size"), [(0, 0, 16), (4, -1, 16), (4, 0, 0)])
def test_lengths_draw_rejects(batch: int, seed: int, page_size: int) -> None:
    with pytest.raises(InvalidCase, match="must be at least"):
        parse_lengths("one-long").draw(batch, seed=seed, page_size=page_size)
