"""The headers that a kernel file may include: part of every key under which its binary is kept."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".cuh", ".h", ".hpp", ".inl")


def header_texts(root: Path, *, beside: Path | None = None) -> list[bytes]:
    """Return name and text of every header under ``root`` and in the folder ``beside``, in a fixed order."""
    found = {path for path in root.rglob("*") if path.suffix in SUFFIXES}
    if beside is not None:
        found |= {path for path in beside.iterdir() if path.suffix in SUFFIXES}
    return [path.name.encode() + b"\0" + path.read_bytes() for path in sorted(found) if path.is_file()]
