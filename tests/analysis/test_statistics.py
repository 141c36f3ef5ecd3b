from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from pabench.analysis import statistics
from pabench.analysis.statistics import Series, adjusted, median_interval, ratio_of, series_of
from pabench.errors import EnvironmentRefused


def noisy(rng: np.random.Generator, *, count: int = 20, centre: float = 1e6, noise: float = 0.01) -> Series:
    return series_of(list(centre * np.exp(noise * rng.standard_normal(count))))


def test_interval_of_the_median_is_that_of_order_statistics() -> None:
    # P(Binomial(10, 1/2) < 2) = 11/1024: from the 2nd smallest to the 2nd largest covers 97.9 %
    assert median_interval([float(one) for one in range(1, 11)]) == (5.5, 2.0, 9.0)
    assert median_interval([6.0, 1.0, 5.0, 2.0, 4.0, 3.0]) == (3.5, 1.0, 6.0)
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None, "smallest to largest covers 93.75 % only"
    assert median_interval([]) is None


def test_interval_of_the_median_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(2000):
        found = median_interval(list(rng.exponential(size=25)))
        assert found is not None
        held += found[1] <= math.log(2) <= found[2]
    assert 0.94 <= held / 2000 <= 0.99


def test_ratio_of_replicates_sees_a_difference_between_processes_that_samples_do_not() -> None:
    rng = np.random.default_rng(5)
    false = {"samples": 0, "replicates": 0}
    for _ in range(400):
        sides = []
        for _ in range(2):
            shifts = 0.02 * rng.standard_normal(5)
            sides.append([list(np.exp(shift + 0.001 * rng.standard_normal(20))) for shift in shifts])
        by_process = ratio_of(*(series_of(side) for side in sides))
        pooled = ratio_of(*(series_of([one for part in side for one in part]) for side in sides))
        false["replicates"] += by_process.p < 0.05
        false["samples"] += pooled.p < 0.05
        assert by_process.low <= by_process.ratio <= by_process.high
    assert false["replicates"] <= 0.08 * 400
    assert false["samples"] > 0.3 * 400, "samples of one process know nothing of the next"


def test_ratio_is_not_decided_by_one_preempted_sample() -> None:
    rng = np.random.default_rng(7)
    base, new = noisy(rng), noisy(rng)
    pulled = series_of([*new.samples[:-1], 50 * new.samples[-1]])
    assert abs(ratio_of(base, pulled).ratio - 1) < 0.02
    assert ratio_of(base, pulled).p > 0.05


def test_ratio_of_samples_without_noise() -> None:
    still = series_of([5, 5, 5, 5])
    assert ratio_of(still, still).p == 1.0
    found = ratio_of(still, series_of([10, 10, 10, 10]))
    assert found.ratio == pytest.approx(2.0)
    assert found.p == 0.0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "no samples"),
        (None, "no samples"),
        (3.0, "no samples"),
        ([[1.0], []], "no samples"),
        ([1.0, math.nan], "a sample is nan"),
        ([1.0, 0], "a sample is 0"),
        ([1.0, -2.5], "a sample is -2.5"),
        ([1.0, math.inf], "a sample is inf"),
        ([1.0, "nan"], "a sample is str"),
        ([1.0, True], "a sample is bool"),
        ([[1.0], 2.0], "a sample is list"),
    ],
)
def test_series_refuses_what_is_no_time(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        series_of(value)


def test_ratio_refuses_too_few() -> None:
    with pytest.raises(ValueError, match="3 samples: fewer than 4"):
        ratio_of(series_of([1, 2, 3]), series_of([1, 2, 3, 4]))
    with pytest.raises(ValueError, match="2 replicates: fewer than 3"):
        ratio_of(series_of([[1, 2], [1, 2]]), series_of([[1, 2], [1, 2], [3, 4]]))


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg() -> None:
    # the table of the paper's example, by hand: p m / rank, made monotone from the largest
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5])
    assert adjusted([]) == []


def test_without_scipy_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(EnvironmentRefused, match="scipy"):
        statistics.adjusted([0.5])
