# SPDX-License-Identifier: Apache-2.0
"""A function's C++ as it is written: registers, operands as expressions, results, addresses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pabench.device.ptx.parse import Instruction, Variable, split_operands
from pabench.device.ptx.types import PtxError, bits_type, cxx, width

DIMENSIONS = {"tid": "ptx::tid()", "ntid": "ptx::ntid()", "ctaid": "ptx::ctaid()", "nctaid": "ptx::nctaid()"}
MEETING = "grid_meeting"
"""C++ name of the address of the two words, of a launch, by which its blocks wait for each other."""
SPECIAL = {
    **{f"%{name}.{axis}": f"{value}.{axis}" for name, value in DIMENSIONS.items() for axis in "xyz"},
    "%laneid": "ptx::lane()",
    "%warpid": "ptx::warp()",
    "%nwarpid": "ptx::warps()",
    "%lanemask_eq": "(1u << ptx::lane())",
    "%lanemask_lt": "((1u << ptx::lane()) - 1u)",
    "%lanemask_le": "((2u << ptx::lane()) - 1u)",
    "%lanemask_ge": "(~0u << ptx::lane())",
    "%lanemask_gt": "(~1u << ptx::lane())",
    "%dynamic_smem_size": "(ptx::shared_bytes() - kStatic)",
    "%total_smem_size": "ptx::shared_bytes()",
    # one multiprocessor whose clock counts nothing, blocks that are clusters of themselves
    **dict.fromkeys(("%smid", "%clock", "%clock_hi", "%cluster_ctarank", "%gridid"), "0u"),
    **{f"%cluster_ctaid.{axis}": "0u" for axis in "xyz"},
    **{f"%cluster_nctaid.{axis}": "1u" for axis in "xyz"},
    **{f"%clusterid.{axis}": f"ptx::ctaid().{axis}" for axis in "xyz"},
    **{f"%nclusterid.{axis}": f"ptx::nctaid().{axis}" for axis in "xyz"},
    **dict.fromkeys(("%nsmid", "%cluster_nctarank"), "1u"),
    "WARP_SZ": "32u",
    # where blocks of a launch meet, as cooperative groups look it up
    "%envreg1": f"static_cast<u32>({MEETING} >> 32)",
    "%envreg2": f"static_cast<u32>({MEETING})",
    "%is_explicit_cluster": "false",
    **dict.fromkeys(("%clock64", "%globaltimer"), "u64{0}"),
}
WHOLE = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?")
FLOAT_BITS = re.compile(r"0([fF])([0-9a-fA-F]{8})|0([dD])([0-9a-fA-F]{16})")
DECIMAL = re.compile(r"-?\d+\.\d*(?:[eE][-+]?\d+)?")
ADDRESS = re.compile(r"([%$\w]+)\s*(?:([+-])\s*(-?\w+))?")
SPACES = ("global", "shared", "local", "param", "const")


def identifier(name: str) -> str:
    """Return a C++ name for a PTX name; different ones for different names of one function."""
    word = name.removeprefix("%")
    first = "w" if word == name else "v"
    return first + "".join(letter if letter.isalnum() else f"_{ord(letter):x}_" for letter in word)


def whole(text: str) -> int | None:
    """Return the value of a whole constant, or None where ``text`` is none."""
    match = WHOLE.fullmatch(text)
    if match is None:
        return None
    digits = match[2]
    octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
    value = int(digits, 8) if octal else int(digits, 0)
    return -value if match[1] else value


def space_of(modifiers: Iterable[str]) -> str:
    """Return the state space that an instruction names, or ``generic``."""
    return next((space for name in modifiers if (space := name.split("::")[0]) in SPACES), "generic")


def group(operand: str) -> list[str]:
    """Return the elements of a vector operand; of another one itself."""
    return split_operands(operand[1:-1]) if operand.startswith("{") else [operand]


@dataclass(slots=True, kw_only=True)
class Body:
    """What a function's instructions are written with.

    Attributes:
        addresses: of variables that the module or the function declares: in their space, C++ expressions.
        memory: those variables.
        structures: C++ names of parameters, of the function and of its calls.
        scopes: registers declared in the open braces, name or prefix (``%r<``) to type.
        labels: those of the open braces, name to C++ name: others may have the same name elsewhere.
        results: registers that may hold what a product of a warpgroup makes, its mark until it is waited for.
        inputs: registers that such a product takes, of which it is noted when they were written.
        computed: floating registers that arithmetic makes: their NaN is CUDA's where the bits leave.
        branches: labels of each branch table.
        callable: names of functions that can be called.
        returns: C++ name of the returned value, or empty.
        lines: written so far.
        used: registers that were named.
        carries: whether the carry flag is used.
        entry: whether it is a kernel.
        lockstep: whether lanes go in the order of the text, access by access.
    """

    addresses: dict[str, str]
    memory: dict[str, Variable]
    structures: dict[str, str]
    computed: frozenset[str]
    callable: dict[str, str]
    results: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    branches: dict[str, list[str]] = field(default_factory=dict)
    returns: str = ""
    scopes: list[dict[str, str]] = field(default_factory=lambda: [{}])
    labels: list[dict[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    carries: bool = False
    entry: bool = True
    lockstep: bool = False
    named: int = 0

    def line(self, text: str) -> None:
        """Write a line."""
        self.lines.append(text)

    def fresh(self, name: str = "t") -> str:
        """Return a name that was not used."""
        self.named += 1
        return f"{name}{self.named}"

    def label(self, name: str) -> str:
        """Return the C++ label for a PTX label: the innermost of that name.

        Raises:
            PtxError: no such label.
        """
        found = next((scope[name] for scope in reversed(self.labels) if name in scope), None)
        if found is None:
            raise PtxError(f"unknown label {name!r}")
        return found

    def register(self, name: str) -> str | None:
        """Return the type of a register, or None where there is none of that name."""
        prefix = name.rstrip("0123456789") + "<"
        for scope in reversed(self.scopes):
            found = scope.get(name) or scope.get(prefix)
            if found:
                if name not in scope:
                    self.used[name] = found
                return found
        return None

    def value(self, operand: str, kind: str, *, settled: bool = True) -> str:
        """Return the expression of an operand read as type ``kind``.

        Args:
            operand: register, constant or name.
            kind: type to read it as.
            settled: it must be there: not what a product of a warpgroup has yet to make.

        Raises:
            PtxError: no such register or variable, or one that does not fit.
        """
        if operand.startswith("!"):
            return f"(!{self.value(operand[1:], kind)})"
        target = cxx(kind)
        if (found := self.register(operand)) is not None:
            return self._register_as(operand, found, kind, settled)
        if operand in SPECIAL:
            return f"static_cast<{target}>({SPECIAL[operand]})"
        if (constant := self._constant(operand, kind)) is not None:
            return constant
        name, _, offset = operand.partition("+")
        if name.strip() in self.addresses:
            return f"static_cast<{target}>({self.addresses[name.strip()]} + {int(offset or '0', 0)})"
        if operand in self.structures:
            return f"reinterpret_cast<{target}>(&{self.structures[operand]})"
        raise PtxError(f"unknown operand {operand!r}")

    def _register_as(self, name: str, found: str, kind: str, settled: bool) -> str:
        here, target, source = identifier(name), cxx(kind), cxx(found)
        if settled and name in self.results:
            here = f"ptx::needed({here})"
        if name in self.computed and target[0] != "f":
            number = here if source[0] == "f" else f"__builtin_bit_cast(f{width(found)}, {here})"
            here, source = f"ptx::bits({number})", f"u{width(found)}"
        if source == target:
            return here
        if "pred" in (found, kind):
            raise PtxError(f"{name} of type .{found} cannot be read as .{kind}")
        if source[0] == "f":
            source = f"u{width(found)}"
            here = f"__builtin_bit_cast({source}, {here})"
        if target[0] != "f":
            return here if source == target else f"static_cast<{target}>({here})"
        if width(found) != width(kind):
            raise PtxError(f"{name} of type .{found} cannot be read as .{kind}")
        return f"__builtin_bit_cast({target}, {here})"

    def _constant(self, operand: str, kind: str) -> str | None:
        target = cxx(kind)
        if match := FLOAT_BITS.fullmatch(operand):
            bits, size = (match[2], 32) if match[1] else (match[4], 64)
            value = f"__builtin_bit_cast(f{size}, {'u32' if size == 32 else 'u64'}{{0x{bits}}})"
            if target[0] == "f":
                return value if target == f"f{size}" else f"static_cast<{target}>({value})"
            if width(kind) != size:
                raise PtxError(f"{operand} cannot be read as .{kind}")
            return f"static_cast<{target}>(0x{bits})"
        if DECIMAL.fullmatch(operand):
            return f"{target}({operand})"
        number = whole(operand)
        if number is None:
            return None
        if kind == "pred":
            return "true" if number else "false"
        if target[0] == "f":
            return f"{target}({number})"
        if width(kind) > 64:
            return f"static_cast<{target}>({number})"
        return f"static_cast<{target}>({number & (1 << width(kind)) - 1}ull)"

    def bits(self, operand: str, kind: str) -> str:
        """Return the bits of an operand that leaves the arithmetic: a NaN that was computed is CUDA's."""
        return self.value(operand, bits_type(kind))

    def move(self, destination: str, kind: str, source: str) -> None:
        """Write ``destination = source``, of which nobody needs to know the value."""
        self.assign(destination, kind, self.value(source, kind, settled=False), written=False)
        if destination in self.inputs:
            to = identifier(destination)
            known = source in self.inputs
            self.line(f"PTX_MOVED({to}, {identifier(source)});" if known else f"PTX_SET({to});")

    def assign(self, destination: str, kind: str, expression: str, *, written: bool = True) -> None:
        """Write ``destination = expression``, which has type ``kind``; ``written`` where it is no move.

        Raises:
            PtxError: no such register, or one that does not take such a value.
        """
        if destination == "_":
            self.line(f"static_cast<void>({expression});")
            return
        found = self.register(destination)
        if found is None:
            raise PtxError(f"unknown register {destination!r}")
        here, target, source = identifier(destination), cxx(found), cxx(kind)
        if target == source:
            self.line(f"{here} = {expression};")
        elif "pred" in (found, kind):
            raise PtxError(f"{destination} of type .{found} cannot hold a value of type .{kind}")
        elif target[0] == "f" or source[0] == "f":
            if width(found) != width(kind):
                raise PtxError(f"{destination} of type .{found} cannot hold a value of type .{kind}")
            self.line(f"{here} = __builtin_bit_cast({target}, static_cast<{source}>({expression}));")
        else:
            # a value narrower than its register is extended by its own sign
            self.line(f"{here} = static_cast<{target}>(static_cast<{source}>({expression}));")
        if written and destination in self.inputs:
            self.line(f"PTX_WROTE({here});")

    def address(self, operand: str, space: str) -> str:
        """Return a host pointer for an operand in brackets, of type ``unsigned char*``."""
        base, offset = self._base(operand)
        if self.register(base) is None and base in self.memory:
            space = "shared" if self.memory[base].space == "shared" else "generic"
        if space == "shared":
            return f"(shared + {self._number(base)}{offset})"
        return f"ptx::memory({self._number(base)}{offset})"

    def shared_offset(self, operand: str) -> str:
        """Return the offset in shared memory, as a ``u64``, of an operand in brackets."""
        base, offset = self._base(operand)
        return f"({self._number(base)}{offset})"

    def _base(self, operand: str) -> tuple[str, str]:
        match = ADDRESS.fullmatch(operand[1:-1].strip()) if operand.startswith("[") else None
        number = whole(match[3]) if match and match[3] else 0
        if match is None or number is None:
            raise PtxError(f"cannot read address {operand!r}")
        if match[2] == "-":
            number = -number
        return match[1], f" + {number}ll" if number else ""

    def _number(self, base: str) -> str:
        if self.register(base) is None and base in self.addresses:
            return self.addresses[base]
        return self.value(base, "u64")

    def parameter(self, operand: str) -> tuple[str, int] | None:
        """Return name and offset of a parameter of the function or of a call, None for another address."""
        base, offset = self._base(operand)
        if base not in self.structures or self.register(base) is not None:
            return None
        return self.structures[base], int(offset.replace(" + ", "").removesuffix("ll") or "0")


Handler = Callable[[Body, Instruction], None]
HANDLERS: dict[str, Handler] = {}
ALLOWED: dict[str, frozenset[str]] = {}


def opcode(*mnemonics: str, modifiers: str = "") -> Callable[[Handler], Handler]:
    """Register the function that writes the C++ of some mnemonics.

    Args:
        mnemonics: first words of opcodes.
        modifiers: those that it knows, beside types; an instruction with another one is refused.
    """

    def register(handler: Handler) -> Handler:
        for name in mnemonics:
            HANDLERS[name] = handler
            ALLOWED[name] = frozenset(modifiers.split())
        return handler

    return register


def count_operands(instruction: Instruction, least: int, most: int | None = None) -> None:
    """Raise ``PtxError`` when the instruction has not so many operands."""
    given = len(instruction.operands)
    if not least <= given <= (least if most is None else most):
        raise PtxError(f"{given} operands")
