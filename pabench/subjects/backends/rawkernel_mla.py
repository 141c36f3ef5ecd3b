# SPDX-License-Identifier: Apache-2.0
"""Our tensor-core kernel over latent caches as a backend, and the append of ``rawkernel``."""

from __future__ import annotations

from pabench.kernels.decode_launches import ALIGNMENT
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.fitted import DTYPES
from pabench.kernels.key_lists import key_lists
from pabench.kernels.latent import LATENT_DIMS, plan_latent, why_not_latent
from pabench.problem.case import Case
from pabench.problem.masks import MASKS
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import LAYERS, Capabilities
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from pabench.subjects.backends.validate import check_attention


def _why_not(case: Case) -> str | None:
    gap = case.page_gaps[0] * case.problem.kv_storage.itemsize
    if gap % ALIGNMENT:
        return f"no pages {gap} bytes apart: copies take {ALIGNMENT} at a time"
    return why_not_latent(case.problem)


class RawKernelMlaBackend(RawKernelMmaBackend):
    """Attention over a latent cache on tensor cores: each row is read once, as key and as value.

    Arguments, layers and append are those of ``rawkernel-mma``.
    """

    name = "rawkernel-mla"
    capabilities = Capabilities(
        huge_pools=True,
        dtypes=frozenset(DTYPES),
        devices=frozenset({"cuda", "emulated", "ptx"}),
        operations=frozenset({"decode", "speculative", "prefill", "append", "replay", LAYERS}),
        max_head_dim=LATENT_DIMS[0],
        features=frozenset(
            {"latent-cache", "page-gaps", "soft-cap", "window", "alibi", "sinks", "non-causal", *MASKS}
        ),
        requires=frozenset({"latent-cache"}),
        rule=_why_not,
    )

    def plan(self, tensors: Tensors) -> tuple[AttentionPlan, ...]:
        """Upload the arrays and build the launches: one call."""
        check_attention(self.name, self.capabilities, tensors)
        device, case = self._device, tensors.case
        lists = key_lists(device, case) if case.masks else None
        return (plan_latent(device, case.problem, **self._uploaded(tensors), **self._cut, lists=lists),)
