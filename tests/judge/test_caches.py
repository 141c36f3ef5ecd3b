# SPDX-License-Identifier: Apache-2.0
"""The truth over caches whose K and V differ, are one, or have gaps, and what is said of a wrong answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.device.registry import open_device
from pabench.judge.naive import naive_attention
from pabench.judge.reference import truth
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors, build_tensors
from pabench.problem.problem import CACHE_FEATURES
from pabench.problem.tensors import sequences_of
from pabench.strategies.attention import cases
from pabench.strategies.lengths import prefill_batches
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.function import FunctionBackend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.absorbed import absorbed

DEVICE = open_device("emulated")
EXACT = NumericsProfile()
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "mla_decode.py"


@pytest.mark.parametrize("feature", CACHE_FEATURES)
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_judge_caches_naive_truth_agrees_property(feature: str, data: st.DataObject) -> None:
    drawn = cases(
        required=[feature],
        features=["window", "sinks"],
        head_dims=[8],
        max_head_dim=24,
        max_len=20,
        max_seqs=2,
    )
    tensors = build_tensors(data.draw(drawn.filter(lambda case: case.problem.num_qo_heads <= 5)))
    found, (out, lse) = truth(tensors, EXACT), naive_attention(tensors)
    np.testing.assert_allclose(found.out, out, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.lse, lse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_judge_caches_absorbed_and_expanded_form_agree(seed: int) -> None:
    problem = Problem(
        num_qo_heads=3,
        num_kv_heads=1,
        head_dim=24,
        head_dim_v=16,
        latent=True,
        sm_scale=20**-0.5,
        page_size=4,
    )
    case = Case(problem=problem, batch=Batch(kv_lens=(9, 1, 30)), seed=seed)
    short, long, w_v = absorbed(case)
    one, other = truth(short, EXACT), truth(long, EXACT)
    np.testing.assert_allclose(np.einsum("hnl,rhl->rhn", w_v, one.out), other.out, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.lse, other.lse, rtol=1e-12)
    # and so do two kernels' answers, each within its own bound
    backend = RawKernelBackend(DEVICE)
    a, b = attend(backend, short), attend(backend, long)
    assert a.lse is not None
    assert b.lse is not None
    distance = np.abs(np.einsum("hnl,rhl->rhn", w_v, a.out.astype(np.float64)) - b.out)
    assert (distance <= np.einsum("hnl,rhl->rhn", np.abs(w_v), one.out_bound) + other.out_bound).all()
    assert (np.abs(a.lse.astype(np.float64) - b.lse) <= one.lse_bound + other.lse_bound).all()


@pytest.mark.parametrize("feature", CACHE_FEATURES)
@settings(max_examples=12, deadline=None)
@given(st.data())
def test_judge_caches_our_kernel_is_right_property(feature: str, data: st.DataObject) -> None:
    several = data.draw(st.booleans())
    drawn = cases(
        required=[feature],
        features=["window", "soft-cap"],
        dtypes=["float16"],
        head_dims=[16],
        max_head_dim=24,
        max_len=70,
        batch=prefill_batches if several else None,
    )
    tensors = build_tensors(data.draw(drawn.filter(lambda case: case.problem.num_qo_heads <= 17)))
    backend = RawKernelBackend(DEVICE)
    found = attend(backend, tensors)
    verdict = judge(tensors, found.out, found.lse, backend.profile)
    assert verdict.passed, verdict.text


FAULTS = {
    "scale": (
        "np.float32(sm_scale)",
        "np.float32(q.shape[-1] ** -0.5)",
        "the default softmax scale in place of its own",
    ),
    "values": (
        "keys[:, :head_dim_v] / total",
        "keys[:, -head_dim_v:] / total",
        "values from the last 64 numbers of a key in place of the first",
    ),
    "no rope": (
        "q[i].astype(np.float32) @ keys.T",
        "q[i, :, :head_dim_v].astype(np.float32) @ keys[:, :head_dim_v].T",
        "logits of the first 64 numbers of a key alone, without the 8 behind its value",
    ),
    "rope alone": (
        "q[i].astype(np.float32) @ keys.T",
        "q[i, :, head_dim_v:].astype(np.float32) @ keys[:, head_dim_v:].T",
        "logits of the last 8 numbers of a key alone, without its value",
    ),
    "pages as slots": (
        "cache[pages].reshape(-1, cache.shape[-1])[:n]",
        "np.nan_to_num(cache).reshape(-1, cache.shape[-1])"
        "[block_table[i, np.minimum(np.arange(n), block_table.shape[1] - 1)] % (len(cache) * page_size)]",
        "entries of the block table taken as slots, as for pages of one token",
    ),
    "base 2": ("np.log(total)", "np.log2(total)", "a natural maximum plus a base-2 log"),
}


def mla(edit: Callable[[str], str] = str) -> FunctionBackend:
    """The example, or what an edit makes of it."""
    room: dict[str, Any] = {}
    exec(compile(edit(EXAMPLE.read_text(encoding="utf-8")), str(EXAMPLE), "exec"), room)
    return FunctionBackend("mla", room["mla_decode"], DEVICE)


def verdict_of(backend: FunctionBackend, tensors: Tensors) -> Verdict:
    found = attend(backend, tensors)
    return judge(tensors, found.out, found.lse, backend.profile)


def latent_case(**fields: Any) -> Case:
    problem = Problem(
        num_qo_heads=4, num_kv_heads=1, head_dim=72, head_dim_v=64, latent=True, sm_scale=0.3, page_size=16
    )
    return Case(problem=problem, batch=Batch(kv_lens=(33, 5, 64)), **{"family": "waves", **fields})


def test_judge_caches_example_is_right() -> None:
    for poison in ("nan", "huge"):
        assert verdict_of(mla(), build_tensors(latent_case(poison=poison))).passed


@pytest.mark.parametrize("fault", FAULTS)
def test_judge_caches_faults_of_the_example_are_named(fault: str) -> None:
    before, after, words = FAULTS[fault]
    assert EXAMPLE.read_text(encoding="utf-8").count(before) == 1
    backend = mla(lambda text: text.replace(before, after))
    verdict = verdict_of(backend, build_tensors(latent_case()))
    assert not verdict.passed
    assert words in verdict.text


def test_judge_caches_values_of_sequences_read_back() -> None:
    tensors = build_tensors(latent_case())
    first = sequences_of(tensors)[0]
    assert first.keys.shape == (33, 1, 72)
    assert first.values.shape == (33, 1, 64)
