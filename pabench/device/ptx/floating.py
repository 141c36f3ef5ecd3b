# SPDX-License-Identifier: Apache-2.0
"""Floating arithmetic: f32 and f64, halves alone and in pairs, pairs of f32, approximate functions."""

from __future__ import annotations

from collections.abc import Sequence

from pabench.device.ptx.body import Body, count_operands, opcode
from pabench.device.ptx.integer import whole_arithmetic
from pabench.device.ptx.parse import Instruction
from pabench.device.ptx.types import FLOATING, PtxError, cxx

SIGNS = {"add": "+", "sub": "-", "mul": "*"}
DIRECTED = ("rz", "rm", "rp")
APPROXIMATE = ("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
ARITHMETIC = frozenset((*SIGNS, *APPROXIMATE, "fma", "mad", "div", "min", "max", "neg", "abs", "copysign"))
"""What makes a floating number that is not a copy of another one."""
MODIFIERS = "rn rz rm rp ftz sat relu approx full lo hi wide cc NaN xorsign noftz"
HALVES = {"f16": "half", "bf16": "bf16"}


@opcode(
    *("add", "sub", "mul", "mad", "fma", "div", "min", "max", "neg", "abs", *APPROXIMATE), modifiers=MODIFIERS
)
def arithmetic(f: Body, i: Instruction) -> None:
    """Write ``add``, ``sub``, ``mul``, ``mad`` and the like."""
    kind = i.types[-1]
    if kind in ("f32", "f64"):
        _scalar(f, i, kind)
    elif kind == "f32x2":
        _pair(f, i)
    elif kind.removesuffix("x2") in HALVES:
        _halves(f, i, kind)
    elif i.mnemonic in APPROXIMATE or i.mnemonic == "fma":
        raise PtxError(f"type .{kind} of {i.mnemonic}")
    else:
        whole_arithmetic(f, i, kind)


@opcode("copysign")
def copysign(f: Body, i: Instruction) -> None:
    """Write ``copysign``."""
    count_operands(i, 3)
    kind = i.types[0]
    sign, size = (f.value(one, kind) for one in i.operands[1:])
    f.assign(i.operands[0], kind, f"std::copysign({size}, {sign})")


def _scalar(f: Body, i: Instruction, kind: str) -> None:
    flushed = i.has("ftz") and kind == "f32"
    values = [f.value(one, kind) for one in i.operands[1:]]
    expression = scalar(i, [f"ptx::flush({value})" if flushed else value for value in values], kind)
    if flushed:
        expression = f"ptx::flush({expression})"
    f.assign(i.operands[0], kind, f"ptx::clamp({expression})" if i.has("sat") else expression)


def scalar(i: Instruction, values: Sequence[str], kind: str) -> str:
    """Return the expression of an operation on f32 or f64, before flushing and clamping."""
    name, type_, approximate = i.mnemonic, cxx(kind), i.has("approx", "full")
    directed = next((mode for mode in DIRECTED if i.has(mode)), None)
    wanted = {"add": 2, "sub": 2, "mul": 2, "div": 2, "fma": 3, "mad": 3}.get(name, 1)
    if name in ("min", "max"):
        wanted = len(values) if len(values) in (2, 3) else 2
    if len(values) != wanted:
        raise PtxError(f"{len(values) + 1} operands")
    if directed and (kind != "f32" or name not in ("add", "sub", "mul", "fma", "mad")):
        raise PtxError(f"rounding .{directed}")
    if directed:
        return f"ptx::{'fma' if name == 'mad' else name}_{directed}({', '.join(values)})"
    if name in SIGNS:
        return f"({values[0]} {SIGNS[name]} {values[1]})"
    if name in ("fma", "mad"):
        return f"__builtin_fma{'f' if kind == 'f32' else ''}({', '.join(values)})"
    if name == "div":
        return f"ptx::about_quotient({', '.join(values)})" if approximate else f"({values[0]} / {values[1]})"
    if name in ("min", "max"):
        if i.has("xorsign"):
            raise PtxError("modifier .xorsign")
        function = f"ptx::{name}{'_nan' if i.has('NaN') else ''}"
        first = f"{function}({values[0]}, {values[1]})"
        return first if len(values) == 2 else f"{function}({first}, {values[2]})"
    if name in ("neg", "abs"):
        return f"(-{values[0]})" if name == "neg" else f"std::fabs({values[0]})"
    if name in ("rcp", "sqrt") and not approximate:
        return f"({type_}(1) / {values[0]})" if name == "rcp" else f"std::sqrt({values[0]})"
    if kind != "f32":
        raise PtxError(f"approximate {name} of f64")
    if name in ("ex2", "lg2", "rcp"):
        # the runtime's own, which flush as the .ftz forms do
        return f"pab::{name}({values[0]})" if i.has("ftz") else f"ptx::about_{name}({values[0]})"
    return f"pab::fast_tanh({values[0]})" if name == "tanh" else f"ptx::about_{name}({values[0]})"


def _pair(f: Body, i: Instruction) -> None:
    """Write an operation on two f32 in 64 bits."""
    words = [f.fresh() for _ in i.operands[1:]]
    f.line("{")
    for word, operand in zip(words, i.operands[1:], strict=True):
        f.line(f"const u64 {word} = {f.value(operand, 'b64')};")
    halves = []
    for shift in (32, 0):
        values = [f"__builtin_bit_cast(f32, static_cast<u32>({word} >> {shift}))" for word in words]
        if i.has("ftz"):
            values = [f"ptx::flush({value})" for value in values]
        result = scalar(i, values, "f32")
        halves.append(f"u64{{ptx::bits({f'ptx::flush({result})' if i.has('ftz') else result})}}")
    f.assign(i.operands[0], "b64", f"{halves[0]} << 32 | {halves[1]}")
    f.line("}")


def _halves(f: Body, i: Instruction, kind: str) -> None:
    """Write an operation on f16, bf16 or pairs of them; computed in wider types and rounded once."""
    single = kind.removesuffix("x2")
    namespace, name, count = f"ptx::{HALVES[single]}", i.mnemonic, len(i.operands) - 1
    if next((mode for mode in DIRECTED if i.has(mode)), None):
        raise PtxError("directed rounding of halves")
    if name in ("min", "max"):
        function = f"{name}{'_nan' if i.has('NaN') else ''}"
    elif name in (*SIGNS, "fma", "neg", "abs", "ex2", "tanh"):
        function = name
    else:
        raise PtxError(f"type .{kind} of {name}")
    wanted = {"fma": 3, "neg": 1, "abs": 1, "ex2": 1, "tanh": 1}.get(name, 2)
    if count != wanted:
        raise PtxError(f"{count + 1} operands")
    bits = "b32" if kind.endswith("x2") else "b16"
    after = "relu" if i.has("relu") else "sat" if i.has("sat") else "same"
    values = ", ".join(f.value(one, bits) for one in i.operands[1:])
    how = "in_pairs" if kind.endswith("x2") else "alone"
    f.assign(i.operands[0], bits, f"ptx::{how}<&{namespace}::{function}, &{namespace}::{after}>({values})")


def computes(i: Instruction) -> str | None:
    """Return the register to which an instruction gives a floating number that it computes, if it does."""
    types = i.types
    if not types or not i.operands:
        return None
    arithmetic = i.mnemonic in ARITHMETIC and types[-1] in ("f32", "f64")
    converted = i.mnemonic == "cvt" and types[0] in ("f32", "f64") and types[-1] in FLOATING
    return i.operands[0] if arithmetic or converted else None
