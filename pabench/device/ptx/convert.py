# SPDX-License-Identifier: Apache-2.0
"""Conversions, comparisons and selections."""

from __future__ import annotations

from pabench.device.ptx.body import Body, count_operands, group, opcode
from pabench.device.ptx.floating import HALVES
from pabench.device.ptx.parse import Instruction
from pabench.device.ptx.types import FLOATING, PtxError, bits_type, cxx, width

WHOLE_ROUNDING = {"rni": "std::nearbyint", "rzi": "std::trunc", "rmi": "std::floor", "rpi": "std::ceil"}
ROUNDING = ("rn", "rz", "rm", "rp", "rna")
COMPARE = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
UNORDERED = {f"{name}u": sign for name, sign in COMPARE.items()}
COMBINE = {"and": "&", "or": "|", "xor": "^"}
COMPARISONS = " ".join((*COMPARE, *UNORDERED, "num", "nan", *COMBINE))


@opcode("cvt", modifiers="rn rz rm rp rna rni rzi rmi rpi ftz sat relu satfinite")
def convert(f: Body, i: Instruction) -> None:
    """Write ``cvt``."""
    types = i.types
    if len(types) != 2:
        raise PtxError("a conversion of other types")
    target, source = types
    rounding = next((name for name in i.modifiers if name in ROUNDING or name in WHOLE_ROUNDING), None)
    if target.endswith("x2") or source.endswith("x2"):
        return _packed(f, i, target, source, rounding)
    count_operands(i, 2)
    if source not in FLOATING and target not in FLOATING:
        value = f.value(i.operands[1], source)
        return f.assign(
            i.operands[0], target, f"ptx::saturate<{cxx(target)}>({value})" if i.has("sat") else value
        )
    if target == "tf32":
        return f.assign(
            i.operands[0], "b32", f"ptx::to_tf32<{_flag(rounding == 'rn')}>({f.value(i.operands[1], 'f32')})"
        )
    if source not in FLOATING:
        return _from_whole(f, i, target, source, rounding)
    value = f.value(i.operands[1], source)
    if source in HALVES:
        value = f"ptx::{HALVES[source]}::wide({value})"
    if i.has("ftz") and source == "f32":
        value = f"ptx::flush({value})"
    if rounding in WHOLE_ROUNDING:
        value = f"{WHOLE_ROUNDING[rounding]}({value})"
    if target not in FLOATING:
        if rounding not in WHOLE_ROUNDING:
            raise PtxError("no rounding to a whole number")
        return f.assign(i.operands[0], target, f"ptx::to_whole<{cxx(target)}>({value})")
    return _to_float(f, i, target, source, rounding, value)


def _flag(truth: bool) -> str:
    return "true" if truth else "false"


def _from_whole(f: Body, i: Instruction, target: str, source: str, rounding: str | None) -> None:
    value = f.value(i.operands[1], source)
    if target in HALVES:
        if rounding not in ("rn", None):
            raise PtxError(f"rounding .{rounding}")
        return f.assign(i.operands[0], "b16", f"ptx::{HALVES[target]}::narrow(ptx::odd_float({value}))")
    if rounding in (None, "rn"):
        return f.assign(i.operands[0], target, f"static_cast<{target}>({value})")
    if target != "f32":
        raise PtxError(f"rounding .{rounding}")
    return f.assign(i.operands[0], target, f"ptx::whole_{rounding}({value})")


def _to_float(f: Body, i: Instruction, target: str, source: str, rounding: str | None, value: str) -> None:
    narrower = width(target) < width(source) or (target != source and width(target) == 16)
    if target in HALVES:
        if source == "f64":
            value = f"ptx::odd_float({value})"
        if i.has("sat"):
            value = f"ptx::clamp({value})"
        if i.has("relu"):
            value = f"ptx::max_nan({value}, 0.0f)"
        if rounding not in ("rn", "rz", None) and rounding not in WHOLE_ROUNDING:
            raise PtxError(f"rounding .{rounding}")
        name = "narrow_rz" if rounding == "rz" else "narrow"
        return f.assign(i.operands[0], "b16", f"ptx::{HALVES[target]}::{name}({value})")
    if narrower and rounding in ("rz", "rm", "rp"):
        value = f"ptx::narrow_{rounding}({value}, 0.0)"
    value = f"static_cast<{target}>({value})"
    if i.has("sat"):
        value = f"ptx::clamp({value})"
    if i.has("ftz") and target == "f32":
        value = f"ptx::flush({value})"
    return f.assign(i.operands[0], target, value)


