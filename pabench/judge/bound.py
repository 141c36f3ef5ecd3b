# SPDX-License-Identifier: Apache-2.0
"""The error bound T: how far a right kernel with a declared arithmetic may be from the float64 truth.

For one query row with raw logits ``r_j = sm_scale * q . k_j``, capped ones ``c_j = cap * tanh(r_j / cap)`` or
``r_j``, biases ``b_j`` (or 0), logits ``s_j = c_j + b_j``, softmax weights ``p_j``, values ``v_jd`` and
output ``o_d``:

* ``G_j = |sm_scale| * sum_d |q_d k_jd|``, the size of the terms of a logit; ``A_d = sum_j p_j |v_jd|``, of an
  output; ``l = sum_j exp(s_j - max s)``;
* ``E_j``, the error of a logit and its exponential (``raw_error``, ``capped_error``, ``logit_error``);
* ``T_d`` (``output_bound``) and ``T_lse`` (``lse_bound``).

The terms are first-order rounding analysis (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3);
``docs/mathematics.md`` derives each.  There is no factor to tune: a right kernel that breaks T means that a
term is missing here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.problem.dtypes import FLOAT32, Array, DType, dtype_by_name
from pabench.problem.profile import NumericsProfile

U32 = FLOAT32.unit_roundoff
LANES = 32
"""Blocked sums run over at least this many lanes or tile rows."""
FLUSH = 2.0**-126
"""Smallest normal float32; fast exponentials flush results below it to zero."""
EXP_CAP = 700.0
"""Exponents are cut here, so that a hopeless bound is a huge number and not infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """Unit roundoffs ``u_*`` and underflow errors ``eta_*`` of one profile and storage type.

    Suffixes: ``p`` softmax weights as an operand, ``t`` stored partial outputs, ``k`` keys and values after
    conversion, ``s`` the product with the scale of a quantised cache, ``q`` that with the scale of quantised
    queries, ``o`` the output.  A rounding that does not take place has 0.
    """

    u_p: float
    eta_p: float
    u_t: float
    eta_t: float
    u_k: float
    eta_k: float
    u_o: float
    eta_o: float
    u_s: float
    u_q: float
    blocked: bool
    tanh_error: float
    partial_lse: bool

    def chain(self, terms: Array | int, extra: int) -> Any:
        """Return the links of the longest rounding chain L of a float32 sum of ``terms`` terms.

        Blocked sums: ``min(terms, 32) + terms / 32 + extra``; serial ones: ``terms + extra``.
        """
        if not self.blocked:
            return terms + extra
        return np.minimum(terms, LANES) + terms / LANES + extra


def rounding_of(
    profile: NumericsProfile,
    storage: DType,
    kv_storage: DType | None = None,
    q_storage: DType | None = None,
) -> Rounding:
    """Return the rounding constants of a kernel that declares ``profile``.

    Args:
        profile: the declaration.
        storage: type of the output, and of queries where ``q_storage`` is none.
        kv_storage: type of the cache when it is another one.  Then ``profile.kv_dtype`` may hold the numbers
            after their scale, which rounds.
        q_storage: type of the queries when it is another one.
    """
    profile = profile.resolve(storage.name)
    weights = dtype_by_name(profile.p_dtype)
    partial = dtype_by_name(profile.partial_dtype) if profile.partial_dtype else None
    stored = kv_storage or storage
    kv = dtype_by_name(profile.kv_dtype) if profile.kv_dtype else stored
    exact = kv is stored or kv is FLOAT32
    return Rounding(
        u_p=weights.unit_roundoff,
        eta_p=max(weights.half_subnormal, FLUSH),
        u_t=partial.unit_roundoff if partial else 0.0,
        eta_t=partial.half_subnormal if partial else 0.0,
        u_k=0.0 if exact else kv.unit_roundoff,
        eta_k=0.0 if exact else kv.half_subnormal,
        u_o=storage.unit_roundoff,
        eta_o=storage.half_subnormal,
        # the scale itself, and the product with it
        u_s=0.0 if stored is storage else 2.0 * U32,
        u_q=0.0 if q_storage in (None, storage) else 2.0 * U32,
        blocked=profile.accumulation == "blocked",
        tanh_error=profile.tanh_error,
        partial_lse=profile.partial_lse,
    )


def raw_error(sizes: Array, underflow: Array, rounding: Rounding, *, head_dim: int) -> Array:
    """Return the error of each raw logit, ``2 L_qk u32 G_j + (u_k + u_s + u_q) G_j``, plus underflow of keys.

    Args:
        sizes: ``G_j``.
        underflow: ``|sm_scale| * sum_d |q_d|``, broadcastable: what an absolute error of the keys becomes.
        rounding: the constants.
        head_dim: terms of the dot product.
    """
    chain = rounding.chain(head_dim, 3)
    error: Array = sizes * (2.0 * chain * U32 + rounding.u_k + rounding.u_s + rounding.u_q)
    if rounding.eta_k:
        error += rounding.eta_k * underflow
    return error


