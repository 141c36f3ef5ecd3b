# SPDX-License-Identifier: Apache-2.0
"""Whole numbers and bits: arithmetic, logic, shifts, fields."""

from __future__ import annotations

from pabench.device.ptx.body import Body, count_operands, opcode
from pabench.device.ptx.parse import Instruction
from pabench.device.ptx.types import PtxError, cxx, width

SIGNS = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "mul": "*"}


def unsigned(kind: str) -> str:
    """Return the C++ type of ``kind`` without a sign: its overflow is defined."""
    return f"u{width(kind)}"


def whole_arithmetic(f: Body, i: Instruction, kind: str) -> None:
    """Write add, sub, mul, mad, div, rem, min, max, neg or abs of whole numbers."""
    WHOLE_HANDLERS[i.mnemonic](f, i, kind)


def _add(f: Body, i: Instruction, kind: str) -> None:
    if i.has("cc"):
        return carry(f, i)
    count_operands(i, 3)
    if i.has("sat"):
        wide = f"s64({f.value(i.operands[1], 's32')}) {SIGNS[i.mnemonic]} {f.value(i.operands[2], 's32')}"
        return f.assign(i.operands[0], "s32", f"ptx::saturate<s32>({wide})")
    if kind in ("u16x2", "s16x2"):
        raise PtxError("packed whole numbers")
    first, second = (f.value(one, f"u{width(kind)}") for one in i.operands[1:])
    f.assign(
        i.operands[0],
        f"u{width(kind)}",
        f"static_cast<{unsigned(kind)}>({first} {SIGNS[i.mnemonic]} {second})",
    )
    return None


def _product(f: Body, i: Instruction, kind: str) -> tuple[str, str]:
    first, second = (f.value(one, kind) for one in i.operands[1:3])
    if i.has("wide"):
        wide = f"{kind[0]}{2 * width(kind)}"
        return wide, f"(static_cast<{cxx(wide)}>({first}) * static_cast<{cxx(wide)}>({second}))"
    if i.has("hi"):
        return kind, f"ptx::high<{cxx(kind)}>({first}, {second})"
    if not i.has("lo"):
        raise PtxError("neither .wide, .hi nor .lo")
    product = "u64" if width(kind) == 64 else "u32"
    return (
        kind,
        f"static_cast<{unsigned(kind)}>(static_cast<{product}>({first}) * static_cast<{product}>({second}))",
    )


def _multiply(f: Body, i: Instruction, kind: str) -> None:
    if i.has("cc"):
        return carry(f, i)
    count_operands(i, 3 if i.mnemonic == "mul" else 4)
    result, product = _product(f, i, kind)
    if i.mnemonic == "mad":
        sign = unsigned(result)
        result = f"u{width(result)}"
        sum_ = f"static_cast<{sign}>({product}) + {f.value(i.operands[3], result)}"
        product = f"static_cast<{sign}>({sum_})"
    return f.assign(i.operands[0], result, product)


def _divide(f: Body, i: Instruction, kind: str) -> None:
    count_operands(i, 3)
    name = "quotient" if i.mnemonic == "div" else "remainder"
    f.assign(
        i.operands[0],
        kind,
        f"ptx::{name}<{cxx(kind)}>({f.value(i.operands[1], kind)}, {f.value(i.operands[2], kind)})",
    )


def _extreme(f: Body, i: Instruction, kind: str) -> None:
    count_operands(i, 3)
    if i.has("relu"):
        raise PtxError("modifier .relu of whole numbers")
    first, second = (f.value(one, kind) for one in i.operands[1:])
    f.assign(
        i.operands[0], kind, f"({first} {'<' if i.mnemonic == 'min' else '>'} {second} ? {first} : {second})"
    )


def _negate(f: Body, i: Instruction, kind: str) -> None:
    count_operands(i, 2)
    value, minus = (
        f.value(i.operands[1], kind),
        f"static_cast<{unsigned(kind)}>(0 - {f.value(i.operands[1], f'u{width(kind)}')})",
    )
    f.assign(
        i.operands[0],
        kind,
        f"static_cast<{cxx(kind)}>({minus if i.mnemonic == 'neg' else f'{value} < 0 ? {minus} : {value}'})",
    )


WHOLE_HANDLERS = {
    **dict.fromkeys(("add", "sub"), _add),
    **dict.fromkeys(("mul", "mad"), _multiply),
    **dict.fromkeys(("div", "rem"), _divide),
    **dict.fromkeys(("min", "max"), _extreme),
    **dict.fromkeys(("neg", "abs"), _negate),
}


@opcode("rem")
def remainder(f: Body, i: Instruction) -> None:
    """Write ``rem``."""
    _divide(f, i, i.types[-1])


