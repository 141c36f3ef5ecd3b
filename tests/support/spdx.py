# SPDX-License-Identifier: Apache-2.0
"""Writes the licence line into every source file that lacks it: ``make spdx``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("pabench", "kernels_cuda", "suites", "templates", "tests", "docs")
LICENCE = "SPDX-License-Identifier: Apache-2.0"
MARKS = {".py": "#", ".cu": "//", ".cuh": "//", ".h": "//", ".cpp": "//"}
EXCEPT = ("suites/findings", "tests/robust", "docs/examples/trace_set")
"""Scripts that reports print whole, broken files whose lines are told, a set in another project's schema."""


def header(path: Path) -> str:
    """Return the line that ``path`` begins with."""
    return f"{MARKS[path.suffix]} {LICENCE}\n"


def sources() -> Iterator[Path]:
    """Every source file of ours."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            apart = path.relative_to(ROOT).as_posix().startswith(EXCEPT)
            if path.suffix in MARKS and not apart and "_bundled" not in path.parts:
                yield path


def without() -> list[Path]:
    """Sources that do not begin with the licence."""
    return [path for path in sources() if not path.read_text(encoding="utf-8").startswith(header(path))]


def main() -> int:
    """Add what is missing."""
    for path in without():
        path.write_text(header(path) + path.read_text(encoding="utf-8"), encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
