# SPDX-License-Identifier: Apache-2.0
"""Puts the fragments of ``changelog.d`` into the changelog: ``make changelog``.

A fragment is one entry in a file of its own, ``NAME.KIND.md``, so that two changes never meet in one place.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("changed", "fixed", "added", "removed")
WIDTH = 110


def fragments(root: Path) -> dict[Path, str]:
    """Return the text of each fragment of ``root``.

    Raises:
        ValueError: a file is none, or holds no one entry.
    """
    found = {}
    for path in sorted((root / "changelog.d").glob("*.md")):
        name, _, kind = path.name.removesuffix(".md").rpartition(".")
        if path.name == "README.md":
            continue
        if not name or kind not in KINDS:
            raise ValueError(f"{path.name}: must be called NAME.KIND.md; KIND is one of {', '.join(KINDS)}")
        text = " ".join(path.read_text(encoding="utf-8").split())
        if not text or text.startswith(("-", "#")):
            raise ValueError(f"{path.name}: must hold the text of one entry, without a dash")
        found[path] = text
    return found


def collected(changelog: str, found: dict[Path, str]) -> str:
    """Return the changelog with each fragment first under its kind, in the newest section."""
    head, newest, older = _parts(changelog)
    for path, text in found.items():
        heading = f"### {path.name.removesuffix('.md').rpartition('.')[2].capitalize()}\n"
        entry = textwrap.fill(f"- {text}", WIDTH, subsequent_indent="  ") + "\n"
        if heading in newest:
            newest = newest.replace(f"{heading}\n", f"{heading}\n{entry}", 1)
        else:
            newest = f"{newest.rstrip()}\n\n{heading}\n{entry}\n"
    return head + newest + older


def _parts(changelog: str) -> tuple[str, str, str]:
    """What stands before, in and behind the newest section."""
    starts = [match.start() for match in re.finditer(r"^## ", changelog, flags=re.M)]
    first, end = starts[0], starts[1] if len(starts) > 1 else len(changelog)
    return changelog[:first], changelog[first:end], changelog[end:]


def main(arguments: list[str]) -> int:
    """Collect the fragments; with ``--check`` name them, and fail: a release would lack them."""
    found = fragments(ROOT)
    if "--check" in arguments:
        for path in found:
            sys.stdout.write(f"{path.name} is not in CHANGELOG.md: run `make changelog`\n")
        return 1 if found else 0
    changelog = ROOT / "CHANGELOG.md"
    changelog.write_text(collected(changelog.read_text(encoding="utf-8"), found), encoding="utf-8")
    for path in found:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
