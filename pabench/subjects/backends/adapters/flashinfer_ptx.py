# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's kernels on devices that run PTX: its templates by nvcc, launched as its host functions do.

What its wrappers plan on the host, in C++ that needs a GPU, is planned here by the same rules: tiles of query
rows, chunks of keys, sums of what each wrote.  The kernels are FlashInfer's, each instance as its own
just-in-time compiler would make it.  LSEs are in base 2, and told so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np

from pabench.device.base import Launch
from pabench.errors import Unsupported
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.layout import PageLayout
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.flashinfer import (
    HEAD_DIMS,
    FlashInferBackend,
    FlashInferDecodeBackend,
)
from pabench.subjects.backends.adapters.flashinfer_compiled import CompiledFlashInfer, PtxPlan
from pabench.subjects.backends.adapters.flashinfer_tiles import plan_tiles
from pabench.subjects.backends.adapters.gpu_pages import HALVES
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.validate import check_append_paged, check_attention, check_states

THREADS = 128
"""Of its merging kernels."""
HELD = (
    *("k", "v", "block_table", "block_table_starts", "last_page_len", "q", "out", "lse", "requests"),
    *("chunks", "out_starts", "chunk", "qo_indptr", "tiles"),
)
"""The arrays that a structure of parameters points to, in the order of ``fill``."""


