# SPDX-License-Identifier: Apache-2.0
"""Reported bugs of problems that need words beyond plain attention: each is expressed, and the bug is named.

The files hold what a report says, made small: shapes, what is special, and the wrong answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.judge.reference import truth
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors
from pabench.problem.dtypes import Array
from pabench.problem.masks import MASKS
from pabench.problem.masks.mask import Sees
from pabench.problem.tensors import SequenceRows, lay_out, sequences_of
from pabench.subjects.backends.base import AttentionOutput, attend
from tests.support.masked_numpy import MaskedNumpy

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "cases").glob("x-*.json"))}
FORMAT_NAMES = {"e4m3-per-token-head": "e4m3-token-head", "nvfp4": "nvfp4"}
"""What a file calls a format, and what the table does."""


def tensors_of(given: dict[str, Any]) -> Tensors:
    """The arrays of a file; ``code`` asks for one-hot values and no logits, so that masks cannot hide."""
    rng = np.random.default_rng(0)
    flags = given.get("causal", True)
    masks: dict[str, Any] = {}
    if isinstance(flags, list):
        masks["causal-flags"] = flags
    for name, field in (
        ("context-parallel", "dcp"),
        ("image-spans", "spans"),
        ("draft-tree", "tree"),
        ("token-lists", "top"),
        ("starts-in-page", "start_in_page"),
    ):
        if field in given:
            masks[name] = [given[field]] if name == "starts-in-page" else given[field]
    left, right = given.get("window", (None, None))
    if right is not None:
        masks["two-sided-window"] = (left, right)
    problem = Problem(
        num_qo_heads=given["heads"],
        num_kv_heads=given["kv_heads"],
        head_dim=given["dim"],
        head_dim_v=given.get("dim_v"),
        latent=given.get("latent", False),
        sm_scale=given.get("sm_scale", given["dim"] ** -0.5),
        page_size=given["page"],
        causal=flags if isinstance(flags, bool) else True,
        window=left if right is None else None,
        kv_dtype=FORMAT_NAMES[given["quant"]] if "quant" in given else None,
    )
    start = given.get("start_in_page", 0)
    batch = Batch(kv_lens=tuple(n + start for n in given["kv_lens"]), q_lens=given.get("q_lens"))
    case = Case(problem=problem, batch=batch, masks=tuple(masks.items()), spare_pages=3, tail="int-max")
    sequences = []
    for kv_len, q_len in zip(batch.kv_lens, batch.query_lens, strict=True):
        queries = rng.normal(0.0, 1.0, (q_len, problem.num_qo_heads, problem.head_dim))
        keys = rng.normal(0.0, 1.0, (kv_len, problem.num_kv_heads, problem.head_dim))
        values = rng.normal(0.0, 1.0, (kv_len, problem.num_kv_heads, problem.value_dim))
        if given.get("value") == "code":
            queries[:] = 0.0
            values[:] = np.eye(problem.value_dim)[np.arange(kv_len) % problem.value_dim][:, None]
        if problem.kv_dtype is not None:
            # scales that differ from token to token, and from block to block
            for numbers in (keys, values):
                numbers *= 2.0 ** rng.integers(-4, 5, (*numbers.shape[:2], numbers.shape[2] // 16)).repeat(
                    16, 2
                )
        rows = [array.astype(np.float32) for array in (queries, keys, values)]
        rows[1:] = (problem.encode_rows(numbers.astype(np.float64)) for numbers in rows[1:])
        if problem.latent:
            rows[2] = problem.values_of(rows[1])
        sequences.append(SequenceRows(queries=rows[0], keys=rows[1], values=rows[2]))
    return lay_out(case, sequences)


def mistaken(mask: str, words: str) -> Callable[[Tensors], AttentionOutput]:
    """What a kernel gives that mistakes a mask."""
    mistake: Sees = MASKS[mask].mistakes[words]
    return lambda tensors: attend(MaskedNumpy({mask: mistake}), tensors)


def taken(words: str, kinds: str) -> Callable[[Tensors], AttentionOutput]:
    """What a kernel gives that takes keys, values or both for other numbers."""

    def wrong(tensors: Tensors) -> AttentionOutput:
        form = tensors.case.problem.kv_format
        assert form is not None
        return attend(MaskedNumpy(taken=form.mistakes[words], kinds=kinds), tensors)

    return wrong


def base_2(tensors: Tensors) -> AttentionOutput:
    """The right output, and an LSE in base 2."""
    right = attend(MaskedNumpy(), tensors)
    assert right.lse is not None
    return AttentionOutput(out=right.out, lse=(right.lse / np.float32(math.log(2))).astype(np.float32))


def pages_as_slots(tensors: Tensors) -> AttentionOutput:
    """Entries of the table taken as slots, as for pages of one token."""
    problem, table = tensors.case.problem, tensors.layout.block_table
    keys = tensors.pool.k.reshape(-1, 1, problem.head_dim)
    moved = []
    for sequence, rows in enumerate(sequences_of(tensors)):
        entry = np.minimum(np.arange(len(rows.keys)), table.shape[1] - 1)
        taken = keys[table[sequence][entry].astype(np.int64) % len(keys)]
        moved.append(replace(rows, keys=taken, values=taken[..., : problem.value_dim]))
    return attend(MaskedNumpy(), lay_out(tensors.case, moved))


WRONG: dict[str, tuple[Callable[[Tensors], AttentionOutput], str]] = {
    "x-dcp-rows": (
        mistaken("context-parallel", "a causal mask by positions among the keys of its rank"),
        "a causal mask by positions among the keys of its rank",
    ),
    "x-fp8-per-token-head": (
        taken("the scale of the first token of its sequence for all", "kv"),
        "keys and values with the scale of the first token of its sequence for all",
    ),
    "x-nvfp4-value-scales": (
        taken("the scales of four tokens swizzled", "v"),
        "values with the scales of four tokens swizzled",
    ),
    "x-starts-mid-page": (
        mistaken("starts-in-page", "its tokens counted from the beginning of their first page"),
        "its tokens counted from the beginning of their first page",
    ),
    "x-image-span": (mistaken("image-spans", "its spans ignored"), "its spans ignored"),
    "x-mixed-causal": (
        mistaken("causal-flags", "a causal mask whatever its flag"),
        "a causal mask whatever its flag",
    ),
    "x-mla-lse-base": (base_2, "a base-2 LSE in place of natural log"),
    "x-mla-page-size": (
        pages_as_slots,
        "entries of the block table taken as slots, as for pages of one token",
    ),
    "x-sparse-top-k": (
        mistaken("token-lists", "its list of tokens ignored"),
        "its list of tokens ignored",
    ),
    "x-tree-mask": (
        mistaken("draft-tree", "a chain of drafts in place of their tree"),
        "a chain of drafts in place of their tree",
    ),
    "x-two-sided-window": (
        mistaken("two-sided-window", "the right side of its window ignored"),
        "the right side of its window ignored",
    ),
}


def verdict_of(tensors: Tensors, found: AttentionOutput) -> Verdict:
    return judge(tensors, found.out, found.lse, NumericsProfile(partial_dtype=None))


def dense(given: dict[str, Any], tensors: Tensors) -> tuple[Array, Array]:
    """The truth of a file once more, from its own words: a row at a time, no table of masks."""
    case, problem = tensors.case, tensors.case.problem
    rows = [
        (problem.decode_rows(one.keys, "k"), problem.decode_rows(one.values, "v"))
        for one in sequences_of(tensors)
    ]
    out = np.zeros((tensors.q.shape[0], given["heads"], case.problem.value_dim))
    lse = np.full(out.shape[:2], -math.inf)
    at = 0
    for s, n in enumerate(case.batch.kv_lens):
        q_len = case.batch.query_lens[s]
        for i in range(q_len):
            ok = [j for j in range(n) if sees(given, s, n - q_len + i, i, j, n, q_len)]
            for h in range(given["heads"] if ok else 0):
                g = h // (given["heads"] // given["kv_heads"])
                x = rows[s][0][ok, g] @ tensors.q[at, h].astype(float) * case.problem.scale
                weights = np.exp(x - x.max())
                out[at, h] = weights @ rows[s][1][ok, g] / weights.sum()
                lse[at, h] = x.max() + math.log(weights.sum())
            at += 1
    return out, lse


def sees(given: dict[str, Any], s: int, position: int, i: int, j: int, n: int, q_len: int) -> bool:
    flags = given.get("causal", True)
    causal = flags[s] if isinstance(flags, list) else flags
    ok = j <= position or not causal
    if "dcp" in given:
        world, rank, whole = given["dcp"]
        ok = j * world + rank <= whole[s] - q_len + i
    if "tree" in given and j >= n - q_len:
        line, draft = set(), i
        while draft >= 0:
            line.add(n - q_len + draft)
            draft = given["tree"][s][draft]
        ok = j in line
    for first, end in given.get("spans", {s: ()})[s] if "spans" in given else ():
        ok = ok or (first <= position < end and first <= j < end)
    left, right = given.get("window", (None, None))
    ok = ok and (left is None or j > position - left) and (right is None or j < position + right)
    ok = ok and j >= given.get("start_in_page", 0)
    return bool(ok and ("top" not in given or j in given["top"][s]))


def test_reported_problems_are_all_there() -> None:
    assert WRONG.keys() == FILES.keys()
    assert len(FILES) == 11


@pytest.mark.parametrize("name", FILES)
def test_reported_problems_are_judged_and_named(name: str) -> None:
    given = json.loads(FILES[name].read_text(encoding="utf-8"))
    tensors = tensors_of(given)
    out, lse = dense(given, tensors)
    found = truth(tensors, NumericsProfile())
    np.testing.assert_allclose(found.out, out, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.lse, lse, rtol=1e-12)
    right = attend(MaskedNumpy(), tensors)
    assert verdict_of(tensors, right).passed
    make, words = WRONG[name]
    verdict = verdict_of(tensors, make(tensors))
    assert not verdict.passed
    assert words in verdict.text
