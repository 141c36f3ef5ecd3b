# SPDX-License-Identifier: Apache-2.0
"""Right float32 kernels of many makes, simulated on numpy: what the error bound must let pass.

A make differs from another in what a kernel's author is free to choose: tiles, splits, the base of logits,
where scales go, what rounds to 16 bits.  Nothing here shares code with the oracle.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.problem import NumericsProfile, Tensors
from pabench.problem.dtypes import Array, decode, dtype_by_name, encode
from pabench.problem.visibility import seen_keys

F32 = np.float32
TANH_ERROR = 2.0**-11
LOG2E, LN2 = F32(np.log2(np.e)), F32(np.log(2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Make:
    """How one simulated kernel computes.

    Attributes:
        tile: keys between two looks at the running maximum.
        splits: parts of the keys that are merged.
        base2: whether logits are kept in units of ln 2.
        fast_tanh: an approximate tanh with a relative error of up to 2^-11.
        early_scale: whether scales of queries and cache are applied to the elements, or to logits and output.
        sink_last: whether the sink comes after the keys instead of before.
        lse_base: of the LSE that is returned, ``e`` or ``2``.
        lse_merge: whether a part keeps its LSE in place of maximum and sum.
        fault: a planted fault, empty for a right kernel.
    """

    tile: int = 32
    splits: int = 1
    p_dtype: str = "float32"
    partial_dtype: str = "float32"
    base2: bool = False
    fast_tanh: bool = False
    early_scale: bool = False
    sink_last: bool = False
    lse_merge: bool = False
    lse_base: str = "e"
    fault: str = ""

    @property
    def profile(self) -> NumericsProfile:
        """What such a kernel declares."""
        error = TANH_ERROR if self.fast_tanh else 0.0
        return NumericsProfile(
            p_dtype=self.p_dtype,
            partial_dtype=self.partial_dtype,
            tanh_error=error,
            partial_lse=self.lse_merge,
            lse_base=self.lse_base,
        )

    def run(self, t: Tensors, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return ``out`` in storage form and ``lse``."""
        problem = t.case.problem
        out = np.zeros((*t.q.shape[:2], problem.value_dim), dtype=F32)
        lse = np.full(t.q.shape[:2], -np.inf, dtype=F32)
        for i, kv_len in enumerate(t.kv_lens.tolist()):
            first, last = int(t.qo_indptr[i]), int(t.qo_indptr[i + 1])
            seen = seen_keys(t.case, i)
            for row, head in itertools.product(range(first, last), range(problem.num_qo_heads)):
                position, token = kv_len - (last - row), np.flatnonzero(seen[row - first])
                out[row, head], lse[row, head] = self._row(t, i, row, head, position, token, rng)
        return encode(out, problem.storage), lse

    def _row(
        self,
        t: Tensors,
        sequence: int,
        row: int,
        head: int,
        position: int,
        token: Array,
        rng: np.random.Generator,
    ) -> tuple[Array, Array]:
        problem, unit = t.case.problem, LOG2E if self.base2 else F32(1)
        sinks = problem.sinks
        sink = None if sinks is None else F32(sinks[head]) * unit
        k, v, k_scale, v_scale = self._stored(t, sequence, token, head // problem.group_size)
        q = decode(t.q[row, head], problem.q_storage).astype(F32)
        q_scale = F32(t.case.scales_of("q", sequence)[head // problem.group_size])
        if self.early_scale:
            q, q_scale = q * q_scale, F32(1)
        scale = F32(problem.scale) * k_scale * q_scale
        if problem.soft_cap is None:
            x = np.asarray(k @ q, F32) * F32(scale * unit)
        else:
            x = self._tanh(np.asarray(k @ q, F32) * F32(scale / F32(problem.soft_cap)), rng)
            x *= F32(problem.soft_cap) * unit
        if problem.alibi_slopes is not None:
            x = x + F32(problem.alibi_slopes[head]) * unit * (token - position).astype(F32)
        nothing = np.zeros(problem.value_dim, F32)
        chunk = max(1, -(-x.size // self.splits))
        parts = [self._part(x[i : i + chunk], v[i : i + chunk], rng) for i in range(0, x.size, chunk)]
        if sink is not None:
            parts.insert(len(parts) if self.sink_last else 0, (sink, F32(1), nothing))
        if not parts:
            return nothing, np.asarray(-np.inf, F32)
        if self.lse_merge:
            return self._merged_by_lse([self._with_lse(part) for part in parts], v_scale, rng)
        top = F32(max(m for m, _, _ in parts))
        total, acc = F32(0), nothing.copy()
        for m, s, a in parts:
            part_type, weight = dtype_by_name(self.partial_dtype), self._exp(np.asarray(m - top, F32), rng)
            total += s * weight
            # what is stored is normalised, and with one split nothing is
            kept = decode(encode(a / s, part_type), part_type).astype(F32) * s if self.splits > 1 else a
            acc += kept * weight
        log = top + (np.log2(total) if self.base2 else np.log(total))
        return acc / total * v_scale, self._returned(log)

    def _stored(
        self, t: Tensors, sequence: int, token: Array, kv_head: int
    ) -> tuple[Array, Array, np.floating[Any], np.floating[Any]]:
        """Keys and values as float32 and what remains to be multiplied to them."""
        problem, pool = t.case.problem, t.pool
        page, offset = np.divmod(token, problem.page_size)
        page = t.layout.block_table[sequence].astype(np.int64)[page]
        at = (page, offset, kv_head) if pool.kv_layout == "NHD" else (page, kv_head, offset)
        # scales within a row round as its product with the number does
        k, v = (
            problem.decode_rows(view[at], kind).astype(F32) for kind, view in (("k", pool.k), ("v", pool.v))
        )
        k_scale, v_scale = (F32(t.case.scales_of(kind, sequence)[kv_head]) for kind in "kv")
        if self.early_scale:
            return k * k_scale, v * v_scale, F32(1), F32(1)
        return k, v, k_scale, v_scale

    def _part(self, x: Array, v: Array, rng: np.random.Generator) -> tuple[Any, Any, Array]:
        m, s, acc = F32(-np.inf), F32(0), np.zeros(v.shape[1], F32)
        for start in range(0, x.size, self.tile):
            part = x[start : start + self.tile]
            higher = np.maximum(m, part.max())
            p, keep = self._exp(part - higher, rng), self._exp(np.asarray(m - higher, F32), rng)
            s = s * keep + p.sum(dtype=F32)
            operand = dtype_by_name(self.p_dtype)
            p = decode(encode(p, operand), operand).astype(F32)
            acc = acc * keep + p @ v[start : start + self.tile]
            m = higher
        return m, s, acc

    def _with_lse(self, part: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
        """Return a part whose maximum is its LSE, kept as natural logarithm, and whose sum is 1."""
        m, s, acc = part
        kept = F32(m + (np.log2(s) if self.base2 else np.log(s)))
        if self.base2:
            kept = F32(F32(kept * LN2) * LOG2E)
        return kept, F32(1), acc / s

    def _merged_by_lse(
        self, parts: list[tuple[Any, Any, Array]], v_scale: np.floating[Any], rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """Merge parts with weights that are made of their LSEs, and of nothing else."""
        top = F32(max(m for m, _, _ in parts))
        weights = [self._exp(np.asarray(m - top, F32), rng) for m, _, _ in parts]
        total = F32(sum(weights[1:], weights[0]))
        log = F32(top + (np.log2(total) if self.base2 else np.log(total)))
        part_type, acc = dtype_by_name(self.partial_dtype), np.zeros_like(parts[0][2])
        for m, _, out in parts:
            kept = decode(encode(out, part_type), part_type).astype(F32) if self.splits > 1 else out
            acc += kept * self._exp(np.asarray(m - log, F32), rng)
        return acc * v_scale, self._returned(log)

    def _returned(self, log: np.floating[Any]) -> Array:
        """Return an LSE to the base of the logits in that of the output."""
        if self.base2 == (self.lse_base == "2"):
            return np.asarray(log, F32)
        return np.asarray(log * (LN2 if self.base2 else LOG2E), F32)

    def _exp(self, x: Array, rng: np.random.Generator) -> Array:
        """An exponential with the relative error of the hardware's, 2^-22; it flushes denormals."""
        exact = np.exp2(x.astype(np.float64)) if self.base2 else np.exp(x.astype(np.float64))
        near = (exact * (1 + 2.0**-22 * rng.uniform(-1, 1, exact.shape))).astype(F32)
        return np.where(near < 2.0**-126, F32(0), near)

    def _tanh(self, x: Array, rng: np.random.Generator) -> Array:
        if not self.fast_tanh:
            return np.tanh(x)
        return (np.tanh(x.astype(np.float64)) * (1 + TANH_ERROR * rng.uniform(-1, 1, x.shape))).astype(F32)


def random_make(rng: np.random.Generator, dtype: str) -> Make:
    """A right kernel of any make for cases stored as ``dtype``."""
    make = Make(
        tile=int(rng.choice([16, 32, 64, 128])),
        splits=int(rng.choice([1, 1, 2, 3, 7])),
        p_dtype=str(rng.choice(["float32", "float32", "float16", "bfloat16"])),
        partial_dtype=str(rng.choice(["float32", "float32", "float16", "bfloat16"])),
        base2=bool(rng.random() < 0.5),
        fast_tanh=bool(rng.random() < 0.3),
        early_scale=bool(rng.random() < 0.5),
        sink_last=bool(rng.random() < 0.5),
        lse_merge=bool(rng.random() < 0.3),
        lse_base=str(rng.choice(["e", "2"])),
    )
    # values of bfloat16 reach beyond float16: partial outputs that overflow are a fault and no rounding
    short = 2.0 * dtype_by_name(make.partial_dtype).maximum < dtype_by_name(dtype).maximum
    return replace(make, partial_dtype="float32") if short else make
