# SPDX-License-Identifier: Apache-2.0
"""Reads files that hold one kind of TOML table: mutants, controls, known deviations."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pabench.errors import InvalidCase, UsageError, reason
from pabench.text import one_line, shown_path

WHY_LIMIT = 300


def read_tables(path: Path, *, what: str, entry: str) -> list[Any]:
    """Return the ``[[entry]]`` tables of ``path`` in their order; what is in them is for the caller to check.

    Args:
        path: of the file.
        what: the file's content, for messages.
        entry: name of the tables.

    Raises:
        UsageError: the file cannot be read, is not TOML, or holds no or other tables.
    """
    data = read_toml(path, what=what)
    entries = data.pop(entry, None)
    if data or not isinstance(entries, list) or not entries:
        raise UsageError(f"{what} {str(path)!r}: must hold [[{entry}]] tables and nothing else")
    return entries


def read_toml(path: Path, *, what: str) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        UsageError: the file cannot be read, or is not TOML that Python can hold.
    """
    name = f"{what} {shown_path(path)}"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        _hold_numbers(data)
        return data
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not TOML: byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise UsageError(f"{name} is not TOML: nested too deeply") from None
    except ValueError as error:  # a mistake of the writer, or a number of more than 4,300 digits
        raise UsageError(f"{name} is not TOML: {one_line(str(error), WHY_LIMIT)}") from None


def _hold_numbers(value: Any) -> None:
    """Refuse whole numbers of more than 64 bits, as TOML does: Python would not even write some of them."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _hold_numbers(item)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number has more than 64 bits")


def check_fields(entry: Any, required: set[str], known: set[str]) -> None:
    """Raise ``InvalidCase`` unless ``entry`` has all ``required`` fields and only ``known`` ones."""
    if not isinstance(entry, dict):
        raise InvalidCase("entry", entry, "must be a table")
    for name in sorted(required - entry.keys()):
        raise InvalidCase(name, None, "is missing")
    for name in sorted(entry.keys() - known):
        raise InvalidCase(name, entry[name], f"is unknown; the fields are {', '.join(sorted(known))}")
