# SPDX-License-Identifier: Apache-2.0
"""Arrays of a whole cell, gigabytes of them, made fast; and the check of a part of what came out.

``build_tensors`` makes every number with care and takes seconds for a gigabyte.  Here a block of random
numbers is repeated through the cache: bits as in use, for time and power depend on them, answers that can be
judged, and a page's content that is known without reading it back.  A GPU repeats the block itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from pabench.errors import Unsupported
from pabench.judge.verdict import Verdict, judge
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import Array, DType, encode
from pabench.problem.layout import PageLayout
from pabench.problem.placement import place_pages
from pabench.problem.pool import KvPool, pool_parts, pool_shape
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Backend

BLOCK_LANES = 524_287
"""16-byte lanes of the repeated block; a prime, so that pages begin at different places of it."""
JUDGED_ROWS = 64
"""Query rows of a sampled sequence that are judged."""
PER_HEAD = frozenset({"alibi", "sinks", "fp8-kv"})
"""Features that differ from head to head."""


Tile = Callable[[Array, tuple[int, ...]], Any]
"""Returns an array of a shape through which a block is repeated."""


def bulk_tensors(case: Case, tile: Tile | None = None, *, turn: int = 0) -> Tensors:
    """Return arrays of the shape that ``case`` asks for; family and poison of the case are not looked at.

    Args:
        case: of any size; a format whose rows have scales of their own is none of those that can be had so.
        tile: makes the cache, on a device for instance; None makes it on the host.
        turn: of the sets that take turns: each has queries and a block table of its own.
    """
    problem = case.problem
    parts = pool_parts(problem)
    rows = problem.kv_format is not None and problem.kv_format.scale is not None
    if rows or (parts is not None and not parts.latent):
        what = f"format {problem.kv_dtype}" if rows else "K and V of different sizes"
        raise Unsupported(f"no timed inputs with {what}: a cell that is timed repeats one block of numbers")
    layout, queries = _set(case, turn)
    shape = pool_shape(problem, layout.num_pages, kv_layout=case.kv_layout, interleaved=case.interleaved)
    storage = (tile or tile_on_host)(block_of(problem.kv_storage, case.seed), shape)
    return Tensors(
        case=case,
        q=queries,
        pool=KvPool(
            storage=storage,
            kv_layout=case.kv_layout,
            interleaved=case.interleaved,
            parts=parts,
        ),
        layout=layout,
        kv_lens=np.asarray(case.batch.kv_lens, dtype=np.int32),
        qo_indptr=case.batch.qo_indptr,
    )


def turned(tensors: Tensors, turn: int) -> Tensors:
    """Return ``bulk_tensors`` of the same case and another turn, over the same cache."""
    layout, queries = _set(tensors.case, turn)
    return replace(tensors, layout=layout, q=queries)


def _set(case: Case, turn: int) -> tuple[PageLayout, Array]:
    """Block table and queries of a turn."""
    problem, batch = case.problem, case.batch
    own = [turn] if turn else []
    layout = place_pages(
        batch.kv_lens,
        problem.page_size,
        placement=case.placement,
        spare_pages=case.spare_pages,
        tail=case.tail,
        forks=case.shared_prefix,
        rng=np.random.default_rng([case.seed, 1, *own]),
    )
    rows = (batch.num_query_tokens, problem.num_qo_heads, problem.head_dim)
    queries = np.random.default_rng([case.seed, 2, *own]).standard_normal(rows, np.float32)
    return layout, encode(queries, problem.storage)


def tile_on_host(block: Array, shape: tuple[int, ...]) -> Array:
    """Repeat ``block`` through a new numpy array."""
    storage = np.empty(shape, block.dtype)
    flat = storage.reshape(-1)
    for start in range(0, flat.size, block.size):
        flat[start : start + block.size] = block[: flat.size - start]
    return storage


def tile_nothing(block: Array, shape: tuple[int, ...]) -> Array:
    """Return a stub for a cache of that shape, for whoever knows its pages by the block alone."""
    return np.broadcast_to(np.zeros((), block.dtype), shape)


@lru_cache(maxsize=2)
def block_of(dtype: DType, seed: int) -> Array:
    """Return the block that is repeated: ``BLOCK_LANES`` lanes of random numbers of ``dtype``."""
    count = BLOCK_LANES * 16 // dtype.itemsize
    return encode(np.random.default_rng([seed, 3]).standard_normal(count, np.float32), dtype)


def pages_of(tensors: Tensors, kind: int, pages: Array, kv_heads: slice) -> Array:
    """Return keys (0) or values (1) of ``pages`` as the block says they are, heads cut out."""
    problem, pool = tensors.case.problem, tensors.pool
    block = block_of(problem.kv_storage, tensors.case.seed)
    shape = pool.parts.page("k", pool.kv_layout) if pool.parts is not None else pool.storage.shape[-3:]
    size = math.prod(shape)
    places = np.arange(size, dtype=np.int64).reshape(shape)
    places = places[:, kv_heads] if pool.kv_layout == "NHD" else places[kv_heads]
    wide = pages.astype(np.int64)
    if pool.parts is not None:  # latent: a page of keys, that are the values too
        starts = size * wide
    else:
        starts = size * (2 * wide + kind if pool.interleaved else kind * pool.num_pages + wide)
    found: Array = block[(starts[:, None, None, None] + places) % block.size]
    return found


def sampled(kv_lens: Sequence[int]) -> tuple[int, ...]:
    """Return the sequences whose outputs are judged: the shortest, and the longest at the highest place."""
    places = range(len(kv_lens))
    shortest, longest = min(places, key=lambda i: kv_lens[i]), max(places, key=lambda i: (kv_lens[i], i))
    return tuple(dict.fromkeys((shortest, longest)))


def judge_sample(tensors: Tensors, output: AttentionOutput, backend: Backend) -> Verdict:
    """Judge the sampled sequences of a batch, the last rows and KV head of each; return the worst verdict.

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
    kv_len, q_len = case.batch.kv_lens[sequence], case.batch.query_lens[sequence]
    pages = tensors.layout.pages(sequence, kv_len)
    latent = pool_parts(problem)
    if latent is None:
        storage = np.stack([pages_of(tensors, kind, pages, kv_heads) for kind in (0, 1)])
    else:
        storage = pages_of(tensors, 0, pages, kv_heads).reshape(len(pages), -1)
    # the last rows alone see what all rows see, and the mask is aligned at the end
    end, count = int(tensors.qo_indptr[sequence + 1]), min(q_len, JUDGED_ROWS)
    rows = slice(end - count, end)
    table = np.arange(len(pages), dtype=np.int32)[None]
    part = Tensors(
        case=replace(
            case,
            problem=problem,
            batch=Batch(kv_lens=(kv_len,), q_lens=(count,)),
            interleaved=False,
            shared_prefix=(),
        ),
        q=np.ascontiguousarray(tensors.q[rows, heads]),
        pool=KvPool(storage=storage, kv_layout=case.kv_layout, interleaved=False, parts=latent),
        layout=PageLayout(page_size=problem.page_size, num_pages=len(pages), block_table=table),
        kv_lens=np.array([kv_len], np.int32),
        qo_indptr=np.array([0, count], np.int32),
    )
    lse = None if output.lse is None else np.ascontiguousarray(output.lse[rows, heads])
    out = np.ascontiguousarray(output.out[rows, heads])
    return judge(part, out, lse, backend.profile, allow_missing_lse=not backend.capabilities.lse)


def _not_finite(out: Array, dtype: DType) -> int:
    """Count NaN and infinities without widening gigabytes: all exponent bits are set in them."""
    width = np.dtype(f"u{out.dtype.itemsize}")
    mask = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}[dtype.name]
    bits = np.ascontiguousarray(out).view(width)
    return int(((bits & width.type(mask)) == mask).sum())
