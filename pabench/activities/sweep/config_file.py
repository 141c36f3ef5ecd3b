# SPDX-License-Identifier: Apache-2.0
"""Reads the TOML file of ``--config``: keys as the options are called, values as text, numbers or lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pabench.errors import UnknownName, UsageError
from pabench.tables import read_toml
from pabench.text import shown

FLAGS = ("checked",)
"""Options whose value is true or false."""


def read_config_file(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """Return option name to value; ``page_sizes`` and ``page-sizes`` are the same key.

    Raises:
        UsageError: the file cannot be read, is no TOML, holds a key twice or a value that is no option's.
        UnknownName: a key that is no option; the nearest is offered.
    """
    keys = list(known)
    found: dict[str, Any] = {}
    for written, value in read_toml(path, what="configuration").items():
        key = written.replace("_", "-")
        if key not in keys:
            raise UnknownName(f"key in {path}", written, keys)
        if key in found:
            raise UsageError(
                f"configuration {path}: {key} is set twice, as {key} and {key.replace('-', '_')}"
            )
        items = value if isinstance(value, list) else [value]
        flag = key in FLAGS and isinstance(value, bool)
        if not flag and any(isinstance(item, bool) or not isinstance(item, str | int) for item in items):
            raise UsageError(
                f"configuration {path}: {written} = {shown(value)} must be a text, a whole number or a list"
            )
        found[key] = value
    return found
