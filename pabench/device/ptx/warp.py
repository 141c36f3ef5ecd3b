# SPDX-License-Identifier: Apache-2.0
"""Where threads meet: shuffles, votes, reductions and barriers."""

from __future__ import annotations

from pabench.device.ptx.body import Body, count_operands, opcode
from pabench.device.ptx.parse import Instruction
from pabench.device.ptx.types import PtxError, cxx, width


@opcode("shfl", modifiers="sync up down bfly idx")
def shuffle(f: Body, i: Instruction) -> None:
    """Write ``shfl``."""
    count_operands(i, 5)
    if i.modifiers[0] != "sync":
        raise PtxError("shfl without .sync, which is gone since sm_70")
    targets = [one.strip() for one in i.operands[0].split("|")]
    inside = f.fresh()
    values = ", ".join(f.value(one, "b32") for one in i.operands[1:])
    f.line(f"{{ bool {inside};")
    f.assign(targets[0], "b32", f"ptx::shuffle_{i.modifiers[1]}({values}, {inside})")
    if len(targets) > 1:
        f.assign(targets[1], "pred", inside)
    f.line("}")


@opcode("vote", modifiers="sync ballot all any uni")
def vote(f: Body, i: Instruction) -> None:
    """Write ``vote``."""
    count_operands(i, 3)
    if i.modifiers[0] != "sync":
        raise PtxError("vote without .sync, which is gone since sm_70")
    kind = i.modifiers[1]
    f.assign(
        i.operands[0],
        "b32" if kind == "ballot" else "pred",
        f"ptx::{kind}({f.value(i.operands[2], 'u32')}, {f.value(i.operands[1], 'pred')})",
    )


@opcode("match", modifiers="any all sync")
def match(f: Body, i: Instruction) -> None:
    """Write ``match``."""
    count_operands(i, 3)
    targets = [one.strip() for one in i.operands[0].split("|")]
    mask, value = f.value(i.operands[2], "u32"), f.bits(i.operands[1], i.types[0])
    if i.has("any"):
        return f.assign(targets[0], "b32", f"ptx::match_any({mask}, {value})")
    same = f.fresh()
    f.line(f"{{ bool {same};")
    f.assign(targets[0], "b32", f"ptx::match_all({mask}, {value}, {same})")
    if len(targets) > 1:
        f.assign(targets[1], "pred", same)
    return f.line("}")


@opcode("redux", modifiers="sync add min max and or xor")
def reduce(f: Body, i: Instruction) -> None:
    """Write ``redux``."""
    count_operands(i, 3)
    kind, operation = i.types[-1], i.modifiers[1]
    if width(kind) != 32 or kind == "f32":
        raise PtxError(f"redux of .{kind}")
    whole = "u32" if kind == "b32" else kind
    mask, value = f.value(i.operands[2], "u32"), f.value(i.operands[1], whole)
    f.assign(i.operands[0], whole, f"ptx::reduce_{operation}<{cxx(whole)}>({mask}, {value})")


@opcode("activemask")
def active(f: Body, i: Instruction) -> None:
    """Write ``activemask``."""
    # which lanes happen to be in step is open: each runs by itself here
    f.assign(i.operands[0], "b32", "(1u << ptx::lane())")


@opcode("elect", modifiers="sync")
def elect(f: Body, i: Instruction) -> None:
    """Write ``elect``."""
    count_operands(i, 2)
    leader = f.fresh()
    targets = [one.strip() for one in i.operands[0].split("|")]
    f.line(f"{{ const u32 {leader} = ptx::elect({f.value(i.operands[1], 'u32')});")
    f.assign(targets[0], "b32", leader)
    f.assign(targets[1], "pred", f"{leader} == ptx::lane()")
    f.line("}")


CLUSTER = "cluster wait release acquire relaxed"


@opcode("bar", "barrier", modifiers=f"cta warp sync arrive red popc and or aligned {CLUSTER}")
def barrier(f: Body, i: Instruction) -> None:
    """Write ``bar`` and ``barrier``."""
    if i.has("cluster"):
        # all of a cluster of one block meet where they wait
        return f.line("pab_emu::cluster_barrier();" if i.has("wait") else "")
    kind = next((name for name in i.modifiers if name in ("sync", "arrive", "red")), None)
    if kind is None:
        raise PtxError("a barrier of another kind")
    if i.has("warp"):
        return f.line(f"ptx::warp_sync({f.value(i.operands[0], 'u32')});")
    if kind == "red":
        return _reducing_barrier(f, i)
    count_operands(i, 1 if kind == "sync" else 2, 2)
    name = f.value(i.operands[0], "u32")
    if len(i.operands) == 1:
        return f.line(f"pab_emu::barrier({name}, ::pab_emu::kAllThreads, true);")
    return f.line(f"pab::bar_{kind}({name}, {f.value(i.operands[1], 'u32')});")


def _reducing_barrier(f: Body, i: Instruction) -> None:
    count_operands(i, 3, 4)
    threads = f.value(i.operands[2], "u32") if len(i.operands) == 4 else "0u"
    operation = next(name for name in i.modifiers if name in ("popc", "and", "or"))
    mine = f.value(i.operands[-1], "pred")
    result = f"ptx::barrier_{operation}({f.value(i.operands[1], 'u32')}, {threads}, {mine})"
    f.assign(i.operands[0], "u32" if operation == "popc" else "pred", result)


@opcode("nanosleep")
def sleep(f: Body, i: Instruction) -> None:
    """Write ``nanosleep``."""
    f.line("pab_emu::yield();")
