# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader, or a kill, never meets half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import stat
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from pabench.errors import EnvironmentRefused, UsageError, reason
from pabench.text import shown_path

DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,9})")
MAX_LINKS = 40
NAME_START = 40


def atomic_write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` by way of a temporary file beside it and a rename.

    A link keeps leading where it led, and what it leads to is replaced.  A device, a pipe or a descriptor
    such as ``/dev/stdout`` is written to as it is; that its reader has gone is no error.  Lone surrogates,
    which have no UTF-8, become ``\\udcff``-like text.

    Raises:
        EnvironmentRefused: the folder is missing or cannot be written; ``path`` is then as it was.
    """
    atomic_write_bytes(path, text.encode("utf-8", "backslashreplace"))


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` as ``atomic_write_text`` writes a text."""
    try:
        descriptor = _descriptor(path)
        if descriptor is not None:
            # opened by name, a file behind it would be cut to nothing
            _write_through(os.dup(descriptor), data)
        elif _is_special(path):
            _write_through(os.open(path, os.O_WRONLY), data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise EnvironmentRefused(f"cannot write {path}: {reason(error)}") from error


def check_output(option: str, path: Path, *, made: Path | None = None) -> None:
    """Say before any work what would keep ``path`` from being written at its end.

    Args:
        option: the name that messages call the file by.
        path: of the file.
        made: a folder that the command will have made by then.

    Raises:
        UsageError: a folder, a name that is too long, or a file in a folder that does not exist.
        EnvironmentRefused: a folder or device that cannot be written.
    """
    what = f"{option} {shown_path(path)}"
    try:
        if _descriptor(path) is not None:
            return
        if path.is_dir():
            raise UsageError(f"{what}: must be a file in an existing folder, is a folder")
        if _is_special(path):
            if not os.access(path, os.W_OK):
                raise EnvironmentRefused(f"{what}: cannot be written")
            return
        folder = Path(os.path.realpath(path)).parent
        if made is not None and folder == Path(os.path.realpath(made)):
            return
        if not folder.is_dir():
            raise UsageError(f"{what}: must be a file in an existing folder")
        # permissions say less than a try: file systems may be read-only, or have files of their own alone
        handle, probe = tempfile.mkstemp(dir=folder, prefix=".pabench-")
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        refusal = UsageError if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else EnvironmentRefused
        raise refusal(f"{what}: {reason(error)}") from error


def _replace(path: Path, data: bytes) -> None:
    # the beginning of the name alone: a longest name has no room for what mkstemp adds
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:NAME_START]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a report is for others to read, as far as the umask lets them
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _write_through(descriptor: int, data: bytes) -> None:
    # what was printed before comes before, wherever both go
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) or 0 :]


def _is_special(path: Path) -> bool:
    """Whether there is something at ``path`` that is neither a file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that ``path`` names, by way of links too."""
    name = os.path.abspath(path)
    for _ in range(MAX_LINKS):
        if found := DESCRIPTOR.fullmatch(name):
            return int(found[1])
        try:
            link = os.readlink(name)
        except OSError:
            return None
        name = os.path.normpath(os.path.join(os.path.dirname(name), link))
    return None


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
