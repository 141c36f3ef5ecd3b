# SPDX-License-Identifier: Apache-2.0
"""Control: branches, calls, returns."""

from __future__ import annotations

from pabench.device.ptx.body import Body, count_operands, opcode
from pabench.device.ptx.parse import Instruction, split_operands
from pabench.device.ptx.types import PtxError

LIBRARY = {
    "__assertfail": "ptx::assert_failed",
    "vprintf": "ptx::print",
}
"""Functions of the device's library that PTX calls without defining them."""


@opcode("bra", modifiers="uni")
def branch(f: Body, i: Instruction) -> None:
    """Write ``bra``."""
    count_operands(i, 1)
    f.line(f"goto {f.label(i.operands[0])};")


@opcode("brx", modifiers="idx uni")
def branch_table(f: Body, i: Instruction) -> None:
    """Write ``brx``."""
    count_operands(i, 2)
    targets = f.branches.get(i.operands[1])
    if targets is None:
        raise PtxError(f"no branch table {i.operands[1]}")
    cases = " ".join(f"case {at}: goto {f.label(target)};" for at, target in enumerate(targets))
    f.line(f"switch ({f.value(i.operands[0], 'u32')}) {{ {cases} default: __builtin_unreachable(); }}")


@opcode("ret", "exit", modifiers="uni")
def leave(f: Body, i: Instruction) -> None:
    """Write ``ret`` and ``exit``."""
    if i.mnemonic == "exit" and not f.entry:
        raise PtxError("exit within a function that was called")
    f.line(f"return {f.returns};" if f.returns else "return;")


@opcode("trap", "brkpt")
def trap(f: Body, i: Instruction) -> None:
    """Write ``trap`` and ``brkpt``."""
    f.line(f'pab_emu::fault("the kernel executed {i.mnemonic}");')


@opcode("call", modifiers="uni")
def call(f: Body, i: Instruction) -> None:
    """Write ``call``."""
    operands = list(i.operands)
    results = split_operands(operands.pop(0)[1:-1]) if operands[0].startswith("(") else []
    name = operands.pop(0)
    arguments = split_operands(operands[0][1:-1]) if operands else []
    target = f.callable.get(name) or LIBRARY.get(name)
    if target is None:
        known = f.register(name) is not None
        raise PtxError(
            "a call through a pointer" if known else f"a call of {name}, which the PTX does not define"
        )
    values = ", ".join(_passed(f, one) for one in arguments)
    f.line((f"{_passed(f, results[0])} = " if results else "") + f"{target}({values});")


def _passed(f: Body, name: str) -> str:
    return f.structures[name] if name in f.structures else f.value(name, f.register(name) or "b32")
