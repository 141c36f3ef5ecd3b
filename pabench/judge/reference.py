# SPDX-License-Identifier: Apache-2.0
"""The truth: dense attention in float64 on the stored values, with the bound of every element.

Two passes over the keys, in blocks.  The first is the online softmax (Milakov and Gimelshein, 2018) in
float64 and gives output and LSE; the second, knowing them, sums the terms of the bound.  Nothing is ever held
for a whole long sequence but its output rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from pabench.errors import InvalidCase
from pabench.judge.bound import (
    Rounding,
    logit_error,
    logit_weight,
    lse_bound,
    output_bound,
    partial_lse_error,
    raw_error,
    rounding_of,
)
from pabench.judge.gather import gather_tokens, query_numbers
from pabench.judge.semantics import final_error, final_logits
from pabench.judge.threads import one_blas_thread
from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import seen_keys, visible_range

BLOCK_ELEMENTS = 2**22
"""Elements of the largest float64 temporary: 32 MiB."""
SPREAD_ELEMENTS = 2**15
"""Elements of a tile of the four-fold product: 256 KiB, which stay in a core's cache."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What a right kernel computes, and how far it may be off.

    Attributes:
        out: ``(rows, num_qo_heads, head_dim_v)`` float64.
        lse: ``(rows, num_qo_heads)`` float64, natural log, sinks included; -inf for a row that sees no key
            and has no sink.
        out_bound: like ``out``, the largest absolute error; 0 for a row that sees no key.
        lse_bound: like ``lse``.
    """

    out: Array
    lse: Array
    out_bound: Array
    lse_bound: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """Query rows of one sequence, heads by rows, and what decides their logits.

    Attributes:
        q: ``(Hk, R, D)``.
        first, last: keys that each row sees, ``(R,)``; with ``seen`` those between are not all seen.
        seen: ``(R, kv_len)``, None where the range says all.
        position: place of each row among the keys, ``(R,)``.
        slopes: ``(Hk, R, 1)``, or None without ALiBi.
        sinks: ``(Hk, R, 1)``, or None.
        v_scale: what stored values are multiplied by, ``(Hk, 1, 1)``.
    """

    problem: Problem
    q: Array
    first: Array
    last: Array
    seen: Array | None
    position: Array
    slopes: Array | None
    sinks: Array | None
    v_scale: Array

    def bias(self, start: int, stop: int) -> Array | None:
        """Return ``slope * (key position - query position)`` of keys ``start..stop-1``, ``(Hk, R, C)``."""
        if self.slopes is None:
            return None
        return self.slopes * (np.arange(start, stop) - self.position[:, None])

    def hidden(self, start: int, stop: int) -> Array | None:
        """Return which of the keys ``start..stop-1`` are masked, ``(R, C)``; None when none is."""
        if self.seen is not None:
            return ~self.seen[:, start:stop]
        if int(self.first.max()) <= start and int(self.last.min()) >= stop:
            return None
        keys = np.arange(start, stop)
        return (keys < self.first[:, None]) | (keys >= self.last[:, None])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Some keys of a sequence and their logits before the mask.

    Attributes:
        keys: ``(Hk, D, C)``.
        values: ``(Hk, C, Dv)``.
        raw: scaled dot products, ``(Hk, R, C)``.
        bias: ``(Hk, R, C)``, or None without ALiBi.
        logits: ``(Hk, R, C)``.
        hidden: which are masked, ``(R, C)``, or None when none is.
    """

    keys: Array
    values: Array
    raw: Array
    bias: Array | None
    logits: Array
    hidden: Array | None


_Blocks = Callable[[], Iterable[_Block]]
"""Called once for each pass."""


