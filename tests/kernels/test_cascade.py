# SPDX-License-Identifier: Apache-2.0
"""Decode over shared prefixes: what is read, and that plans without sharing are those of the plain kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.device.checked import CheckedDevice
from pabench.errors import Unsupported
from pabench.judge.traffic import decode_traffic
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel_cascade import RawKernelCascadeBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.kernel_support import bits, judged
from tests.support.probe import DEVICE

PROBLEM = Problem(num_qo_heads=8, num_kv_heads=2, head_dim=64, page_size=16, dtype="float16")
PREFIX = 5
KV_LENS = (80 + 7, 33, 80 + 40, 80, 80 + 1)
CASE = Case(
    problem=PROBLEM,
    batch=Batch(kv_lens=KV_LENS),
    shared_prefix=((2, 0, PREFIX), (3, 2, PREFIX), (4, 0, PREFIX)),
    poison="nan",
)


def loaded(backend: type[RawKernelMmaBackend | RawKernelCascadeBackend], case: Case) -> int:
    """KV bytes that attention loads, all launches together."""
    device = CheckedDevice(checks=(), count=True)
    judged(backend(device), build_tensors(case))
    return device.counters["paged_decode"].loaded_bytes("k", "v")


def test_kernels_cascade_reads_a_prefix_once() -> None:
    """Four sequences of a group of four heads are the 16 rows of one matrix instruction."""
    layout = build_tensors(CASE).layout
    own = decode_traffic(PROBLEM, KV_LENS)
    shared = decode_traffic(PROBLEM, KV_LENS, layout=layout)
    assert loaded(RawKernelMmaBackend, CASE) == own.kv_bytes == sum(KV_LENS) * PROBLEM.token_bytes
    assert loaded(RawKernelCascadeBackend, CASE) == shared.kv_bytes
    assert own.kv_bytes - shared.kv_bytes == 3 * PREFIX * 16 * PROBLEM.token_bytes


@pytest.mark.parametrize("query_len", [2, 8])
def test_kernels_cascade_reads_a_prefix_once_for_16_rows(query_len: int) -> None:
    """More packed rows than 16 read it once for each 16."""
    batch = Batch(kv_lens=KV_LENS, q_lens=(query_len,) * 5)
    drafts = Case(problem=PROBLEM, batch=batch, shared_prefix=((2, 0, 4), (3, 2, 4), (4, 0, 4)))
    rows = 4 * query_len * PROBLEM.group_size
    behind = sum(n - 64 for n in KV_LENS if n != 33) + 33
    # a sequence's own rows fit 16 up to 4 query tokens of 4 heads
    own = behind * -(-query_len * PROBLEM.group_size // 16)
    assert loaded(RawKernelCascadeBackend, drafts) == (64 * rows // 16 + own) * PROBLEM.token_bytes


def test_kernels_cascade_is_clean_under_all_checks() -> None:
    device = CheckedDevice()
    tensors = build_tensors(CASE)
    output = attend(RawKernelCascadeBackend(device), tensors)
    assert device.findings == []
    assert judge(tensors, output.out, output.lse, RawKernelCascadeBackend.profile).passed


def test_kernels_cascade_without_sharing_is_the_plain_kernel() -> None:
    tensors = build_tensors(Case(problem=PROBLEM, batch=Batch(kv_lens=KV_LENS)))
    backend = RawKernelCascadeBackend(DEVICE)
    plan = backend.plan(tensors)
    assert plan.groups == ()
    got, plain = attend(backend, tensors), attend(RawKernelMmaBackend(DEVICE), tensors)
    assert got.out.tobytes() == plain.out.tobytes()
    assert np.asarray(got.lse).tobytes() == np.asarray(plain.lse).tobytes()


FEATURES: dict[str, dict[str, Any]] = {
    "soft cap": {"soft_cap": 0.5},
    "sinks": {"sinks": (0.3, -40.0, 5.0, 40.0, -1e4, 1.0, 0.0, 2.0)},
    "e4m3": {"kv_dtype": "e4m3", "k_scale": (0.5, 3.0), "v_scale": (1.5,)},
}
FEATURES["all"] = {name: value for given in FEATURES.values() for name, value in given.items()}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("given", FEATURES)
def test_kernels_cascade_features_are_right_in_prefix_and_rest(given: str, causal: bool) -> None:
    """One of the sequences is the prefix and nothing else: of its own it has nothing but the sink."""
    problem = replace(PROBLEM, causal=causal, **FEATURES[given])
    tensors = build_tensors(replace(CASE, problem=problem))
    backend = RawKernelCascadeBackend(DEVICE)
    (group,) = backend.plan(tensors).groups
    assert group.sequences == (0, 2, 3, 4)
    result = judged(backend, tensors)
    plain = judged(RawKernelCascadeBackend(DEVICE), build_tensors(replace(CASE, problem=PROBLEM)))
    assert bits(result) != bits(plain)


def test_kernels_cascade_reads_a_prefix_of_e4m3_once() -> None:
    problem = replace(PROBLEM, kv_dtype="e4m3")
    case = replace(CASE, problem=problem)
    shared = decode_traffic(problem, KV_LENS, layout=build_tensors(case).layout)
    assert loaded(RawKernelCascadeBackend, case) == shared.kv_bytes


@pytest.mark.parametrize(
    ("given", "word"), [({"window": 30}, "window"), ({"alibi_slopes": (0.5,) * 8}, "alibi")]
)
def test_kernels_cascade_refuses_what_depends_on_a_rows_place(given: dict[str, Any], word: str) -> None:
    tensors = build_tensors(replace(CASE, problem=replace(PROBLEM, **given)))
    with pytest.raises(Unsupported, match=f"^rawkernel-cascade: no {word}$"):
        RawKernelCascadeBackend(DEVICE).plan(tensors)


def test_kernels_cascade_refuses_what_it_cannot() -> None:
    backend = RawKernelCascadeBackend(DEVICE)
    single = Case(problem=replace(PROBLEM, dtype="float32"), batch=Batch(kv_lens=(3,)))
    with pytest.raises(Unsupported, match=r"^rawkernel-cascade: no dtype float32$"):
        backend.plan(build_tensors(single))
    pool = build_tensors(CASE).pool
    empty = np.zeros((0, 2, 64), np.float16)
    with pytest.raises(Unsupported, match="no append"):
        backend.append(pool, "float16", empty, empty, np.zeros(0, np.int64))
