# SPDX-License-Identifier: Apache-2.0
"""Numbers of options as people write them: ASCII digits, nothing around or between them.

Python's ``int`` and ``float`` also take digits of other scripts, underscores, and blanks and newlines around.
"""

from __future__ import annotations

import re
from typing import Any

import click

from pabench.text import shown

WHOLE = re.compile(r"[+-]?[0-9]{1,25}")
DECIMAL = re.compile(
    r"[+-]?(([0-9]{1,99}\.?[0-9]{0,99}|\.[0-9]{1,99})(e[+-]?[0-9]{1,5})?|inf|infinity|nan)", re.IGNORECASE
)
NUMBERS = (click.types.IntParamType, click.types.FloatParamType)


class Whole(click.types.IntParamType):
    """A whole number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails on text that is none."""
        return super().convert(_plain(self, value, WHOLE, param, ctx), param, ctx)


class WholeRange(click.IntRange):
    """A whole number within bounds, which whoever breaks one is told, and the help is not full of."""

    _told = False

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails on text that is none, and outside the bounds."""
        self._told = True
        try:
            return super().convert(_plain(self, value, WHOLE, param, ctx), param, ctx)
        finally:
            self._told = False

    def _describe_range(self) -> str:
        return super()._describe_range() if self._told else ""


class Decimal(click.types.FloatParamType):
    """A number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails on text that is none."""
        return super().convert(_plain(self, value, DECIMAL, param, ctx), param, ctx)


def strict_numbers(command: click.Command) -> click.Command:
    """Return ``command`` with every number among its options read strictly."""
    for parameter in command.params:
        kind = parameter.type
        if isinstance(kind, NUMBERS) and isinstance(parameter, click.Option) and not parameter.is_flag:
            parameter.metavar = parameter.metavar or "N"
        # IntRange is itself a kind of integer
        if isinstance(kind, click.IntRange):
            parameter.type = WholeRange(kind.min, kind.max, kind.min_open, kind.max_open, kind.clamp)
        elif isinstance(kind, click.types.IntParamType):
            parameter.type = Whole()
        elif isinstance(kind, click.types.FloatParamType):
            parameter.type = Decimal()
    return command


def _plain(
    kind: click.ParamType[Any],
    value: Any,
    pattern: re.Pattern[str],
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    if isinstance(value, str) and pattern.fullmatch(value) is None:
        kind.fail(f"{shown(value)} is not a valid {kind.name.removesuffix(' range')}.", param, ctx)
    return value
