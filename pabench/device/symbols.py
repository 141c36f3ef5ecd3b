# SPDX-License-Identifier: Apache-2.0
"""From an offset in a compiled kernel to a line of its source, by the compiler's debug information."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pabench.device.findings import Place

TOOLS = ("addr2line", "llvm-addr2line")
DEADLINE_S = 60
EMULATOR = re.compile(r"/emulator/(checked/|ptx/)?\w+\.(h|cpp)$")
HEADERS = re.compile(r"/pab/[^/]*$")

# what has been looked up: a module's name is a hash of its content, so that it never changes
_known: dict[tuple[str, int], Place] = {}


def symbolizer() -> str | None:
    """Return the program that knows lines, or None where there is none."""
    return next((path for name in TOOLS if (path := shutil.which(name))), None)


def resolve(module: str, offsets: Iterable[int]) -> dict[int, Place]:
    """Return the source place of each offset; without a tool the place is the module and the offset.

    Of code that was inlined into a kernel the innermost line outside the shared headers counts.

    Args:
        module: path of a shared library, whose contents its name stands for.
        offsets: of instructions within it.
    """
    asked = set(offsets)
    wanted = sorted(at for at in asked if (module, at) not in _known)
    _known.update(((module, at), place) for at, place in _look_up(module, wanted).items())
    return {at: _known[module, at] for at in asked}


def _look_up(module: str, wanted: list[int]) -> dict[int, Place]:
    tool = symbolizer()
    fallback = {at: Place(file=f"{Path(module).name}+0x{at:x}", line=0) for at in wanted}
    if not wanted or tool is None or not module:
        return fallback
    command = [tool, "-a", "-i", "-f", "-C", "-e", module, *(hex(at) for at in wanted)]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return fallback
    places: dict[int, Place] = {}
    headers: dict[int, Place] = {}
    at, function = 0, ""
    for line in told.stdout.splitlines():
        if line.startswith("0x") and ":" not in line:
            at, function = int(line, 16), ""
        elif not function:
            function = line
        else:
            file, _, number = line.split(" (")[0].rpartition(":")
            if number.isdigit() and not EMULATOR.search(file):
                place = Place(file=Path(file).name, line=int(number), function=function)
                (headers if HEADERS.search(file) else places).setdefault(at, place)
            function = ""
    return {**fallback, **headers, **places}
