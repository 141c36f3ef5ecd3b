# SPDX-License-Identifier: Apache-2.0
"""Instructions of a GPU as ``nvdisasm`` prints them: functions, registers, classes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FUNCTION = re.compile(r"^\s*\.section\s+\.text\.([^,\s]+)")
LABEL = re.compile(r"^\s*(\.L\S*):")
LINE = re.compile(r'^\s*//## File "([^"]*)", line (\d+)')
INSTRUCTION = re.compile(
    r"^\s*(?:\{\s*)?/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Zx0-9_.]*)\s*([^;]*);"
)
TARGET = re.compile(r"\((\.L[^)]*)\)")
REGISTER = re.compile(r"\b(U?R)(\d+)(\.64)?")

CLASSES: dict[str, tuple[str, ...]] = {
    "tensor": ("HMMA", "IMMA", "QMMA", "OMMA", "DMMA", "BMMA", "HGMMA", "IGMMA", "QGMMA", "UTC"),
    "ldmatrix": ("LDSM",),
    "copy": ("LDGSTS", "UTMA", "UBLKCP", "UBLKRED"),
    "shared": ("LDS", "STS", "ATOMS"),
    "shuffle": ("SHFL", "VOTE", "MATCH", "REDUX"),
    "global": ("LDG.", "STG.", "LD.", "ST.", "ATOM", "RED", "LDL", "STL", "CCTL", "MEMBAR", "ERRBAR"),
    "special": ("MUFU",),
    "convert": ("F2", "I2", "FRND"),
    "control": (
        *("BRA", "BRX", "BSSY", "BSYNC", "BREAK", "BMOV", "CALL", "RET", "EXIT", "NOP", "YIELD"),
        *("BAR", "WARPSYNC", "DEPBAR", "LDGDEPBAR", "SYNCS", "ARRIVES", "WARPGROUP", "ENDCOLLECTIVE"),
        *("CGAERRBAR", "ACQBULK", "FENCE", "ELECT", "UCGABAR", "NANOSLEEP", "JMP", "USETMAXREG"),
    ),
    "float": (
        "FADD",
        "FMUL",
        "FFMA",
        "FMNMX",
        "FSEL",
        "FSET",
        "FCHK",
        "FSWZ",
        "HADD",
        "HMUL",
        "HFMA",
        "HMNMX",
        "HSET",
        "DADD",
        "DMUL",
        "DFMA",
        "DSET",
    ),
}
"""Class to the beginnings of its opcodes; what is none of these is ``integer``: addresses, masks, moves."""
INTEGER = "integer"
CLASS_NAMES = (*CLASSES, INTEGER)


def class_of(opcode: str) -> str:
    """Return the class of an opcode such as ``HMMA.16816.F32.BF16``."""
    for name, beginnings in CLASSES.items():
        if opcode.startswith(beginnings):
            return name
    return INTEGER


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction.

    Attributes:
        address: in bytes, from the function's beginning.
        predicate: such as ``@!P0``; None when it always runs.
        opcode: with its modifiers.
        operands: as printed.
        place: file and line of source, innermost of what was inlined; None without line information.
    """

    address: int
    predicate: str | None
    opcode: str
    operands: str
    place: tuple[str, int] | None

    @property
    def kind(self) -> str:
        """Its class."""
        return class_of(self.opcode)

    @property
    def target(self) -> str | None:
        """The label that it names, or None."""
        found = TARGET.search(self.operands)
        return found[1] if found else None

    @property
    def moved_bytes(self) -> int:
        """Bytes that a load, store or copy moves for one lane; 0 for others."""
        if self.kind not in ("copy", "shared", "global"):
            return 0
        widths = [int(part) for part in self.opcode.split(".") if part in ("64", "128", "256")]
        if any(part in ("U8", "S8") for part in self.opcode.split(".")):
            return 1
        if any(part in ("U16", "S16") for part in self.opcode.split(".")):
            return 2
        return widths[0] // 8 if widths else 4

    def written(self) -> frozenset[str]:
        """General registers that it writes."""
        if self.kind in ("control", "copy") or self.opcode.startswith(
            ("ST", "RED", "ISETP", "FSETP", "PLOP3")
        ):
            return frozenset()
        found = REGISTER.match(self.operands.lstrip())
        return _wide(found, self._width()) if found else frozenset()

    def read(self) -> frozenset[str]:
        """General registers that it reads."""
        text = self.operands
        written = self.written()
        if written:
            text = text.partition(",")[2]
        registers: set[str] = set()
        for found in REGISTER.finditer(text):
            registers |= _wide(found, 1)
        return frozenset(registers)

    def _width(self) -> int:
        if "WIDE" in self.opcode:
            return 2
        if self.kind in ("tensor", "ldmatrix"):
            return 4
        return max(1, self.moved_bytes // 4)


@dataclass(slots=True, kw_only=True)
class Function:
    """A function of a cubin: its instructions in order, and the index that each label stands before."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    @property
    def has_lines(self) -> bool:
        """Whether there is line information."""
        return any(one.place for one in self.instructions)


def parse_sass(text: str) -> dict[str, Function]:
    """Return the functions of ``nvdisasm -c`` or ``-c -gi`` by name."""
    functions: dict[str, Function] = {}
    function, place, listed = None, None, False
    for line in text.splitlines():
        if named := FUNCTION.match(line):
            function = functions.setdefault(named[1], Function(name=named[1]))
            place, listed = None, False
        elif function is None:
            continue
        elif label := LABEL.match(line):
            function.labels[label[1]] = len(function.instructions)
        elif at := LINE.match(line):
            # the innermost place comes first, then where it was inlined
            if not listed:
                place, listed = (at[1].rpartition("/")[2], int(at[2])), True
        elif found := INSTRUCTION.match(line):
            listed = False
            function.instructions.append(
                Instruction(
                    address=int(found[1], 16),
                    predicate=found[2],
                    opcode=found[3],
                    operands=found[4].strip(),
                    place=place,
                )
            )
    return functions


def _wide(found: re.Match[str], width: int) -> frozenset[str]:
    count = max(width, 2 if found[3] else 1)
    return frozenset(f"{found[1]}{int(found[2]) + index}" for index in range(count))