@np.errstate(all="ignore")
@one_blas_thread()
def truth(tensors: Tensors, profile: NumericsProfile) -> Truth:
    """Return output, natural-log LSE and their bounds for every query row of ``tensors``.

    Args:
        tensors: the stored arrays; slots that no query row may read are not looked at.
        profile: what the judged kernel declares about its arithmetic.

    Raises:
        InvalidCase: the arrays do not fit one another.
    """
    problem = tensors.case.problem
    check_tensors(tensors)
    rounding = rounding_of(profile, problem.storage, problem.kv_storage, problem.q_storage)
    group, head_dim, kv_heads = problem.group_size, problem.head_dim, problem.num_kv_heads
    rows = tensors.q.shape[0]
    out = np.zeros((rows, problem.num_qo_heads, problem.value_dim))
    out_bound = np.zeros_like(out)
    lse = np.full((rows, problem.num_qo_heads), -math.inf)
    lse_bounds = np.zeros_like(lse)
    if problem.sinks is not None:
        # rows that see a key are overwritten below
        lse[:] = problem.sinks
        lse_bounds[:] = _bound_of_lone_sinks(lse, rounding)
    queries = query_numbers(tensors)

    def fill(sequence: int, begin: int, end: int, seen: Array | None) -> None:
        """Compute rows ``begin..end-1`` of ``sequence``, all of which see a key."""
        count, top = end - begin, indptr[sequence]
        q = queries[top + begin : top + end].reshape(count, kv_heads, group, head_dim).transpose(1, 0, 2, 3)
        firsts, lasts = first[begin:end], last[begin:end]
        part = _Rows(
            problem=problem,
            q=q.reshape(kv_heads, count * group, head_dim),
            first=np.repeat(firsts, group),
            last=np.repeat(lasts, group),
            seen=None if seen is None else np.repeat(seen[begin:end], group, axis=0),
            position=np.repeat(kv_len - q_len + np.arange(begin, end), group),
            slopes=_by_head(problem, problem.alibi_slopes, count),
            sinks=_by_head(problem, problem.sinks, count),
            v_scale=np.array(tensors.case.scales_of("v", sequence))[:, None, None],
        )
        found = _attend(part, _blocks(part, tensors, sequence), rounding)
        if count > 1 and not np.isfinite(found[0]).all():
            # a NaN that one row sees must not reach the others, for which it is masked: 0 * NaN is NaN
            for i in range(begin, end):
                fill(sequence, i, i + 1, seen)
            return
        for target, value in zip((out, lse, out_bound, lse_bounds), found, strict=True):
            back = value.reshape(kv_heads, count, group, *value.shape[2:]).swapaxes(0, 1)
            target[top + begin : top + end] = back.reshape(count, kv_heads * group, *value.shape[2:])

    indptr = tensors.qo_indptr.tolist()
    for sequence, kv_len in enumerate(tensors.kv_lens.tolist()):
        q_len = indptr[sequence + 1] - indptr[sequence]
        first, last = visible_range(problem, q_len, kv_len)
        seen = seen_keys(tensors.case, sequence) if tensors.case.masks else None
        if seen is not None:
            first, last = _ends(seen)
        block = min(kv_len, _block_tokens(problem))
        step = max(1, BLOCK_ELEMENTS // max(1, problem.num_qo_heads * block))
        for begin, end in _runs(first < last):
            for start in range(begin, end, step):
                fill(sequence, start, min(start + step, end), seen)
    return Truth(out=out, lse=lse, out_bound=out_bound, lse_bound=lse_bounds)


def _ends(seen: Array) -> tuple[Array, Array]:
    """Return the first key that each row sees and one past the last, alike for a row that sees none."""
    keys = seen.shape[1]
    first = np.where(seen.any(1), seen.argmax(1), 0) if keys else np.zeros(len(seen), np.int64)
    last = np.where(seen.any(1), keys - seen[:, ::-1].argmax(1), 0) if keys else first
    return first, last


def _runs(some: Array) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of rows that see a key; the others keep what they were made with."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], some, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _by_head(problem: Problem, numbers: tuple[float, ...] | None, count: int) -> Array | None:
    """Return one number per query head as ``(Hk, R, 1)`` for ``count`` query rows, heads within each."""
    if numbers is None:
        return None
    by_group = np.array(numbers, dtype=np.float64).reshape(problem.num_kv_heads, problem.group_size)
    return np.tile(by_group, (1, count))[:, :, None]


def _bound_of_lone_sinks(sinks: Array, rounding: Rounding) -> Array:
    """Return the bound of an LSE that is nothing but its sink."""
    error = logit_error(sinks, sinks, np.zeros_like(sinks))
    return lse_bound(weight_sum=np.expm1(error), lse=sinks, n=np.ones_like(sinks), rounding=rounding)


def check_tensors(tensors: Tensors) -> None:
    """Raise ``InvalidCase`` unless queries, lengths, block table and pool fit one another."""
    problem, lengths, indptr = tensors.case.problem, tensors.kv_lens.tolist(), tensors.qo_indptr.tolist()
    if len(indptr) != len(lengths) + 1 or indptr[0] != 0 or sorted(indptr) != indptr:
        raise InvalidCase("qo_indptr", indptr, f"must rise from 0 over {len(lengths)} sequences")
    shape = (indptr[-1], problem.num_qo_heads, problem.head_dim)
    if tensors.q.shape != shape:
        raise InvalidCase("q.shape", tensors.q.shape, f"must be {shape}")
    if min(lengths, default=0) < 0:
        raise InvalidCase("kv_lens", min(lengths), "must be at least 0")
    tensors.layout.validate(lengths)
    if tensors.layout.num_pages > tensors.pool.num_pages:
        rule = f"the pool has {tensors.pool.num_pages} pages"
        raise InvalidCase("layout.num_pages", tensors.layout.num_pages, rule)


def _block_tokens(problem: Problem) -> int:
    return max(1, BLOCK_ELEMENTS // (problem.num_kv_heads * problem.head_dim))


def _blocks(rows: _Rows, tensors: Tensors, sequence: int) -> _Blocks:
    """Return what yields the keys that any of ``rows`` sees; a single block is read once for both passes."""
    problem, size = rows.problem, _block_tokens(rows.problem)
    begin, end = int(rows.first.min()), int(rows.last.max())

    def read(start: int) -> _Block:
        stop = min(end, start + size)
        keys = gather_tokens(tensors, sequence, "k", start, stop).transpose(1, 2, 0)
        values = gather_tokens(tensors, sequence, "v", start, stop).swapaxes(0, 1)
        if rows.seen is not None:
            # what no row sees may hold anything, and 0 * NaN is NaN
            nobody = ~rows.seen[:, start:stop].any(0)
            keys[:, :, nobody], values[:, nobody] = 0.0, 0.0
        raw, bias = rows.q @ keys, rows.bias(start, stop)
        raw *= problem.scale
        logits = final_logits(problem, raw, bias)
        hidden = rows.hidden(start, stop)
        return _Block(keys=keys, values=values, raw=raw, bias=bias, logits=logits, hidden=hidden)

    if end - begin <= size:
        only = read(begin)
        return lambda: (only,)
    return lambda: (read(start) for start in range(begin, end, size))


def _attend(rows: _Rows, blocks: _Blocks, rounding: Rounding) -> tuple[Array, Array, Array, Array]:
    """Return out ``(Hk, R, Dv)``, lse ``(Hk, R)`` and their bounds, of the same shapes."""
    problem, (kv_heads, count, head_dim) = rows.problem, rows.q.shape
    # a sink is a key that stands before all others and whose value is 0
    maximum: Array = np.full((kv_heads, count, 1), -math.inf)
    total = np.zeros_like(maximum)
    if rows.sinks is not None:
        maximum, total = rows.sinks, np.ones_like(maximum)
    acc = np.zeros((kv_heads, count, problem.value_dim))
    for block in blocks():
        logits = _masked(block.logits, block.hidden)
        higher = np.maximum(maximum, logits.max(2, keepdims=True))
        # a row without a key so far has no maximum to subtract
        base = np.where(higher == -math.inf, 0.0, higher)
        weights = np.exp(logits - base)
        keep = np.exp(maximum - base)
        total = total * keep + weights.sum(2, keepdims=True)
        acc = acc * keep + weights @ block.values
        maximum = higher
    out = acc / total
    lse = maximum + np.log(total)

    magnitude, abs_scale = np.abs(rows.q), abs(problem.scale)
    count_seen = rows.last - rows.first if rows.seen is None else rows.seen.sum(1)
    size = count_seen[:, None].astype(np.float64)
    underflow = magnitude.sum(2, keepdims=True) * abs_scale
    logit_sum, a, v_sum = np.zeros_like(out), np.zeros_like(out), np.zeros_like(out)
    weight_sum, merge_sum = np.zeros_like(lse), np.zeros_like(lse)
    for block in blocks():
        sizes = magnitude @ np.abs(block.keys)
        sizes *= abs_scale
        error = raw_error(sizes, underflow, rounding, head_dim=head_dim)
        error = final_error(problem, block.raw, block.bias, error, rounding)
        error = logit_error(block.logits, maximum, error)
        relative = _masked(block.logits - lse, block.hidden)
        weights = np.exp(relative)
        drift = logit_weight(relative, weights, error)
        absolute = np.abs(block.values)
        a += weights @ absolute
        if block.hidden is None:
            v_sum += absolute.sum(1, keepdims=True)
        else:
            v_sum += (~block.hidden).astype(np.float64) @ absolute
        weight_sum += drift.sum(2, keepdims=True)
        _add_spread(logit_sum, drift, block.values, out)
        if rounding.partial_lse:
            merged = logit_weight(relative, weights, partial_lse_error(block.logits, lse, size + 1.0))
            merge_sum += merged.sum(2, keepdims=True)
            logit_sum += merged @ absolute
    if rows.sinks is not None:
        error = logit_error(rows.sinks, maximum, np.zeros_like(rows.sinks))
        drift = logit_weight(rows.sinks - lse, np.exp(rows.sinks - lse), error)
        weight_sum += drift
        logit_sum += drift * np.abs(out)
        if rounding.partial_lse:
            merge_sum += logit_weight(
                rows.sinks - lse, np.exp(rows.sinks - lse), partial_lse_error(rows.sinks, lse, size + 1.0)
            )
        size = size + 1.0
    bound = output_bound(
        # what moves the LSE of the row moves all its weights
        logit_sum=logit_sum + merge_sum * a,
        a=a,
        v_sum=v_sum,
        total=np.exp(lse - maximum),
        o=out,
        n=size,
        v_scale=rows.v_scale,
        rounding=rounding,
    )
    lse_limit = lse_bound(weight_sum=weight_sum + merge_sum, lse=lse, n=size, rounding=rounding)
    return out, lse[..., 0], bound, lse_limit[..., 0]


def _masked(numbers: Array, hidden: Array | None) -> Array:
    """Return ``numbers`` ``(Hk, R, C)`` with -inf at masked keys; the array itself when there is none."""
    return numbers if hidden is None else np.where(hidden, -math.inf, numbers)


def _add_spread(target: Array, drift: Array, values: Array, out: Array) -> None:
    """Add ``sum_j drift_j |v_jd - o_d|`` in tiles of rows and keys that keep the four-fold product small."""
    (heads, count, head_dim), keys = out.shape, values.shape[1]
    span = min(keys, max(1, SPREAD_ELEMENTS // head_dim))
    rows = max(1, SPREAD_ELEMENTS // (span * head_dim))
    for head, start, row in product(range(heads), range(0, keys, span), range(0, count, rows)):
        weights = drift[head, row : row + rows, None, start : start + span]
        # keys outside a window and behind a row add nothing
        heavy = np.flatnonzero(weights.any((0, 1)))
        if not heavy.size:
            continue
        first, end = int(heavy[0]), int(heavy[-1]) + 1
        distance = values[head, None, start + first : start + end] - out[head, row : row + rows, None]
        np.abs(distance, out=distance)
        target[head, row : row + rows] += (weights[..., first:end] @ distance)[:, 0]
