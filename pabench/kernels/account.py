# SPDX-License-Identifier: Apache-2.0
"""What a compiled kernel spends in one turn of its hot loop, and what that allows at best.

Bounds are clocks of one multiprocessor for one turn of one block, each as if nothing else took time:

=========  ====================================================================================
issue      instructions of all warps over four a clock
tensor     matrix instructions over what the matrix units do, by ``MMA_CLOCKS`` and ``GROUP_FLOP_A_CLOCK``
shared     bytes of lanes in ``ldmatrix``, loads, stores and asynchronous copies over 128 a clock; of products
           of warpgroups what each reads of A, unless in registers, and of B, and B once more for a block:
           other warps bring it
memory     bytes of asynchronous copies over what the device memory gives a multiprocessor
=========  ====================================================================================

Bank conflicts, latencies and all beside the steady way are not in them.  What is copied again may come from
the L2 cache, so that ``memory`` stands beside the first three, what the multiprocessor itself can do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pabench.device.sass import CLASS_NAMES, Function, Instruction
from pabench.kernels.flow import blocks_of, hot_loop, loops_of, steady_way
from pabench.kernels.instance import KernelEntry
from pabench.kernels.load_use import LoadUse, loads_of
from pabench.kernels.rounds import rounds_within

WARP = 32
MEMORY = "memory"
ISSUE_SLOTS = 4
SHARED_BYTES_A_CLOCK = 128
MMA_SHAPE_FLOP = 2 * 16 * 8 * 16
"""Operations of one m16n8k16."""
MMA_CLOCKS = {"sm_80": 8.0, "sm_90": 6.4}
"""Clocks of a quarter multiprocessor for one m16n8k16 with float32 sums.  sm_80: 1,024 fused operations a
clock and multiprocessor, of NVIDIA's whitepaper.  sm_90: mma.sync reaches 62.5 % of the peak of wgmma."""
GROUP_PRODUCT = re.compile(r"HGMMA\.64x(\d+)x16\.")
"""A product of four warps: 64 rows of A by so many columns of B, 16 deep, elements of 16 bits."""
GROUP_WARPS, GROUP_ROWS, GROUP_DEPTH_BYTES = 4, 64, 32
GROUP_FLOP_A_CLOCK = {"sm_90": 4096}
"""Operations of a multiprocessor in these: 989.4 TFLOP/s of 132 at 1.83 GHz, NVIDIA's whitepaper (H100)."""
MEMORY_BYTES_A_CLOCK = {"sm_80": 13.4, "sm_90": 18.56}
"""Of one multiprocessor.  sm_80: 2,039 GB/s over 108 at 1.41 GHz (A100).  sm_90: 4.3 TB/s over 132 at 1.755
GHz, the speed of a copy on an H200."""
CLOCKS_A_SECOND = {"sm_80": 108 * 1.41e9, "sm_90": 132 * 1.755e9}
"""Of all multiprocessors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One turn of the hot loop of one function.

    Attributes:
        name: of the function.
        classes: instructions of a warp on the steady way, by class.
        inner: of these instructions, those in loops within the turn of which the code does not say how often
            they go round, counted for one round.
        loading: instructions of a warp that loads from global memory besides.
        clocks: of a multiprocessor by bound; without those for which the architecture's rate is not known.
        turn_bytes: that the block's asynchronous copies move.
        turn_flop: of the block's matrix instructions.
        flight_bytes: of asynchronous copies on their way to a multiprocessor at the top of a turn; None where
            the code does not say how many groups it leaves, or blocks are not known.
        tokens: keys of a turn; 0 where nobody said.
        warps: of a block, that run the loop.
        loads: from global memory, of the warp that loads.
        has_lines: whether instructions have lines of source.
        architecture: such as ``sm_90a``.
    """

    name: str
    classes: dict[str, int]
    inner: int
    loading: int
    clocks: dict[str, float]
    turn_bytes: int
    turn_flop: int
    flight_bytes: int | None
    tokens: int
    warps: int
    loads: tuple[LoadUse, ...]
    has_lines: bool
    architecture: str

    @property
    def instructions(self) -> int:
        """Instructions of a warp in a turn."""
        return sum(self.classes.values())

    @property
    def per_token(self) -> float | None:
        """Warp instructions a key; None where the keys of a turn are not known."""
        return self.instructions * self.warps / self.tokens if self.tokens else None

    @property
    def bound(self) -> str:
        """What takes most clocks of the multiprocessor itself."""
        return max(self.clocks.keys() - {MEMORY}, key=lambda name: self.clocks[name])

    @property
    def most_tflops(self) -> float | None:
        """Operations of the matrix instructions at the bound, 10^12 a second on the whole GPU."""
        rate = CLOCKS_A_SECOND.get(_family(self.architecture))
        return rate * self.turn_flop / self.clocks[self.bound] / 1e12 if rate and self.turn_flop else None

    @property
    def most_gbps(self) -> float | None:
        """Bytes of the asynchronous copies at the bound, 10^9 a second on the whole GPU."""
        rate = CLOCKS_A_SECOND.get(_family(self.architecture))
        return rate * self.turn_bytes / self.clocks[self.bound] / 1e9 if rate and self.turn_bytes else None

    @property
    def first_use(self) -> LoadUse | None:
        """The load that is needed soonest behind its issue."""
        used = [one for one in self.loads if one.distance is not None]
        return min(used, key=lambda one: one.distance or 0) if used else None


