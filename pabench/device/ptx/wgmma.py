# SPDX-License-Identifier: Apache-2.0
"""Products of a warpgroup: asynchronous, with operands in shared memory told by descriptors."""

from __future__ import annotations

from collections.abc import Iterable

from pabench.device.ptx.body import Body, count_operands, group, identifier, opcode, whole
from pabench.device.ptx.parse import Instruction
from pabench.device.ptx.types import ELEMENTS, WIDTHS, PtxError, width

DEPTHS = {"f16": 16, "bf16": 16, "tf32": 8, "e4m3": 32, "e5m2": 32, "s8": 32, "u8": 32}
"""Depth of a product, by the type of its elements: 32 bytes of each row."""
SHAPES = {
    f"m64n{columns}k{depth}": (columns, depth)
    for columns in range(8, 257, 8)
    for depth in sorted(set(DEPTHS.values()))
}
FEW_COLUMNS = (8, 16, 24, *range(32, 257, 16))
"""Columns of products of whole numbers."""
RESULTS = {
    "f16": ("f16", "f32"),
    "bf16": ("f32",),
    "tf32": ("f32",),
    "e4m3": ("f16", "f32"),
    "e5m2": ("f16", "f32"),
    "s8": ("s32",),
    "u8": ("s32",),
}
"""Types of sums, by the type of the elements."""


def fragments(instructions: Iterable[Instruction]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the registers that may hold what a product of a warpgroup makes, and those that it takes.

    Moves are looked through in both directions.
    """
    moves, made, taken = [], set[str](), set[str]()
    for one in instructions:
        if one.mnemonic == "wgmma" and one.has("mma_async"):
            made.update(group(one.operands[0]))
            taken.update(group(one.operands[1]) if one.operands[1].startswith("{") else ())
        elif is_move(one):
            moves.append(one.operands[:2])
    if not made:
        return frozenset(), frozenset()
    taken |= made
    reached, before = -1, -1
    while reached != len(made) or before != len(taken):
        reached, before = len(made), len(taken)
        made.update(to for to, source in moves if source in made)
        taken.update(source for to, source in moves if to in taken and source.startswith("%"))
    return frozenset(made), frozenset(taken)


def is_move(i: Instruction) -> bool:
    """Whether an instruction moves one 32-bit register or constant to another register."""
    return (
        i.mnemonic == "mov"
        and len(i.operands) == 2
        and width(i.types[0]) == 32
        and not any(one.startswith("{") for one in i.operands)
    )


@opcode(
    "wgmma",
    modifiers=(
        "fence commit_group wait_group mma_async sync aligned satfinite "
        f"{' '.join(SHAPES)} {' '.join(ELEMENTS)}"
    ),
)
def warpgroup(f: Body, i: Instruction) -> None:
    """Write ``wgmma``."""
    kind = i.modifiers[0]
    if not i.has("sync") or not i.has("aligned"):
        raise PtxError("wgmma without .sync.aligned")
    if kind == "fence":
        return f.line("PTX_FENCE();")
    if kind == "commit_group":
        return f.line("pab_emu::product_commit();")
    if kind == "wait_group":
        return _wait(f, i)
    if kind == "mma_async":
        return _product(f, i)
    raise PtxError(f"wgmma.{kind}")


def _wait(f: Body, i: Instruction) -> None:
    count_operands(i, 1)
    newest = whole(i.operands[0])
    if newest is None or newest < 0:
        raise PtxError(f"{i.operands[0]} groups: must be a constant from 0 on")
    f.line(f"pab_emu::product_wait({newest}u);")
    for name in sorted(f.results):
        if f.register(name) is not None:
            f.line(f"ptx::settle({identifier(name)});")


def _product(f: Body, i: Instruction) -> None:
    shape = next((SHAPES[name] for name in i.modifiers if name in SHAPES), None)
    kinds = [name for name in i.modifiers if name in WIDTHS or name in ELEMENTS]
    if shape is None or len(kinds) != 3:
        raise PtxError("a product of another shape")
    (columns, depth), (result, left, right) = shape, kinds
    whole_numbers = result == "s32"
    mixed = left != right and not {left, right} <= set(ELEMENTS) and not {left, right} <= {"s8", "u8"}
    if depth != DEPTHS.get(left) or mixed or result not in RESULTS[left]:
        raise PtxError("a product of other types")
    if whole_numbers and columns not in FEW_COLUMNS:
        raise PtxError(f"{columns} columns of .{left}")
    from_registers = i.operands[1].startswith("{")
    halves = depth == 16
    count_operands(i, 4 + (0 if whole_numbers else 2 + halves * (2 - from_registers)))
    signs = [_one_of(one, (1, -1)) for one in i.operands[4:6]] or [1, 1]
    turned = [_one_of(one, (0, 1)) for one in i.operands[6:]]
    turned = [0] * (2 - len(turned)) + turned
    to, a = group(i.operands[0]), group(i.operands[1]) if from_registers else []
    pairs, name = result == "f16", f.fresh("product")
    if len(to) != columns // (4 if pairs else 2) or len(a) != 4 * from_registers:
        raise PtxError("another number of registers")
    kind = "b32" if pairs else result
    flags = ", ".join(
        "true" if one else "false"
        for one in (from_registers, *turned, signs[0] < 0, signs[1] < 0, i.has("satfinite"))
    )
    numbers = ", ".join(f"pab_emu::Number::{one}" for one in (left, right, result))
    f.line(f"{{ static constexpr pab_emu::GroupProduct {name}{{{numbers}, {columns}u, {flags}}};")
    f.line(f"u32 {name}d[{len(to)}] = {{{', '.join(f.value(one, 'b32', settled=False) for one in to)}}};")
    if a:
        f.line(f"const u32 {name}a[4] = {{{', '.join(f.bits(one, 'b32') for one in a)}}};")
    f.line(f"PTX_FENCED({', '.join(f'PTX_AT({identifier(one)})' for one in sorted({*to, *a}))});")
    descriptors = f"{'0' if a else f.value(i.operands[1], 'u64')}, {f.value(i.operands[2], 'u64')}"
    adds = f.value(i.operands[3], "pred")
    f.line(
        f"pab_emu::product_issue({name}, {name}d, {f'{name}a' if a else 'nullptr'}, {descriptors}, {adds});"
    )
    for at, target in enumerate(to):
        value = f"__builtin_bit_cast(f32, {name}d[{at}])" if kind == "f32" else f"{name}d[{at}]"
        f.assign(target, "b32" if kind == "s32" else kind, value, written=False)
        f.line(f"PTX_SET({identifier(target)});")
    f.line("}")


def _one_of(operand: str, allowed: tuple[int, ...]) -> int:
    number = whole(operand)
    if number not in allowed:
        raise PtxError(f"{operand}: must be {' or '.join(map(str, allowed))}")
    return number
