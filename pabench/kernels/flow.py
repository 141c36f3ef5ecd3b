# SPDX-License-Identifier: Apache-2.0
"""How a function of a GPU flows: basic blocks, loops, and the steady way round a loop.

The steady way is what a warp runs turn after turn when nothing special happens: of all ways round the loop
those with the most work (matrix instructions, else those on numbers), of these those past the block that
copies most to shared memory, when any does, and of these the shortest.  Rescaling, masks and the ends of
sequences lie beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pabench.device.sass import Function, Instruction

ALWAYS = (None, "@PT", "@UPT")
_Done = tuple[int, bool, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Instructions ``first`` to ``last``, exclusive; only the last one branches, to ``successors``."""

    first: int
    last: int
    successors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop: its blocks by number, and the one that it is entered by."""

    header: int
    blocks: frozenset[int]


def blocks_of(function: Function) -> tuple[Block, ...]:
    """Return the basic blocks in order; a call counts as an instruction like another."""
    instructions = function.instructions
    cuts = {0, *function.labels.values()}
    cuts |= {index + 1 for index, one in enumerate(instructions) if _branches(one)}
    starts = sorted(cut for cut in cuts if cut < len(instructions))
    number = {start: index for index, start in enumerate(starts)}
    found = []
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else len(instructions)
        last, following = instructions[end - 1], []
        if _branches(last):
            place = function.labels.get(last.target or "")
            if place in number:
                following.append(number[place])
        if end in number and not (_branches(last) and last.predicate in ALWAYS and not _may_pass(last)):
            following.append(number[end])
        found.append(Block(first=start, last=end, successors=tuple(dict.fromkeys(following))))
    return tuple(found)


def loops_of(blocks: Sequence[Block]) -> tuple[Loop, ...]:
    """Return the loops, inner and outer; one that is entered at several places is there with each of them."""
    order, reached = _dominators(blocks)
    before: dict[int, list[int]] = {index: [] for index in range(len(blocks))}
    for index in reached:
        for target in blocks[index].successors:
            before[target].append(index)
    found: dict[int, set[int]] = {}
    for index in reached:
        for target in blocks[index].successors:
            if target in order[index]:
                inside, waiting = found.setdefault(target, {target}), [index]
                while waiting:
                    one = waiting.pop()
                    if one not in inside:
                        inside.add(one)
                        waiting += before[one]
    loops = [Loop(header=header, blocks=frozenset(inside)) for header, inside in found.items()]
    for whole in _knots(blocks, before):
        if not any(whole <= loop.blocks for loop in loops):
            entries = sorted(one for one in whole if set(before[one]) - whole)
            loops += [Loop(header=entry, blocks=frozenset(whole)) for entry in entries]
    return tuple(loops)


def _knots(blocks: Sequence[Block], before: dict[int, list[int]]) -> list[set[int]]:
    """Blocks that reach one another, in sets of several: the outermost loops, however they are entered."""
    left, found = set(before), []
    while left:
        start = min(left)
        after = _reached(start, left, lambda index: blocks[index].successors)
        knot = after & _reached(start, left, lambda index: before[index])
        left -= knot
        if len(knot) > 1:
            found.append(knot)
    return found


def _reached(start: int, within: set[int], following: Callable[[int], Iterable[int]]) -> set[int]:
    seen, waiting = {start}, [start]
    while waiting:
        for target in following(waiting.pop()):
            if target in within and target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def hot_loop(function: Function, blocks: Sequence[Block]) -> Loop | None:
    """Return the loop with the most work; None without a loop.

    Of loops with the same work it is the innermost that loads from global memory, if one does.
    """
    work = _work_kind(function)
    best, best_key = None, (-1, False, 0)
    for loop in loops_of(blocks):
        inside = [one for index in loop.blocks for one in _code(function, blocks[index])]
        loads = any(_copies(one) or _loads(one) for one in inside)
        key = (sum(one.kind == work for one in inside), loads, -len(inside))
        if key > best_key and steady_way(function, blocks, loop):
            best, best_key = loop, key
    return best


def steady_way(
    function: Function, blocks: Sequence[Block], loop: Loop, *, loading: bool = False
) -> tuple[int, ...]:
    """Return the steady way from the loop's header back to it as block numbers.

    Args:
        function: whose loop it is.
        blocks: of the function.
        loop: one of them.
        loading: whether ways that load from global memory go before shorter ones: one warp of several may.

    Returns:
        Nothing where inner loops leave no way.
    """
    work = _work_kind(function)
    # work, whether it copies, whether it loads: to the fewest instructions that do so, and their way
    ordered = _forward(blocks, loop)
    most = max((_copying(function, blocks[index]) for index in ordered), default=0)
    states: dict[int, dict[_Done, tuple[int, tuple[int, ...]]]] = {index: {} for index in ordered}
    finished: dict[_Done, tuple[int, tuple[int, ...]]] = {}
    states[loop.header] = {(0, False, False): (0, ())}
    position = {index: place for place, index in enumerate(ordered)}
    for index in ordered:
        code = _code(function, blocks[index])
        effort = sum(one.kind == work for one in code)
        copies = 0 < most == _copying(function, blocks[index])
        loads = loading and any(map(_loads, code))
        for (done, copied, loaded), (length, way) in states[index].items():
            key = (done + effort, copied or copies, loaded or loads)
            reached = (length + len(code), (*way, index))
            for target in blocks[index].successors:
                if target == loop.header:
                    finished[key] = min(finished.get(key, reached), reached)
                elif target in position and position[target] > position[index]:
                    known = states[target]
                    known[key] = min(known.get(key, reached), reached)
    return finished[max(finished)][1] if finished else ()


def _forward(blocks: Sequence[Block], loop: Loop) -> list[int]:
    """The loop's blocks in reverse postorder from its header."""
    order: list[int] = []
    seen: set[int] = {loop.header}
    stack = [(loop.header, iter(blocks[loop.header].successors))]
    while stack:
        index, following = stack[-1]
        for target in following:
            if target in loop.blocks and target not in seen:
                seen.add(target)
                stack.append((target, iter(blocks[target].successors)))
                break
        else:
            order.append(index)
            stack.pop()
    return order[::-1]