def account_of(
    function: Function, architecture: str, entry: KernelEntry | None, blocks_per_sm: int | None
) -> Account | None:
    """Return the account of a function; None when it has no loop.

    Args:
        function: disassembled.
        architecture: such as ``sm_90a``.
        entry: how it is launched; None for one warp a block, of unknown keys.
        blocks_per_sm: None where not known.
    """
    blocks = blocks_of(function)
    loop = hot_loop(function, blocks)
    if loop is None:
        return None

    way = steady_way(function, blocks, loop)
    loading = steady_way(function, blocks, loop, loading=True)
    within = [one for one in loops_of(blocks) if one.blocks < loop.blocks]
    rounds, more = (rounds_within(function, blocks, within, one) for one in (way, loading))

    def code_of(way: Iterable[int], times: Mapping[int, int]) -> list[Instruction]:
        return [
            one for at in way for one in function.instructions[blocks[at].first : blocks[at].last] * times[at]
        ]

    code, loaded = code_of(way, rounds.times), code_of(loading, more.times)
    on_way = {id(one) for one in loaded}
    warps = (entry.turn_warps or -(-entry.threads // WARP)) if entry else 1
    classes = Counter(one.kind for one in code)
    copied = sum(one.moved_bytes * WARP for one in code if one.opcode.startswith("LDGSTS")) * warps
    groups, flight = _groups_left(code), None
    if groups is not None and blocks_per_sm is not None and copied:
        flight = (groups + 1) * copied * blocks_per_sm
    return Account(
        name=function.name,
        classes={name: classes[name] for name in CLASS_NAMES if classes[name]},
        inner=len(code_of(rounds.unknown, rounds.times)),
        loading=len(loaded),
        clocks=_clocks(code, warps, copied, architecture),
        turn_bytes=copied,
        turn_flop=_matrix_products(code) * MMA_SHAPE_FLOP * warps + _group_flop(code, warps),
        flight_bytes=flight,
        tokens=entry.turn_tokens if entry else 0,
        warps=warps,
        loads=tuple(
            one for one in loads_of(function, blocks, loop, loading, more.times) if id(one.load) in on_way
        ),
        has_lines=function.has_lines,
        architecture=architecture,
    )


def account_dict(account: Account) -> dict[str, Any]:
    """Return JSON values; what is not known is None."""
    first = account.first_use
    place = None if first is None or first.load.place is None else "{}:{}".format(*first.load.place)
    return {
        "instructions": account.instructions,
        "instructions_inner": account.inner,
        "instructions_loading": account.loading,
        "classes": account.classes,
        "per_token": account.per_token,
        "clocks": {name: round(value, 1) for name, value in account.clocks.items()},
        "bound": account.bound,
        "most_tflops": account.most_tflops,
        "most_gbps": account.most_gbps,
        "turn_bytes": account.turn_bytes,
        "flight_bytes_per_sm": account.flight_bytes,
        "load_to_use": None if first is None else first.distance,
        "tensor_before_use": None if first is None else first.tensor,
        "load_place": place,
        "lines": account.has_lines,
    }


def _clocks(code: list[Instruction], warps: int, copied: int, architecture: str) -> dict[str, float]:
    family, products = _family(architecture), _matrix_products(code)
    found = {"issue": len(code) * warps / ISSUE_SLOTS}
    if products and family in MMA_CLOCKS:
        found["tensor"] = products * MMA_CLOCKS[family] * warps / ISSUE_SLOTS
    if (flop := _group_flop(code, warps)) and family in GROUP_FLOP_A_CLOCK:
        found["tensor"] = found.get("tensor", 0.0) + flop / GROUP_FLOP_A_CLOCK[family]
    shared = sum(map(_shared_bytes, code)) * WARP * warps + _group_bytes(code, warps)
    found["shared"] = shared / SHARED_BYTES_A_CLOCK
    if copied and family in MEMORY_BYTES_A_CLOCK:
        found[MEMORY] = copied / MEMORY_BYTES_A_CLOCK[family]
    return found


def _matrix_products(code: Iterable[Instruction]) -> int:
    return sum(one.opcode.startswith("HMMA.16816") for one in code)


def _group_columns(one: Instruction) -> int:
    """Columns of a product of a warpgroup; 0 for other instructions."""
    found = GROUP_PRODUCT.match(one.opcode)
    return int(found[1]) if found else 0


def _group_flop(code: Iterable[Instruction], warps: int) -> int:
    """Operations of all products of warpgroups in a turn."""
    deep = GROUP_DEPTH_BYTES // 2
    return sum(2 * GROUP_ROWS * _group_columns(one) * deep for one in code) * warps // GROUP_WARPS


def _group_bytes(code: Iterable[Instruction], warps: int) -> int:
    """Bytes of shared memory that they read, and those of B once more."""
    total = 0
    for one in code:
        if columns := _group_columns(one):
            rows = 0 if one.operands.split(",")[1].strip().startswith("R") else GROUP_ROWS
            total += ((rows + columns) * (warps // GROUP_WARPS) + columns) * GROUP_DEPTH_BYTES
    return total


def _shared_bytes(one: Instruction) -> int:
    """Bytes of shared memory that a lane moves."""
    if one.kind == "ldmatrix":
        return 4 * int(one.opcode.rpartition(".")[2])
    if one.kind == "shared" or one.opcode.startswith("LDGSTS"):
        return 0 if one.predicate == "@!PT" else one.moved_bytes
    return 0


def _groups_left(code: Iterable[Instruction]) -> int | None:
    """How many groups of copies the wait for them leaves on their way."""
    for one in code:
        if one.opcode.startswith("DEPBAR"):
            return int(one.operands.rpartition(",")[2], 0)
    return None


def _family(architecture: str) -> str:
    return architecture.rstrip("af")
