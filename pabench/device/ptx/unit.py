# SPDX-License-Identifier: Apache-2.0
"""A PTX module as one C++ unit over ``emulator/ptx.h``: locals for registers, labels for blocks."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pabench.device.ptx import control, convert, integer, matrix, memory, warp, wgmma  # noqa: F401 - they register opcodes
from pabench.device.ptx.body import ALLOWED, HANDLERS, MEETING, Body, identifier, whole
from pabench.device.ptx.floating import computes
from pabench.device.ptx.labels import branches_of, labels_of
from pabench.device.ptx.parse import (
    Function,
    Instruction,
    Module,
    Parameter,
    Place,
    Statement,
    Variable,
    parse_instruction,
    parse_parameters,
    parse_variable,
    split_operands,
)
from pabench.device.ptx.refusals import located, refuse
from pabench.device.ptx.steps import Steps
from pabench.device.ptx.types import WIDTHS, PtxError, cxx, width

MEET = "pab_emu_meet_at"
"""What a unit whose blocks wait for each other exports: it is told where, before a launch."""
STATIC_SHARED = 48 * 1024
"""Bytes of shared memory that a kernel may declare with a size."""
LOCAL = 16 * 1024
"""Bytes of arrays of one thread that its stack here has room for."""
REGISTERS = re.compile(r"\.reg\s+(?:\.v([24])\s+)?\.(\w+)\s+(.*)")
REGISTER = re.compile(r"([%$\w]+?)(?:<(\d+)>)?")
GLOBAL = re.compile(r"\bg_\d+\b")
CLUSTER = re.compile(r"\.reqnctapercluster\s+([\d,\s]+)")
TOO_MANY_CALLERS = 32
"""Levels of inlining that are looked through for a line of the user's."""
Foreign = Callable[[str], bool]


@dataclass(slots=True, kw_only=True)
class Unit:
    """What is common to the functions of a module."""

    module: Module
    foreign: Foreign
    addresses: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    lockstep: bool = False
    declarations: dict[str, str] = field(default_factory=dict)
    callable: dict[str, str] = field(default_factory=dict)
    static_bytes: int = 0
    dynamic_align: int = 16


def translate(
    module: Module,
    *,
    foreign: Foreign = lambda file: False,
    places: bool = True,
    lockstep: bool = False,
) -> str:
    """Return the C++ of a module.

    Args:
        module: from ``parse``.
        foreign: whether a source file is a library's: what was inlined from it stands where it is used.
        places: write the lines of the source, for findings.
        lockstep: let the lanes of a warp make their accesses in the order of the text.

    Raises:
        PtxError: with the line of the PTX and the opcode or name that is not known.
    """
    unit = Unit(module=module, foreign=foreign, lockstep=lockstep)
    for variable in module.variables:
        _declare(unit, variable, unit.addresses, unit.variables)
    unit.callable = {one.name: identifier(f"fn.{one.name}") for one in module.functions if not one.entry}
    written = [(one, _function(unit, one, places)) for one in module.functions]
    if unit.static_bytes > STATIC_SHARED:
        raise PtxError(f"{unit.static_bytes} bytes of shared memory with a size: at most {STATIC_SHARED}")
    text = "\n".join("\n".join(lines) for _, lines in written)
    named = set(GLOBAL.findall(text))
    for name in reversed(unit.declarations):  # an initialiser may name others, which stand before it
        if name in named:
            named.update(GLOBAL.findall(unit.declarations[name].partition("=")[2]))
    align = unit.dynamic_align
    lines = ['#include "emulator/ptx.h"', "namespace {", "using namespace ptx::numbers;"]
    lines.append(f"constexpr u64 kStatic = {-(-unit.static_bytes // align) * align};")
    lines += [value for name, value in unit.declarations.items() if name in named]
    meets = MEETING in text
    if meets:
        lines.append(f"u64 {MEETING};")
    lines += [_head(one, unit) + ";" for one in module.functions]
    lines += [text, '#line 1 "launcher"', "}"]
    lines += [_entry(one) for one in module.functions if one.entry]
    lines.append('extern "C" PTX_EXPORT int pab_emu_static_shared() { return static_cast<int>(kStatic); }')
    if meets:
        lines.append(f'extern "C" PTX_EXPORT void {MEET}(u64 at) {{ {MEETING} = at; }}')
    return "\n".join(lines) + "\n"


