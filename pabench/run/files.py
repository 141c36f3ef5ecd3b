"""Writing files so that a reader, or a kill, never meets half of one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from pabench.errors import EnvironmentRefused


def atomic_write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` by way of a temporary file beside it and a rename.

    Raises:
        EnvironmentRefused: the folder is missing or cannot be written; ``path`` is then as it was.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a report is for others to read, as far as the umask lets them
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise EnvironmentRefused(f"cannot write {path}: {reason(error)}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def json_line(value: Any) -> str:
    """Return ``value`` as one line of strict JSON, ASCII only.

    JSON has no infinity and no NaN: those become the strings ``"inf"``, ``"-inf"`` and ``"nan"``, which
    ``float()`` reads back.  Fractions become ``"3/91"``, paths their text, numpy scalars plain numbers.
    """
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":"))


def pretty(value: Any) -> str:
    """Return ``value`` as indented JSON with a newline at the end, with the conversions of ``json_line``."""
    return json.dumps(plain(value), allow_nan=False, indent=2) + "\n"


def plain(value: Any) -> Any:
    """Return ``value`` in JSON's own types, with the conversions of ``json_line``."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, Fraction | Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def reason(error: OSError) -> str:
    """Return the operating system's words for an error, without errno and path."""
    return (error.strerror or type(error).__name__).lower()
