# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from pabench.analysis import statistics
from pabench.analysis.statistics import adjusted, median_interval, series_of, typical_interval
from pabench.errors import EnvironmentRefused


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


def test_interval_of_replicates_is_that_of_processes_and_not_of_samples() -> None:
    """Five processes that differ by 1 %: their samples, pooled, would say that the time is known to 0.3 %."""
    rng, held, pooled, cases = np.random.default_rng(4), 0, 0, 300
    for _ in range(cases):
        logs = 0.01 * rng.standard_normal((5, 1)) + 0.003 * rng.standard_normal((5, 20))
        times = np.exp(logs).tolist()
        found = typical_interval(series_of(times))
        assert found is not None
        held += found[0] <= 1 <= found[1]
        alone = typical_interval(series_of([one for process in times for one in process]))
        assert alone is not None
        pooled += alone[0] <= 1 <= alone[1]
    assert 0.88 <= held / cases <= 0.97
    assert pooled / cases < 0.6


def test_interval_of_replicates_needs_five_and_is_the_same_every_time() -> None:
    times = [[1.0, 1.1], [1.2], [0.9, 1.0, 1.1], [1.05]]
    assert typical_interval(series_of(times)) is None
    five = series_of([*times, [1.3]])
    assert typical_interval(five) == typical_interval(five)
    assert typical_interval(series_of([[2.0, 2.0]] * 5)) == (2.0, 2.0)
    assert typical_interval(series_of([6.0, 1.0, 5.0, 2.0, 4.0, 3.0])) == (1.0, 6.0)
    assert typical_interval(series_of([1.0, 2.0])) is None


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


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg() -> None:
    # the table of the paper's example, by hand: p m / rank, made monotone from the largest
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5])
    assert adjusted([]) == []


def test_without_scipy_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(EnvironmentRefused, match="scipy"):
        statistics.adjusted([0.5])