def _declare(unit: Unit, variable: Variable, addresses: dict[str, str], known: dict[str, Variable]) -> None:
    known[variable.name] = variable
    bytes_ = None if variable.count is None else variable.count * width(variable.type) // 8
    if variable.space == "shared":
        if bytes_ is None:
            unit.dynamic_align = max(unit.dynamic_align, variable.align)
            addresses[variable.name] = "kStatic"
            return
        at = -(-unit.static_bytes // variable.align) * variable.align
        unit.static_bytes = at + bytes_
        addresses[variable.name] = f"u64{{{at}}}"
        return
    name = f"g_{len(unit.declarations)}"
    addresses[variable.name] = f"reinterpret_cast<u64>({name})"
    qualifiers = f"alignas({variable.align}) static unsigned char {name}[{max(1, bytes_ or 1)}]"
    pointers = [one for one in variable.values if _constant(one, variable.type) is None]
    if pointers and width(variable.type) == 64:
        values = (_initial(unit, one, variable) for one in variable.values)
        unit.declarations[name] = f"static u64 {name}[] = {{{', '.join(values)}}};"
        return
    data = b"".join(_bytes(one, variable) for one in variable.values)
    listed = ",".join(map(str, data.rstrip(b"\0")))
    unit.declarations[name] = f"{qualifiers} = {{{listed}}};"


def _initial(unit: Unit, value: str, variable: Variable) -> str:
    number = _constant(value, variable.type)
    if number is not None:
        return f"{number}ull"
    match = re.fullmatch(r"(?:generic\(([\w$%]+)\)|([\w$%]+))(?:\+(\d+))?", value)
    name = match and (match[1] or match[2])
    if not match or name not in unit.addresses:
        raise PtxError(f"PTX line {variable.line}: cannot read initial value {value!r}")
    return f"{unit.addresses[name]} + {match[3] or 0}"


def _constant(value: str, kind: str) -> int | None:
    number = whole(value)
    if number is None and re.fullmatch(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}", value):
        number = int(value[2:], 16)
    return None if number is None else number & (1 << width(kind)) - 1


def _bytes(value: str, variable: Variable) -> bytes:
    number = _constant(value, variable.type)
    if number is None and re.fullmatch(r"-?\d+\.\d*", value) and variable.type in ("f32", "f64"):
        return struct.pack("<f" if variable.type == "f32" else "<d", float(value))
    if number is None:
        raise PtxError(f"PTX line {variable.line}: cannot read initial value {value!r}")
    return number.to_bytes(width(variable.type) // 8, "little")


def structure(parameter: Parameter) -> str:
    """Return the C++ type of a parameter: a value, or the bytes of a structure."""
    if parameter.count is None:
        return cxx(parameter.type)
    return f"ptx::Bytes<{parameter.count * width(parameter.type) // 8}, {parameter.align}>"


def _head(function: Function, unit: Unit) -> str:
    result = structure(function.returns[0]) if function.returns else "void"
    parameters = ", ".join(f"{structure(one)} a{at}" for at, one in enumerate(function.parameters))
    name = unit.callable.get(function.name) or f"fn_{function.name}"
    return f"{'PTX_APART ' if function.entry else ''}static {result} {name}({parameters})"


def _entry(function: Function) -> str:
    """Return what the launcher calls: the kernel with its arguments unpacked, and its parameters as codes."""
    cells = (f"ptx::argument<{structure(one)}>(args[{at}])" for at, one in enumerate(function.parameters))
    values = ", ".join(cells)
    kinds = [
        ("p" if one.pointer else "f" if one.type in ("f32", "f64") else "b", width(one.type) // 8)
        if one.count is None
        else ("s", one.count * width(one.type) // 8)
        for one in function.parameters
    ]
    told = " ".join(f"out[{at}] = {ord(kind) << 16 | size};" for at, (kind, size) in enumerate(kinds))
    name, export = function.name, 'extern "C" PTX_EXPORT'
    return (
        f"{export} void pab_emu_invoke_{name}(void** args) {{ using namespace ptx::numbers; "
        f"auto* volatile entry = &fn_{name}; entry({values}); }}\n"
        f"{export} int pab_emu_signature_{name}(int* out) {{ {told} return {len(kinds)}; }}"
    )


def _function(unit: Unit, function: Function, places: bool) -> list[str]:
    cluster = CLUSTER.search(function.attributes)
    if cluster and any(int(one) > 1 for one in re.findall(r"\d+", cluster[1])):
        raise PtxError(
            f"{function.name}: PTX line {function.line}: .reqnctapercluster {cluster[1].strip()}: "
            "clusters of several blocks are not supported yet"
        )
    instructions = {
        at: located(function, one, partial(parse_instruction, one))
        for at, one in enumerate(function.body)
        if one.kind == "instruction"
    }
    results, inputs = wgmma.fragments(instructions.values())  # type: ignore[arg-type]
    body = Body(
        results=results,
        inputs=inputs,
        addresses=dict(unit.addresses),
        memory=dict(unit.variables),
        structures={one.name: f"a{at}" for at, one in enumerate(function.parameters)},
        computed=_computed(instructions.values()),  # type: ignore[arg-type]
        callable=unit.callable,
        branches=branches_of(function.body),
        labels=[labels_of(function.body, 0)],
        entry=function.entry,
        lockstep=unit.lockstep,
    )
    for at, one in enumerate(function.parameters):
        if one.name.startswith("%") and one.count is None:  # a register that the caller fills
            del body.structures[one.name]
            body.scopes[0][one.name] = one.type
            body.line(f"{cxx(one.type)} {identifier(one.name)} = a{at};")
    if function.returns:
        one = function.returns[0]
        body.returns = "result"
        body.line(f"{structure(one)} result;")
        if one.name.startswith("%") and one.count is None:
            body.scopes[0][one.name] = one.type
            body.returns = identifier(one.name)
            body.line(f"{cxx(one.type)} {body.returns} = 0;")
        body.structures[one.name] = "result"
    writer = _Writer(unit=unit, function=function, body=body, places=places)
    for at, statement in enumerate(function.body):
        located(function, statement, partial(writer.write, at, instructions.get(at)), writer.source)
    lines = [f"{_head(function, unit)} {{", "unsigned char* const shared = ptx::shared_memory();"]
    lines += ["u32 carry = 0;"] if body.carries else []
    lines += _registers(body.used)
    if inputs:
        lines.append("PTX_FENCES " + " ".join(f"PTX_BESIDE({identifier(one)})" for one in sorted(inputs)))
    if function.returns:
        body.line(f"return {body.returns};")
    return [*lines, *_on_their_lines(body.lines), "}"]


def _on_their_lines(lines: Sequence[str]) -> list[str]:
    """Put what belongs to one line of the source on one line, since ``#line`` numbers those that follow."""
    joined: list[str] = []
    for one in lines:
        if one.startswith("#") or not joined or joined[-1].startswith("#"):
            joined.append(one)
        else:
            joined[-1] = f"{joined[-1]} {one}"
    return joined


def _registers(used: dict[str, str]) -> list[str]:
    """Declare the registers that are used, a dozen a line; those of a type together."""
    kinds: dict[str, list[str]] = {}
    for name, kind in used.items():
        kinds.setdefault(cxx(kind), []).append(f"{identifier(name)} = {'false' if kind == 'pred' else 0}")
    return [
        f"{kind} {', '.join(names[at : at + 12])};"
        for kind, names in kinds.items()
        for at in range(0, len(names), 12)
    ]


def _computed(instructions: Sequence[Instruction]) -> frozenset[str]:
    """Return the registers that hold nothing but what floating arithmetic made."""
    made: set[str] = set()
    other: set[str] = set()
    for one in instructions:
        register = computes(one)
        if register:
            made.add(register)
        elif one.operands:
            # the first operand of what writes no register is an address, or read: no harm in naming it here
            other.update(re.findall(r"[%$\w]+", one.operands[0]))
    return frozenset(made - other)


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Writes the statements of one function."""

    unit: Unit
    function: Function
    body: Body
    places: bool
    callers: dict[Place, Place | None] = field(default_factory=dict)
    told: Place | None = None
    local_bytes: int = 0
    steps: Steps = field(default_factory=Steps)

    def source(self) -> str:
        """Return where in the source it is, as ``file:line``."""
        file = self.unit.module.files.get(self.told.file) if self.told else None
        return f"{Path(file).name}:{self.told.line}" if self.told and file else ""

    def write(self, at: int, instruction: object) -> None:
        statement = self.function.body[at]
        if isinstance(instruction, Instruction):
            self._instruction(instruction)
        elif statement.kind == "open":
            self.body.scopes.append({})
            self.body.labels.append(labels_of(self.function.body, at + 1))
            self.body.line("{")
        elif statement.kind == "close":
            self.body.scopes.pop()
            self.body.labels.pop()
            self.body.line("}")
        elif statement.kind == "label":
            self.steps.reading = False
            if statement.text not in self.body.branches:
                self.body.line(f"{self.body.label(statement.text)}:;")
        elif statement.kind == "loc":
            self._place(statement)
        else:
            self._directive(statement)

    def _instruction(self, i: Instruction) -> None:
        handler = HANDLERS.get(i.mnemonic)
        if handler is None:
            raise refuse(i)
        known = ALLOWED[i.mnemonic]
        for name in i.modifiers:
            if name not in known and name not in WIDTHS:
                raise PtxError(f"modifier .{name}")
        if i.guard:
            self.body.line(f"if ({self.body.value(i.guard, 'pred')}) {{")
        if self.body.lockstep and self.steps.waits(i):
            self.body.line(f"pab_emu::in_step({i.line});")
        handler(self.body, i)
        if i.guard:
            self.body.line("}")

    def _directive(self, statement: Statement) -> None:
        text = statement.text
        if match := REGISTERS.fullmatch(text):
            self._declare_registers(match)
        elif text.startswith(".param"):
            (parameter,) = parse_parameters(text, statement.line)
            name = self.body.fresh("passed")
            self.body.structures[parameter.name] = name
            self.body.line(f"{structure(parameter)} {name};")
        elif re.match(r"\.(local|shared|global|const)\b", text):
            variable = parse_variable(text, statement.line)
            if variable.space == "local":
                self._declare_local(variable)
            else:
                _declare(self.unit, variable, self.body.addresses, self.body.memory)
        elif not re.match(r"\.(pragma|branchtargets|calltargets|callprototype)\b", text):
            raise PtxError("unknown directive")

    def _declare_registers(self, match: re.Match[str]) -> None:
        if match[1] or match[2] not in WIDTHS:
            raise PtxError("registers of another kind")
        for one in split_operands(match[3]):
            found = REGISTER.fullmatch(one)
            if found is None:
                raise PtxError("registers of another kind")
            if found[2]:
                self.body.scopes[-1][f"{found[1]}<"] = match[2]
            else:
                self.body.scopes[-1][one] = match[2]
                self.body.line(f"{cxx(match[2])} {identifier(one)};")

    def _declare_local(self, variable: Variable) -> None:
        size = (variable.count or 1) * width(variable.type) // 8
        self.local_bytes += size
        if self.local_bytes > LOCAL:
            raise PtxError(f"{self.local_bytes} bytes of arrays of a thread: at most {LOCAL}")
        name = self.body.fresh("array")
        self.body.memory[variable.name] = variable
        self.body.addresses[variable.name] = f"reinterpret_cast<u64>({name})"
        self.body.line(f"alignas({variable.align}) unsigned char {name}[{max(1, size)}];")

    def _place(self, statement: Statement) -> None:
        """Write the innermost line of the source that is no library's."""
        here = statement.place
        if here is None or not self.places:
            return
        self.callers[here] = statement.caller
        at: Place | None = here
        for _ in range(TOO_MANY_CALLERS):
            if at is None or not self.unit.foreign(self.unit.module.files.get(at.file, "")):
                break
            at = self.callers.get(at)
        at = at or here
        file = self.unit.module.files.get(at.file)
        if at.line and file and at != self.told:
            self.told = at
            self.body.line(f'#line {at.line} "{file}"')
