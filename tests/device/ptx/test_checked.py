# SPDX-License-Identifier: Apache-2.0
"""The checked PTX device on its controls, and the two schedules of a warp."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.controls.table import load_controls
from pabench.device.allocations import Allocations
from pabench.device.base import KernelSource, Launch
from pabench.device.checked import CheckedDevice, KernelFindings
from pabench.device.ptx.device import CheckedPtxDevice
from pabench.device.ptx.in_step import Memory
from pabench.device.ptx.parse import Statement, parse_instruction
from pabench.device.ptx.steps import Steps
from pabench.device.registry import open_device
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir
from pabench.subjects.backends.base import attend
from pabench.subjects.registry import load_backend
from tests.device.ptx.test_device import needs_nvrtc
from tests.support.controls import verdicts_of

NEIGHBOUR = """extern "C" __global__ void neighbour(int* out) {
  __shared__ int room[32];
  for (int round = 0; round < 4; ++round) {
    room[threadIdx.x] = threadIdx.x + round;

    out[32 * round + threadIdx.x] = room[(threadIdx.x + 1) % 32];
    SYNC;
  }
}
"""
REDUNDANT = """template <typename T> __device__ T made(unsigned number) { return static_cast<T>(number); }
template <> __device__ uint4 made<uint4>(unsigned number) { return make_uint4(number, 1, number, 2); }
#define STORES(name, type)                                                     \\
  extern "C" __global__ void name(type* out, unsigned apart) {                 \\
    __shared__ type room;                                                      \\
    const type value = made<type>(7 + apart * (threadIdx.x % 32));             \\
    room = value;                                                              \\
    out[blockIdx.x] = value;                                                   \\
    __syncthreads();                                                           \\
    out[blockIdx.x + 2] = room;                                                \\
  }
