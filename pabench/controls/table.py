# SPDX-License-Identifier: Apache-2.0
"""Reads suites/controls/controls.toml and the marks of its kernel files."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from pabench.controls.model import Argument, Buffer, Control, Scalar
from pabench.device.base import Dim3
from pabench.errors import InvalidCase, UsageError
from pabench.resources import resource_dir
from pabench.tables import check_fields, read_tables

TABLE = "controls.toml"
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(\w+)\s*\(')
MARK = re.compile(r"// FAULT\b")

REQUIRED = {"id", "file", "about", "expect", "tool", "block", "args"}
OPTIONAL = {"also", "grid", "shared_bytes", "quick"}
BUFFER = {"name", "dtype", "size", "fill", "equals", "address_of", "freed"}
SCALAR = {"name", "dtype", "value"}


def controls_dir() -> Path:
    """Return the folder of the table and its kernel files."""
    return resource_dir("suites") / "controls"


def load_controls(folder: Path | None = None) -> tuple[Control, ...]:
    """Read the table of ``folder`` (by default pabench's own) in its order.

    Raises:
        UsageError: the table or a kernel file cannot be read, or the table is not of ``[[control]]`` tables.
        InvalidCase: a field is missing, unknown or wrong, an id is there twice or names no kernel.
    """
    folder = folder or controls_dir()
    path = folder / TABLE
    entries = read_tables(path, what="controls", entry="control")
    found: dict[str, Control] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            control = _control(entry, folder)
            if control.id in found:
                raise InvalidCase("id", control.id, "must be unique in its table")
        except InvalidCase as error:
            raise InvalidCase(f"{path}: control {number}: {error.field}", error.value, error.rule) from None
        found[control.id] = control
    return tuple(found.values())


def marked_lines(text: str) -> dict[str, frozenset[int]]:
    """Return the lines marked ``// FAULT`` of each kernel of a source file."""
    lines = text.splitlines()
    heads = [(n, head[1]) for n, line in enumerate(lines, 1) if (head := KERNEL.search(line))]
    ends = [n for n, _ in heads[1:]] + [len(lines) + 1]
    return {
        name: frozenset(n for n in range(start, end) if MARK.search(lines[n - 1]))
        for (start, name), end in zip(heads, ends, strict=True)
    }


def _control(entry: Any, folder: Path) -> Control:
    check_fields(entry, REQUIRED, REQUIRED | OPTIONAL)
    file, name, args = entry["file"], entry["id"], entry["args"]
    if not isinstance(file, str) or Path(file).name != file:
        raise InvalidCase("file", file, "must be the name of a .cu file beside the table")
    if not isinstance(args, list):
        raise InvalidCase("args", args, "must be a list of tables")
    kernels = _marks(folder / file)
    if name not in kernels:
        raise InvalidCase("id", name, f"must be a kernel of {file}")
    also = entry.get("also", [])
    if not isinstance(also, list):
        raise InvalidCase("also", also, "must be a list of classes")
    return Control(
        id=name,
        file=file,
        about=entry["about"],
        expect=entry["expect"],
        also=tuple(also),
        tool=entry["tool"],
        grid=_dim3("grid", entry.get("grid", [1])),
        block=_dim3("block", entry["block"]),
        shared_bytes=entry.get("shared_bytes", 0),
        quick=entry.get("quick", False),
        args=tuple(_argument(arg) for arg in args),
        marks=kernels[name],
    )


@functools.lru_cache(maxsize=64)
def _read_marks(path: Path, changed_ns: int) -> dict[str, frozenset[int]]:
    del changed_ns  # part of the key only
    return marked_lines(path.read_text(encoding="utf-8"))


def _marks(path: Path) -> dict[str, frozenset[int]]:
    try:
        return _read_marks(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"controls: kernel file {str(path)!r} cannot be read: {error}") from None


def _argument(arg: Any) -> Argument:
    if isinstance(arg, dict) and "value" in arg:
        check_fields(arg, SCALAR, SCALAR)
        return Scalar(**arg)
    check_fields(arg, {"name", "dtype", "size"}, BUFFER)
    if "fill" not in arg and "address_of" not in arg:
        raise InvalidCase("fill", None, "is missing")
    fields = dict(arg)
    if isinstance(arg.get("fill"), list):
        fields["fill"] = tuple(arg["fill"])
    if "equals" in arg:
        fields["equals"] = _expected(arg["equals"], arg["size"])
    return Buffer(**fields)


def _expected(equals: Any, size: Any) -> tuple[int, ...]:
    """Return the elements that ``[start, step]`` or ``{ list = [...] }`` stand for."""
    if isinstance(equals, dict) and equals.keys() == {"list"} and isinstance(equals["list"], list):
        return tuple(equals["list"])
    if not isinstance(equals, list) or len(equals) != 2 or not all(type(n) is int for n in equals):
        raise InvalidCase("equals", equals, "must be [start, step] or { list = [...] }")
    return tuple(equals[0] + equals[1] * i for i in range(size if type(size) is int else 0))


def _dim3(field: str, numbers: Any) -> Dim3:
    if not isinstance(numbers, list) or not 1 <= len(numbers) <= 3:
        raise InvalidCase(field, numbers, "must be a list of 1 to 3 numbers")
    if not all(type(n) is int and n > 0 for n in numbers):
        raise InvalidCase(field, numbers, "must be whole numbers of at least 1")
    x, y, z = (*numbers, 1, 1)[:3]
    return (x, y, z)
