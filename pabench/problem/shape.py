# SPDX-License-Identifier: Apache-2.0
"""The one shape that a kernel is compiled for, where it takes no other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pabench.problem.problem import Problem

LATENT_SCALE = 192.0**-0.5
"""Softmax scale of a latent problem that has none yet: that of heads of 128 and 64 numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes that are constants of a kernel.

    Attributes:
        num_qo_heads, num_kv_heads, head_dim, page_size, head_dim_v, latent, causal: as of ``Problem``.
    """

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    head_dim_v: int | None = None
    latent: bool = False
    causal: bool = True

    def of(self, problem: Problem) -> Problem:
        """Return ``problem`` in this shape."""
        scale = problem.sm_scale
        if self.latent and scale is None:
            scale = LATENT_SCALE
        return replace(
            problem,
            num_qo_heads=self.num_qo_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            head_dim_v=self.head_dim_v,
            latent=self.latent,
            page_size=self.page_size,
            causal=self.causal,
            sm_scale=scale,
        )

    def why_not(self, problem: Problem) -> str | None:
        """Return why a problem is not of this shape, or None."""
        for name in ("num_qo_heads", "num_kv_heads", "head_dim", "page_size", "causal"):
            if (given := getattr(problem, name)) != (wanted := getattr(self, name)):
                return f"{name} {given}: this kernel is compiled for {wanted}"
        return None
