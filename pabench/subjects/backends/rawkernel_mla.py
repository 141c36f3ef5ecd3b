"""Our tensor-core kernel over latent caches as a backend, and the append of ``rawkernel``."""

from __future__ import annotations

from typing import Any

from pabench.device.base import Device
from pabench.kernels.decode_launches import ALIGNMENT, check_alignment
from pabench.kernels.decode_simple import DecodePlan
from pabench.kernels.fitted import DTYPES
from pabench.kernels.latent import LATENT_DIMS, plan_latent, why_not_latent
from pabench.kernels.layers import layer_of
from pabench.problem.case import Case
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import LAYERS, AttentionOutput, Capabilities
from pabench.subjects.backends.rawkernel import TANH_ERROR, RawKernelBackend
from pabench.subjects.backends.validate import check_attention


def _why_not(case: Case) -> str | None:
    gap = case.page_gaps[0] * case.problem.kv_storage.itemsize
    if gap % ALIGNMENT:
        return f"no pages {gap} bytes apart: copies take {ALIGNMENT} at a time"
    return why_not_latent(case.problem)


class RawKernelMlaBackend:
    """Attention over a latent cache on tensor cores: each row is read once, as key and as value.

    Args:
        device: where to run.
        split_tokens: 0 cuts the work into equal shares; otherwise each sequence is cut after so many tokens,
            a multiple of 64.
        blocks: blocks of the persistent grid; None fills the device.
    """

    name = "rawkernel-mla"
    captures = True
    takes_resident = True
    capabilities = Capabilities(
        vast_pools=True,
        dtypes=frozenset(DTYPES),
        devices=frozenset({"cuda", "emulated", "ptx"}),
        operations=frozenset({"decode", "speculative", "prefill", "append", "replay", LAYERS}),
        max_head_dim=LATENT_DIMS[0],
        features=frozenset(
            {"latent-cache", "page-gaps", "soft-cap", "window", "alibi", "sinks", "non-causal"}
        ),
        requires=frozenset({"latent-cache"}),
        rule=_why_not,
    )
    # weights are an operand of the second product, so they are rounded to the storage type
    profile = ComputeProfile(
        p_dtype="storage", partial_dtype="float32", accumulation="blocked", tanh_error=TANH_ERROR
    )

    def __init__(self, device: Device, *, split_tokens: int = 0, blocks: int | None = None) -> None:
        self._device = device
        self._split_tokens = whole_number("split_tokens", split_tokens, low=0)
        self._blocks = blocks if blocks is None else whole_number("blocks", blocks, low=1, high=2**16)
        self._simple = RawKernelBackend(device)

    def plan(self, tensors: Tensors) -> DecodePlan:
        """Upload the arrays and build the launches."""
        check_attention(self.name, self.capabilities, tensors)
        device = self._device
        arrays: dict[str, Any] = {
            "q": device.to_device(tensors.q),
            "pool": tensors.pool.with_storage(device.to_device(tensors.pool.storage)),
            "block_table": device.to_device(tensors.layout.block_table),
            "kv_lens": device.to_device(tensors.kv_lens),
            "qo_indptr": device.to_device(tensors.qo_indptr),
        }
        cut: dict[str, Any] = {"split_tokens": self._split_tokens, "blocks": self._blocks}
        return plan_latent(device, tensors.case.problem, **arrays, **cut)

    def layer(self, plan: DecodePlan, q: Array, pool: KvPool) -> DecodePlan:
        """Upload another layer's arrays; see ``LayeredBackend``."""
        device = self._device
        held, cache = device.to_device(q), pool.with_storage(device.to_device(pool.storage))
        check_alignment(held, cache)
        return layer_of(device, plan, held, cache)

    def prepare(self, plan: DecodePlan) -> None:
        """Queue the launch that serves all layers."""
        self._simple.prepare(plan)

    def run_layer(self, plan: DecodePlan) -> None:
        """Queue the other."""
        self._simple.run_layer(plan)

    def run(self, plan: DecodePlan) -> None:
        """Queue both launches."""
        self._simple.run(plan)

    def fetch(self, plan: DecodePlan) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        return self._simple.fetch(plan)

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into a copy of the cache; see ``Backend.append``."""
        return self._simple.append(pool, dtype, keys, values, slot_mapping)
