# SPDX-License-Identifier: Apache-2.0
"""racecheck of the checked device: every rule with a kernel that breaks it and a look-alike that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.checked_probe import findings, line_of

SEEDS = range(10)


def words(count: int) -> Any:
    return np.zeros(count, np.uint32)


def races(entry: str, *args: Any, **options: Any) -> set[tuple[str, str, int, str, int]]:
    """What was found, as (check, action and line of both parties)."""
    return {
        (
            *(f.check, f.at.action, f.at.place.line),
            *((f.other.action, f.other.place.line) if f.other else ("", 0)),
        )
        for f in findings("races", entry, *args, **options)
    }


def race(action: str, text: str, other_action: str, other_text: str) -> tuple[str, str, int, str, int]:
    return ("race", action, line_of("races", text), other_action, line_of("races", other_text))


PASS_ON = race("write", "// pass on: write", "read", "// pass on: read")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("between", "threads", "wrong"),
    [(0, 32, True), (0, 96, True), (1, 32, False), (1, 96, True), (2, 32, False), (2, 96, False)],
)
def test_checked_races_of_shared_memory(seed: int, between: int, threads: int, wrong: bool) -> None:
    out = words(2 * threads)
    found = findings("races", "pass_on", out, np.uint32(between), threads=threads, grid=2, seed=seed)
    assert {(f.check, f.at.place.line, f.other.place.line) for f in found if f.other} == (
        {("race", PASS_ON[2], PASS_ON[4])} if wrong else set()
    )
    for f in found:  # the lowest pair, whoever ran first
        assert f.other is not None
        assert (f.buffer, f.offset, f.nbytes) == ("shared memory", 0, 4)
        assert (f.at.action, f.at.block, f.at.thread) == ("write", (0, 0, 0), (0, 0, 0))
        assert (f.other.action, f.other.block, f.other.thread) == ("read", (0, 0, 0), (threads - 1, 0, 0))


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_of_a_tile_filled_too_early(seed: int) -> None:
    wrong = race("write", "// refill: write", "read", "// refill: read")
    assert races("refill", words(64), np.uint32(0), threads=64, seed=seed) == {wrong}
    assert not races("refill", words(64), np.uint32(1), threads=64, seed=seed)


@pytest.mark.parametrize(("wide", "lines"), [(0, ()), (1, ("// wide",)), (2, ("// wider",))])
def test_checked_races_are_exact_to_the_byte(wide: int, lines: tuple[str, ...]) -> None:
    for seed in SEEDS:
        arrays = np.zeros(64, np.uint16), np.zeros(64, np.uint8), words(64)
        found = races("neighbours", *arrays, np.uint32(wide), threads=64, seed=seed)
        reads = {line for _, _, _, action, line in found if action == "read"}
        numbers = {"// wide": 42, "// wider": 43}
        assert reads == {numbers[text] for text in lines}


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_know_which_lanes_met(seed: int) -> None:
    apart = races("groups", words(64), np.uint32(8), threads=64, seed=seed)
    assert {line for *_, line in apart} == {line_of("races", "// groups: read")}
    assert not races("groups", words(64), np.uint32(0), threads=64, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_know_all_readers_of_a_word(seed: int) -> None:
    wrong = race("write", "// broadcast: write", "read", "// broadcast: read")
    for writer in (0, 13, 31):
        (found,) = findings("races", "broadcast", words(32), np.uint32(writer), np.uint32(0), seed=seed)
        assert found.other is not None
        assert (found.at.thread[0], found.other.thread[0]) == (writer, 1 if writer == 0 else 0)
        assert not races("broadcast", words(32), np.uint32(writer), np.uint32(1), seed=seed)
    assert races("broadcast", words(64), np.uint32(40), np.uint32(1), threads=64, seed=seed) == {wrong}


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_know_both_halves_of_a_word(seed: int) -> None:
    wrong = race("write", "// half by half: write", "read", "// half by half: read")
    assert not races("half_by_half", words(32), np.uint32(0), seed=seed)
    (found,) = findings("races", "half_by_half", words(32), np.uint32(2), seed=seed)
    assert found.other is not None
    assert (found.offset, found.at.thread[0], found.other.thread[0]) == (6, 0, 1)
    assert races("half_by_half", words(32), np.uint32(1), seed=seed) == {wrong}


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_with_a_lane_that_the_mask_leaves_out(seed: int) -> None:
    assert not races("unnamed", words(32), np.uint32(0xFFFFFFFF), seed=seed)
    found = races("unnamed", words(32), np.uint32(0x7FFFFFFF), seed=seed)
    assert {line for *_, line in found} == {line_of("races", "// unnamed: read")}


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_follow_named_barriers(seed: int) -> None:
    wrong = race("write", "// handover: write", "read", "// handover: read")
    assert races("handover", words(128), np.uint32(0), threads=64, seed=seed) == {wrong}
    assert not races("handover", words(128), np.uint32(1), threads=64, seed=seed)
    late = race("write", "// after arrival: write", "read", "// after arrival: read")
    assert races("after_arrival", words(32), np.uint32(1), threads=64, seed=seed) == {late}
    assert not races("after_arrival", words(32), np.uint32(0), threads=64, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fences", [3, 8, 0, 1, 2, 4, 5, 6])
def test_checked_races_of_the_last_block(fences: int, seed: int) -> None:
    wrong = race("write", "// last block: write", "read", "// last block: read")
    arguments = words(8 * 64), words(1), words(64), np.uint32(fences)
    found = races("last_block", *arguments, grid=8, threads=64, seed=seed)
    assert found == (set() if fences in {3, 8} else {wrong})


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_of_a_look_back(seed: int) -> None:
    sums = words(40)
    assert not races("look_back", words(40), sums, np.uint32(0), grid=40, seed=seed)
    assert sums.tolist() == list(range(1, 41))
    found = races("look_back", words(40), words(40), np.uint32(1), grid=40, seed=seed)
    assert found == {race("write", "// look back: sums", "read", "// look back: sums")}


@pytest.mark.parametrize("seed", range(3))
def test_checked_races_of_a_grid_barrier(seed: int) -> None:
    out = words(40 * 64)
    arguments = words(16), words(40), out, np.uint32(4)
    options = {"grid": 40, "threads": 64, "seed": seed}
    assert not races("grid_barrier", *arguments, np.uint32(0), **options)
    assert out.reshape(40, 64)[:, 0].tolist() == [(b + 1) % 40 + 3 for b in range(40)]
    arguments = words(16), words(40), out, np.uint32(4)
    found = races("grid_barrier", *arguments, np.uint32(1), **options)
    assert found == {race("write", "// grid barrier: write", "read", "// grid barrier: read")}


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_of_atomics(seed: int) -> None:
    wrong = race("atomic operation", "// counted: atomic", "read", "// counted: read")
    assert races("counted", words(96), np.uint32(0), threads=96, seed=seed) == {wrong}
    assert not races("counted", words(96), np.uint32(1), threads=96, seed=seed)
    line = "// not atomic"
    both = {race("write", line, "read", line), race("write", line, "write", line)}
    assert races("not_atomic", words(1), np.uint32(0), grid=4, seed=seed) == both
    assert not races("not_atomic", words(1), np.uint32(1), grid=4, seed=seed)


COPY = "// staged: copy"
STAGED: dict[int, set[tuple[str, str, int, str, int]]] = {
    0: set(),
    1: {race("asynchronous write", COPY, "read", "// staged: read")},
    3: {race("asynchronous write", COPY, "read", "// staged: early read")},
    4: {race("asynchronous write", COPY, "write", "// staged: early write")},
    5: {race("write", "// staged: source", "asynchronous read", COPY)},
    2: {
        race("asynchronous write", COPY, "read", "// staged: read"),
        race("write", "// staged: reused", "asynchronous read", COPY),
    },
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("when", STAGED)
def test_checked_races_of_asynchronous_copies(when: int, seed: int) -> None:
    assert races("staged", words(256), words(64), np.uint32(when), threads=64, seed=seed) == STAGED[when]


@pytest.mark.parametrize("seed", SEEDS)
def test_checked_races_of_two_blocks_name_the_lowest_pair(seed: int) -> None:
    (found,) = findings("races", "same_word", words(9), np.uint32(0), grid=9, seed=seed)
    assert found.other is not None
    assert (found.check, found.buffer, found.at.block[0], found.other.block[0]) == ("race", "out", 0, 1)
    place = f"races.cu:{line_of('races', '// same word')}"
    assert str(found) == (
        "race: write and write of the same bytes by two blocks with no release and acquire between them "
        f"in out at byte 0: same_word, write at {place} by block (0, 0, 0) thread (0, 0, 0); "
        f"the other: write at {place} by block (1, 0, 0) thread (0, 0, 0)"
    )
    assert not findings("races", "same_word", words(9), np.uint32(1), grid=9, seed=seed)


def test_checked_races_are_the_same_in_every_run() -> None:
    for entry, arguments in {
        "last_block": (words(64 * 24), words(1), words(64), np.uint32(0)),
        "look_back": (words(24), words(24), np.uint32(1)),
    }.items():
        told = set()
        for workers in (1, 2, 3, 3, 3):
            given = [arg.copy() for arg in arguments]
            found = findings("races", entry, *given, grid=24, threads=64, seed=5, workers=workers)
            told.add("\n".join(map(str, found)))
        assert len(told) == 1
        assert told != {""}


def test_checked_races_name_a_write_to_what_is_taken_as_const() -> None:
    (found,) = findings("races", "through_const", words(32), words(32))
    assert (found.check, found.buffer, found.offset) == ("memory", "from", 12)
    assert found.at.place.line == line_of("races", "// through const")


def test_checked_races_can_be_left_out() -> None:
    assert not findings("races", "pass_on", words(32), np.uint32(0), checks=("memory", "sync"))
