# SPDX-License-Identifier: Apache-2.0
"""How far a load from global memory lies from the first instruction that needs it, along a loop."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pabench.device.sass import Function, Instruction
from pabench.kernels.flow import Block, Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadUse:
    """A load in a loop.

    Attributes:
        load: the instruction.
        distance: instructions from it to the first that reads what it loads, on the shortest way that keeps
            to the loop's steady one; None when nothing in the loop reads it.
        tensor: matrix instructions between, on that way.
    """

    load: Instruction
    distance: int | None
    tensor: int


def loads_of(
    function: Function, blocks: Sequence[Block], loop: Loop, way: Sequence[int], times: Mapping[int, int]
) -> tuple[LoadUse, ...]:
    """Return every load from global memory in ``loop``, beside its steady ``way`` too, by address.

    ``times`` says how often a turn runs a block, where more than once.
    """
    following = _kept_to(blocks, loop, way)
    found = []
    for index in sorted(loop.blocks):
        block = blocks[index]
        for at in range(block.first, block.last):
            one = function.instructions[at]
            if one.opcode.startswith(("LDG.", "LD.")):
                distance, tensor = _first_use(function, blocks, following, index, at, times)
                found.append(LoadUse(load=one, distance=distance, tensor=tensor))
    return tuple(found)


def _kept_to(blocks: Sequence[Block], loop: Loop, way: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """What follows each block of the loop where no block of ``way`` is jumped over."""
    place = {index: position for position, index in enumerate(way)}
    after = {index: way[(position + 1) % len(way)] for index, position in place.items()}
    return {
        index: tuple(
            target
            for target in blocks[index].successors
            if target in loop.blocks and (index not in place or target not in place or target == after[index])
        )
        for index in loop.blocks
    }


def _first_use(
    function: Function,
    blocks: Sequence[Block],
    following: Mapping[int, tuple[int, ...]],
    index: int,
    at: int,
    times: Mapping[int, int],
) -> tuple[int | None, int]:
    wanted = function.instructions[at].written()
    # by distance: how far, matrix instructions so far, block, instruction
    waiting: list[tuple[int, int, int, int]] = [(0, 0, index, at + 1)]
    seen: set[int] = set()
    while waiting:
        far, tensor, block, start = heapq.heappop(waiting)
        before = far, tensor
        for place in range(start, blocks[block].last):
            one = function.instructions[place]
            far += 1
            if one.read() & wanted:
                return far, tensor
            if one.written() & wanted and one.predicate is None:
                break
            tensor += one.kind == "tensor"
        else:
            if start == blocks[block].first:  # all of its rounds lie between
                rounds = times.get(block, 1)
                far, tensor = (
                    old + (new - old) * rounds for old, new in zip(before, (far, tensor), strict=True)
                )
            for target in following[block]:
                if target not in seen:
                    seen.add(target)
                    heapq.heappush(waiting, (far, tensor, target, blocks[target].first))
    return None, 0
