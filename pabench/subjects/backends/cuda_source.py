"""A bare ``.cu`` or ``.ptx`` file as a backend: a kernel with the documented entry point and no Python.

::

    // pabench: threads=32 shared_bytes=0 dtypes=float32,float16 p_dtype=float32
    extern "C" __global__ void paged_decode(
        const STORED* q, const STORED* k, const STORED* v, const int* block_table, const int* kv_lens,
        STORED* out, float* lse, int num_seqs, int num_qo_heads, int num_kv_heads, int head_dim,
        int page_size, int max_pages, long long page_stride, long long token_stride,
        long long head_stride, float sm_scale)

One block for each (sequence, query head): ``blockIdx.x`` and ``blockIdx.y``.  Strides are in elements and
hold for K and V alike; ``lse`` is the natural log-sum-exp.  The file is compiled once for each storage type
and head dimension that it names: with ``STORED`` (float, __half or __nv_bfloat16), ``PAB_DTYPE`` (0 float32,
1 float16, 2 bfloat16) and ``PAB_HEAD_DIM`` defined.  One with the headers of ``pab/`` runs on the emulated
device too; ordinary CUDA and ``.ptx`` files run on PTX devices.  A comment ``// pabench: name=value ...``
says what is special about it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import Device, KernelSource, Launch, device_kind
from pabench.device.ptx.source import USES_OURS
from pabench.errors import CompileError, InvalidCase, Unsupported, UsageError
from pabench.kernels.instance import DTYPE_CODES
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import DTYPES, Array, dtype_by_name
from pabench.problem.pool import KvPool
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.validate import check_attention

ENTRY = "paged_decode"
STORED = re.compile(r"\bSTORED\b")
TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
DIRECTIVE = re.compile(r"^\s*//\s*pabench:(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a ``// pabench:`` line may say.

    Attributes:
        threads: of a block.
        shared_bytes: dynamic shared memory of a block.
        dtypes: storage types the file is written for.
        max_head_dim: largest head dimension.
        p_dtype: see ``ComputeProfile``.
        accumulation: see ``ComputeProfile``.
    """

    threads: int = 128
    shared_bytes: int = 0
    dtypes: tuple[str, ...] = tuple(DTYPES)
    max_head_dim: int = 1024
    p_dtype: str = "float32"
    accumulation: str = "serial"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceCall:
    """One prepared launch and the arrays that it writes."""

    module: Any
    launch: Launch
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
        said = _declaration(path, text)
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
        self._stored = STORED.search(text) is not None
        self.capabilities = Capabilities(
            vast_pools=True,
            dtypes=frozenset(said.dtypes),
            devices=frozenset({"ptx"} if compiled else {"cuda", "emulated", "ptx"}),
            operations=frozenset({"decode", "replay"}),
            max_head_dim=said.max_head_dim,
        )
        self.profile = ComputeProfile(p_dtype=said.p_dtype, accumulation=said.accumulation)

    def plan(self, tensors: Tensors) -> SourceCall:
        """Upload the arrays and build the launch."""
        check_attention(self.name, self.capabilities, tensors)
        device, case = self._device, tensors.case
        problem = case.problem
        pool = tensors.pool.with_storage(device.to_device(tensors.pool.storage))
        num_seqs, max_pages = tensors.layout.block_table.shape
        heads = problem.num_qo_heads
        out = device.empty((num_seqs, heads, problem.head_dim), problem.storage.storage)
        lse = device.empty((num_seqs, heads), np.dtype(np.float32))
        arrays = (
            *(device.to_device(tensors.q), pool.k, pool.v),
            *(device.to_device(tensors.layout.block_table), device.to_device(tensors.kv_lens), out, lse),
        )
        sizes = (num_seqs, heads, problem.num_kv_heads, problem.head_dim, problem.page_size, max_pages)
        launch = Launch(
            entry=ENTRY,
            grid=(num_seqs, heads, 1),
            block=(self._said.threads, 1, 1),
            shared_bytes=self._said.shared_bytes,
            args=(
                *arrays,
                *(np.int32(size) for size in sizes),
                *(np.int64(stride) for stride in pool.element_strides),
                np.float32(problem.scale),
            ),
        )
        source = KernelSource(
            path=self._path,
            include_dir=device.kernels,
            defines={
                "PAB_DTYPE": str(DTYPE_CODES[problem.dtype]),
                "PAB_HEAD_DIM": str(problem.head_dim),
                **({"STORED": TYPES[problem.dtype]} if self._stored else {}),
            },
        )
        return SourceCall(module=self._load(source), launch=launch, out=out, lse=lse)

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
        plan.module.launch(plan.launch)

    def fetch(self, plan: SourceCall) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        self._device.synchronize()
        return AttentionOutput(out=self._device.to_host(plan.out), lse=self._device.to_host(plan.lse))

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse: a decode kernel writes no cache."""
        raise Unsupported(f"{self.name}: no append")


def _declaration(path: Path, text: str) -> Declaration:
    """Read the ``// pabench:`` lines of a file; later ones come on top of earlier ones."""
    given: dict[str, Any] = {}
    for line in DIRECTIVE.findall(text):
        for word in line.split():
            name, equals, value = word.partition("=")
            if not equals or name not in Declaration.__dataclass_fields__:
                known = ", ".join(Declaration.__dataclass_fields__)
                raise UsageError(
                    f"backend {str(path)!r}: cannot read {word!r} in a pabench line (known: {known})"
                )
            given[name] = value
    for name, high in (("threads", 1024), ("shared_bytes", 232448), ("max_head_dim", 1024)):
        if name in given:
            try:
                given[name] = int(given[name])
            except ValueError:
                raise InvalidCase(f"{path.name}: {name}", given[name], "must be a whole number") from None
            whole_number(
                f"{path.name}: {name}", given[name], low=0 if name == "shared_bytes" else 1, high=high
            )
    if "dtypes" in given:
        given["dtypes"] = tuple(dtype_by_name(name).name for name in given["dtypes"].split(","))
    return Declaration(**given)
