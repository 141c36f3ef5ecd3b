"""The truth: dense attention in float64 on the stored values, with the bound of every element.

Two passes over the keys, in blocks.  The first is the online softmax (Milakov and Gimelshein, 2018) in
float64 and gives output and LSE; the second, knowing them, sums the terms of the bound.  Nothing is ever held
for a whole long sequence but its output rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pabench.errors import InvalidCase
from pabench.judge.bound import (
    Rounding,
    logit_error,
    logit_weight,
    lse_bound,
    output_bound,
    raw_error,
    rounding_of,
)
from pabench.judge.gather import gather_tokens, to_float64
from pabench.judge.semantics import final_error, final_logits
from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import visible_range

BLOCK_ELEMENTS = 2**22
"""Elements of the largest float64 temporary: 32 MiB."""
THREADED_WORK = 2**26
"""Query numbers times keys from which on torch may use more than one thread."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What a right kernel computes, and how far it may be off.

    Attributes:
        out: ``(rows, num_qo_heads, head_dim)`` float64.
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
        first, last: keys that each row sees, ``(R,)``.
        position: place of each row among the keys, ``(R,)``.
        slopes: ``(Hk, R, 1)``, or None without ALiBi.
        sinks: ``(Hk, R, 1)``, or None.
    """

    problem: Problem
    q: Tensor
    first: Tensor
    last: Tensor
    position: Tensor
    slopes: Tensor | None
    sinks: Tensor | None

    def bias(self, start: int, stop: int) -> Tensor | None:
        """Return ``slope * (key position - query position)`` of keys ``start..stop-1``, ``(Hk, R, C)``."""
        if self.slopes is None:
            return None
        return self.slopes * (torch.arange(start, stop) - self.position[:, None])

    def hidden(self, start: int, stop: int) -> Tensor | None:
        """Return which of the keys ``start..stop-1`` are masked, ``(R, C)``; None when none is."""
        if int(self.first.max()) <= start and int(self.last.min()) >= stop:
            return None
        keys = torch.arange(start, stop)
        return (keys < self.first[:, None]) | (keys >= self.last[:, None])


_Blocks = Callable[[], Iterable[tuple[int, Tensor, Tensor]]]
"""Yields ``start, keys (Hk, D, C), values (Hk, C, D)``; called once for each pass."""


def truth(tensors: Tensors, profile: ComputeProfile) -> Truth:
    """Return output, natural-log LSE and their bounds for every query row of ``tensors``.

    Args:
        tensors: the stored arrays; slots that no query row may read are not looked at.
        profile: what the judged kernel declares about its arithmetic.

    Raises:
        InvalidCase: the arrays do not fit one another.
    """
    problem = tensors.case.problem
    check_tensors(tensors)
    rounding = rounding_of(profile, problem.storage, problem.kv_storage)
    group, head_dim, kv_heads = problem.group_size, problem.head_dim, problem.num_kv_heads
    rows = tensors.q.shape[0]
    out = np.zeros((rows, problem.num_qo_heads, head_dim))
    out_bound = np.zeros_like(out)
    lse = np.full((rows, problem.num_qo_heads), -math.inf)
    lse_bounds = np.zeros_like(lse)
    if problem.sinks is not None:
        # rows that see a key are overwritten below
        lse[:] = problem.sinks
        lse_bounds[:] = _bound_of_lone_sinks(lse, rounding)
    queries = to_float64(tensors.q, problem.storage)

    def fill(sequence: int, begin: int, end: int) -> None:
        """Compute rows ``begin..end-1`` of ``sequence``, all of which see a key."""
        count, top = end - begin, indptr[sequence]
        q = queries[top + begin : top + end].reshape(count, kv_heads, group, head_dim).transpose(1, 0, 2, 3)
        firsts, lasts = first[begin:end], last[begin:end]
        part = _Rows(
            problem=problem,
            q=torch.from_numpy(q.reshape(kv_heads, count * group, head_dim)),
            first=torch.from_numpy(np.repeat(firsts, group)),
            last=torch.from_numpy(np.repeat(lasts, group)),
            position=torch.from_numpy(np.repeat(kv_len - q_len + np.arange(begin, end), group)),
            slopes=_by_head(problem, problem.alibi_slopes, count),
            sinks=_by_head(problem, problem.sinks, count),
        )
        found = _attend(part, _block_reader(tensors, sequence, int(firsts.min()), int(lasts.max())), rounding)
        if count > 1 and not bool(torch.isfinite(found[0]).all()):
            # a NaN that one row sees must not reach the others, for which it is masked: 0 * NaN is NaN
            for i in range(begin, end):
                fill(sequence, i, i + 1)
            return
        for target, value in zip((out, lse, out_bound, lse_bounds), found, strict=True):
            back = value.reshape(kv_heads, count, group, *value.shape[2:]).transpose(0, 1)
            target[top + begin : top + end] = back.reshape(count, kv_heads * group, *value.shape[2:]).numpy()

    indptr = tensors.qo_indptr.tolist()
    longest = int(tensors.kv_lens.max(initial=0))
    with _threads_for(longest * tensors.q.size):
        for sequence, kv_len in enumerate(tensors.kv_lens.tolist()):
            q_len = indptr[sequence + 1] - indptr[sequence]
            first, last = visible_range(problem, q_len, kv_len)
            block = min(kv_len, _block_tokens(tensors))
            step = max(1, BLOCK_ELEMENTS // max(1, problem.num_qo_heads * block))
            # rows that see nothing come first and keep the values they were made with
            for begin in range(int((first == last).sum()), q_len, step):
                fill(sequence, begin, min(begin + step, q_len))
    return Truth(out=out, lse=lse, out_bound=out_bound, lse_bound=lse_bounds)


def _by_head(problem: Problem, numbers: tuple[float, ...] | None, count: int) -> Tensor | None:
    """Return one number per query head as ``(Hk, R, 1)`` for ``count`` query rows, heads within each."""
    if numbers is None:
        return None
    by_group = torch.tensor(numbers, dtype=torch.float64).reshape(problem.num_kv_heads, problem.group_size)
    return by_group.repeat(1, count)[:, :, None]


def _bound_of_lone_sinks(sinks: Array, rounding: Rounding) -> Array:
    """Return the bound of an LSE that is nothing but its sink."""
    lse = torch.from_numpy(sinks)
    error = logit_error(lse, lse, torch.zeros_like(lse))
    bound = lse_bound(weight_sum=torch.expm1(error), lse=lse, n=torch.ones_like(lse), rounding=rounding)
    return bound.numpy()


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


@contextmanager
def _threads_for(work: int) -> Iterator[None]:
    """Run small cases on one thread: waking a second one costs more, a hundredfold when the CPU is busy."""
    before = torch.get_num_threads()
    if work < THREADED_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _block_tokens(tensors: Tensors) -> int:
    problem = tensors.case.problem
    return max(1, BLOCK_ELEMENTS // (problem.num_kv_heads * problem.head_dim))


def _block_reader(tensors: Tensors, sequence: int, begin: int, stop: int) -> _Blocks:
    size = _block_tokens(tensors)

    def read(start: int) -> tuple[int, Tensor, Tensor]:
        end = min(stop, start + size)
        keys = gather_tokens(tensors, sequence, "k", start, end)
        values = gather_tokens(tensors, sequence, "v", start, end)
        return start, torch.from_numpy(keys).permute(1, 2, 0), torch.from_numpy(values).transpose(0, 1)

    if stop - begin <= size:
        only = read(begin)
        return lambda: (only,)
    return lambda: (read(start) for start in range(begin, stop, size))


def _attend(rows: _Rows, blocks: _Blocks, rounding: Rounding) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return out ``(Hk, R, D)``, lse ``(Hk, R)`` and their bounds, of the same shapes."""
    problem, (kv_heads, count, head_dim) = rows.problem, rows.q.shape
    # a sink is a key that stands before all others and whose value is 0
    maximum = torch.full((kv_heads, count, 1), -math.inf, dtype=torch.float64)
    total = torch.zeros_like(maximum)
    if rows.sinks is not None:
        maximum, total = rows.sinks, torch.ones_like(maximum)
    acc = torch.zeros_like(rows.q)
    for start, keys, values in blocks():
        stop = start + keys.shape[2]
        raw = torch.matmul(rows.q, keys).mul_(problem.scale)
        logits = final_logits(problem, raw, rows.bias(start, stop))
        masked = rows.hidden(start, stop)
        if masked is not None:
            logits.masked_fill_(masked, -math.inf)
        higher = torch.maximum(maximum, logits.amax(2, keepdim=True))
        # a row without a key so far has no maximum to subtract
        base = torch.where(higher == -math.inf, 0.0, higher)
        weights = logits.sub_(base).exp_()
        keep = torch.exp(maximum - base)
        total = total * keep + weights.sum(2, keepdim=True)
        acc = acc * keep + torch.matmul(weights, values)
        maximum = higher
    out = acc / total
    lse = maximum + torch.log(total)

    magnitude, abs_scale = rows.q.abs(), abs(problem.scale)
    size = (rows.last - rows.first)[:, None].double()
    underflow = magnitude.sum(2, keepdim=True) * abs_scale
    logit_sum, a, v_sum = torch.zeros_like(out), torch.zeros_like(out), torch.zeros_like(out)
    weight_sum = torch.zeros_like(lse)
    for start, keys, values in blocks():
        stop = start + keys.shape[2]
        raw, bias = torch.matmul(rows.q, keys).mul_(problem.scale), rows.bias(start, stop)
        sizes = torch.matmul(magnitude, keys.abs()).mul_(abs_scale)
        error = raw_error(sizes, underflow, rounding, head_dim=head_dim)
        error = final_error(problem, raw, bias, error, rounding)
        logits = final_logits(problem, raw, bias)
        error = logit_error(logits, maximum, error)
        relative = logits - lse
        masked = rows.hidden(start, stop)
        if masked is not None:
            relative.masked_fill_(masked, -math.inf)
        drift = logit_weight(relative, error)
        absolute = values.abs()
        a += torch.matmul(relative.exp_(), absolute)
        if masked is None:
            v_sum += absolute.sum(1, keepdim=True)
        else:
            v_sum += torch.matmul((~masked).double(), absolute)
        weight_sum += drift.sum(2, keepdim=True)
        _add_spread(logit_sum, drift, values, out)
    if rows.sinks is not None:
        error = logit_error(rows.sinks, maximum, torch.zeros_like(rows.sinks))
        drift = logit_weight(rows.sinks - lse, error)
        weight_sum += drift
        logit_sum += drift * out.abs()
        size = size + 1.0
    bound = output_bound(
        logit_sum=logit_sum,
        a=a,
        v_sum=v_sum,
        total=torch.exp(lse - maximum),
        o=out,
        n=size,
        v_scale=torch.tensor(problem.kv_scales("v"), dtype=torch.float64)[:, None, None],
        rounding=rounding,
    )
    lse_limit = lse_bound(weight_sum=weight_sum, lse=lse, n=size, rounding=rounding)
    return out, lse[..., 0], bound, lse_limit[..., 0]


def _add_spread(target: Tensor, drift: Tensor, values: Tensor, out: Tensor) -> None:
    """Add ``sum_j drift_j |v_jd - o_d|`` in slices of keys that keep the four-fold product small."""
    step = max(1, BLOCK_ELEMENTS // 2 // out.numel())
    for start in range(0, values.shape[1], step):
        part = values[:, None, start : start + step]
        distance = (part - out[:, :, None]).abs_()
        target += torch.matmul(drift[:, :, None, start : start + step], distance)[:, :, 0]
