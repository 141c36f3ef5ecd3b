"""From an offset in a compiled kernel to a line of its source, by the compiler's debug information."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pabench.device.findings import Place

TOOLS = ("addr2line", "llvm-addr2line")
DEADLINE_S = 60


def resolve(module: str, offsets: Iterable[int]) -> dict[int, Place]:
    """Return the source place of each offset; without a tool the place is the module and the offset.

    Of code that was inlined into a kernel the innermost line outside the emulation's own headers counts.

    Args:
        module: path of a shared library.
        offsets: of instructions within it.
    """
    wanted = sorted(set(offsets))
    tool = next((path for name in TOOLS if (path := shutil.which(name))), None)
    fallback = {at: Place(file=f"{Path(module).name}+0x{at:x}", line=0) for at in wanted}
    if not wanted or tool is None or not module:
        return fallback
    command = [tool, "-a", "-i", "-f", "-C", "-e", module, *(hex(at) for at in wanted)]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return fallback
    places: dict[int, Place] = {}
    at, function = 0, ""
    for line in told.stdout.splitlines():
        if line.startswith("0x") and ":" not in line:
            at, function = int(line, 16), ""
        elif not function:
            function = line
        else:
            file, _, number = line.split(" (")[0].rpartition(":")
            if at not in places and number.isdigit() and "/emulation/" not in file:
                places[at] = Place(file=Path(file).name, line=int(number), function=function)
            function = ""
    return {**fallback, **places}
