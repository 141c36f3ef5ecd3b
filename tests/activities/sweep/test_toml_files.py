# SPDX-License-Identifier: Apache-2.0
"""Files of ``--grid`` and ``--config`` that hold anything at all: one line, exit code 4."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pabench.activities.sweep.grid_file import read_grid
from pabench.cli.main import run
from pabench.errors import UsageError
from pabench.resources import resource_dir

GRIDS = Path(__file__).resolve().parents[2] / "robust" / "grids"
RULES = {
    "not-toml.toml": "is not TOML",
    "number-of-5000-digits.toml": "is not TOML",
    "points-is-a-table.toml": "points = {'a': 1}: must be tables, each under [[points]]",
}
NEST = "x = " + "[" * 5000
GOOD = """
[model.a]
heads = "2:1"
head_dim = 8
[[points]]
grid = "small"
models = ["a"]
shapes = ["2x40"]
lengths = ["fixed:len={mean}"]
[expect]
memory_reach = 0.9
tensor_reach = 0.9
[[expect.fraction]]
backend = "rawkernel"
even = true
from_mb = 1.0
fraction = 0.5
"""


def test_toml_every_grid_has_its_answer() -> None:
    assert {path.name for path in GRIDS.iterdir()} == set(RULES)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("option", ["--grid", "--config"])
def test_toml_that_is_damaged_is_refused_in_one_line(
    name: str, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--dry-run", option, str(GRIDS / name)]
    assert run(words) == 4
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    if option == "--grid":
        assert RULES[name] in said
    assert len(said) < 600


@pytest.mark.parametrize(
    "text",
    [
        NEST,
        "batch = " + "9" * 5000,
        "batch = 0x" + "f" * 5000,
        "batch = 9223372036854775808",
        "batch = inf",
        "batch = 1979-05-27",
        "batch = {a = 1}",
        "batch = [[1]]",
        "lengths = [1, 2]",
        "batch = '" + "9" * 5000 + "'",
        "\x00",
    ],
)
def test_toml_config_of_wrong_types_is_refused(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(text + "\n")
    assert run(["sweep", "--dry-run", "--page-sizes", "8", "--config", str(tmp_path / "c.toml")]) == 4
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 1200


def test_toml_grid_of_the_test_is_right(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(GOOD)
    assert len(read_grid(str(tmp_path / "g.toml")).points) == 1


VALUES = [
    "5",
    "-1",
    "0x" + "f" * 3000,
    "1.5",
    "nan",
    "true",
    "''",
    "'a'",
    "[]",
    "[1]",
    "[[]]",
    "[{}]",
    "{}",
    "{a = 1}",
]


def refusal(name: str) -> str | None:
    try:
        read_grid(name)
    except UsageError as error:
        return str(error)
    return None


def test_toml_grid_of_any_types_is_refused_or_read(tmp_path: Path) -> None:
    """Each value of a right grid in turn replaced by each kind of value."""
    lines, path, refused = GOOD.strip().split("\n"), tmp_path / "g.toml", 0
    for place, line in enumerate(lines):
        key, equals, _ = line.partition(" = ")
        for value in VALUES:
            changed = f"{key} = {value}" if equals else f"{line.strip('[]')} = {value}"
            whole = [*lines[:place], changed, *lines[place + 1 :]]
            path.write_text("\n".join(whole))
            said = refusal(str(path))
            refused += said is not None
            assert said is None or ("\n" not in said and len(said) < 600)
    assert refused > 100


def test_toml_grid_of_any_bytes_is_refused_or_read(tmp_path: Path) -> None:
    raw = (resource_dir("suites") / "grids" / "core.toml").read_bytes()
    draw, path = random.Random(3), tmp_path / "g.toml"
    for _ in range(60):
        data = bytearray(raw)
        for _ in range(3):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(1, len(data))] if draw.random() < 0.3 else data)
        assert "\n" not in (refusal(f"{path}:small") or "")