def _dominators(blocks: Sequence[Block]) -> tuple[dict[int, set[int]], list[int]]:
    """The blocks that lie on every way to a block, for the blocks that are reached."""
    whole = Loop(header=0, blocks=frozenset(range(len(blocks))))
    reached = _forward(blocks, whole)
    before: dict[int, list[int]] = {index: [] for index in reached}
    for index in reached:
        for target in blocks[index].successors:
            before[target].append(index)
    found = {index: set(reached) for index in reached}
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for index in reached[1:]:
            common = set.intersection(*(found[one] for one in before[index])) | {index}
            if common != found[index]:
                found[index], changed = common, True
    return found, reached


def _work_kind(function: Function) -> str:
    return "tensor" if any(one.kind == "tensor" for one in function.instructions) else "float"


def _copies(one: Instruction) -> bool:
    return one.kind == "copy"


def _loads(one: Instruction) -> bool:
    return one.opcode.startswith(("LDG.", "LD."))


def _code(function: Function, block: Block) -> list[Instruction]:
    return function.instructions[block.first : block.last]


def _copying(function: Function, block: Block) -> int:
    """Copies of a block: what a tile takes is more than what now and then is copied besides."""
    return sum(map(_copies, _code(function, block)))


def _branches(one: Instruction) -> bool:
    # a call of a label within the function is a jump to code that was moved aside
    aside = one.opcode.startswith("CALL") and one.target is not None
    return aside or one.opcode.startswith(("BRA", "BRX", "JMP", "EXIT", "RET"))


def _may_pass(one: Instruction) -> bool:
    """Whether some lanes go on behind a branch without a predicate: those of a warp that has diverged."""
    return one.opcode.startswith(("BRA.DIV", "BRA.CONV")) or ("P" in one.operands.partition("`")[0])
