# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pabench.errors import UnknownName, UsageError
from pabench.problem.lengths import SYNTHETIC
from pabench.resources import resource_dir
from pabench.workloads.families import length_families, resolve_lengths
from pabench.workloads.quantiles import COLUMNS, TABLES, read_quantiles

EMPIRICAL = {table + suffix: (table, part) for table in TABLES for suffix, (part, _) in COLUMNS.items()}


def test_quantiles_every_shipped_table_is_a_family() -> None:
    shipped = {path.stem for path in (resource_dir("suites") / "lengths").glob("*.csv")}
    assert shipped == set(TABLES)
    assert set(length_families()) == {*SYNTHETIC, *EMPIRICAL}


@pytest.mark.parametrize("name", EMPIRICAL)
def test_quantiles_draws_follow_the_table(name: str) -> None:
    drawn = np.asarray(resolve_lengths(name).draw(20_000, seed=3, page_size=16))
    table, part = EMPIRICAL[name]
    path = resource_dir("suites") / "lengths" / f"{table}.csv"
    with path.open() as file:
        column = [float(row[part]) for row in csv.DictReader(file)]
    assert column[0] <= drawn.min()
    assert drawn.max() <= column[100]
    for percentile in (10, 25, 50, 75, 90):
        # 20,000 draws leave the rank uncertain by 0.35 percent; four times that
        low, high = np.interp([percentile - 1.4, percentile + 1.4], np.arange(101), column)
        assert low - 1 <= np.percentile(drawn, percentile) <= high + 1


def test_quantiles_same_seed_same_lengths() -> None:
    spec = resolve_lengths("azure-conv")
    assert spec.draw(64, seed=1, page_size=8) == spec.draw(64, seed=1, page_size=256)
    assert spec.draw(64, seed=1, page_size=8) != spec.draw(64, seed=2, page_size=8)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("azure-cnv", "azure-conv"), ("mooncake-synth", "mooncake-synthetic"), ("lognormall", "lognormal")],
)
def test_quantiles_unknown_family_names_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{nearest}'"):
        resolve_lengths(text)


def _table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


GOOD = "percentile,total_tokens\n" + "".join(f"{p},{p * 10}\n" for p in range(101))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "has no rows"),
        (GOOD.replace("total_tokens", "tokens"), "no columns"),
        (GOOD.replace("\n50,500", "\n50,many"), "must hold numbers"),
        (GOOD.replace("\n50,500", "\n50"), "must hold numbers"),
        (GOOD.replace("\n50,500", "\n50,nan"), "must not decrease"),
        (GOOD.replace("\n50,500", "\n50,20"), "must not decrease"),
        (GOOD.replace("\n0,0", "\n0,-1"), "must be >= 0"),
        (GOOD.replace("\n50,500", ""), "percentiles 0 to 100"),
    ],
)
def test_quantiles_reject_a_broken_table(tmp_path: Path, text: str, rule: str) -> None:
    path = _table(tmp_path, text)
    with pytest.raises(UsageError, match=rule) as caught:
        read_quantiles(path, "total_tokens")
    assert str(path) in str(caught.value)


def test_quantiles_reject_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_quantiles(tmp_path / "none.csv", "total_tokens")


def test_quantiles_read_a_good_table(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read_quantiles(_table(tmp_path, GOOD), "total_tokens"), np.arange(101) * 10.0
    )
