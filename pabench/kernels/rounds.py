# SPDX-License-Identifier: Apache-2.0
"""How often a loop within a turn goes round, where the compiled code says so by constants.

That is a loop without branches but the one at its end, by a comparison of a counter with a constant, where
the counter begins at a constant and goes on by one: what is left of a loop over a known length that is not
unrolled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pabench.device.sass import Function, Instruction
from pabench.kernels.flow import Block, Loop

MOST_ROUNDS = 2**16
NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|\d+)$")
WORD = 2**32
TESTS: dict[str, Callable[[int, int], bool]] = {
    "NE": int.__ne__,
    "EQ": int.__eq__,
    "LT": int.__lt__,
    "LE": int.__le__,
    "GT": int.__gt__,
    "GE": int.__ge__,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How often a turn runs its blocks.

    Attributes:
        times: block to the rounds of all loops in the turn that hold it, where they are known.
        unknown: blocks in a loop of which the code does not say so.
    """

    times: dict[int, int]
    unknown: frozenset[int]


def rounds_within(
    function: Function, blocks: Sequence[Block], loops: Sequence[Loop], way: Sequence[int]
) -> Rounds:
    """Return how often a turn along ``way`` runs each block of it; ``loops`` are those within the turn."""
    times, unknown = dict.fromkeys(way, 1), set[int]()
    for inner in loops:
        held = [index for index in way if index in inner.blocks]
        if not held:
            continue
        rounds = _rounds(function, blocks, inner, way[: way.index(held[0])])
        for index in held:
            times[index] *= rounds or 1
        if rounds is None:
            unknown.update(held)
    return Rounds(times=times, unknown=frozenset(unknown))


def _rounds(function: Function, blocks: Sequence[Block], loop: Loop, before: Sequence[int]) -> int | None:
    """Rounds of a loop that is entered behind the blocks ``before``; None where constants do not say."""
    if len(loop.blocks) > 1:  # a branch within it may leave out work in some round
        return None
    code, block = function.instructions, blocks[loop.header]
    branch, body = code[block.last - 1], range(block.first, block.last - 1)
    negated, predicate = _predicate(branch)
    stays = (not negated) == (function.labels.get(branch.target or "") == block.first)
    tested = [place for place in body if predicate in _parts(code[place])[:2]]
    if not tested or (compared := _comparison(code[tested[-1]])) is None:
        return None
    counter, test, end = compared
    steps = [place for place in body if _parts(code[place])[:1] == [counter]]
    step = _step(code[steps[0]], counter) if len(steps) == 1 else None
    start = _start(
        [one for index in before for one in code[blocks[index].first : blocks[index].last]], counter
    )
    if step is None or start is None:
        return None
    value, late = start, steps[0] > tested[-1]
    for rounds in range(1, MOST_ROUNDS):
        seen = value if late else value + step
        value += step
        if TESTS[test](seen, end) != stays:
            return rounds
    return None


def _predicate(branch: Instruction) -> tuple[bool, str]:
    text = (branch.predicate or "").removeprefix("@")
    return text.startswith("!"), text.removeprefix("!")


def _parts(one: Instruction) -> list[str]:
    """Its operands without what says how registers are read."""
    return [part.strip().removesuffix(".reuse") for part in one.operands.split(",")]


def _comparison(one: Instruction) -> tuple[str, str, int] | None:
    """Counter, test and constant of an ``ISETP`` of a counter with a constant alone."""
    name, _, rest = one.opcode.partition(".")
    parts, modifiers = _parts(one), rest.split(".")
    if name not in ("ISETP", "UISETP") or one.predicate or "EX" in modifiers or len(parts) != 5:
        return None
    end = _number(parts[3])
    if end is None or modifiers[0] not in TESTS or parts[4] not in ("PT", "UPT"):
        return None
    return parts[2], modifiers[0], end


def _step(one: Instruction, counter: str) -> int | None:
    """The constant that an addition adds to ``counter``."""
    if (
        one.predicate
        or not one.opcode.startswith(("VIADD", "UIADD3", "IADD3"))
        or "X" in one.opcode.split(".")
    ):
        return None
    added = [part for part in _parts(one)[1:] if part not in ("RZ", "URZ", "PT", "UPT", "!PT", "!UPT")]
    if len(added) != 2 or added[0] != counter:
        return None
    return _number(added[1])


def _start(code: Sequence[Instruction], counter: str) -> int | None:
    """The constant that the last instruction to write ``counter`` moves there."""
    for one in reversed(code):
        if counter not in one.written():
            continue
        if one.predicate or not one.opcode.startswith(("MOV", "UMOV", "IMAD.MOV", "CS2R")):
            return None
        return _number(_parts(one)[-1])
    return None


def _number(text: str) -> int | None:
    """A constant of 32 bits with a sign; None for anything else."""
    if text in ("RZ", "URZ", "SRZ"):
        return 0
    if not NUMBER.match(text):
        return None
    value = int(text, 0) % WORD
    return value - WORD if value >= WORD // 2 else value
