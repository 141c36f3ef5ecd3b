"""Arrays of a whole cell, gigabytes of them, made fast; and the check of a part of what came out.

``build_tensors`` makes every number with care and takes seconds for a gigabyte.  Here a block of random
numbers is repeated through the cache, at an offset that differs from page to page: bits as in use, for time
and power depend on them, and answers that can still be judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from pabench.backends.base import AttentionOutput, Backend
from pabench.oracle.verdict import Verdict, judge
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import Array, DType, encode
from pabench.problem.layout import PageLayout
from pabench.problem.placement import place_pages
from pabench.problem.pool import KvPool, pool_shape
from pabench.problem.tensors import Tensors

BLOCK = 4_194_301
"""Numbers of the repeated block; a prime, so that pages begin at different places of it."""
PER_HEAD = frozenset({"alibi", "sinks", "fp8-kv"})
"""Features that differ from head to head."""


def bulk_tensors(case: Case) -> Tensors:
    """Return arrays of the shape that ``case`` asks for; family and poison of the case are not looked at."""
    problem, batch = case.problem, case.batch
    layout = place_pages(
        batch.kv_lens,
        problem.page_size,
        placement=case.placement,
        spare_pages=case.spare_pages,
        tail=case.tail,
        rng=np.random.default_rng([case.seed, 1]),
    )
    shape = pool_shape(problem, layout.num_pages, kv_layout=case.kv_layout, interleaved=case.interleaved)
    storage = np.empty(shape, problem.kv_storage.storage)
    flat, block = storage.reshape(-1), _block(problem.kv_storage, case.seed)
    for start in range(0, flat.size, BLOCK):
        flat[start : start + BLOCK] = block[: flat.size - start]
    rows = (batch.num_query_tokens, problem.num_qo_heads, problem.head_dim)
    queries = np.random.default_rng([case.seed, 2]).standard_normal(rows, np.float32)
    return Tensors(
        case=case,
        q=encode(queries, problem.storage),
        pool=KvPool(storage=storage, kv_layout=case.kv_layout, interleaved=case.interleaved),
        layout=layout,
        kv_lens=np.asarray(batch.kv_lens, dtype=np.int32),
        qo_indptr=batch.qo_indptr,
    )


@lru_cache(maxsize=2)
def _block(dtype: DType, seed: int) -> Array:
    return encode(np.random.default_rng([seed, 3]).standard_normal(BLOCK, np.float32), dtype)


def sampled(kv_lens: Sequence[int]) -> tuple[int, ...]:
    """Return the sequences whose outputs are judged: the shortest, and the longest at the highest place."""
    places = range(len(kv_lens))
    shortest, longest = min(places, key=lambda i: kv_lens[i]), max(places, key=lambda i: (kv_lens[i], i))
    return tuple(dict.fromkeys((shortest, longest)))


def judge_sample(tensors: Tensors, output: AttentionOutput, backend: Backend) -> Verdict:
    """Judge the sampled sequences of a decode batch, the last KV head of each; return the worst verdict.

    Every output has to be a finite number, sampled or not: memory that no thread wrote is NaN.
    """
    verdicts = [
        _judge_one(tensors, output, backend, sequence) for sequence in sampled(tensors.case.batch.kv_lens)
    ]
    worst = min(verdicts, key=lambda verdict: (verdict.passed, -verdict.max_ratio))
    if worst.passed and isinstance(output.out, np.ndarray):
        missing = _not_finite(output.out, tensors.case.problem.storage)
        if missing:
            text = f"{missing} of {output.out.size} outputs of the timed run are no finite numbers"
            return replace(worst, passed=False, text=text)
    return worst


def _judge_one(tensors: Tensors, output: AttentionOutput, backend: Backend, sequence: int) -> Verdict:
    case, group = tensors.case, tensors.case.problem.group_size
    problem, heads, kv_heads = case.problem, slice(None), slice(None)
    if not problem.features & PER_HEAD:
        heads, kv_heads = slice(problem.num_qo_heads - group, None), slice(problem.num_kv_heads - 1, None)
        problem = replace(problem, num_qo_heads=group, num_kv_heads=1)
    kv_len = case.batch.kv_lens[sequence]
    pages = tensors.layout.pages(sequence, kv_len)
    parts = [view[pages] for view in (tensors.pool.k, tensors.pool.v)]
    parts = [part[:, :, kv_heads] if case.kv_layout == "NHD" else part[:, kv_heads] for part in parts]
    table = np.arange(len(pages), dtype=np.int32)[None]
    part = Tensors(
        case=replace(case, problem=problem, batch=Batch(kv_lens=(kv_len,)), interleaved=False),
        q=np.ascontiguousarray(tensors.q[sequence : sequence + 1, heads]),
        pool=KvPool(storage=np.stack(parts), kv_layout=case.kv_layout, interleaved=False),
        layout=PageLayout(page_size=problem.page_size, num_pages=len(pages), block_table=table),
        kv_lens=np.array([kv_len], np.int32),
        qo_indptr=np.array([0, 1], np.int32),
    )
    lse = None if output.lse is None else np.ascontiguousarray(output.lse[sequence : sequence + 1, heads])
    out = np.ascontiguousarray(output.out[sequence : sequence + 1, heads])
    return judge(part, out, lse, backend.profile, allow_missing_lse=not backend.capabilities.lse)


def _not_finite(out: Array, dtype: DType) -> int:
    """Count NaN and infinities without widening gigabytes: all exponent bits are set in them."""
    width = np.dtype(f"u{out.dtype.itemsize}")
    mask = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}[dtype.name]
    bits = np.ascontiguousarray(out).view(width)
    return int(((bits & width.type(mask)) == mask).sum())
