# SPDX-License-Identifier: Apache-2.0
"""A driver of Triton without a GPU: what Triton compiles to PTX runs on a device that runs PTX.

Triton asks its driver for the architecture of the current device, compiles for it as on such a GPU, and
hands kernel and arguments to the driver's launcher.  This one compiles up to PTX, gives the file that Triton
kept of it to the device, and passes torch's memory on as it lies.  Import this after Triton was loaded.
"""

from __future__ import annotations

import re
import unittest.mock
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton.backends as backends
import triton.backends.compiler as targets
import triton.backends.nvidia.compiler as nvidia
import triton.runtime as runtime
import triton.runtime.cache as kept

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.subjects.backends.adapters.triton_launch import WARP, TritonKernel

BEFORE_ARGUMENTS = 6
MOST_THREADS = 1024


def capability_of(device: Device) -> tuple[int, int]:
    """Return the compute capability of a device that runs PTX: (8, 0) for ``ptx:sm_80``."""
    number = int(re.sub(r"\D", "", device.name.split(":")[1]))
    return number // 10, number % 10


class PtxCompiler(nvidia.CUDABackend):  # type: ignore[misc]
    """Triton's compiler for NVIDIA's GPUs up to PTX, which is the binary here."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.binary_ext = "ptx"

    def add_stages(self, stages: dict[str, Any], options: Any, language: Any) -> None:
        """See ``CUDABackend``."""
        super().add_stages(stages, options, language)
        del stages["cubin"]

    def hash(self) -> str:
        """Return what keeps these kernels apart from those with a cubin, which Triton keeps in one place."""
        return f"{super().hash()}-ptx"


class Launcher:
    """One compiled kernel, as Triton calls it.

    Args:
        source: the kernel with the types of its parameters.
        metadata: what Triton found out while compiling.

    Raises:
        Unsupported: the kernel uses what is not executed yet.
    """

    def __init__(self, source: Any, metadata: Any) -> None:
        if metadata.num_ctas != 1 or metadata.global_scratch_size or metadata.profile_scratch_size:
            raise Unsupported(f"{metadata.name}: clusters and scratch memory are not supported yet")
        self._kernel = TritonKernel(
            name=metadata.name,
            path=Path(kept.get_cache_manager(metadata.hash).get_file(f"{source.name[:150]}.ptx")),
            signature=dict(source.signature),
            warps=metadata.num_warps,
            shared_bytes=metadata.shared,
        )
        self._module = self._kernel.load(DRIVER.device)

    def __call__(self, x: int, y: int, z: int, *rest: Any) -> None:
        """Run a grid; ``rest`` is stream, function, two of Triton's records, two hooks, and the arguments."""
        if 0 in (x, y, z):
            return  # as Triton's own launcher does
        self._module.launch(self._kernel.launch((x, y, z), rest[BEFORE_ARGUMENTS:]))


class PtxDriver:
    """What Triton calls a driver: the current device, what it is, and how to launch there.

    Each device that was used has a number of its own, under which Triton keeps what it compiled.
    """

    launcher_cls = Launcher

    def __init__(self) -> None:
        self.utils = self
        self._devices: list[Device] = []
        self._current = 0

    @property
    def device(self) -> Device:
        """The current device."""
        return self._devices[self._current]

    @contextmanager
    def on(self, device: Device) -> Iterator[None]:
        """While this lasts, Triton and who asks torch about its GPU find ``device``."""
        if not any(device is one for one in self._devices):
            self._devices.append(device)
        before, self._current = self._current, [one is device for one in self._devices].index(True)
        try:
            with unittest.mock.patch.object(torch.cuda, "get_device_capability", self.get_device_capability):
                yield
        finally:
            self._current = before

    def get_current_device(self) -> int:
        """Return the number of the current device."""
        return self._current

    def set_current_device(self, number: int) -> None:
        """See ``on``."""

    def get_current_stream(self, number: int = 0) -> int:
        """Return the stream: launches run to their end."""
        return 0

    def get_device_capability(self, number: Any = None) -> tuple[int, int]:
        """Return the compute capability."""
        return capability_of(self.device)

    def get_current_target(self) -> Any:
        """Return what Triton compiles for."""
        major, minor = self.get_device_capability()
        return targets.GPUTarget("cuda", 10 * major + minor, WARP)

    def get_active_torch_device(self) -> torch.device:
        """Return where tensors are made."""
        return torch.device("cpu")

    def get_device_properties(self, number: int) -> dict[str, int]:
        """Return what launch plans are fitted to."""
        limits = self._devices[number].limits
        return {
            "max_shared_mem": limits.shared_bytes_per_block,
            "multiprocessor_count": limits.multiprocessors,
            "max_num_regs": 65536,
            "warpSize": WARP,
        }

    def load_binary(self, name: str, kernel: Any, shared: int, number: int) -> tuple[Any, ...]:
        """Return handles, registers, spills and threads: the launcher has loaded the kernel."""
        return name, name, 0, 0, MOST_THREADS

    def unload_module(self, module: Any) -> None:
        """Do nothing: the device keeps what it compiled."""

    @staticmethod
    def is_active() -> bool:
        """Whether it can be used."""
        return True


DRIVER = PtxDriver()


def install() -> PtxDriver:
    """Make Triton use ``DRIVER``, and return it."""
    backends.backends["nvidia"] = backends.Backend(compiler=PtxCompiler, driver=PtxDriver)
    runtime.driver.set_active(DRIVER)
    return DRIVER
