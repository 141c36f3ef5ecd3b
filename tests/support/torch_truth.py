# SPDX-License-Identifier: Apache-2.0
"""Truth and error bound once more, on torch and apart from the judge: dense, a sequence at a time, no blocks.

Written from ``docs/mathematics.md``; imports nothing of ``pabench.judge``.  For cases whose every row has
finite inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pabench.problem import NumericsProfile, Problem, Tensors
from pabench.problem.dtypes import FLOAT32, Array, DType, decode, dtype_by_name
from pabench.problem.masks import MASKS, Rows

# waking a second thread costs more than cases of tests take
torch.set_num_threads(1)

U32, ETA32 = FLOAT32.unit_roundoff, FLOAT32.half_subnormal
FLUSH = 2.0**-126
Found = tuple[Array, Array, Array, Array]
"""Output, LSE, and the bounds of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """``u_*`` and ``eta_*`` of one profile and storage, see the docs."""

    u_p: float
    eta_p: float
    u_t: float
    eta_t: float
    u_k: float
    eta_k: float
    u_s: float
    u_q: float
    u_o: float
    eta_o: float
    serial: bool
    tanh_error: float
    partial_lse: bool

    def chain(self, n: Tensor) -> Tensor:
        return n if self.serial else n.clamp(max=32.0) + n / 32.0


def constants(profile: NumericsProfile, storage: DType, stored: DType, queries: DType) -> Constants:
    def named(name: str | None, otherwise: DType | None) -> DType | None:
        return otherwise if name is None else storage if name == "storage" else dtype_by_name(name)

    weights, partial = named(profile.p_dtype, None), named(profile.partial_dtype, None)
    kept = named(profile.kv_dtype, stored)
    assert weights is not None
    assert kept is not None
    rounds = kept is not stored and kept is not FLOAT32
    return Constants(
        u_p=weights.unit_roundoff,
        eta_p=max(weights.half_subnormal, FLUSH),
        u_t=partial.unit_roundoff if partial else 0.0,
        eta_t=partial.half_subnormal if partial else 0.0,
        u_k=kept.unit_roundoff if rounds else 0.0,
        eta_k=kept.half_subnormal if rounds else 0.0,
        u_s=0.0 if stored is storage else 2.0 * U32,
        u_q=0.0 if queries is storage else 2.0 * U32,
        u_o=storage.unit_roundoff,
        eta_o=storage.half_subnormal,
        serial=profile.accumulation == "serial",
        tanh_error=profile.tanh_error,
        partial_lse=profile.partial_lse,
    )


def torch_truth(tensors: Tensors, profile: NumericsProfile) -> Found:
    """What ``pabench.judge.reference.truth`` returns, as a tuple."""
    problem = tensors.case.problem
    c = constants(profile, problem.storage, problem.kv_storage, problem.q_storage)
    queries = torch.from_numpy(decode(tensors.q, problem.q_storage))
    out = torch.zeros((*queries.shape[:2], problem.value_dim), dtype=torch.float64)
    lse = torch.full(queries.shape[:2], -math.inf, dtype=torch.float64)
    if problem.sinks is not None:
        lse[:] = torch.tensor(problem.sinks, dtype=torch.float64)
    out_bound, lse_bound = torch.zeros_like(out), torch.zeros_like(lse)
    if problem.sinks is not None:
        # a row without keys: the sink is its own maximum
        own = 6.0 * U32 + 2.0 * U32 * lse.abs()
        links = 2.0 * c.chain(torch.ones_like(lse)) + 16.0
        lse_bound = torch.expm1(own) + (links + 8.0) * U32 + 2.0 * U32 * lse.abs() + ETA32
    for i, kv_len in enumerate(tensors.kv_lens.tolist()):
        begin, end = int(tensors.qo_indptr[i]), int(tensors.qo_indptr[i + 1])
        keys, values = (_rows(tensors, i, kv_len, kind) for kind in "kv")
        queries[begin:end] *= _scales(tensors, "q", i).repeat_interleave(problem.group_size)[:, None]
        position = kv_len - (end - begin) + torch.arange(end - begin)
        token = torch.arange(kv_len)
        seen = torch.ones((end - begin, kv_len), dtype=torch.bool)
        if problem.causal:
            seen &= token <= position[:, None]
        seen = _masked(tensors, i, seen, widens=True)
        if problem.window is not None:
            seen &= token > position[:, None] - problem.window
        seen = _masked(tensors, i, seen, widens=False)
        if not seen.any():
            continue
        # what no row sees may hold anything, and 0 * NaN is NaN
        keys[~seen.any(0)] = values[~seen.any(0)] = 0.0
        for head in range(problem.num_qo_heads):
            kv_head = head // problem.group_size
            logits, error = _logits(
                problem, c, queries[begin:end, head], keys[:, kv_head], seen, token - position[:, None], head
            )
            found = _softmax(c, logits, error, values[:, kv_head], seen, sink=_of(problem.sinks, head))
            some, scale = seen.any(1), float(_scales(tensors, "v", i)[kv_head])
            out[begin:end, head][some], lse[begin:end, head][some] = found[0][some], found[1][some]
            extra = c.eta_t * max(1.0, scale) + c.eta_k
            out_bound[begin:end, head][some] = found[2][some] + extra
            lse_bound[begin:end, head][some] = found[3][some]
    return out.numpy(), lse.numpy(), out_bound.numpy(), lse_bound.numpy()


