# SPDX-License-Identifier: Apache-2.0
"""The profiles of a run are a file: what it holds, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pabench.checks.case_budget import CASE_BUDGETS, CaseBudget, read_case_budgets
from pabench.errors import UsageError

GOOD = 'name = "mine"\nexamples = 7\nmachine_runs = 8\nmachine_steps = 9\n'


def test_case_budget_grows_from_profile_to_profile() -> None:
    assert list(CASE_BUDGETS) == ["glance", "trial", "quick", "default", "deep"]
    for less, more in zip(CASE_BUDGETS.values(), list(CASE_BUDGETS.values())[1:], strict=False):
        assert less.examples < more.examples
        assert less.machine_runs < more.machine_runs
        assert less.machine_steps <= more.machine_steps


def test_case_budget_of_a_profile_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text(f"[[profile]]\n{GOOD}")
    assert read_case_budgets(file) == {"mine": CaseBudget(examples=7, machine_runs=8, machine_steps=9)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[profile", "is not TOML"),
        ("[[profil]]\n", "must hold [[profile]] tables and nothing else"),
        (f"[[profile]]\n{GOOD.replace('7', '0')}", "profile 1: examples = 0: must be at least 1"),
        (f"[[profile]]\n{GOOD.replace('8', 'true')}", "profile 1: machine_runs = True: must be a whole"),
        (
            f"[[profile]]\n{GOOD.replace('9', '2.5')}",
            "profile 1: machine_steps = 2.5: must be a whole",
        ),
        (f"[[profile]]\n{GOOD}more = 1\n", "profile 1: more = 1: is unknown"),
        (f"[[profile]]\n{GOOD.replace('examples = 7', '')}", "profile 1: examples = None: is missing"),
        (f"[[profile]]\n{GOOD}[[profile]]\n{GOOD}", "profile 2: name = 'mine': must be a text that is there"),
    ],
)
def test_case_budget_refuses_a_file_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_case_budgets(file)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
