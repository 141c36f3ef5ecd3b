# SPDX-License-Identifier: Apache-2.0
"""Options that say of a trace what its file does not say itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]

BLOCK_TOKENS = click.option(
    "--block-tokens", type=click.IntRange(1, 2**20), metavar="N", help="Tokens per block id in the trace."
)
TIME_UNIT = click.option(
    "--time-unit", type=click.Choice(["s", "ms", "us", "ns"]), help="Unit of timestamps in the trace."
)
TURNS = click.option(
    "--turns",
    type=click.Choice(["whole", "added"]),
    help="Whether a session's prompt is the whole history or only what was added.",
)


def trace_options(command: Command) -> Command:
    """Add all of them, in this order."""
    for option in (TURNS, TIME_UNIT, BLOCK_TOKENS):
        command = option(command)
    return command
