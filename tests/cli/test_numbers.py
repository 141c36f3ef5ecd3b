# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib

import click
import pytest

from pabench.cli.main import COMMANDS, cli, run
from pabench.cli.numbers import Decimal, Whole, WholeRange

FOREIGN = ["١", "１２", "1_0", "5\n", " 5", "5 ", "0x10", "५", "", "9" * 5000]


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("option", ["--requests", "--page-cost-ns", "--seed"])
def test_number_of_another_writing_is_refused(
    text: str, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["memory", "--model", "llama-3-8b", option, text]) == 4
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert option in said
    assert "is not a valid" in said
    assert len(said) < 400


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("+5", 5), ("-5", -5), ("0", 0), ("007", 7), ("9" * 20, int("9" * 20))]
)
def test_number_in_digits_is_read(text: str, value: int) -> None:
    assert Whole().convert(text, None, None) == value
    assert WholeRange(-5, 10**21).convert(text, None, None) == value
    assert Whole().convert(value, None, None) == value


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1e3), ("inf", float("inf"))]
)
def test_decimal_is_read(text: str, value: float) -> None:
    assert Decimal().convert(text, None, None) == value


def test_every_number_of_every_command_is_read_so() -> None:
    seen = 0
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
                assert isinstance(parameter.type, Whole | WholeRange | Decimal), (name, parameter.name)
                seen += 1
    assert seen > 30
    # the bounds stay what they were
    stress = importlib.import_module("pabench.cli.memory_command").command
    layers = next(parameter for parameter in stress.params if parameter.name == "layers")
    assert (layers.type.min, layers.type.max) == (1, 10_000)
