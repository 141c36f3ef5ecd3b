"""Our own readable kernels as a backend: ``paged_decode_simple.cu`` and ``kv_append.cu``."""

from __future__ import annotations

import numpy as np

from pabench.backends.base import AttentionOutput, Capabilities
from pabench.backends.validate import check_append, check_attention
from pabench.device.base import Device
from pabench.kernels.append import append_tokens
from pabench.kernels.decode_simple import DecodePlan, plan_decode, split_count
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import DTYPES, Array, dtype_by_name
from pabench.problem.pool import KvPool
from pabench.problem.problem import FEATURES
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors

TANH_ERROR = 2.0**-20
"""Of ``tanh_from_exp`` in ``pab/features.cuh``."""


class RawKernelBackend:
    """Attention and append with the simple kernels, on any device.

    Args:
        device: where to run.
        num_splits: warps that share the keys of a query head; None chooses by length.
    """

    name = "rawkernel"
    captures = True
    takes_resident = True
    capabilities = Capabilities(
        dtypes=frozenset(DTYPES),
        devices=frozenset({"cuda", "emulated"}),
        operations=frozenset({"decode", "speculative", "prefill", "append"}),
        max_head_dim=256,
        features=frozenset(FEATURES),
    )
    profile = ComputeProfile(
        p_dtype="float32", partial_dtype="float32", accumulation="blocked", tanh_error=TANH_ERROR
    )

    def __init__(self, device: Device, *, num_splits: int | None = None) -> None:
        self._device = device
        self._num_splits = num_splits if num_splits is None else whole_number("num_splits", num_splits, low=1)

    def plan(self, tensors: Tensors) -> DecodePlan:
        """Upload the arrays and build the launches."""
        check_attention(self.name, self.capabilities, tensors)
        device, case = self._device, tensors.case
        problem, batch = case.problem, case.batch
        pool = tensors.pool.with_storage(device.to_device(tensors.pool.storage))
        seen = [n if problem.window is None else min(n, problem.window) for n in batch.kv_lens]
        splits = split_count(seen, problem.num_qo_heads, num_query_tokens=batch.num_query_tokens)
        return plan_decode(
            device,
            problem,
            q=device.to_device(tensors.q),
            pool=pool,
            block_table=device.to_device(tensors.layout.block_table),
            kv_lens=device.to_device(tensors.kv_lens),
            num_splits=self._num_splits or splits,
            qo_indptr=None if batch.is_decode else device.to_device(tensors.qo_indptr),
        )

    def run(self, plan: DecodePlan) -> None:
        """Queue the launches."""
        for launch in plan.launches:
            plan.module.launch(launch)

    def fetch(self, plan: DecodePlan) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        self._device.synchronize()
        return AttentionOutput(out=self._device.to_host(plan.out), lse=self._device.to_host(plan.lse))

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into a copy of the cache; see ``Backend.append``."""
        page_size = check_append(pool, keys, values, slot_mapping, dtype)
        device = self._device
        target = pool.with_storage(device.to_device(pool.storage.copy()))
        append_tokens(
            device,
            dtype_by_name(dtype),
            pool=target,
            keys=device.to_device(keys),
            values=device.to_device(values),
            slot_mapping=device.to_device(slot_mapping.astype(np.int64)),
            page_size=page_size,
        )
        device.synchronize()
        return device.to_host(target.storage)
