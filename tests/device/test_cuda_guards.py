# SPDX-License-Identifier: Apache-2.0
"""Guard granules of a GPU: which driver calls are made, that they are undone, and what lies where."""

from __future__ import annotations

import ctypes
import gc
import mmap
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pabench.checks.guarded import check_guard
from pabench.checks.plan_checks import check_replay
from pabench.device import cuda_guards
from pabench.device.cuda import CudaDevice, why_no_cuda
from pabench.device.cuda_guards import AllocationProp, Driver, GuardGranules
from pabench.device.rooms import in_rooms
from pabench.errors import Unsupported
from pabench.problem import Batch, Case, Problem
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.standin_support import cupy

__all__ = ["cupy"]
GRANULE = 2**16
CASE = Case(
    problem=Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4), batch=Batch(kv_lens=(9, 0, 33))
)


class HostDriver:
    """The driver's calls over the host's memory: what is not mapped is a page that nobody may touch."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.calls: list[str] = []
        self.regions: dict[int, mmap.mmap] = {}
        self.libc = ctypes.CDLL(None)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuMem"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return 1 if name == self.refuse else int(getattr(self, f"do_{name}")(*arguments) or 0)

        return call

    def do_cuMemGetAllocationGranularity(self, granule: Any, prop: Any, option: int) -> None:  # noqa: N802
        found = prop._obj
        assert (found.type, found.location.type, found.location.id, option) == (1, 1, 0, 0)
        granule._obj.value = GRANULE

    def do_cuMemAddressReserve(self, start: Any, size: Any, *_: Any) -> None:  # noqa: N802
        region = mmap.mmap(-1, size.value)
        start._obj.value = np.frombuffer(region, np.uint8).ctypes.data
        self.regions[start._obj.value] = region
        self.libc.mprotect(ctypes.c_void_p(start._obj.value), size, 0)

    def do_cuMemCreate(self, handle: Any, size: Any, prop: Any, flags: Any) -> None:  # noqa: N802
        handle._obj.value = 7
        assert size.value % GRANULE == 0

    def do_cuMemMap(self, base: Any, size: Any, offset: Any, handle: Any, flags: Any) -> None:  # noqa: N802
        assert handle.value == 7

    def do_cuMemSetAccess(self, base: Any, size: Any, access: Any, count: Any) -> int:  # noqa: N802
        assert (access._obj.flags, access._obj.location.type, count.value) == (3, 1, 1)
        return int(self.libc.mprotect(ctypes.c_void_p(base.value), size, mmap.PROT_READ | mmap.PROT_WRITE))

    def do_cuMemUnmap(self, base: Any, size: Any) -> None:  # noqa: N802
        """The region goes with its addresses."""

    def do_cuMemRelease(self, handle: Any) -> None:  # noqa: N802
        """Nothing is behind the handle."""

    def do_cuMemAddressFree(self, start: Any, size: Any) -> None:  # noqa: N802
        del self.regions[start.value]


SETUP = ["GetAllocationGranularity", "AddressReserve", "Create", "Map", "SetAccess"]
UNDO = {"AddressReserve": "AddressFree", "Create": "Release", "Map": "Unmap"}


def test_cuda_guards_structures_are_those_of_the_driver() -> None:
    # offsets of CUmemAllocationProp and CUmemAccessDesc in cuda.h, 64-bit
    offsets = {name: getattr(AllocationProp, name).offset for name, *_ in AllocationProp._fields_}
    assert offsets == {
        "type": 0,
        "requested_handle_types": 4,
        "location": 8,
        "win32_handle_meta_data": 16,
        "compression_type": 24,
        "gpu_direct_rdma_capable": 25,
        "usage": 26,
        "reserved": 28,
    }
    assert (ctypes.sizeof(AllocationProp), ctypes.sizeof(cuda_guards.AccessDesc)) == (32, 12)


def test_cuda_guards_map_all_but_the_granules_at_the_ends() -> None:
    library = HostDriver()
    held = Driver(library).map_between_guards(GRANULE + 1, device_id=0)
    assert [call.removeprefix("cuMem") for call in library.calls] == SETUP
    (start,) = library.regions
    assert (held.base, held.nbytes) == (start + GRANULE, 2 * GRANULE)
    assert len(library.regions[start]) == 4 * GRANULE
    library.calls.clear()
    held.free()
    held.free()
    assert library.calls == ["cuMemUnmap", "cuMemRelease", "cuMemAddressFree"]
    assert not library.regions


@pytest.mark.parametrize("refused", SETUP)
def test_cuda_guards_that_the_driver_refuses_leave_nothing(refused: str) -> None:
    library = HostDriver(refuse=f"cuMem{refused}")
    with pytest.raises(Unsupported, match=f"cuMem{refused} gave error 1"):
        Driver(library).map_between_guards(1, device_id=0)
    done = [name for name in SETUP[: SETUP.index(refused)] if name in UNDO]
    undone = [call.removeprefix("cuMem") for call in library.calls][SETUP.index(refused) + 1 :]
    assert undone == [UNDO[name] for name in reversed(done)]
    assert not library.regions


def test_cuda_guards_without_a_driver_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(Unsupported, match=r"the CUDA driver cannot be loaded \(libcuda"):
        Driver()
    with pytest.raises(Unsupported, match="the CUDA driver has no cuMemGet"):
        Driver(object()).map_between_guards(1, device_id=0)


@pytest.mark.parametrize("at_end", [False, True])
def test_cuda_guards_rooms_are_flush_and_given_back(cupy: Any, at_end: bool) -> None:
    library = HostDriver()
    device = CudaDevice()
    given = np.arange(15, dtype=np.int32).reshape(3, 5)
    with in_rooms(device, GuardGranules(device, at_end=at_end, driver=Driver(library))) as rooms:
        held, fresh = device.to_device(given), device.empty((15,), np.dtype(np.float32))
    assert np.array_equal(device.to_host(held), given)
    assert np.isnan(device.to_host(fresh)).all()
    bases = [start + GRANULE for start in library.regions]
    places = [array.data.ptr - base for array, base in zip((held, fresh), bases, strict=True)]
    # what is no upload is aligned as any allocation is
    assert places == ([GRANULE - 60, GRANULE - 64] if at_end else [0, 0])
    del held, fresh
    rooms.uploads.clear()
    gc.collect()
    assert not library.regions


@pytest.fixture
def host_driver(monkeypatch: pytest.MonkeyPatch) -> HostDriver:
    library = HostDriver()

    def granules(device: Any, *, at_end: bool) -> GuardGranules:
        return GuardGranules(device, at_end=at_end, driver=Driver(library))

    monkeypatch.setattr(cuda_guards, "GuardGranules", granules)
    return library


def narrow(device: CudaDevice) -> Any:
    return RawKernelBackend(device)


def test_cuda_guards_check_runs_up_to_its_verdict(cupy: Any, host_driver: HostDriver) -> None:
    device = CudaDevice()
    assert check_guard(CASE, narrow(device), device).passed
    assert host_driver.calls.count("cuMemMap") > 10


def test_cuda_guards_check_does_not_judge_copies_of_the_backends_own(
    cupy: Any, host_driver: HostDriver
) -> None:
    class Own:
        name, capabilities, profile = "own", RawKernelBackend.capabilities, RawKernelBackend.profile

        def __init__(self, device: CudaDevice) -> None:
            self.kernel = RawKernelBackend(device)
            self.device = device

        def plan(self, tensors: Any) -> Any:
            with in_rooms(self.device, None):  # type: ignore[type-var]
                return self.kernel.plan(tensors)

        def run(self, plan: Any) -> None:
            self.kernel.run(plan)

        def fetch(self, plan: Any) -> Any:
            return self.kernel.fetch(plan)

    device = CudaDevice()
    own: Any = Own(device)
    with pytest.raises(Unsupported, match="its arrays on the GPU are its own copies"):
        check_guard(CASE, own, device)


def test_cuda_replay_captures_a_graph_and_replays_it(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = []
    launch = cupy.cuda.Graph.launch

    def counted(*given: Any) -> None:
        replayed.append(given)
        launch(*given)

    monkeypatch.setattr(cupy.cuda.Graph, "launch", counted)
    device = CudaDevice()
    assert check_replay(CASE, narrow(device), device).passed
    assert len(replayed) == 2


def test_cuda_replay_refuses_a_backend_that_cannot_be_captured(cupy: Any) -> None:
    class Waits(RawKernelBackend):
        def run(self, plan: Any) -> None:
            super().run(plan)
            self._device.synchronize()

    device = CudaDevice()
    with pytest.raises(TypeError, match="declares that it can be captured in a graph, and cannot"):
        check_replay(replace(CASE, seed=1), Waits(device), device)


@pytest.mark.skipif(why_no_cuda() is not None, reason=f"needs a GPU: {why_no_cuda()}")
def test_cuda_guards_hold_on_a_gpu() -> None:
    device = CudaDevice()
    assert check_guard(CASE, narrow(device), device).passed
    assert check_replay(CASE, narrow(device), device).passed