@opcode("addc", "subc", "madc", modifiers="cc lo hi")
def carry(f: Body, i: Instruction) -> None:
    """Write an operation that sets or adds the carry flag; after a subtraction it is the borrow."""
    kind = i.types[-1]
    bits, f.carries = width(kind), True
    wide, first = (
        ("u64", f.value(i.operands[1], f"u{bits}"))
        if bits == 32
        else ("u128", f.value(i.operands[1], f"u{bits}"))
    )
    name = i.mnemonic.removesuffix("c") if i.mnemonic != "madc" else "mad"
    if name == "mad":
        _, product = _product(f, i, kind)
        first, second, sign = f"static_cast<u{bits}>({product})", f.value(i.operands[3], f"u{bits}"), "+"
    else:
        second, sign = f.value(i.operands[2], f"u{bits}"), SIGNS[name]
    taken = f" {sign} carry" if i.mnemonic.endswith("c") else ""
    result = f.fresh()
    f.line(f"{{ const {wide} {result} = static_cast<{wide}>({first}) {sign} {second}{taken};")
    if i.has("cc"):
        f.line(f"carry = static_cast<u32>({result} >> {bits}) & 1u;")
    f.assign(i.operands[0], f"u{bits}", f"static_cast<u{bits}>({result})")
    f.line("}")


@opcode("and", "or", "xor")
def logic(f: Body, i: Instruction) -> None:
    """Write ``and``, ``or`` and ``xor``."""
    count_operands(i, 3)
    kind = i.types[0]
    first, second = (f.value(one, kind) for one in i.operands[1:])
    f.assign(i.operands[0], kind, f"static_cast<{cxx(kind)}>({first} {SIGNS[i.mnemonic]} {second})")


@opcode("not", "cnot")
def complement(f: Body, i: Instruction) -> None:
    """Write ``not`` and ``cnot``."""
    count_operands(i, 2)
    kind = i.types[0]
    value = f.value(i.operands[1], kind)
    plain = kind == "pred" or i.mnemonic == "cnot"
    f.assign(i.operands[0], kind, f"static_cast<{cxx(kind)}>({'!' if plain else '~'}{value})")


@opcode("shl", "shr")
def shift(f: Body, i: Instruction) -> None:
    """Write ``shl`` and ``shr``."""
    count_operands(i, 3)
    kind, amount = i.types[0], i.operands[2]
    name = "left" if i.mnemonic == "shl" else "right"
    f.assign(
        i.operands[0],
        kind,
        f"ptx::{name}<{cxx(kind)}>({f.value(i.operands[1], kind)}, {f.value(amount, 'u32')})",
    )


@opcode("shf", modifiers="l r clamp wrap")
def funnel(f: Body, i: Instruction) -> None:
    """Write ``shf``."""
    count_operands(i, 4)
    low, high, amount = (f.value(one, "u32") for one in i.operands[1:])
    amount = f"({amount} < 32u ? {amount} : 32u)" if i.has("clamp") else f"({amount} & 31u)"
    f.assign(
        i.operands[0], "b32", f"ptx::funnel_{'left' if i.has('l') else 'right'}({low}, {high}, {amount})"
    )


@opcode("prmt", modifiers="f4e b4e rc8 ecl ecr rc16")
def permute(f: Body, i: Instruction) -> None:
    """Write ``prmt``."""
    count_operands(i, 4)
    if i.modifiers != ("b32",):
        raise PtxError("a mode of prmt")
    f.assign(
        i.operands[0], "b32", f"ptx::permute({', '.join(f.value(one, 'b32') for one in i.operands[1:])})"
    )


@opcode("bfe", "bfi", "lop3", "dp4a", "sad")
def fields(f: Body, i: Instruction) -> None:
    """Bit fields, logic of three operands, products of four bytes, sums of differences."""
    kind = i.types[0]
    kinds = {
        "bfe": (kind, "u32", "u32"),
        "bfi": (kind, kind, "u32", "u32"),
        "lop3": ("b32", "b32", "b32", "u32"),
    }
    if i.mnemonic == "dp4a":
        if len(set(i.types)) != 1:
            raise PtxError("dp4a of two types")
        kinds["dp4a"] = ("u32", "u32", kind)
    asked = kinds.get(i.mnemonic, (kind, kind, kind))
    count_operands(i, len(asked) + 1)
    values = ", ".join(f.value(one, k) for one, k in zip(i.operands[1:], asked, strict=True))
    template = "" if i.mnemonic == "lop3" else f"<{cxx(kind)}>"
    f.assign(i.operands[0], kind, f"ptx::{i.mnemonic}{template}({values})")


@opcode("popc", "clz", "brev", "bfind", modifiers="shiftamt")
def counts(f: Body, i: Instruction) -> None:
    """Write ``popc``, ``clz``, ``brev`` and ``bfind``."""
    count_operands(i, 2)
    kind = i.types[0]
    more = f", {'true' if i.has('shiftamt') else 'false'}" if i.mnemonic == "bfind" else ""
    result = kind if i.mnemonic == "brev" else "u32"
    f.assign(i.operands[0], result, f"ptx::{i.mnemonic}<{cxx(kind)}>({f.value(i.operands[1], kind)}{more})")
