# SPDX-License-Identifier: Apache-2.0
"""Simulated float32 kernels: right ones stay within the bound, planted faults leave it and are named."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors, build_tensors
from pabench.problem.dtypes import Array, decode, dtype_by_name, encode
from pabench.problem.families import FAMILIES

F32 = np.float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An online-softmax decode kernel in float32, with switches for its arithmetic and its faults."""

    tile: int = 32
    splits: int = 1
    p_dtype: str = "float32"
    partial_dtype: str = "float32"
    fault: str = ""

    @property
    def profile(self) -> NumericsProfile:
        return NumericsProfile(p_dtype=self.p_dtype, partial_dtype=self.partial_dtype)

    def run(self, t: Tensors) -> tuple[Array, Array]:
        problem = t.case.problem
        out = np.zeros(t.q.shape, dtype=F32)
        lse = np.full(t.q.shape[:2], -np.inf, dtype=F32)
        for sequence, head in itertools.product(range(len(t.kv_lens)), range(problem.num_qo_heads)):
            first, last = int(t.qo_indptr[sequence]), int(t.qo_indptr[sequence + 1])
            for row in range(first, last):
                seen = int(t.kv_lens[sequence])
                if problem.causal:
                    seen = max(0, seen - (last - 1 - row))
                out[row, head], lse[row, head] = self.row(t, sequence, row, head, seen)
        if self.fault == "lse2":
            lse *= F32(1 / np.log(2))
        return encode(out, problem.storage), lse

    def row(self, t: Tensors, sequence: int, row: int, head: int, seen: int) -> tuple[Array, Array]:
        problem, pool = t.case.problem, t.pool
        seen += {"n-1": -1, "n+1": 1}.get(self.fault, 0)
        q = decode(t.q[row, head], problem.storage).astype(F32)
        if seen <= 0:
            return np.zeros_like(q), np.asarray(-np.inf, F32)
        kv_head = head // problem.group_size
        if self.fault == "mod":
            kv_head = head % problem.num_kv_heads
        pages = t.layout.block_table[sequence].astype(np.int64)
        if self.fault == "page-16":
            pages = pages % 65536
        if self.fault == "wrong-page" and sequence == 1:
            pages[2] = t.layout.block_table[3, 0]
        tail = -seen % problem.page_size if self.fault == "masked-tail" else 0
        token = np.arange(seen + tail)
        page, offset = pages[token // problem.page_size], token % problem.page_size
        at = (page, offset, kv_head) if pool.kv_layout == "NHD" else (page, kv_head, offset)
        k = decode(pool.k[at], problem.storage).astype(F32)
        v = decode(pool.v[at], problem.storage).astype(F32)
        logits = np.asarray(k @ q, F32) * F32(problem.scale)
        logits[seen:] = -np.inf
        chunk = -(-logits.size // self.splits)
        parts = [self.part(logits[i : i + chunk], v[i : i + chunk]) for i in range(0, logits.size, chunk)]
        top = max(m for m, _, _ in parts)
        total, acc = F32(0), np.zeros_like(q)
        for m, s, a in parts:
            total += s * np.exp(m - top)
            stored = a / s if self.splits > 1 else a
            kept = decode(
                encode(stored, dtype_by_name(self.partial_dtype)), dtype_by_name(self.partial_dtype)
            )
            acc += kept.astype(F32) * (s if self.splits > 1 else F32(1)) * np.exp(m - top)
        return acc / total, np.asarray(top + np.log(total), F32)

    def part(self, logits: Array, v: Array) -> tuple[np.floating, np.floating, Array]:
        m, s, acc = F32(-np.inf), F32(0), np.zeros(v.shape[1], F32)
        for start in range(0, logits.size, self.tile):
            x = logits[start : start + self.tile]
            higher = np.maximum(m, x.max())
            p = np.exp(x - higher).astype(F32)
            keep = np.exp(m - higher).astype(F32)
            s = s * (F32(1) if self.fault == "sum-not-rescaled" else keep) + p.sum(dtype=F32)
            operand = dtype_by_name(self.p_dtype)
            p = decode(encode(p, operand), operand).astype(F32)
            acc = acc * (F32(1) if self.fault == "not-rescaled" else keep) + p @ v[start : start + self.tile]
            m = higher
        return m, s, acc


def make(dtype: str = "float16", family: str = "normal", **change: object) -> Tensors:
    problem = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=32, page_size=16, dtype=dtype)
    case = Case(problem=problem, batch=Batch(kv_lens=(0, 100, 37, 129)), family=family, poison="nan", seed=3)
    return build_tensors(replace(case, **change))  # type: ignore[arg-type]


def verdict_of(kernel: Kernel, tensors: Tensors) -> Verdict:
    with np.errstate(all="ignore"):
        out, lse = kernel.run(tensors)
    return judge(tensors, out, lse, kernel.profile)


RIGHT = (
    Kernel(),
    Kernel(splits=3, tile=64),
    Kernel(p_dtype="float16", tile=16),
    Kernel(p_dtype="bfloat16", partial_dtype="bfloat16", splits=2),
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_verdict_passes_right_kernels(dtype: str, family: str) -> None:
    tensors = make(dtype, family)
    for kernel in RIGHT:
        verdict = verdict_of(kernel, tensors)
        assert verdict.passed, (kernel, verdict.text)
        assert verdict.max_ratio <= 1.0
        assert verdict.checked == tensors.q.size + tensors.q.shape[0] * tensors.q.shape[1]


def test_verdict_passes_right_prefill() -> None:
    for q_lens in ((1, 7, 50, 0), (3, 100, 37, 2)):
        tensors = make(batch=Batch(kv_lens=(0, 100, 37, 129), q_lens=q_lens))
        assert verdict_of(Kernel(), tensors).passed
        assert not verdict_of(Kernel(fault="n-1"), tensors).passed


@pytest.mark.parametrize(
    ("fault", "family", "words"),
    [
        ("n-1", "marker", "its last key missing (bound"),
        ("n-1", "normal", "its last key missing (bound"),
        ("mod", "normal", "query head mod num_kv_heads"),
        ("not-rescaled", "ascending", "the accumulator not rescaled"),
        ("sum-not-rescaled", "ascending", "the sum not rescaled"),
        ("wrong-page", "normal", "logical page 2 read from physical page"),
        ("wrong-page", "needle", "logical page 2 read from physical page"),
        ("wrong-page", "spotlight", "logical page 2 read from physical page"),
        ("lse2", "normal", "a base-2 LSE in place of natural log"),
        ("masked-tail", "normal", "a masked slot leaked through V (0 * nan)"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_verdict_fails_planted_faults_and_names_them(fault: str, family: str, words: str, dtype: str) -> None:
    kernel = Kernel(fault=fault)
    # a needle lies anywhere; take a seed that puts it in the page that is read wrongly
    for seed in range(60):
        tensors = make(dtype, family, seed=seed)
        verdict = verdict_of(kernel, tensors)
        if not verdict.passed:
            break
    assert not verdict.passed
    assert verdict.max_ratio > 1.0
    assert words in verdict.text, verdict.text
    assert f"sequence {verdict.sequence}, query head {verdict.head}" in verdict.text
    if verdict.quantity == "out":
        assert f"dim {verdict.dim}" in verdict.text


def test_verdict_names_the_pages_of_a_dominating_key() -> None:
    tensors = make(family="one-hot", seed=1)
    verdict = verdict_of(Kernel(fault="mod"), tensors)
    assert "of the weight, slot " in verdict.text
    assert " of logical page " in verdict.text


def test_verdict_names_one_key_too_many() -> None:
    tensors = make(poison="zero", batch=Batch(kv_lens=(5, 100, 37, 129)))
    verdict = verdict_of(Kernel(fault="n+1"), tensors)
    assert "one key too many" in verdict.text


def test_verdict_names_page_ids_cut_to_16_bits() -> None:
    for family, poison in (("normal", "zero"), ("normal", "nan"), ("constant-value", "zero")):
        tensors = make(family=family, placement="high", poison=poison)
        verdict = verdict_of(Kernel(fault="page-16"), tensors)
        assert not verdict.passed
        assert "cut to 16 bits" in verdict.text


def test_verdict_catches_a_profile_that_promises_too_much() -> None:
    tensors = make("float16", "normal")
    out, lse = Kernel(p_dtype="bfloat16").run(tensors)
    assert not judge(tensors, out, lse, NumericsProfile(p_dtype="float32")).passed
    assert judge(tensors, out, lse, NumericsProfile(p_dtype="bfloat16")).passed


@pytest.mark.parametrize("fault", ["mod", "not-rescaled"])
def test_verdict_offers_no_explanation_that_fits_anything(fault: str) -> None:
    # a key of 3e38 too many would leave its recomputation so much slack that every output lies within it
    tensors = make("float32", "ascending", poison="huge")
    verdict = verdict_of(Kernel(fault=fault), tensors)
    assert not verdict.passed
    assert "one key too many" not in verdict.text
    assert {"mod": "mod num_kv_heads", "not-rescaled": "the accumulator not rescaled"}[fault] in verdict.text