STORES(bytes, unsigned char)
STORES(halves, unsigned short)
STORES(words, unsigned)
STORES(doubles, unsigned long long)
STORES(vectors, uint4)
"""
WIDTHS = {"bytes": 1, "halves": 2, "words": 4, "doubles": 8, "vectors": 16}
WANT = np.array([[(t + 1) % 32 + r for t in range(32)] for r in range(4)], np.int32)


@needs_nvrtc
@pytest.mark.slow
def test_controls_from_ptx_have_their_verdicts() -> None:
    verdicts = verdicts_of(load_controls(), seeds=2, device="ptx:sm_80")
    assert [f"{v.control.id}: {v.problem}" for v in verdicts if v.problem] == []
    assert sum(v.control.faulty for v in verdicts) > 80


def run(name: str, tmp_path: Path, *, checked: bool = False, sync: bool = True) -> Array:
    path = tmp_path / "neighbour.cu"
    text = NEIGHBOUR.replace("\n\n", "\n    __syncwarp();\n") if sync else NEIGHBOUR
    path.write_text(text.replace("SYNC", "__syncwarp()"), encoding="utf-8")
    device: Any = open_device(name, checked=checked, seed=3)
    out = device.zeros((4, 32), np.dtype(np.int32))
    source = KernelSource(path=path, include_dir=resource_dir("kernels_cuda"))
    device.load(source).launch(Launch(entry="neighbour", grid=(1, 1, 1), block=(32, 1, 1), args=(out,)))
    return np.array(out)


@needs_nvrtc
def test_lockstep_hides_a_missing_warp_sync_and_free_lanes_show_it(tmp_path: Path) -> None:
    assert not np.array_equal(run("ptx:sm_80", tmp_path, sync=False), WANT)
    np.testing.assert_array_equal(run("ptx:sm_80:lockstep", tmp_path, sync=False), WANT)
    for name in ("ptx:sm_80", "ptx:sm_80:lockstep"):
        np.testing.assert_array_equal(run(name, tmp_path), WANT)


def test_lanes_in_step_wait_where_the_order_matters() -> None:
    text = """
        st.shared.u32 [a], b;      // waits
        @p ld.shared.u32 c, [a];   // waits, but only lanes whose p is true
        ld.shared.u32 c, [a];      // waits
        ld.shared.u32 d, [a+4];
        add.u32 c, c, d;
        @p ld.shared.u32 c, [a];
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {c}, [a];
        @p st.shared.u32 [a], c;   // waits
        ld.shared.u32 c, [a];      // waits
        call f;
        ld.shared.u32 c, [a];      // waits
        bra again;                 // waits
        ld.shared.u32 c, [a];      // waits
    """
    steps = Steps()
    for at, line in enumerate(text.strip().splitlines()):
        code, _, said = line.strip().partition("//")
        statement = Statement(kind="instruction", text=code.strip().rstrip(";"), line=at)
        assert steps.waits(parse_instruction(statement)) == ("waits" in said), line


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ptx:sm_80", "ptx:sm_80:lockstep"])
def test_reliance_on_lanes_in_step_is_a_finding_with_both_lines(name: str, tmp_path: Path) -> None:
    says = "right only while the lanes of a warp run in step"
    if not name.endswith("lockstep"):
        says += r"; in step [1-9]\d* bytes of the result differ"
    with pytest.raises(KernelFindings, match=says) as caught:
        run(name, tmp_path, checked=True, sync=False)
    told = [str(one) for one in caught.value.findings]
    assert any("write at neighbour.cu:4 " in one and "read at neighbour.cu:6 " in one for one in told), told
    run(name, tmp_path, checked=True)


def stores(module: Any, entry: str, out: Any, *, apart: int, warps: int) -> list[str]:
    """Return what two blocks find whose lanes all write to one place numbers that are ``apart``."""
    launch = Launch(entry=entry, grid=(2, 1, 1), block=(32 * warps, 1, 1), args=(out, np.uint32(apart)))
    try:
        module.launch(launch)
    except KernelFindings as caught:
        return [str(one) for one in caught.findings]
    return []


@needs_nvrtc
@pytest.mark.slow
def test_lanes_that_store_the_same_bytes_in_one_instruction_do_not_race(tmp_path: Path) -> None:
    """Which lane lands is undefined and makes no difference; other bytes and those of another warp race."""
    path = tmp_path / "redundant.cu"
    path.write_text(REDUNDANT, encoding="utf-8")
    for seed in range(2):
        device: Any = open_device("ptx:sm_80", checked=True, seed=seed)
        module = device.load(KernelSource(path=path, include_dir=resource_dir("kernels_cuda")))
        for entry, width in WIDTHS.items():
            out = device.zeros((4 * width,), np.dtype(np.uint8))
            assert stores(module, entry, out, apart=0, warps=1) == []
            for apart, warps in ((1, 1), (0, 2)):
                found = stores(module, entry, out, apart=apart, warps=warps)
                assert all("write and write of the same bytes" in one for one in found)
                assert {"shared memory" in one for one in found} == {True, False}, found


def test_memory_is_as_it_was_after_both_schedules() -> None:
    """What was written since is put back for the other schedule, and then what was there."""
    allocations = Allocations()
    out, read = np.zeros(8, np.int32), np.arange(8, dtype=np.int32)
    for array in (out, read):
        allocations.add(array, written=True)
    before = Memory(allocations.native()[1])
    read.flags.writeable = False
    out[:] = 7
    seen = []

    def again() -> None:
        seen.append(out.copy())
        out[:6] = 7

    assert before.compared(again) == "; in step 2 bytes of the result differ"
    assert seen[0].tolist() == [0] * 8
    assert out.tolist() == [7] * 8
    out[:] = 7
    assert before.compared(lambda: out.fill(7)) == "; in step the result is the same"


@needs_nvrtc
@pytest.mark.slow
def test_traffic_from_ptx_is_that_of_the_emulated_device() -> None:
    """What the compiled code reads of the cache, to the sector; other memory it may read in another way."""
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=64, page_size=16, dtype="float16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(5, 140, 300)), poison="nan"))
    ptx = CheckedPtxDevice(checks=(), count=True, workers=1)
    emulated = CheckedDevice(checks=(), count=True, workers=1)
    emulated.limits = ptx.limits
    totals = []
    for device in (ptx, emulated):
        attend(load_backend("rawkernel", device), tensors)
        total: Counter[tuple[str, str]] = Counter()
        for one in (row for counted in device.counters.values() for row in counted.locations):
            if one.event == "load" and set(one.memory.split("+")) & {"k", "v", "cache", "storage"}:
                total[one.memory, "bytes"] += one.nbytes
                total[one.memory, "sectors"] += one.sectors
        totals.append(total)
    assert totals[0] == totals[1]
    assert sum(n for (_, what), n in totals[0].items() if what == "bytes") >= 445 * 2 * 2 * 64 * 2