def _packed(f: Body, i: Instruction, target: str, source: str, rounding: str | None) -> None:
    """Write a conversion to or from two numbers in one register; the first operand goes to the top."""
    if target in ("f16x2", "bf16x2") and source == "f32" and rounding in ("rn", "rz"):
        count_operands(i, 3)
        name = f"ptx::{HALVES[target[:-2]]}::{'narrow' if rounding == 'rn' else 'narrow_rz'}"
        values = [f.value(one, "f32") for one in i.operands[1:]]
        if i.has("relu"):
            values = [f"ptx::max_nan({value}, 0.0f)" for value in values]
        return f.assign(
            i.operands[0], "b32", f"(static_cast<u32>({name}({values[0]})) << 16 | {name}({values[1]}))"
        )
    if target in ("e4m3x2", "e5m2x2") and source == "f32" and rounding == "rn" and i.has("satfinite"):
        count_operands(i, 3)
        values = [f.value(one, "f32") for one in i.operands[1:]]
        if i.has("relu"):
            values = [f"ptx::max_nan({value}, 0.0f)" for value in values]
        name = f"ptx::to_{target[:-2]}"
        return f.assign(
            i.operands[0], "b16", f"static_cast<u16>({name}({values[0]}) << 8 | {name}({values[1]}))"
        )
    if target in ("e4m3x2", "e5m2x2") and source == "f16x2" and rounding == "rn" and i.has("satfinite"):
        count_operands(i, 2)
        return f.assign(
            i.operands[0],
            "b16",
            f"ptx::{target[:-2]}_of_halves<{_flag(i.has('relu'))}>({f.value(i.operands[1], 'b32')})",
        )
    if target == "f16x2" and source in ("e4m3x2", "e5m2x2"):
        count_operands(i, 2)
        return f.assign(
            i.operands[0],
            "b32",
            f"ptx::halves_of_{source[:-2]}<{_flag(i.has('relu'))}>({f.value(i.operands[1], 'b16')})",
        )
    raise PtxError("a conversion of packed numbers")


@opcode("setp", "set", modifiers=f"{COMPARISONS} ftz")
def compare(f: Body, i: Instruction) -> None:
    """Write ``setp`` and ``set``."""
    types = i.types
    kind, name = types[-1], i.modifiers[0]
    combine = next((one for one in i.modifiers[1:] if one in COMBINE), None)
    count_operands(i, 4 if combine else 3)
    pairs = _compared(f, i, kind)
    results = [
        _holds(name, first, second, floating=kind[0] in "f" or kind[:2] == "bf") for first, second in pairs
    ]
    if combine:
        other = f.value(i.operands[3], "pred")
        results = [f"(({one}) {COMBINE[combine]} {other})" for one in results]
    if i.mnemonic == "set":
        if len(results) != 1 or types[0] not in ("u32", "s32", "f32"):
            raise PtxError("set of other types")
        yes, no = ("1.0f", "0.0f") if types[0] == "f32" else ("~0u", "0u")
        return f.assign(
            i.operands[0], "f32" if types[0] == "f32" else "u32", f"({results[0]} ? {yes} : {no})"
        )
    wanted = [one.strip() for one in i.operands[0].split("|")]
    if len(pairs) == 2 and len(wanted) == 2:
        names = [f.fresh(), f.fresh()]
        f.line(f"{{ const bool {names[0]} = {results[0]}, {names[1]} = {results[1]};")
        for register, value in zip(wanted, names, strict=True):
            f.assign(register, "pred", value)
        return f.line("}")
    if len(wanted) == 1:
        return f.assign(wanted[0], "pred", results[0])
    plain, result = f.fresh(), _holds(name, *pairs[0], floating=kind[0] == "f" or kind[:2] == "bf")
    f.line(f"{{ const bool {plain} = {result};")
    for register, value in zip(wanted, (plain, f"!{plain}"), strict=True):
        f.assign(
            register,
            "pred",
            f"({value} {COMBINE[combine]} {f.value(i.operands[3], 'pred')})" if combine else value,
        )
    return f.line("}")


