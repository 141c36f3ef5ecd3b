# SPDX-License-Identifier: Apache-2.0
"""What a backend writes beside its memory is seen, and a plan answers for what its arrays hold by then."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.checks.append_checks import check_append
from pabench.checks.attention_checks import check_decode
from pabench.checks.gather_checks import check_gather
from pabench.checks.merge_checks import check_merge
from pabench.checks.plan_checks import check_replay
from pabench.checks.watched import inputs_of, watched
from pabench.device.base import MAX_ROOM_BYTES
from pabench.device.checked import CheckedDevice
from pabench.device.emulated import EmulatedDevice
from pabench.device.guard_pages import GuardPages
from pabench.device.rooms import CANARIES, MARGIN_BYTES, CanaryRooms, PlainRooms, in_rooms
from pabench.errors import Unsupported
from pabench.problem import Batch, Case, Problem, Tensors, build_tensors
from pabench.problem.append import AppendCase, build_append
from pabench.problem.dtypes import DTYPES, decode
from pabench.problem.merge import MergeCase, build_merge
from pabench.subjects.backends.base import attend
from tests.support.probe import DEVICE
from tests.support.stub_backends import Good

CHECKED = CheckedDevice()
CASE = Case(
    problem=Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4),
    batch=Batch(kv_lens=(9, 0, 33)),
    spare_pages=2,
)
Stray = Callable[[Any], tuple[Any, int]]
"""From a plan of ``Good`` to an array and the offset, from its start in bytes, at which a byte is written."""
STRAYS: dict[str, tuple[Stray, str]] = {
    "past the output": (
        lambda plan: (plan.plan.out, plan.plan.out.nbytes),
        "past its end of an array float32[3, 2, 16]",
    ),
    "before the LSE": (lambda plan: (plan.plan.lse, -1), "before its start of an array float32[3, 2]"),
    "past the queries": (lambda plan: (plan.plan.launches[0].args[0], 3 * 2 * 16 * 4), "past its end"),
    "into the queries": (
        lambda plan: (plan.plan.launches[0].args[0], 5),
        "the backend changed its inputs: q",
    ),
    "into the table": (
        lambda plan: (plan.plan.launches[0].args[3], 8),
        "the backend changed its inputs: block_table",
    ),
    "into another page": (
        lambda plan: (plan.plan.launches[0].args[1], 7),
        "the backend changed its inputs: the cache",
    ),
}


class Strays(Good):
    """Right, and writes one byte more."""

    def __init__(self, stray: Stray, device: EmulatedDevice = DEVICE) -> None:
        super().__init__(device)
        self.stray = stray

    def run(self, plan: Any) -> None:
        super().run(plan)
        array, offset = self.stray(plan)
        byte = (ctypes.c_ubyte * 1).from_address(array.ctypes.data + offset)
        byte[0] ^= 0x55


@pytest.mark.parametrize("where", STRAYS)
def test_watched_stray_writes_are_told(where: str) -> None:
    stray, words = STRAYS[where]
    backend: Any = Strays(stray)
    outcome = check_decode(CASE, backend, DEVICE)
    assert not outcome.passed
    assert words in outcome.text
    assert "err/T" not in outcome.text


@pytest.mark.parametrize("where", [where for where in STRAYS if where.startswith("into")])
def test_watched_changed_inputs_are_told_on_the_checked_device(where: str) -> None:
    stray, words = STRAYS[where]
    backend: Any = Strays(stray, CHECKED)
    assert words in check_decode(CASE, backend, CHECKED).text


def test_watched_right_backends_pass_and_leave_no_rooms() -> None:
    good: Any = Good(DEVICE)
    assert check_decode(CASE, good, DEVICE).passed
    assert DEVICE.rooms is None


def test_watched_canaries_are_nan_in_every_type_and_say_how_far() -> None:
    for dtype in DTYPES.values():
        assert np.isnan(decode(CANARIES.view(dtype.storage), dtype)).all()
    assert len(set(CANARIES.view("<u2").tolist())) > 50
    with in_rooms(DEVICE, CanaryRooms(DEVICE)) as rooms:
        array = DEVICE.empty((3, 5), np.dtype(np.int16))
        assert rooms.disturbed() is None
        (ctypes.c_ubyte * 2).from_address(array.ctypes.data + array.nbytes + 10)[:] = [0, 0]
    text = "2 bytes past its end of an array int16[3, 5] were written, the nearest 11 away"
    assert rooms.disturbed() == text
    assert MARGIN_BYTES % 256 == 0


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 0, 3), (2, 3, 5)])
@pytest.mark.parametrize("kind", [PlainRooms, CanaryRooms, GuardPages])
def test_watched_rooms_hold_what_plain_memory_holds(kind: Any, shape: tuple[int, ...]) -> None:
    rooms = kind(DEVICE, at_end=True) if kind is GuardPages else kind(DEVICE)
    given = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    with in_rooms(DEVICE, rooms):
        copy, fresh = DEVICE.to_device(given), DEVICE.empty(shape, np.dtype(np.float16))
        zeros = DEVICE.zeros(shape, np.dtype(np.int64))
    assert np.array_equal(copy, given)
    assert not np.may_share_memory(copy, given)
    assert np.isnan(fresh).all()
    assert not zeros.any()
    assert (fresh.shape, zeros.shape) == (shape, shape)
    assert [held is copy for held in rooms.held(given)] == [True]


def test_watched_large_arrays_stay_where_they_are() -> None:
    large = np.zeros(MAX_ROOM_BYTES + 1, np.uint8)
    with in_rooms(DEVICE, CanaryRooms(DEVICE)) as rooms:
        assert DEVICE.to_device(large) is large
        DEVICE.empty((MAX_ROOM_BYTES + 1,), np.dtype(np.uint8))
    assert rooms.uploads == []


@pytest.mark.parametrize("operation", ["append", "gather", "merge"])
def test_watched_other_operations_are_watched_too(operation: str) -> None:
    class Stub:
        name, profile = "stub", Good.profile
        capabilities = replace(Good.capabilities, operations=frozenset({"append", "gather", "merge"}))

        def _scribble(self, given: np.ndarray[Any, Any]) -> None:
            held = DEVICE.to_device(given)
            (ctypes.c_ubyte * 1).from_address(held.ctypes.data + held.nbytes)[0] ^= 1

        def append(self, pool: Any, dtype: str, keys: Any, values: Any, slot_mapping: Any) -> Any:
            self._scribble(keys)
            return pool.storage.copy()

        def gather(self, pool: Any, problem: Any, *, block_table: Any, kv_lens: Any, raw: bool) -> Any:
            self._scribble(kv_lens)
            return None, None

        def merge_states(self, outs: Any, lses: Any, dtype: str) -> Any:
            self._scribble(lses)
            return attend(Good(DEVICE), build_tensors(CASE))  # type: ignore[arg-type]

    stub: Any = Stub()
    append = AppendCase(problem=CASE.problem, num_pages=2, slots=(3, 1), seed=1)
    merge = MergeCase(dtype="float32", num_states=2, num_rows=2, num_heads=1, head_dim=4)
    outcome = {
        "append": lambda: check_append(append, stub, DEVICE),
        "gather": lambda: check_gather(CASE, stub, DEVICE),
        "merge": lambda: check_merge(merge, stub, DEVICE),
    }[operation]()
    assert not outcome.passed
    assert outcome.text.startswith("1 byte past its end of an array")
    assert build_append(append)
    assert build_merge(merge)


def test_watched_changes_on_the_host_are_seen_without_a_device() -> None:
    tensors = build_tensors(CASE)

    def run() -> None:
        tensors.kv_lens[0] += 1

    _, stray = watched(DEVICE, inputs_of(tensors), run)
    assert stray == "the backend changed its inputs: kv_lens"


class Replays(Good):
    capabilities = replace(Good.capabilities, operations=frozenset({"decode", "replay"}))


class KeepsLengths(Replays):
    """Reads the lengths when it plans."""

    def plan(self, tensors: Tensors) -> Any:
        return super().plan(replace(tensors, kv_lens=tensors.kv_lens.copy()))


class KeepsScratch(Replays):
    """What one run leaves stays for the next: sequences that have become empty keep their output."""

    def run(self, plan: Any) -> None:
        before = plan.plan.out.copy()
        super().run(plan)
        empty = plan.plan.launches[0].args[4] == 0
        plan.plan.out[empty] = np.where(np.isnan(before[empty]), plan.plan.out[empty], before[empty])


@pytest.mark.parametrize("device", [DEVICE, CHECKED], ids=["plain", "checked"])
def test_replay_right_backends_pass(device: EmulatedDevice) -> None:
    backend: Any = Replays(device)
    for seed in range(5):
        assert check_replay(replace(CASE, seed=seed, tail="foreign"), backend, device).passed


def test_replay_of_lengths_that_were_read_early_is_not_judged_or_wrong() -> None:
    backend: Any = KeepsLengths(DEVICE)
    with pytest.raises(Unsupported, match="kv_lens is not uploaded as it is"):
        check_replay(CASE, backend, DEVICE)


@pytest.mark.parametrize("device", [DEVICE, CHECKED], ids=["plain", "checked"])
def test_replay_sees_what_the_run_before_left(device: EmulatedDevice) -> None:
    backend: Any = KeepsScratch(device)
    verdicts = [check_replay(replace(CASE, seed=seed), backend, device) for seed in range(6)]
    wrong = [verdict.text for verdict in verdicts if not verdict.passed]
    assert wrong
    assert all("after its arrays changed" in text or "changed back" in text for text in wrong)
