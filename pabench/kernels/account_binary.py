# SPDX-License-Identifier: Apache-2.0
"""Accounts of kernels that come compiled: anybody's cubin, or PTX that ptxas makes one of."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from pabench.device.disassembler import assemble, disassemble
from pabench.device.occupancy import SM_LIMITS, occupancy
from pabench.device.ptxas import FunctionUsage
from pabench.device.sass import Instruction, parse_sass
from pabench.errors import UsageError
from pabench.kernels.account import account_of
from pabench.kernels.instance import KernelEntry
from pabench.kernels.static_table import Compilation, StaticRow

SUFFIXES = (".cubin", ".ptx")
TARGET = re.compile(r"^\s*\.target\s+(sm_\w+)", re.MULTILINE)
HEADER = struct.Struct("<40x Q 10x HHH")
"""Of a 64-bit ELF file: where the section headers begin; size of one, number, and the one with the names."""
SECTION = struct.Struct("<II 16x QQ 4x I 16x")
"""Name, type, place, size and info of a section."""
SIZED, REGCOUNT = 0x04, 0x2F
"""Of notes in ``.nv.info``, as nvdisasm spells them: EIFMT_SVAL and EIATTR_REGCOUNT."""


def binary_account(path: Path, *, default: tuple[int, int] | None, architecture: str | None) -> Compilation:
    """Return the functions of a ``.cubin`` or ``.ptx`` file as the table has those of a source.

    Args:
        path: the file.
        default: threads and dynamic shared memory of a block, where somebody said.
        architecture: that PTX is assembled for; None for the one that it names.

    Raises:
        EnvironmentRefused: disassembler or assembler is not installed.
        UsageError: the file cannot be read, or is no such file.
    """
    try:
        image = path.read_bytes()
    except OSError as error:
        raise UsageError(f"kernel file {path} cannot be read: {error}") from None
    if path.suffix == ".ptx":
        named = architecture or _target(image.decode(errors="replace"), path)
        image = assemble(path, named)
    text = disassemble(image, path.name)
    target, registers = _target(text, path), _registers(image, path)
    rows = []
    for function in parse_sass(text).values():
        usage = FunctionUsage(
            name=function.name,
            is_entry=True,
            registers=registers.get(function.name, 0),
            # what is spilled is stored to local memory
            spill_store_bytes=_moved(function.instructions, "STL"),
            spill_load_bytes=_moved(function.instructions, "LDL"),
            stack_bytes=0,
            static_shared_bytes=0,
            barriers=0,
        )
        entry, fits = None, None
        if default is not None:
            entry = KernelEntry(name=function.name, threads=default[0], shared_bytes=default[1])
            if target in SM_LIMITS:
                fits = occupancy(
                    SM_LIMITS[target], threads=default[0], registers=usage.registers, shared_bytes=default[1]
                )
        account = account_of(function, target, entry, fits.blocks_per_sm if fits else None)
        rows.append(StaticRow(usage=usage, entry=entry, occupancy=fits, account=account))
    return Compilation(file=path.name, label="as compiled", architecture=target, rows=tuple(rows))


def _target(text: str, path: Path) -> str:
    found = TARGET.search(text)
    if found is None:
        raise UsageError(f"{path}: names no architecture, such as .target sm_90a")
    return found[1]


def _registers(image: bytes, path: Path) -> dict[str, int]:
    """Registers of a thread by function: ``.nv.info`` has them by the symbol that its section names."""
    try:
        start, size, count, names = HEADER.unpack_from(image)
        sections = [SECTION.unpack_from(image, start + size * index) for index in range(count)]
        table = image[sections[names][2] :][: sections[names][3]]
        symbols: dict[str, int] = {}
        used: dict[int, int] = {}
        for name, _, place, length, info in sections:
            text = table[name : table.index(b"\0", name)].decode()
            if text.startswith(".text."):
                symbols[text.removeprefix(".text.")] = info & 0xFFFFFF
            elif text == ".nv.info":
                used = _register_counts(image[place : place + length])
    except (struct.error, IndexError, ValueError):
        raise UsageError(f"{path}: is no whole cubin") from None
    return {name: used[symbol] for name, symbol in symbols.items() if symbol in used}


def _register_counts(notes: bytes) -> dict[int, int]:
    """Symbol to registers: a note is a form, a kind and 16 bits, and if ``SIZED`` so many bytes more."""
    found, at = {}, 0
    while at + 4 <= len(notes):
        form, kind, size = struct.unpack_from("<BBH", notes, at)
        if (form, kind) == (SIZED, REGCOUNT):
            symbol, registers = struct.unpack_from("<II", notes, at + 4)
            found[symbol] = registers
        at += 4 + (size if form == SIZED else 0)
    return found


def _moved(instructions: list[Instruction], opcode: str) -> int:
    return sum(one.moved_bytes for one in instructions if one.opcode.startswith(opcode))