def capped_error(raw: Array, error: Array, cap: float, rounding: Rounding) -> Array:
    """Return the error of ``cap * tanh(r_j / cap)``, from the errors of the raw logits.

    ``h_j (e_j + 4 u32 |r_j|) + tanh_error cap + 6 u32 |c_j|``: the steepest slope of tanh within the error of
    its argument, that argument's own rounding, the function, and the rounding of the product.
    """
    size = np.abs(raw)
    error = error + 4.0 * U32 * size
    nearest = np.maximum(size - error, 0.0) / cap
    slope = 1.0 - np.square(np.tanh(nearest))
    # an infinite logit is capped exactly
    moved = np.where(np.isinf(raw), 0.0, slope * error)
    return moved + rounding.tanh_error * cap + 6.0 * U32 * cap * np.tanh(size / cap)


def logit_error(logits: Array, maximum: Array, error: Array) -> Array:
    """Return ``E_j``, the error of each logit and of its exponential.

    ``E_j = e_j + u32 (6 + 2 min(|s_j - max s|, 200)) + 2 u32 |s_j|``.

    Args:
        logits: ``s_j``.
        maximum: ``max s`` of the row, broadcastable.
        error: ``e_j``, what cap and bias made of the raw logits' error.
    """
    below: Array = np.abs(logits - maximum)
    np.minimum(below, 200.0, out=below)
    below += np.abs(logits)
    below += 3.0
    below *= 2.0 * U32
    below += error
    return below


def partial_lse_error(logits: Array, lse: Array, n: Array) -> Array:
    """Return ``L_j = u32 (10 m_j + 16 + 4 ln n)``, the error of a weight when parts are merged by their LSE.

    The LSE of the part that holds key j lies between ``s_j`` and that of the row, so that its size is at most
    ``m_j = max(|lse|, |s_j|)``, wherever keys are split; ``docs/mathematics.md`` counts the roundings.

    Args:
        logits: ``s_j``.
        lse: of the row, broadcastable.
        n: keys the row sees, a sink included, broadcastable.
    """
    size = np.maximum(np.abs(logits), np.abs(lse))
    error: Array = U32 * (10.0 * size + 16.0 + 4.0 * np.log(n))
    return error


def logit_weight(relative: Array, weight: Array, error: Array) -> Array:
    """Return ``p_j (exp(E_j) - 1)`` without overflow.

    Args:
        relative: ``s_j - lse``.
        weight: ``p_j``, its exponential.
        error: ``E_j``.
    """
    # the product keeps small errors exact, the difference keeps large ones from 0 * inf
    drift: Array = weight * np.expm1(np.minimum(error, 1.0))
    large = ~(error < 1.0)
    if large.any():
        lifted = np.exp(np.minimum(relative[large] + error[large], EXP_CAP))
        drift[large] = lifted - weight[large]
    # a logit of -inf stays one, though the formula has an infinite error for it
    drift[relative == -math.inf] = 0.0
    return drift


def output_bound(
    *,
    logit_sum: Array,
    a: Array,
    v_sum: Array,
    total: Array,
    o: Array,
    n: Array,
    v_scale: Array,
    rounding: Rounding,
) -> Array:
    """Return ``T_d``, the bound on the absolute error of each output.

    ``T_d = sum_j p_j (exp(E_j) - 1) |v_jd - o_d| + (u_p + u_t + u_k + u_s + 2 L_pv u32) A_d
    + eta_p sum_j |v_jd| / l + max(1, v_scale) eta_t + eta_k + u_o |o_d| + eta_o``.

    Args:
        logit_sum: the first term, ``(..., head_dim)``; a sink is a key whose value is 0.  Of parts merged by
            LSE, whose weights need not sum to 1, ``sum_j p_j (exp(L_j) - 1) (|v_jd| + A_d)`` too.
        a: ``A_d``, same shape.
        v_sum: ``sum_j |v_jd|``, same shape.
        total: ``l``, ``(..., 1)``.
        o: ``o_d``, same shape.
        n: keys the row sees, a sink included, ``(..., 1)``.
        v_scale: scale of the values, with which partial outputs may be multiplied at the end; 1 for none.
        rounding: the constants.
    """
    chain = rounding.chain(n, 8)
    relative = rounding.u_p + rounding.u_t + rounding.u_k + rounding.u_s + 2.0 * U32 * chain
    absolute = rounding.eta_t * np.maximum(v_scale, 1.0) + rounding.eta_k + rounding.eta_o
    bound: Array = logit_sum + relative * a + rounding.eta_p * v_sum / total
    return bound + rounding.u_o * np.abs(o) + absolute


def lse_bound(*, weight_sum: Array, lse: Array, n: Array, rounding: Rounding) -> Array:
    """Return ``T_lse = sum_j p_j (exp(E_j) - 1) + (2 L_pv + 8) u32 + 2 u32 |lse| + eta32``.

    ``exp(E_j) - 1`` is ``E_j`` to first order and also covers errors that are not small.  The terms in
    ``lse`` hold the addition ``max + log l`` and the final rounding to the float32 output.

    Args:
        weight_sum: the first term.
        lse: natural-log LSE, same shape.
        n: keys the row sees, a sink included, same shape.
        rounding: the constants.
    """
    chain = rounding.chain(n, 8)
    bound: Array = weight_sum + (2.0 * chain + 8.0) * U32 + 2.0 * U32 * np.abs(lse) + FLOAT32.half_subnormal
    return bound
