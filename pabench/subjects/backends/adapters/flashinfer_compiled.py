# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's kernels as PTX: a file of its templates by nvcc, loaded on a device that runs it."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import Device, KernelSource, Launch
from pabench.device.ptx.architectures import LOCKSTEP
from pabench.device.ptx.nvcc import compile_with_nvcc
from pabench.errors import InvalidCase, Unsupported
from pabench.kernels.instance import LOAD_BYTES, address_of
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.subjects.backends.adapters.gpu_table import FLASHINFER, NVCC
from pabench.subjects.backends.base import AttentionOutput, Capabilities

SOURCES = Path(__file__).parent / "flashinfer_cuda"
TYPES = {"float16": "half", "bfloat16": "nv_bfloat16"}
OPTIONS = (
    *("-std=c++17", "-use_fast_math", "--expt-relaxed-constexpr"),
    *("-DFLASHINFER_ENABLE_F16", "-DFLASHINFER_ENABLE_BF16"),
    *("-DFLASHINFER_ENABLE_FP8_E4M3", "-DFLASHINFER_ENABLE_FP8_E5M2"),
)
"""Those of its own compiler (``jit/core.py``)."""
INCLUDES = ("include", "cccl/libcudacxx/include", "cccl/cub", "cccl/thrust", "cutlass/include")
ROOM = 1024
"""Bytes for a structure of parameters; its kernels' have less than half."""
ENTRY = re.compile(r"\.entry\s+(\w+)")


def find_nvcc() -> Path:
    """Return where nvcc of ``NVCC`` is; raises ``Unsupported`` unless both halves of it are there."""
    for found in sorted(NVCC.find().folder.glob("nvidia/*/bin/nvcc")):
        if (found.parents[1] / "nvvm" / "bin" / "cicc").is_file():
            return found
    raise Unsupported(f"nvidia-nvvm, the other half of nvcc, is not installed beside it: {NVCC.install}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PtxPlan:
    """Prepared launches and what they write."""

    launches: tuple[tuple[Any, Launch], ...]
    out: Any
    lse: Any


class CompiledFlashInfer:
    """What adapters of its kernels share: compiling, structures of parameters, outputs."""

    name: str
    capabilities: Capabilities

    def __init__(self, device: Device) -> None:
        found = FLASHINFER.find()
        self._nvcc = find_nvcc()
        self._device = device
        # the kernels that rely on lanes in step are right in one schedule, and the ledger tells them apart
        self.mode = "ptx, in step" if device.name.endswith(LOCKSTEP) else "ptx"
        self._version = found.version
        self._data = found.folder / FLASHINFER.package / "data"
        self._folder = tempfile.TemporaryDirectory(prefix="pabench-")
        self._kept: dict[str, tuple[Any, list[str]]] = {}

    def load(self, kind: str, dtype: str, head_dim: int, **defines: Any) -> tuple[Any, list[str]]:
        """Return a compiled file of ``SOURCES`` and its entry points, ``fill`` apart."""
        words = {"STORED": TYPES[dtype], "HEAD_DIM": head_dim, **defines}
        macros = {
            f"PAB_{name}": str(value).lower() if value is True or value is False else str(value)
            for name, value in words.items()
        }
        name = "-".join([kind, *macros.values()])
        if name not in self._kept:
            text = compile_with_nvcc(
                self._nvcc,
                SOURCES / f"{kind}.cu",
                self._device.name.split(":")[1],
                options=OPTIONS,
                includes=[self._data / one for one in INCLUDES],
                defines=macros,
                key=f"flashinfer {self._version}",
            )
            path = Path(self._folder.name) / f"{name}.ptx"
            path.write_text(text, encoding="utf-8")
            module = self._device.load(KernelSource(path=path, include_dir=self._device.kernels))
            self._kept[name] = module, [one for one in ENTRY.findall(text) if one != "fill"]
        return self._kept[name]

    def filled(self, module: Any, arguments: list[Any]) -> tuple[np.void, list[int]]:
        """Return the structure of parameters, written on the device, and what else ``fill`` says."""
        room = self._device.zeros((ROOM,), np.dtype(np.uint8))
        sizes = self._device.zeros((4,), np.dtype(np.uint32))
        module.launch(Launch(entry="fill", grid=(1, 1, 1), block=(1, 1, 1), args=(room, sizes, *arguments)))
        self._device.synchronize()
        size, *more = (int(n) for n in self._device.to_host(sizes))
        return np.void(self._device.to_host(room)[:size].tobytes()), more

    def run(self, plan: PtxPlan) -> None:
        """Queue the launches."""
        for module, launch in plan.launches:
            module.launch(launch)

    def outputs(self, plan: PtxPlan) -> tuple[Any, ...]:
        """Return output and LSE on the device."""
        return plan.out, plan.lse

    def fetch(self, plan: PtxPlan) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        self._device.synchronize()
        return AttentionOutput(out=self._device.to_host(plan.out), lse=self._device.to_host(plan.lse))

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse: FlashInfer appends through the block table."""
        raise Unsupported(f"{self.name}: no append")

    def ints(self, numbers: Any) -> Any:
        """Return ``numbers`` as int32 on the device."""
        return self._device.to_device(np.asarray(numbers, np.int32))

    def check_addresses(self, **arrays: Any) -> None:
        """Raise ``InvalidCase`` unless each begins where a load of ``LOAD_BYTES`` may."""
        for what, array in arrays.items():
            if address_of(array) % LOAD_BYTES:
                rule = f"must be a multiple of {LOAD_BYTES} bytes"
                raise InvalidCase(f"address of {what}", address_of(array), rule)
