# SPDX-License-Identifier: Apache-2.0
"""Goals of compiled kernels: what a file of them may say, and when one fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pabench.errors import InvalidCase
from pabench.kernels.account_goals import Goal, Held, held, read_goals

TEXT = """
[[goal]]
kernel = "k"
instance = "i"
arch = "sm_90a"
figure = "per_token"
most = 36
"""


def goal_of(tmp_path: Path, text: str) -> Goal:
    (tmp_path / "goals.toml").write_text(text)
    (goal,) = read_goals(tmp_path / "goals.toml")
    return goal


@pytest.mark.parametrize(
    ("least", "missed", "value", "failure"),
    [
        (False, None, 36, None),
        (False, None, 36.1, "k, i, sm_90a: 36.1, at most 36 instructions a key was set"),
        (False, "a reason", 36.1, None),
        (False, "a reason", 36, "k, i, sm_90a: 36, at most 36 instructions a key was set: met, and yet the"),
        (True, None, 36, None),
        (True, None, 35.9, "k, i, sm_90a: 35.9, at least 36 instructions a key was set"),
        (False, None, None, "k, i, sm_90a: unknown, at most 36 instructions a key was set"),
    ],
)
def test_goal_fails_when_missed_without_a_reason_or_met_beside_one(
    tmp_path: Path, least: bool, missed: str | None, value: float | None, failure: str | None
) -> None:
    text = TEXT.replace("most", "least") if least else TEXT
    goal = goal_of(tmp_path, text if missed is None else f'{text}missed = "{missed}"\n')
    found = Held(goal=goal, value=value).failure
    assert found is None if failure is None else (found or "").startswith(failure)


def test_goals_are_held_against_the_rows_of_their_instance_alone(tmp_path: Path) -> None:
    goal = goal_of(tmp_path, TEXT)
    row: dict[str, Any] = {"kernel": "k", "instance": "i", "arch": "sm_90a", "per_token": 30.0}
    assert held([goal], [row]) == (Held(goal=goal, value=30.0),)
    assert held([goal], [row | {"instance": "i with features"}, row | {"arch": "sm_80"}]) == ()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('figure = "per_token"', 'figure = "speed"', "goal 1: figure = 'speed': must be one of registers"),
        ('arch = "sm_90a"', "", "goal 1: arch = None: is missing"),
        ('arch = "sm_90a"', "arch = 90", "goal 1: arch = 90: must be a text"),
        ("most = 36", "", "goal 1: least = None: must be there, or most, and not both"),
        ("most = 36", "most = 36\nleast = 3", "goal 1: least = 3: must be there, or most, and not both"),
        ("most = 36", "most = 0", "goal 1: most = 0: must be a number above 0"),
        ("most = 36", "most = nan", "goal 1: most = nan: must be a number above 0"),
        ("most = 36", "most = inf", "goal 1: most = inf: must be a number above 0"),
        ("most = 36", "most = true", "goal 1: most = True: must be a number above 0"),
        ("most = 36", 'most = 36\nmissed = " "', "goal 1: missed = ' ': must be a text"),
        ("most = 36", "most = 36\nwhy = 1", "goal 1: why = 1: is unknown"),
    ],
)
def test_goals_refuse_what_they_cannot_hold(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        goal_of(tmp_path, TEXT.replace(old, new))
    assert words in str(caught.value)