def _masked(tensors: Tensors, sequence: int, seen: Tensor, *, widens: bool) -> Tensor:
    """What masks of one kind make of the keys that rows see, by the spelling for one row and key."""
    q_len, kv_len = seen.shape
    size = tensors.case.problem.page_size
    rows = Rows(sequence=sequence, q_len=q_len, kv_len=kv_len, page_size=size)
    for name, value in tensors.case.masks:
        if MASKS[name].widens == widens:
            found = [
                [
                    bool(MASKS[name].admits(bool(seen[i, j]), kv_len - q_len + i, j, rows, value))
                    for j in range(kv_len)
                ]
                for i in range(q_len)
            ]
            seen = torch.tensor(found, dtype=torch.bool).reshape(q_len, kv_len)
    return seen


def _rows(tensors: Tensors, sequence: int, kv_len: int, kind: str) -> Tensor:
    """Keys or values of one sequence, scaled, ``(kv_len, num_kv_heads, head_dim)``."""
    problem, pool = tensors.case.problem, tensors.pool
    view = pool.k if kind == "k" else pool.v
    page, offset = np.divmod(np.arange(kv_len), problem.page_size)
    page = tensors.layout.block_table[sequence].astype(np.int64)[page]
    # an index array on either side of a slice puts its axis first: (kv_len, heads, dim) in both layouts
    stored = view[page, offset] if pool.kv_layout == "NHD" else view[page, :, offset]
    numbers = torch.from_numpy(problem.decode_rows(stored, kind))
    return numbers * _scales(tensors, kind, sequence)[:, None]


def _scales(tensors: Tensors, kind: str, sequence: int) -> Tensor:
    """Scales of each KV head in one sequence."""
    return torch.tensor(tensors.case.scales_of(kind, sequence), dtype=torch.float64)


def _of(numbers: tuple[float, ...] | None, head: int) -> float | None:
    return None if numbers is None else numbers[head]


def _logits(
    problem: Problem, c: Constants, q: Tensor, keys: Tensor, seen: Tensor, distance: Tensor, head: int
) -> tuple[Tensor, Tensor]:
    """Logits ``(R, C)`` of one query head, -inf where masked, and the error before their last rounding."""
    raw = problem.scale * (q @ keys.T)
    sizes = abs(problem.scale) * (q.abs() @ keys.abs().T)
    dims = torch.tensor(float(problem.head_dim), dtype=torch.float64)
    error = 2.0 * (c.chain(dims) + 3.0) * U32 * sizes + (c.u_k + c.u_s + c.u_q) * sizes
    error = error + c.eta_k * abs(problem.scale) * q.abs().sum(1, keepdim=True)
    logits = raw
    if problem.soft_cap is not None:
        cap = problem.soft_cap
        error = error + 4.0 * U32 * raw.abs()
        slope = 1.0 - torch.tanh((raw.abs() - error).clamp(min=0.0) / cap) ** 2
        logits = cap * torch.tanh(raw / cap)
        error = slope * error + c.tanh_error * cap + 6.0 * U32 * logits.abs()
    if problem.alibi_slopes is not None:
        bias = problem.alibi_slopes[head] * distance.double()  # an integer alone would give float32
        error = error + 4.0 * U32 * bias.abs() + 2.0 * U32 * logits.abs()
        logits = logits + bias
    return logits.masked_fill(~seen, -math.inf), error


