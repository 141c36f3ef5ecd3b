# SPDX-License-Identifier: Apache-2.0
"""Hopper's asynchrony: mbarriers, copies of many bytes and of tiles of a tensor, clusters of one block."""

from __future__ import annotations

import re

from pabench.device.ptx.body import Body, count_operands, opcode, space_of
from pabench.device.ptx.parse import Instruction, split_operands
from pabench.device.ptx.types import PtxError

SEMANTICS = "release acquire relaxed cta cluster shared shared::cta shared::cluster"
BULK = (
    "bulk tensor 1d 2d 3d 4d 5d tile shared::cluster bulk_group read prefetch "
    "mbarrier::complete_tx::bytes cta_group::1"
)
"""Modifiers of ``cp.async.bulk``."""
ARRIVE = "mbarrier arrive noinc b64"
"""Modifiers of ``cp.async.mbarrier.arrive``."""
CHANGES = ("arrive", "arrive_drop", "expect_tx", "complete_tx")
BARRIER = "init inval noComplete test_wait try_wait parity pending_count"


@opcode(
    "mbarrier",
    modifiers=f"{BARRIER} {' '.join(CHANGES)} {SEMANTICS}",
)
def barrier(f: Body, i: Instruction) -> None:
    """Write ``mbarrier``."""
    space, kind = space_of(i.modifiers), i.modifiers[0]
    if kind == "init":
        count_operands(i, 2)
        return f.line(
            f"ptx::barrier_init({f.address(i.operands[0], space)}, {f.value(i.operands[1], 'u32')});"
        )
    if kind == "inval":
        count_operands(i, 1)
        return f.line(f"ptx::barrier_inval({f.address(i.operands[0], space)});")
    if kind in ("test_wait", "try_wait"):
        count_operands(i, 3, 4)  # the last: how long it may suspend the thread
        asked = i.operands[2]
        parity = (
            f.value(asked, "u32") if i.has("parity") else f"static_cast<u32>({f.value(asked, 'u64')} >> 62)"
        )
        return f.assign(
            i.operands[0], "pred", f"ptx::barrier_wait({f.address(i.operands[1], space)}, {parity})"
        )
    if kind == "pending_count":
        count_operands(i, 2)
        return f.assign(i.operands[0], "b32", f"static_cast<u32>({f.value(i.operands[1], 'u64')} & 0xFFFFFu)")
    if kind not in CHANGES:
        raise PtxError(f"mbarrier.{kind}")
    return _change(f, i, space)


def _change(f: Body, i: Instruction, space: str) -> None:
    operands = list(i.operands)
    target = operands.pop(0) if not operands[0].startswith("[") else "_"
    address, given = f.address(operands[0], space), operands[1:]
    if len(given) > 1:
        raise PtxError(f"{len(i.operands)} operands")
    number = f.value(given[0], "u32") if given else "1u"
    arrives = i.modifiers[0].startswith("arrive")
    bytes_ = f"static_cast<s64>({number})" if i.has("expect_tx") else "0"
    if i.modifiers[0] == "complete_tx":
        bytes_ = f"-static_cast<s64>({number})"
    arrivals = "0u" if not arrives else "1u" if i.has("expect_tx") else number
    drop = "true" if i.has("arrive_drop") else "false"
    f.assign(target, "b64", f"ptx::barrier_change({address}, {arrivals}, {bytes_}, {drop})")


def arrive_of_copies(f: Body, i: Instruction) -> None:
    """Write ``cp.async.mbarrier.arrive``."""
    count_operands(i, 1)
    counted = "true" if i.has("noinc") else "false"
    f.line(f"ptx::barrier_of_copies({f.address(i.operands[0], space_of(i.modifiers))}, {counted});")


def copy(f: Body, i: Instruction) -> None:
    """Write ``cp.async.bulk``.

    Raises:
        PtxError: of another kind: to other blocks of a cluster, by columns of images, with a reduction.
    """
    if i.has("commit_group"):
        return f.line("pab_emu::bulk_commit();")
    if i.has("wait_group"):
        count_operands(i, 1)
        return f.line(f"ptx::bulk_wait({f.value(i.operands[0], 'u32')});")
    if i.has("prefetch"):
        return None
    spaces = [name.split("::")[0] for name in i.modifiers if name.split("::")[0] in ("shared", "global")]
    inward = spaces == ["shared", "global"]
    if not inward and spaces != ["global", "shared"]:
        raise PtxError("a bulk copy between other spaces")
    if inward != i.has("mbarrier::complete_tx::bytes") or inward == i.has("bulk_group"):
        raise PtxError("a bulk copy without .mbarrier::complete_tx::bytes inwards or .bulk_group outwards")
    operands = i.operands[:-1] if i.has("L2::cache_hint") else i.operands
    if i.has("tensor"):
        text = _tile(f, i, operands, inward=inward)
    else:
        if len(operands) != 3 + inward:
            raise PtxError(f"{len(i.operands)} operands")
        to, source = f.address(operands[0], spaces[0]), f.address(operands[1], spaces[1])
        shared, memory = (to, source) if inward else (source, to)
        signal = f.address(operands[3], "shared") if inward else "nullptr"
        text = f"ptx::plain_copy({shared}, {memory}, {f.value(operands[2], 'u32')}, {signal})"
    return f.line(f"ptx::bulk_{'in' if inward else 'out'}({text});{' }' * i.has('tensor')}")


def _tile(f: Body, i: Instruction, operands: tuple[str, ...], *, inward: bool) -> str:
    if len(operands) != 2 + inward:
        raise PtxError(f"{len(i.operands)} operands")
    named, shared = (operands[1], operands[0]) if inward else (operands[0], operands[1])
    parts = split_operands(named.strip()[1:-1])
    rank = next(int(name[0]) for name in i.modifiers if re.fullmatch("[1-5]d", name))
    coordinates = split_operands(parts[1].strip()[1:-1]) if len(parts) == 2 else []
    if len(coordinates) != rank:
        raise PtxError(f"{len(coordinates)} coordinates of {rank} dimensions")
    name = f.fresh("at")
    f.line(f"{{ const s32 {name}[{rank}] = {{{', '.join(f.value(one, 's32') for one in coordinates)}}};")
    signal = f.address(operands[2], "shared") if inward else "nullptr"
    map_at = f.address(f"[{parts[0].strip()}]", "generic")
    return f"ptx::tile_copy<{rank}>({f.address(shared, 'shared')}, {map_at}, {name}, {signal})"


@opcode("mapa", modifiers="shared::cluster")
def map_address(f: Body, i: Instruction) -> None:
    """Write ``mapa``."""
    count_operands(i, 3)
    kind = i.types[0]
    f.assign(
        i.operands[0], kind, f"ptx::of_block({f.value(i.operands[1], kind)}, {f.value(i.operands[2], 'u32')})"
    )
