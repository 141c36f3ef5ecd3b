# SPDX-License-Identifier: Apache-2.0
"""Our own readable kernels as a backend: ``paged_decode_simple.cu`` and ``kv_append.cu``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.kernels.append import append_scales, append_to_sequences, append_tokens
from pabench.kernels.decode_simple import AttentionPlan, plan_decode, split_count
from pabench.kernels.gather import plan_gather
from pabench.kernels.layers import layer_of
from pabench.kernels.mask_bits import mask_bits
from pabench.kernels.merge_states import plan_merge
from pabench.kernels.page_copy import copy_pages
from pabench.kernels.row_formats import row_arguments, takes_rows
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import DTYPES, E4M3, Array, dtype_by_name
from pabench.problem.features import all_features
from pabench.problem.huge_pool import sparse_copy
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import (
    DUMMY_LENGTHS,
    HUGE_POOL_WRITES,
    LAYERS,
    OPTIONAL,
    PADDED_ROWS,
    ZEROED_ROWS,
    AttentionOutput,
    Capabilities,
)
from pabench.subjects.backends.validate import (
    check_append,
    check_append_paged,
    check_attention,
    check_copies,
    check_pages,
    check_states,
)

HUGE_POOL_BYTES = 2**31
"""Caches above this size are copied as far as they are in use."""


def copied(storage: Array) -> Array:
    """Return a copy of a cache on the host."""
    return sparse_copy(storage) if storage.nbytes > HUGE_POOL_BYTES else storage.copy()


TANH_ERROR = 2.0**-20
"""Of ``tanh_from_exp`` in ``pab/features.cuh``."""


class RawKernelBackend:
    """Attention and append with the simple kernels, on any device.

    Args:
        device: where to run.
        num_splits: warps that share the keys of a query head; None chooses by length.
        lse_base: of the LSEs that it returns and merges, ``e`` or ``2``.
    """

    name = "rawkernel"
    captures = True
    takes_resident = True
    capabilities = Capabilities(
        huge_pools=True,
        dtypes=frozenset(DTYPES),
        devices=frozenset({"cuda", "emulated", "ptx"}),
        operations=frozenset(
            {
                *("decode", "speculative", "prefill", "append", "replay"),
                *(LAYERS, DUMMY_LENGTHS, PADDED_ROWS, ZEROED_ROWS, HUGE_POOL_WRITES, *OPTIONAL),
            }
        ),
        max_head_dim=1024,
        features=frozenset(all_features()),
    )
    profile = NumericsProfile(
        p_dtype="float32", partial_dtype="float32", accumulation="blocked", tanh_error=TANH_ERROR
    )

    def __init__(self, device: Device, *, num_splits: int | None = None, lse_base: str = "e") -> None:
        self._device = device
        self.profile = replace(self.profile, lse_base=lse_base)
        self._num_splits = num_splits if num_splits is None else whole_number("num_splits", num_splits, low=1)

    def plan(self, tensors: Tensors) -> AttentionPlan:
        """Upload the arrays and build the launches."""
        check_attention(self.name, self.capabilities, tensors)
        device, case = self._device, tensors.case
        problem, batch = case.problem, case.batch
        pool = tensors.pool.with_storage(device.to_device(tensors.pool.storage))
        whole = problem.window is None or case.masks
        seen = [n if whole else min(n, problem.window or n) for n in batch.kv_lens]
        num_rows = tensors.q.shape[0]
        padded = num_rows > batch.num_query_tokens
        if padded and case.masks:
            raise Unsupported(f"{self.name}: no padded rows with a set of keys for each row")
        splits = split_count(seen, problem.num_qo_heads, num_query_tokens=num_rows)
        return plan_decode(
            device,
            problem,
            q=device.to_device(tensors.q),
            pool=pool,
            block_table=device.to_device(tensors.layout.block_table),
            kv_lens=device.to_device(tensors.kv_lens),
            num_splits=self._num_splits or splits,
            qo_indptr=None if batch.is_decode and not padded else device.to_device(tensors.qo_indptr),
            mask=mask_bits(device, case) if case.masks else None,
            lse_base=self.profile.lse_base,
            scales=case.scales,
        )

    def layer(self, plan: AttentionPlan, q: Array, pool: KvPool) -> AttentionPlan:
        """Upload another layer's arrays; see ``LayeredBackend``."""
        device = self._device
        return layer_of(device, plan, device.to_device(q), pool.with_storage(device.to_device(pool.storage)))

    def prepare(self, plan: AttentionPlan) -> None:
        """Queue the launches that serve all layers."""
        for launch in plan.launches[: plan.planning]:
            plan.module.launch(launch)

    def run_layer(self, plan: AttentionPlan) -> None:
        """Queue the others."""
        for launch in plan.launches[plan.planning :]:
            plan.module.launch(launch)

    def run(self, plan: AttentionPlan) -> None:
        """Queue all launches."""
        self.prepare(plan)
        self.run_layer(plan)

    def outputs(self, plan: AttentionPlan) -> tuple[Any, ...]:
        """Return output and LSE on the device."""
        return plan.out, plan.lse

    def fetch(self, plan: AttentionPlan) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        self._device.synchronize()
        return AttentionOutput(out=self._device.to_host(plan.out), lse=self._device.to_host(plan.lse))

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into a copy of the cache; see ``Backend.append``."""
        check_append(pool, keys, values, slot_mapping, dtype)
        return self._append(pool, dtype, keys, values, slot_mapping)

    def append_e4m3(
        self, pool: KvPool, problem: Problem, keys: Array, values: Array, slot_mapping: Array
    ) -> Array:
        """Write tokens into a copy of a cache of e4m3; see ``CacheBackend.append_e4m3``."""
        check_append(pool, keys, values, slot_mapping, problem.dtype, problem=problem)
        return self._append(pool, problem.dtype, keys, values, slot_mapping, append_scales(problem))

    def append_stored(
        self, pool: KvPool, problem: Problem, keys: Array, values: Array, slot_mapping: Array
    ) -> Array:
        """Write tokens into a copy of a cache of any format; see ``CacheBackend.append_stored``."""
        check_append(pool, keys, values, slot_mapping, problem.dtype, problem=problem)
        if not takes_rows(problem):
            scales = append_scales(problem) if problem.kv_dtype else None
            return self._append(pool, problem.dtype, keys, values, slot_mapping, scales)
        return self._append(pool, problem.dtype, keys, values, slot_mapping, form=problem)

    def append_paged(
        self,
        pool: KvPool,
        problem: Problem,
        keys: Array,
        values: Array,
        *,
        block_table: Array,
        kv_lens: Array,
        qo_indptr: Array,
    ) -> Array:
        """Write tokens through the block table; see ``CacheBackend.append_paged``."""
        where = {"block_table": block_table, "kv_lens": kv_lens, "qo_indptr": qo_indptr}
        check_append_paged(pool, problem, keys, values, **where)
        device = self._device
        target = pool.with_storage(device.to_device(copied(pool.storage)))
        append_to_sequences(
            device,
            problem.storage,
            pool=target,
            keys=device.to_device(keys),
            values=device.to_device(values),
            page_size=problem.page_size,
            scales=device.to_device(append_scales(problem)) if problem.kv_dtype == "e4m3" else None,
            form=problem if takes_rows(problem) else None,
            **{name: device.to_device(array) for name, array in where.items()},
        )
        device.synchronize()
        return self._result(target.storage)

    def copy_pages(self, pools: Sequence[KvPool], copies: Array, *, count: int) -> list[Array]:
        """Copy pages in copies of the caches; see ``CacheBackend.copy_pages``."""
        check_copies(pools, copies, count)
        device = self._device
        targets = [pool.with_storage(device.to_device(copied(pool.storage))) for pool in pools]
        listed, number = device.to_device(copies), device.to_device(np.array([count], np.int64))
        copy_pages(device, targets, listed, number)
        device.synchronize()
        return [self._result(target.storage) for target in targets]

    def gather(
        self, pool: KvPool, problem: Problem, *, block_table: Array, kv_lens: Array, raw: bool
    ) -> tuple[Array, Array]:
        """Copy all tokens out of their pages; see ``CacheBackend.gather``."""
        check_pages(pool, problem, block_table=block_table, kv_lens=kv_lens)
        device, uploaded = self._device, pool.with_storage(self._device.to_device(pool.storage))
        indptr = np.concatenate(([0], np.cumsum(kv_lens))).astype(np.int32)
        where = {"block_table": block_table, "kv_lens": kv_lens, "indptr": indptr}
        stored, rows = problem.kv_storage, takes_rows(problem)
        dense = stored if raw else problem.storage
        scales = None if stored is dense else device.to_device(append_scales(problem))
        targets = {
            kind: device.empty((int(kv_lens.sum()), problem.num_kv_heads, size), dense.storage)
            for kind, size in zip("kv", _row_sizes(problem, raw=raw), strict=True)
        }
        for kinds in ("kv",) if _alike(uploaded, problem) else ("k", "v"):
            # both at once where they lie alike; a launch of one side has its scales and rows first
            own = 0 if "k" in kinds else 1
            module, launches = plan_gather(
                device,
                # bytes are moved as those of e4m3 are
                stored=E4M3 if rows else stored,
                dense=E4M3 if rows and raw else dense,
                caches=tuple(uploaded.k if kind == "k" else uploaded.v for kind in kinds),
                strides=uploaded.strides(kinds[0]),
                page_size=problem.page_size,
                targets=tuple(targets[kind] for kind in kinds),
                scales=None if scales is None else scales[own:],
                rows=_rows_from(problem, kinds[0]) if rows and not raw else (),
                **{name: device.to_device(array) for name, array in where.items()},
            )
            for launch in launches:
                module.launch(launch)
        device.synchronize()
        return device.to_host(targets["k"]), device.to_host(targets["v"])

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Merge attention states in their order; see ``CacheBackend.merge_states``."""
        return self._merge(outs, lses, dtype)

    def merge_states_in_place(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Merge them over the first; see ``CacheBackend.merge_states_in_place``."""
        return self._merge(outs, lses, dtype, in_place=True)

    def _merge(self, outs: Array, lses: Array, dtype: str, *, in_place: bool = False) -> AttentionOutput:
        check_states(outs, lses, dtype)
        if in_place:
            outs, lses = outs.copy(), lses.copy()
        device = self._device
        num_rows = outs.shape[1]
        rows = np.broadcast_to(np.arange(num_rows, dtype=np.int32), outs.shape[:2])
        plan = plan_merge(
            device,
            dtype_by_name(dtype),
            states=[
                (device.to_device(out), device.to_device(lse)) for out, lse in zip(outs, lses, strict=True)
            ],
            rows=device.to_device(np.ascontiguousarray(rows)),
            num_rows=num_rows,
            in_place=in_place,
            lse_base=self.profile.lse_base,
        )
        for launch in plan.launches:
            plan.module.launch(launch)
        device.synchronize()
        return AttentionOutput(out=device.to_host(plan.out), lse=device.to_host(plan.lse))

    def _append(
        self,
        pool: KvPool,
        dtype: str,
        keys: Array,
        values: Array,
        slot_mapping: Array,
        scales: Array | None = None,
        form: Problem | None = None,
    ) -> Array:
        device = self._device
        target = pool.with_storage(device.to_device(copied(pool.storage)))
        append_tokens(
            device,
            dtype_by_name(dtype),
            pool=target,
            keys=device.to_device(keys),
            values=device.to_device(values),
            slot_mapping=device.to_device(slot_mapping.astype(np.int64)),
            page_size=int(pool.k.shape[1 if pool.kv_layout == "NHD" else 2]),
            scales=None if scales is None else device.to_device(scales),
            form=form,
        )
        device.synchronize()
        return self._result(target.storage)

    def _result(self, storage: Any) -> Array:
        """Return a cache that was written, on the host; one larger than memory lies there."""
        return storage if storage.nbytes > HUGE_POOL_BYTES else self._device.to_host(storage)


def _row_sizes(problem: Problem, *, raw: bool) -> tuple[int, int]:
    """Return the elements of dense rows of keys and of values."""
    if raw:
        return problem.row_units("k"), problem.row_units("v")
    return problem.head_dim, problem.value_dim


def _alike(pool: KvPool, problem: Problem) -> bool:
    """Whether one launch can gather keys and values."""
    return problem.head_dim == problem.value_dim and pool.strides("k") == pool.strides("v")


def _rows_from(problem: Problem, kind: str) -> tuple[Any, ...]:
    """Return the arguments of rows for a launch whose first side is ``kind``."""
    arguments = row_arguments(problem)
    return arguments if kind == "k" else (*arguments[:3], arguments[4], arguments[4])