def _softmax(
    c: Constants, logits: Tensor, error: Tensor, values: Tensor, seen: Tensor, *, sink: float | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Softmax of ``logits (R, C)`` over ``values (C, D)``: out ``(R, D)``, lse ``(R,)``, and their bounds.

    The bound of the output lacks underflow of partial outputs and of converted values.  What rows hold that
    see nothing is rubbish.
    """
    if sink is not None:
        # one more key, exact, whose value is 0
        column = torch.full((len(logits), 1), sink, dtype=torch.float64)
        logits, error = torch.cat([logits, column], 1), torch.cat([error, 0.0 * column], 1)
        values = torch.cat([values, torch.zeros(1, values.shape[1], dtype=torch.float64)])
        seen = torch.cat([seen, torch.ones_like(column, dtype=torch.bool)], 1)
    maximum = logits.amax(1, keepdim=True)
    lse = torch.logsumexp(logits, 1, keepdim=True)
    weights = torch.exp(logits - lse)
    out = weights @ values
    finite = torch.where(seen, logits, 0.0)
    error = error + U32 * (6.0 + 2.0 * (finite - maximum).abs().clamp(max=200.0)) + 2.0 * U32 * finite.abs()
    lifted = torch.exp((finite - lse + error).clamp(max=700.0)) - weights
    drift = torch.where(error < 1.0, weights * torch.expm1(error), lifted)
    drift = torch.where(seen, drift, 0.0)
    spread = (drift[:, :, None] * (values[None] - out[:, None]).abs()).sum(1)
    n = seen.sum(1, keepdim=True).double()
    links = 2.0 * U32 * (c.chain(n) + 8.0)
    bound = spread + (c.u_p + c.u_t + c.u_k + c.u_s + links) * (weights @ values.abs())
    bound = bound + c.eta_p * (seen.double() @ values.abs()) / torch.exp(lse - maximum)
    bound = bound + c.u_o * out.abs() + c.eta_o
    if c.partial_lse:
        # a part's LSE lies between any of its logits and that of the row
        keys = n + (0.0 if sink is not None else 1.0)
        own = U32 * (10.0 * torch.maximum(finite.abs(), lse.abs()) + 16.0 + 4.0 * torch.log(keys))
        raised = torch.exp((finite - lse + own).clamp(max=700.0)) - weights
        moved = torch.where(seen, torch.where(own < 1.0, weights * torch.expm1(own), raised), 0.0)
        whole = moved.sum(1, keepdim=True)
        bound = bound + moved @ values.abs() + whole * (weights @ values.abs())
        drift = torch.cat([drift, whole], 1)
    lse_bound = drift.sum(1, keepdim=True) + links + 8.0 * U32 + 2.0 * U32 * lse.abs() + ETA32
    return out, lse[:, 0], bound, lse_bound[:, 0]


def torch_merge_truth(outs: Array, lses: Array, dtype: DType) -> Found:
    """What ``pabench.judge.merge.merge_truth`` returns, as a tuple: a row and head at a time."""
    profile = NumericsProfile(p_dtype="float32", partial_dtype=None, accumulation="serial")
    c = constants(profile, dtype, dtype, dtype)
    states = torch.from_numpy(decode(outs, dtype))
    logits = torch.from_numpy(lses.astype(np.float64))
    out, lse = torch.zeros_like(states[0]), torch.full_like(logits[0], -math.inf)
    out_bound, lse_bound = torch.zeros_like(out), torch.zeros_like(lse)
    for row, head in np.ndindex(*lse.shape):
        live = torch.isfinite(logits[:, row, head])
        if not live.any():
            continue
        mine = logits[live, row, head][None]
        # the distance to the maximum rounds, and its product with log2 e, whose constant rounds too
        top = mine.max()
        error = U32 * ((mine - top).abs() + 2.0 * top.abs())
        seen = torch.ones_like(mine, dtype=torch.bool)
        found = _softmax(c, mine, error, states[live, row, head], seen)
        for target, value in zip((out, lse, out_bound, lse_bound), found, strict=True):
            target[row, head] = value[0]
    return out.numpy(), lse.numpy(), out_bound.numpy(), lse_bound.numpy()
