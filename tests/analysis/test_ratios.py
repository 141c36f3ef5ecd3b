# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from pabench.analysis.ratios import MIN_CELLS, prior_of, ratio_of
from pabench.analysis.statistics import Series, series_of


def noisy(rng: np.random.Generator, *, count: int = 20, centre: float = 1e6, noise: float = 0.01) -> Series:
    return series_of(list(centre * np.exp(noise * rng.standard_normal(count))))


def cells(
    rng: np.random.Generator, spreads: list[float], *, replicates: int = 5
) -> list[tuple[Series, Series]]:
    """Both runs of cells whose processes are off by ``spreads``."""
    return [
        tuple(  # type: ignore[misc]
            series_of([[float(one)] for one in np.exp(spread * rng.standard_normal(replicates))])
            for _ in range(2)
        )
        for spread in spreads
    ]


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


def test_ratio_refuses_too_few() -> None:
    with pytest.raises(ValueError, match="3 samples: fewer than 4"):
        ratio_of(series_of([1, 2, 3]), series_of([1, 2, 3, 4]))
    with pytest.raises(ValueError, match="1 replicate: fewer than 3"):
        # samples of one process beside five: how far processes differ is known of none
        ratio_of(series_of([1, 2, 3, 4]), series_of([[1, 2]] * 5))
    with pytest.raises(ValueError, match="2 replicates: fewer than 3"):
        ratio_of(series_of([[1, 2], [1, 2]]), series_of([[1, 2], [1, 2], [3, 4]]))


def test_prior_is_what_the_cells_share() -> None:
    rng = np.random.default_rng(9)
    alike = prior_of(cells(rng, [0.01] * 2000))
    assert alike is not None
    assert alike.variance == pytest.approx(1e-4, rel=0.05)
    assert alike.freedom > 200
    # variances that are scaled inverse chi-squared with 6 degrees of freedom, as the model has them
    spreads = [0.01 * math.sqrt(6 / one) for one in rng.chisquare(6, size=4000)]
    found = prior_of(cells(rng, spreads))
    assert found is not None
    assert found.variance == pytest.approx(1e-4, rel=0.1)
    assert 5 < found.freedom < 7.5


def test_prior_of_few_cells_or_of_none_that_vary_is_none() -> None:
    rng = np.random.default_rng(9)
    assert prior_of(cells(rng, [0.01] * (MIN_CELLS - 1))) is None
    assert prior_of(cells(rng, [0.01] * MIN_CELLS)) is not None
    assert prior_of(cells(rng, [0.01] * 50, replicates=2)) is None
    assert prior_of(cells(rng, [0.0] * 50)) is None
    assert prior_of([(noisy(rng), noisy(rng))] * 50) is None, "samples of one process have no such variance"


def test_ratio_with_a_prior_lies_between_the_cell_alone_and_all_cells() -> None:
    rng = np.random.default_rng(9)
    many = cells(rng, [0.01] * 50)
    prior = prior_of(many)
    quiet = cells(rng, [0.0001])[0]
    assert prior is not None
    alone, with_others = ratio_of(*quiet), ratio_of(*quiet, prior=prior)
    assert alone.ratio == with_others.ratio
    # five processes that agree by luck are not believed: the others differ by 1 %
    assert with_others.high / with_others.low > 10 * alone.high / alone.low - 9
    assert with_others.p > alone.p