def _compared(f: Body, i: Instruction, kind: str) -> list[tuple[str, str]]:
    first, second = (f.value(one, kind) for one in i.operands[1:3])
    single = kind.removesuffix("x2")
    if single in HALVES:
        wide = f"ptx::{HALVES[single]}::wide"
        if single == kind:
            return [(f"{wide}({first})", f"{wide}({second})")]
        return [
            (f"{wide}(static_cast<u16>({first} >> {at}))", f"{wide}(static_cast<u16>({second} >> {at}))")
            for at in (0, 16)
        ]
    if i.has("ftz") and kind == "f32":
        return [(f"ptx::flush({first})", f"ptx::flush({second})")]
    return [(first, second)]


def _holds(name: str, first: str, second: str, *, floating: bool) -> str:
    numbers = f"!__builtin_isunordered({first}, {second})"
    if floating and name in ("num", "nan"):
        return f"({numbers if name == 'num' else numbers[1:]})"
    if floating and name in UNORDERED:
        return f"({numbers[1:]} || {first} {UNORDERED[name]} {second})"
    if name not in COMPARE:
        raise PtxError(f"comparison .{name}")
    if floating and name == "ne":
        return f"({numbers} && {first} != {second})"
    return f"({first} {COMPARE[name]} {second})"


@opcode("selp")
def select(f: Body, i: Instruction) -> None:
    """Write ``selp``."""
    count_operands(i, 4)
    kind = i.types[0]
    first, second = (f.bits(one, kind) for one in i.operands[1:3])
    f.assign(i.operands[0], bits_type(kind), f"({f.value(i.operands[3], 'pred')} ? {first} : {second})")


@opcode("slct", modifiers="ftz")
def select_by_sign(f: Body, i: Instruction) -> None:
    """Write ``slct``."""
    count_operands(i, 4)
    kind, sign = i.types
    first, second = (f.bits(one, kind) for one in i.operands[1:3])
    f.assign(i.operands[0], bits_type(kind), f"({f.value(i.operands[3], sign)} >= 0 ? {first} : {second})")


@opcode("testp", modifiers="finite infinite number notanumber normal subnormal")
def test_number(f: Body, i: Instruction) -> None:
    """Write ``testp``."""
    count_operands(i, 2)
    value = f.value(i.operands[1], i.types[0])
    tests = {
        "finite": f"std::isfinite({value})",
        "infinite": f"std::isinf({value})",
        "number": f"({value} == {value})",
        "notanumber": f"({value} != {value})",
        "normal": f"std::isnormal({value})",
        "subnormal": f"(std::isfinite({value}) && {value} != 0 && !std::isnormal({value}))",
    }
    f.assign(i.operands[0], "pred", tests[i.modifiers[0]])


@opcode("mov")
def move(f: Body, i: Instruction) -> None:
    """Write ``mov``."""
    count_operands(i, 2)
    kind, (to, source) = i.types[0], i.operands
    parts, pieces = group(to), group(source)
    if len(parts) > 1 or to.startswith("{"):
        each, word = width(kind) // len(parts), f.fresh()
        f.line(f"{{ const u{width(kind)} {word} = {f.bits(source, kind)};")
        for at, part in enumerate(parts):
            f.assign(part, f"b{each}", f"static_cast<u{each}>({word} >> {each * at})")
        f.line("}")
    elif len(pieces) > 1:
        each, whole = width(kind) // len(pieces), f"u{width(kind)}"
        packed = (
            f"static_cast<{whole}>({f.bits(one, f'b{each}')}) << {each * at}" for at, one in enumerate(pieces)
        )
        f.assign(to, f"b{width(kind)}", f"static_cast<{whole}>({' | '.join(packed)})")
    else:
        f.move(to, bits_type(kind), source)
