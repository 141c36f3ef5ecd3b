"""Reads files that hold one kind of TOML table: mutants, controls, known deviations."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pabench.errors import InvalidCase, UsageError


def read_tables(path: Path, *, what: str, entry: str) -> list[Any]:
    """Return the ``[[entry]]`` tables of ``path`` in their order; what is in them is for the caller to check.

    Args:
        path: of the file.
        what: the file's content, for messages.
        entry: name of the tables.

    Raises:
        UsageError: the file cannot be read, is not TOML, or holds no or other tables.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{what} {str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} {str(path)!r} is not TOML: {error}") from None
    entries = data.pop(entry, None)
    if data or not isinstance(entries, list) or not entries:
        raise UsageError(f"{what} {str(path)!r}: must hold [[{entry}]] tables and nothing else")
    return entries


def check_fields(entry: Any, required: set[str], known: set[str]) -> None:
    """Raise ``InvalidCase`` unless ``entry`` has all ``required`` fields and only ``known`` ones."""
    if not isinstance(entry, dict):
        raise InvalidCase("entry", entry, "must be a table")
    for name in sorted(required - entry.keys()):
        raise InvalidCase(name, None, "is missing")
    for name in sorted(entry.keys() - known):
        raise InvalidCase(name, entry[name], f"is unknown; the fields are {', '.join(sorted(known))}")
