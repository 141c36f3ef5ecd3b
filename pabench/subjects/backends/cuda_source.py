# SPDX-License-Identifier: Apache-2.0
"""A bare ``.cu`` or ``.ptx`` file as a backend: a kernel with the documented entry point and no Python.

::

    // pabench: threads=32 shared_bytes=0 dtypes=float32,float16 p_dtype=float32
    extern "C" __global__ void paged_decode(
        const STORED* q, const STORED* k, const STORED* v, const int* block_table, const int* kv_lens,
        STORED* out, float* lse, int num_seqs, int num_qo_heads, int num_kv_heads, int head_dim,
        int page_size, int max_pages, long long page_stride, long long token_stride,
        long long head_stride, float sm_scale)

One block for each (query token, query head): ``blockIdx.x`` and ``blockIdx.y``.  Strides are in elements and
hold for K and V alike; ``lse`` is the natural log-sum-exp.  The file is compiled once for each storage type
and head dimension that it names: with ``STORED`` (float, __half or __nv_bfloat16), ``PAB_DTYPE`` (0 float32,
1 float16, 2 bfloat16) and ``PAB_HEAD_DIM`` defined.  One with the headers of ``pab/`` runs on the emulated
device too; ordinary CUDA and ``.ptx`` files run on PTX devices.  A comment ``// pabench: name=value ...``
says what is special about it; the features that it names bring more parameters, see
``cuda_declaration.py``.  With ``append=true`` the file has a second entry point, one block for each (token,
KV head)::

    extern "C" __global__ void paged_append(
        const STORED* keys, const STORED* values, STORED* k, STORED* v, const long long* slot_mapping,
        int num_tokens, int num_kv_heads, int head_dim, int page_size, long long page_stride,
        long long token_stride, long long head_stride)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import Device, KernelSource, Launch, device_kind
from pabench.device.ptx.source import USES_OURS
from pabench.errors import CompileError, Unsupported, UsageError
from pabench.kernels.instance import DTYPE_CODES
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.cuda_declaration import (
    DIRECTIVE,
    VALUES,
    declaration,
    defines_of,
    more_arguments,
)
from pabench.subjects.backends.validate import check_append, check_attention

ENTRY, APPEND = "paged_decode", "paged_append"
STORED, CACHED = re.compile(r"\bSTORED\b"), re.compile(r"\bCACHED\b")
TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceCall:
    """One prepared launch and the arrays that it writes."""

    module: Any
    launch: Launch | None
    out: Any
    lse: Any


class CudaSourceBackend:
    """Decode with the kernel ``paged_decode`` of a ``.cu`` or ``.ptx`` file.

    Raises:
        UsageError: the file cannot be read, or a ``// pabench:`` line that cannot be read, or a ``.ptx`` file
            that does not say its storage types or is given to another device.
        InvalidCase: a declared value breaks a rule.
    """

    captures = True
    takes_resident = True

    def __init__(self, path: Path, device: Device) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"backend {str(path)!r}: {error}") from None
        said = declaration(path, text)
        compiled = path.suffix == ".ptx"
        if compiled and device_kind(device.name) != "ptx":
            raise UsageError(
                f"backend {str(path)!r}: PTX does not run on device {device.name}",
                hint="add --device ptx:sm_80",
            )
        if compiled and "dtypes=" not in "".join(DIRECTIVE.findall(text)):
            raise UsageError(
                f"backend {str(path)!r}: PTX is compiled for one storage type and must say which",
                hint="add a line such as: // pabench: dtypes=float16",
            )
        self.name = str(path)
        self._path = path.resolve()
        self._device = device
        self._said = said
        self._ordinary = not compiled and not USES_OURS.search(text)
        self._features = said.all_features(path.name)
        self._names = {name for name, word in (("STORED", STORED), ("CACHED", CACHED)) if word.search(text)}
        self.capabilities = Capabilities(
            huge_pools=True,
            dtypes=frozenset(said.dtypes),
            devices=frozenset({"ptx"} if compiled else {"cuda", "emulated", "ptx"}),
            operations=frozenset(
                {
                    *("decode", "replay"),
                    *(("prefill", "speculative") if said.prefill else ()),
                    *(("append",) if said.append else ()),
                }
            ),
            max_head_dim=said.max_head_dim,
            features=self._features,
            requires=frozenset({"latent-cache"} if said.latent else ()),
        )
        self.profile = NumericsProfile(
            p_dtype=said.p_dtype,
            accumulation=said.accumulation,
            tanh_error=said.tanh_error,
            lse_base=said.lse_base,
        )

    def plan(self, tensors: Tensors) -> SourceCall:
        """Upload the arrays and build the launch."""
        check_attention(self.name, self.capabilities, tensors)
        device, case = self._device, tensors.case
        problem = case.problem
        pool = tensors.pool.with_storage(device.to_device(tensors.pool.storage))
        num_seqs, max_pages = tensors.layout.block_table.shape
        rows, heads = tensors.q.shape[:2]
        out = device.empty((rows, heads, problem.value_dim), problem.storage.storage)
        lse = device.empty((rows, heads), np.dtype(np.float32))
        arrays = (
            *(device.to_device(tensors.q), pool.k, pool.v),
            *(device.to_device(tensors.layout.block_table), device.to_device(tensors.kv_lens), out, lse),
        )
        sizes = (num_seqs, heads, problem.num_kv_heads, problem.head_dim, problem.page_size, max_pages)
        launch = Launch(
            entry=ENTRY,
            grid=(rows, heads, 1),
            block=(self._said.threads, 1, 1),
            shared_bytes=self._said.shared_bytes,
            args=(
                *arrays,
                *(np.int32(size) for size in sizes),
                *(np.int64(stride) for stride in pool.element_strides),
                np.float32(problem.scale),
                *more_arguments(device, self._features, self._said.prefill, tensors, pool),
            ),
        )
        more = defines_of(self._features, problem)
        source = self._source(problem.dtype, problem.head_dim, problem.kv_dtype, more)
        return SourceCall(module=self._load(source), launch=launch if rows else None, out=out, lse=lse)

    def _source(
        self, dtype: str, head_dim: int, kv_dtype: str | None, more: Mapping[str, str]
    ) -> KernelSource:
        types = {"STORED": TYPES[dtype], "CACHED": "unsigned char" if kv_dtype else TYPES[dtype]}
        return KernelSource(
            path=self._path,
            include_dir=self._device.kernels,
            defines={
                "PAB_DTYPE": str(DTYPE_CODES[dtype]),
                "PAB_HEAD_DIM": str(head_dim),
                **{name: types[name] for name in self._names},
                **more,
            },
        )

    def _load(self, source: KernelSource) -> Any:
        try:
            return self._device.load(source)
        except CompileError as error:
            if self._ordinary and self._device.name == "emulated":
                told = "ordinary CUDA compiles on a PTX device: add --device ptx:sm_80"
                raise CompileError(f"{error}; {told}") from None
            raise

    def run(self, plan: SourceCall) -> None:
        """Queue the launch."""
        if plan.launch is not None:
            plan.module.launch(plan.launch)

    def fetch(self, plan: SourceCall) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        self._device.synchronize()
        return AttentionOutput(out=self._device.to_host(plan.out), lse=self._device.to_host(plan.lse))

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into a copy of the cache with ``paged_append``; see ``Backend.append``."""
        if not self._said.append:
            raise Unsupported(f"{self.name}: no append")
        page_size = check_append(pool, keys, values, slot_mapping, dtype)
        device = self._device
        target = pool.with_storage(device.to_device(pool.storage.copy()))
        tokens, heads, head_dim = keys.shape
        launch = Launch(
            entry=APPEND,
            grid=(tokens, heads, 1),
            block=(self._said.threads, 1, 1),
            args=(
                *(device.to_device(keys), device.to_device(values), target.k, target.v),
                device.to_device(slot_mapping.astype(np.int64)),
                *(np.int32(size) for size in (tokens, heads, head_dim, page_size)),
                *(np.int64(stride) for stride in target.element_strides),
            ),
        )
        if tokens:
            more = {"PAB_HEAD_DIM_V": str(head_dim)} if self._features & VALUES else {}
            self._load(self._source(dtype, head_dim, None, more)).launch(launch)
        device.synchronize()
        return device.to_host(target.storage)
