# SPDX-License-Identifier: Apache-2.0
"""A kernel as Triton compiled it, and its launch on a device that runs PTX; Triton itself is not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device, Dim3, KernelSource, Launch, Module
from pabench.errors import CompileError, Unsupported
from pabench.problem.dtypes import Array

WARP = 32
SCALARS: dict[str, Any] = {
    **{"i1": np.int8, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64},
    **{"u1": np.uint8, "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64},
    **{"fp32": np.float32, "f32": np.float32, "fp64": np.float64},
}
"""The type in PTX of an argument that is a number, by Triton's name."""
SCRATCH = 2
"""Parameters that Triton adds behind those of the kernel: scratch memory, of the kernel and of a profiler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonKernel:
    """What Triton leaves of a kernel that it compiled to PTX.

    Attributes:
        name: of the entry point.
        path: of the PTX.
        signature: parameter to type in Triton's words, in order; ``constexpr`` where it was compiled in.
        warps: of a block.
        shared_bytes: dynamic shared memory of a block.
    """

    name: str
    path: Path
    signature: Mapping[str, Any]
    warps: int
    shared_bytes: int

    def load(self, device: Device) -> Module:
        """Make it ready to run.

        Raises:
            Unsupported: the device cannot run it yet.
        """
        try:
            return device.load(KernelSource(path=self.path, include_dir=device.kernels))
        except CompileError as error:
            # Triton made it for this architecture, so it is the device that lacks something
            raise Unsupported(f"not supported yet on {device.name}: {error}") from None

    def launch(self, grid: Dim3, arguments: Sequence[Any]) -> Launch:
        """Return the launch over ``grid``, given a value for each parameter, torch's tensors among them.

        Raises:
            Unsupported: an argument of another kind.
        """
        given = {
            name: argument(name, kind, value)
            for (name, kind), value in zip(self.signature.items(), arguments, strict=True)
            if kind != "constexpr"
        }
        return Launch(
            entry=self.name,
            grid=grid,
            block=(WARP * self.warps, 1, 1),
            args=[*given.values(), *[np.zeros(1, np.uint8)] * SCRATCH],
            shared_bytes=self.shared_bytes,
            names=tuple(given),
        )


def argument(name: str, kind: Any, value: Any) -> Any:
    """Return an argument as devices take it: an array, or a numpy scalar of the parameter's type.

    Raises:
        Unsupported: a kind of argument that kernels of attention have not had so far.
    """
    if isinstance(kind, str) and kind.startswith("*") and isinstance(value, torch.Tensor):
        return memory_of(value)
    if kind in SCALARS:
        return SCALARS[kind](value)
    raise Unsupported(f"argument {name} of type {kind} is not supported yet")


def memory_of(tensor: torch.Tensor) -> Array:
    """Return the memory of a tensor on the host from its first element on: a view of its storage, bytes."""
    storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    whole: Array = storage.numpy()
    return whole[tensor.storage_offset() * tensor.element_size() :]
