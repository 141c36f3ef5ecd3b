# SPDX-License-Identifier: Apache-2.0
"""Matrices: fragments from and to shared memory, products."""

from __future__ import annotations

import re

from pabench.device.ptx.body import Body, count_operands, group, opcode
from pabench.device.ptx.parse import Instruction
from pabench.device.ptx.types import ELEMENTS, WIDTHS, PtxError

COUNTS = {"x1": 1, "x2": 2, "x4": 4}
SHAPES = {"m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"}
DEPTHS = {
    "f16": (8, 16),
    "bf16": (8, 16),
    "tf32": (4, 8),
    "e4m3": (16, 32),
    "e5m2": (16, 32),
    "s8": (16, 32),
    "u8": (16, 32),
}
"""Depths of the products of 16 rows and 8 columns, by the type of the elements."""
BYTES = {"f16": 2, "bf16": 2, "tf32": 4}


def _count(i: Instruction) -> int:
    found = [COUNTS[name] for name in i.modifiers if name in COUNTS]
    if not found or i.types != ["b16"] or not i.has("m8n8"):
        raise PtxError("matrices of another shape")
    return found[0]


@opcode("ldmatrix", modifiers="sync aligned m8n8 x1 x2 x4 trans shared shared::cta")
def load_matrices(f: Body, i: Instruction) -> None:
    """Write ``ldmatrix``."""
    count_operands(i, 2)
    count, trans, name = _count(i), "true" if i.has("trans") else "false", f.fresh()
    targets = group(i.operands[0])
    if len(targets) != count:
        raise PtxError(f"{len(targets)} registers")
    f.line(
        f"{{ u32 {name}[{count}]; ptx::load_matrices<{trans}>({name}, {f.address(i.operands[1], 'shared')});"
    )
    for at, target in enumerate(targets):
        f.assign(target, "b32", f"{name}[{at}]")
    f.line("}")


@opcode("stmatrix", modifiers="sync aligned m8n8 x1 x2 x4 trans shared shared::cta")
def store_matrices(f: Body, i: Instruction) -> None:
    """Write ``stmatrix``."""
    count_operands(i, 2)
    count, trans, name = _count(i), "true" if i.has("trans") else "false", f.fresh()
    values = ", ".join(f.bits(one, "b32") for one in group(i.operands[1]))
    f.line(f"{{ const u32 {name}[{count}] = {{{values}}};")
    f.line(f"ptx::store_matrices<{trans}>({f.address(i.operands[0], 'shared')}, {name}); }}")


@opcode("mma", modifiers=f"sync aligned row col {' '.join(SHAPES)} {' '.join(ELEMENTS)}")
def product(f: Body, i: Instruction) -> None:
    """Write ``mma``."""
    count_operands(i, 4)
    shape = next((name for name in i.modifiers if name in SHAPES), None)
    kinds = [name for name in i.modifiers if name in WIDTHS or name in ELEMENTS]
    if shape is None or len(kinds) != 4 or not (i.has("row") and i.has("col")):
        raise PtxError("a product of another shape")
    result, left, right, start = kinds
    depth = int(re.sub(r".*k", "", shape))
    if (
        left != right
        or result != start
        or depth not in DEPTHS.get(left, ())
        or result not in ("f16", "f32", "s32")
    ):
        raise PtxError("a product of other types")
    size, name = BYTES.get(left, 1), f.fresh()
    a_count, b_count = 16 * depth * size // 128, 8 * depth * size // 128
    to, a, b, c = (group(one) for one in i.operands)
    pairs = result == "f16"
    if (len(a), len(b), len(to), len(c)) != (a_count, b_count, *(2 * (2 if pairs else 4,))):
        raise PtxError("another number of registers")
    kind = "b32" if pairs else result
    f.line(f"{{ const u32 {name}a[{a_count}] = {{{', '.join(f.bits(one, 'b32') for one in a)}}};")
    f.line(f"const u32 {name}b[{b_count}] = {{{', '.join(f.bits(one, 'b32') for one in b)}}};")
    number = {"f16": "u32", "f32": "f32", "s32": "s32"}[result]
    f.line(f"{number} {name}c[{len(c)}] = {{{', '.join(f.value(one, kind) for one in c)}}};")
    f.line(f"ptx::multiply<ptx::Element::{left}, {depth}>({name}c, {name}a, {name}b);")
    for at, target in enumerate(to):
        f.assign(target, kind, f"{name}c[{at}]")
    f.line("}")
