# SPDX-License-Identifier: Apache-2.0
"""What every JSON answer opens with, so that a reader knows which form it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from pabench import __version__
from pabench.run.files import atomic_write_text, check_output, pretty

SCHEMA = 1
"""Of the answers of single commands; runs and comparisons count their own."""


def json_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``--json FILE`` of a command; its value goes to ``json_file``."""
    kind = click.Path(path_type=Path)
    return click.option("--json", "json_file", type=kind, metavar="FILE", help=f"Write {what} as JSON.")


def check_json(file: Path | None) -> None:
    """Refuse a file that cannot be written, before anything is done; see ``check_output``."""
    if file is not None:
        check_output("--json", file)


def write_json(file: Path | None, kind: str, record: Mapping[str, Any]) -> None:
    """Write ``stamped`` where a file was asked for."""
    if file is not None:
        atomic_write_text(file, pretty(stamped(kind, record)))


def stamped(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``record`` behind schema, version of pabench and the command that says it."""
    return {"schema": SCHEMA, "pabench": __version__, "kind": kind, **record}