class _Paged(CompiledFlashInfer, ABC):
    def _pages(self, pool: KvPool, layout: PageLayout, kv_lens: Array, problem: Problem) -> list[Any]:
        """Return the cache as ``fill`` takes it."""
        table = layout.to_csr(kv_lens.tolist())
        give = self._device.to_device
        return [
            *(pool.k, pool.v, give(np.append(table.indices, np.int32(0))), give(table.indptr)),
            give(table.last_page_len),
            *(np.int32(n) for n in (len(kv_lens), problem.num_kv_heads, problem.page_size)),
            *(np.int64(stride) for stride in pool.element_strides),
        ]

    skips_keys = False
    """Whether chunks begin at the first key that a window shows."""

    @abstractmethod
    def _tile(self, case: Case) -> int:
        """Return the query rows times heads of a block."""

    @abstractmethod
    def _launch(
        self, problem: Problem, tile: int, blocks: int, arguments: list[Any], rows: list[Any]
    ) -> tuple[Any, Launch]:
        """Return the attention's launch; ``rows`` are the arguments that prefill alone takes."""

    def plan(self, tensors: Tensors) -> PtxPlan:
        """Upload, plan, and prepare the launches."""
        check_attention(self.name, self.capabilities, tensors)
        case, device = tensors.case, self._device
        problem, batch = case.problem, case.batch
        pool = tensors.pool.with_storage(device.to_device(tensors.pool.storage))
        q = device.to_device(tensors.q)
        self.check_addresses(q=q, k=pool.k, v=pool.v)
        window = -1 if problem.window is None else problem.window - 1
        tile = self._tile(case)
        tiles = plan_tiles(
            list(batch.kv_lens),
            list(batch.query_lens),
            group=problem.group_size,
            tile=tile,
            page_size=problem.page_size,
            window=window if self.skips_keys else -1,
        )
        rows, heads = tensors.q.shape[:2]
        out, lse = self._room(rows, problem), device.empty((rows, heads), np.dtype(np.float32))
        if not rows:
            return PtxPlan(launches=(), out=out, lse=lse)
        parts, sums = out, lse
        if tiles.states:
            parts = self._room(tiles.states[-1], problem)
            sums = device.empty((tiles.states[-1], heads), np.dtype(np.float32))
        give = self.ints
        arguments = [
            *self._pages(pool, tensors.layout, tensors.kv_lens, problem),
            *(q, parts, sums),
            *(give(tiles.requests), give(tiles.keys), give(tiles.starts), give([tiles.chunk])),
            *(np.int32(len(tiles.requests)), np.int32(heads), np.int32(window)),
            *(np.float32(problem.soft_cap or 0.0), np.float32(problem.scale)),
            np.int32(bool(tiles.states)),
        ]
        of_rows = [device.to_device(tensors.qo_indptr), give(tiles.rows)]
        module, launch = self._launch(problem, tile, len(tiles.requests), arguments, of_rows)
        given = (value for value in (*arguments, *of_rows) if not isinstance(value, np.generic))
        launches = [(module, replace(launch, held=dict(zip(HELD, given, strict=True))))]
        if tiles.states:
            launches.append(self._merging(problem, parts, sums, give(tiles.states), out, lse))
        return PtxPlan(launches=tuple(launches), out=out, lse=lse)

    def _room(self, rows: int, problem: Problem) -> Any:
        return self._device.empty((rows, problem.num_qo_heads, problem.head_dim), problem.storage.storage)

    def _merging(self, problem: Problem, *arrays: Any) -> tuple[Any, Launch]:
        parts, sums, states, out, lse = arrays
        module, entries = self.load("merge", problem.dtype, problem.head_dim)
        rows, heads = lse.shape
        block, shared = merging_block(problem.head_dim)
        return module, Launch(
            entry=entry_of(entries, "VariableLength"),
            # fewer blocks than rows times heads, as where there are more of them than multiprocessors
            grid=(-(-rows * heads // 2), 1, 1),
            block=block,
            shared_bytes=shared,
            args=(*(parts, sums, states, out, lse), np.uint32(rows), self.ints([rows]), np.uint32(heads)),
        )


def merging_block(head_dim: int) -> tuple[tuple[int, int, int], int]:
    """Return block and shared memory of the kernels that merge states in 128 threads."""
    lanes = head_dim // max(8, head_dim // 32)
    return (lanes, THREADS // lanes, 1), 4 * (THREADS // lanes) * head_dim * 2 + THREADS * 4


def entry_of(entries: list[str], part: str) -> str:
    """Return the entry point with ``part`` in its name."""
    return next(one for one in entries if part in one)


class FlashInferPtxDecodeBackend(_Paged):
    """``BatchDecodeWithPagedKVCacheKernel`` on CUDA cores."""

    name = FlashInferDecodeBackend.name
    capabilities = FlashInferDecodeBackend.capabilities
    profile = replace(FlashInferDecodeBackend.profile, lse_base="2")

    def _tile(self, case: Case) -> int:
        return case.problem.group_size

    def _launch(
        self, problem: Problem, tile: int, blocks: int, arguments: list[Any], rows: list[Any]
    ) -> tuple[Any, Launch]:
        module, (entry,) = self.load(
            "decode",
            problem.dtype,
            problem.head_dim,
            GROUP=problem.group_size,
            WINDOW=problem.window is not None,
            SOFT_CAP=problem.soft_cap is not None,
        )
        filled, (shared, *_) = self.filled(module, arguments)
        lanes = problem.head_dim // max(8, problem.head_dim // 32)
        depth = max(THREADS, lanes * problem.group_size) // (lanes * problem.group_size)
        return module, Launch(
            entry=entry,
            grid=(blocks, problem.num_kv_heads, 1),
            block=(lanes, problem.group_size, depth),
            shared_bytes=shared,
            args=(filled,),
        )


class FlashInferPtxBackend(_Paged):
    """``BatchPrefillWithPagedKVCacheKernel`` (FA2), ``AppendPagedKVCacheKernel``, and ``merge_states``."""

    name = FlashInferBackend.name
    capabilities = FlashInferBackend.capabilities
    profile = replace(FlashInferBackend.profile, lse_base="2")
    skips_keys = True

    def _tile(self, case: Case) -> int:
        """Return what ``FA2DetermineCtaTileQ`` does."""
        packed = case.batch.num_query_tokens * case.problem.group_size / len(case.batch.kv_lens)
        if packed > 64 and case.problem.head_dim < 256:
            return 128
        return 64 if packed > 16 else 16

    def _launch(
        self, problem: Problem, tile: int, blocks: int, arguments: list[Any], rows: list[Any]
    ) -> tuple[Any, Launch]:
        limits = self._device.limits
        module, (entry,) = self.load(
            "prefill",
            problem.dtype,
            problem.head_dim,
            CAUSAL=problem.causal,
            WINDOW=problem.window is not None,
            SOFT_CAP=problem.soft_cap is not None,
            TILE_Q=tile,
            SHARED_PER_SM=limits.shared_bytes_per_sm,
            SHARED_PER_BLOCK=limits.shared_bytes_per_block,
        )
        filled, (shared, warps_q, warps_kv) = self.filled(module, [*arguments, *rows])
        return module, Launch(
            entry=entry,
            grid=(blocks, 1, problem.num_kv_heads),
            block=(32, warps_q, warps_kv),
            shared_bytes=shared,
            args=(filled,),
        )

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
        """Write tokens with ``AppendPagedKVCacheKernel``; see ``CacheBackend.append_paged``."""
        check_append_paged(
            pool, problem, keys, values, block_table=block_table, kv_lens=kv_lens, qo_indptr=qo_indptr
        )
        size = problem.head_dim
        if problem.dtype not in HALVES or problem.kv_dtype is not None or size not in HEAD_DIMS:
            raise Unsupported(
                f"{self.name}: append of {problem.dtype} as {problem.kv_storage.name}, head_dim {size}"
            )
        device = self._device
        target = pool.with_storage(device.to_device(pool.storage.copy()))
        layout = PageLayout(page_size=problem.page_size, num_pages=pool.num_pages, block_table=block_table)
        module, (entry,) = self.load("append", problem.dtype, size)
        filled, _ = self.filled(module, self._pages(target, layout, kv_lens, problem))
        # the last tokens of each sequence are the new ones
        rows = np.diff(qo_indptr)
        sequences = np.repeat(np.arange(len(kv_lens)), rows)
        positions = np.arange(len(keys)) + np.repeat(kv_lens - qo_indptr[1:], rows)
        strides = [np.uint64(problem.num_kv_heads * size), np.uint64(size)]
        if len(keys):
            module.launch(
                Launch(
                    entry=entry,
                    grid=(-(-len(keys) // 2), 1, 1),
                    block=(size // max(8, size // 32), problem.num_kv_heads, 1),
                    args=(
                        *(filled, device.to_device(keys), device.to_device(values)),
                        *(self.ints(sequences), self.ints(positions)),
                        *(np.uint32(len(keys)), *strides, *strides),
                    ),
                )
            )
        device.synchronize()
        return device.to_host(target.storage)

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Merge with the kernels of ``MergeStates``, whose states are the second axis."""
        check_states(outs, lses, dtype)
        count, rows, heads, size = outs.shape
        if dtype not in HALVES or size not in HEAD_DIMS:
            raise Unsupported(f"{self.name}: no merge of {dtype} with head_dim {size}")
        device = self._device
        states = device.to_device(np.ascontiguousarray(outs.swapaxes(0, 1)))
        sums = device.to_device(np.ascontiguousarray(lses.swapaxes(0, 1)))
        out, lse = (
            device.empty((rows, heads, size), outs.dtype),
            device.empty((rows, heads), np.dtype(np.float32)),
        )
        module, entries = self.load("merge", dtype, size)
        arguments = [states, sums, out, lse, np.uint32(count), np.uint32(heads)]
        block, shared = merging_block(size)
        launch = Launch(
            entry=entry_of(entries, "LargeNum"),
            grid=(rows, heads, 1),
            block=block,
            shared_bytes=shared,
            args=arguments,
        )
        if count < rows:
            arguments.append(np.uint32(size))
            launch = Launch(
                entry=entry_of(entries, "17MergeStates"),
                grid=(rows, 1, 1),
                block=(block[0], heads, 1),
                args=arguments,
            )
        if rows:
            module.launch(launch)
        device.synchronize()
        return AttentionOutput(out=device.to_host(out), lse=device.to_host(lse))
