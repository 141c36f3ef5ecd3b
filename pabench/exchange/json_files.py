# SPDX-License-Identifier: Apache-2.0
"""JSON of others, field by field: what is missing or of the wrong kind is one line with file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pabench.errors import InvalidCase, UsageError, reason
from pabench.text import one_line, shown_path

MAX_BYTES = 2**26
"""Of one file of JSON; no definition or solution comes near."""
WORDS = {str: "text", dict: "an object", list: "a list", bool: "true or false", int: "a whole number"}


def read_text(path: Path, what: str) -> str:
    """Return a text file; raises ``UsageError`` where it cannot be read, naming ``what`` and the file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{what} {shown_path(path)}: larger than {MAX_BYTES:,} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{what} {shown_path(path)} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {shown_path(path)}: byte {error.start} is not UTF-8") from None


def parse(text: str, where: str) -> dict[str, Any]:
    """Return the JSON object in ``text``; raises ``UsageError`` that begins with ``where``."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise UsageError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {one_line(str(error))}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{where}: must be a JSON object, not {type(found).__name__}")
    return found


def field(where: str, data: dict[str, Any], name: str, kind: type, *, default: Any = ...) -> Any:
    """Return a field of ``kind``; a text must not be empty.

    Raises:
        InvalidCase: it is missing and has no ``default``, or of another kind.
    """
    if name not in data or (data[name] is None and default is not ...):
        if default is ...:
            raise InvalidCase(f"{where}: {name}", None, "is missing")
        return default
    value = data[name]
    wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    if wrong or (kind is str and not value):
        raise InvalidCase(f"{where}: {name}", value, f"must be {WORDS[kind]}")
    return value
