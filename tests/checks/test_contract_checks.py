# SPDX-License-Identifier: Apache-2.0
"""Contract checks: ten corrupt problems of every class are refused, guard pages guard, limits are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.checks.attention_checks import check_decode, judge_output
from pabench.checks.corruptions import CORRUPTIONS, Break
from pabench.checks.guarded import check_guard
from pabench.checks.plan_checks import check_launch_limits, untouched
from pabench.checks.reject_checks import check_reject, ways_of
from pabench.device.guard_pages import guarded, guarded_copy
from pabench.errors import LaunchError, Unsupported, UsageError
from pabench.problem import Batch, Case, Problem, Tensors, build_tensors
from pabench.subjects.backends.base import AttentionOutput, attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from pabench.subjects.backends.torch_sdpa import TorchSdpaBackend
from tests.support.probe import DEVICE
from tests.support.stub_backends import Good

BACKENDS: dict[str, Any] = {
    "rawkernel": RawKernelBackend(DEVICE),
    "rawkernel-mma": RawKernelMmaBackend(DEVICE),
    "torch-sdpa": TorchSdpaBackend(DEVICE),
}
BATCHES = [Batch(kv_lens=lens) for lens in ((9,), (1, 17), (0, 5, 40), (64, 3), (33, 0))]


def case(number: int) -> Case:
    """Ten that differ in lengths, page size and layout, of a shape that every backend takes."""
    problem = Problem(
        num_qo_heads=4, num_kv_heads=2, head_dim=64, page_size=(4, 16)[number % 2], dtype="float16"
    )
    layout = ("NHD", "HND")[number // 5]
    return Case(problem=problem, batch=BATCHES[number % 5], kv_layout=layout, seed=number, spare_pages=1)


def refusal(backend: Any, way: Break, good: Tensors) -> str | None:
    """The error in which a broken problem ends; None when there is nothing to break."""
    try:
        broken = way(good)
        if broken is None:
            return None
        backend.plan(broken)
    except (UsageError, Unsupported) as error:  # of a feature that the backend does not have
        return str(error)
    raise AssertionError("must be refused, was accepted")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name, found in CORRUPTIONS.items() if not found.defined])
def test_contract_ten_of_each_class_are_refused(name: str, backend: str) -> None:
    said: list[str] = []
    for number in range(10):
        good = build_tensors(case(number))
        before = untouched(good)
        found = [refusal(BACKENDS[backend], way, good) for way in CORRUPTIONS[name].ways.values()]
        said += [text for text in found if text is not None]
        assert untouched(good) == before
    assert len(said) >= 10
    assert all(text.strip() and len(text.splitlines()) == 1 for text in said)


def test_contract_every_corruption_ends_in_a_typed_error_and_a_usable_process() -> None:
    backend = BACKENDS["rawkernel"]
    ended = {name: 0 for name in CORRUPTIONS}
    for number in range(10):
        good = build_tensors(case(number))
        before = untouched(good)
        for name, corruption, way in ways_of(replace(case(number), seed=number)):
            kind = name.split(" (")[0]
            try:
                broken = way(good)
                output = None if broken is None else attend(backend, broken)
            except UsageError as error:
                ended[kind] += bool(str(error).strip())
            else:
                # memory that is odd and well defined: a right answer is as good
                assert corruption.defined
                ended[kind] += output is None or judge_output(good, output, backend).passed
        assert untouched(good) == before
        assert check_decode(case(number), backend, DEVICE).passed
    assert ended == dict.fromkeys(CORRUPTIONS, 10)
    assert sum(ended.values()) == 160


def test_contract_check_asks_every_class_of_every_case() -> None:
    for number in range(10):
        assert [name.split(" (")[0] for name, _, _ in ways_of(case(number))] == list(CORRUPTIONS)
    words = {name for number in range(12) for name, _, _ in ways_of(replace(case(0), seed=number))}
    assert len(words) == sum(len(found.ways) for found in CORRUPTIONS.values())


def test_contract_of_backends_that_leave_it_to_the_caller_is_not_judged() -> None:
    backend: Any = Good(DEVICE)
    backend.capabilities = replace(Good.capabilities, validates=False)
    with pytest.raises(Unsupported, match="declares that it does not validate"):
        check_reject(case(0), backend, DEVICE)


def test_contract_refusal_that_changes_its_input_is_seen() -> None:
    class Scribbles(Good):
        def plan(self, tensors: Any) -> Any:
            tensors.q[...] = 0
            return super().plan(tensors)

    plain = Case(
        problem=Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4), batch=Batch(kv_lens=(9,))
    )
    scribbles: Any = Scribbles(DEVICE)
    outcome = check_reject(plain, scribbles, DEVICE)
    assert not outcome.passed
    assert outcome.text == "page id out of the pool (-1): refused, and changed q"


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 1024, 16)])
def test_contract_guarded_copies_are_flush_and_aligned(shape: tuple[int, ...], at_end: bool) -> None:
    import mmap

    given = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    copy = guarded_copy(given, at_end=at_end)
    assert np.array_equal(copy, given)
    start = copy.ctypes.data
    assert (start + (copy.nbytes if at_end else 0)) % mmap.PAGESIZE == 0
    assert start % (16 if copy.nbytes % 16 == 0 else copy.itemsize) == 0


def test_contract_guarded_tensors_hold_what_they_held() -> None:
    good = build_tensors(case(2))
    assert untouched(guarded(good, at_end=True)) == untouched(good)
    assert check_guard(case(2), BACKENDS["torch-sdpa"], DEVICE).passed


class Limited(Good):
    """Launches at most so many heads; ``refuse`` says what it does with more."""

    def __init__(self, refuse: bool) -> None:
        self.refuse = refuse

    def plan(self, tensors: Any) -> Any:
        if self.refuse:
            raise LaunchError("grid y = 65536: must be at most 65535")
        return tensors

    def run(self, plan: Any) -> None:
        return

    def fetch(self, plan: Any) -> Any:
        return AttentionOutput(out=np.zeros_like(plan.q), lse=np.zeros(plan.q.shape[:2], np.float32))


def test_contract_launch_that_was_skipped_is_told_from_one_refused() -> None:
    crowd = Case(
        problem=Problem(num_qo_heads=64, num_kv_heads=1, head_dim=16, page_size=2), batch=Batch(kv_lens=(3,))
    )
    careful: Any = Limited(refuse=True)
    careless: Any = Limited(refuse=False)
    assert check_launch_limits(crowd, careful, DEVICE).passed
    stale = check_launch_limits(crowd, careless, DEVICE)
    assert not stale.passed
    assert "err/T" in stale.text
