# SPDX-License-Identifier: Apache-2.0
"""What ptxas says about a kernel file: registers, spills, stack, shared memory, barriers.

The log (``--ptxas-options=-v``) is text for people, so the reader is strict: an entry whose figures are not
found in full is an error of its own, never a zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pabench.errors import CompileError

_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_FUNCTION = re.compile(r"Function properties for (\S+)")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_BARRIERS = re.compile(r"used (\d+) barriers")
_SHARED = re.compile(r"(\d+) bytes smem")
_WARNING = re.compile(r"\bwarning\b|Potential Performance Loss", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionUsage:
    """Resources of one function of a kernel file.

    Attributes:
        name: as the compiler spells it; our entry points are ``extern "C"`` and keep theirs.
        is_entry: a kernel; else a device function that was not inlined, which shares its caller's registers.
        registers: of one thread; 0 for a device function.
        spill_store_bytes, spill_load_bytes: of one thread.
        stack_bytes: frame of one thread in local memory, spills included.
        static_shared_bytes: of one block.
        barriers: hardware barriers of one block.
    """

    name: str
    is_entry: bool
    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    stack_bytes: int
    static_shared_bytes: int
    barriers: int

    @property
    def spill_bytes(self) -> int:
        """The larger of stores and loads."""
        return max(self.spill_store_bytes, self.spill_load_bytes)


def parse_functions(log: str) -> tuple[FunctionUsage, ...]:
    """Return the functions of a compiler log, entries first, each group by name.

    Raises:
        CompileError: an entry lacks its figures: the log has a form that is not known here.
    """
    entries = set(_ENTRY.findall(log))
    # text, name, text, name, text, ...
    parts = _FUNCTION.split(log)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    missing = sorted(entries - set(found))
    if missing:
        raise CompileError(f"ptxas said nothing about {', '.join(missing)}")
    functions = [_usage(name, text, is_entry=name in entries) for name, text in found.items()]
    return tuple(sorted(functions, key=lambda function: (not function.is_entry, function.name)))


def parse_warnings(log: str) -> tuple[str, ...]:
    """Return warnings of the compiler and of ptxas, one line each, and ptxas' notes on lost performance."""
    lines = dict.fromkeys(line.strip() for line in log.splitlines() if _WARNING.search(line))
    return tuple(line for line in lines if not line.startswith("Remark:"))


def _usage(name: str, text: str, *, is_entry: bool) -> FunctionUsage:
    text = _ENTRY.split(text)[0]
    frame, used = _FRAME.search(text), _USED.search(text)
    if frame is None or (is_entry and used is None):
        raise CompileError(f"ptxas gave no figures for {name}")
    barriers, shared = _BARRIERS.search(text), _SHARED.search(text)
    stack, stores, loads = (int(figure) for figure in frame.groups())
    return FunctionUsage(
        name=name,
        is_entry=is_entry,
        registers=int(used.group(1)) if used else 0,
        spill_store_bytes=stores,
        spill_load_bytes=loads,
        stack_bytes=stack,
        static_shared_bytes=int(shared.group(1)) if shared else 0,
        barriers=int(barriers.group(1)) if barriers else 0,
    )
