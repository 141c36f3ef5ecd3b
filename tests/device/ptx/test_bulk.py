# SPDX-License-Identifier: Apache-2.0
"""mbarriers and bulk copies: pages gathered through a tensor map, edges, and planted faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.device.base import KernelSource, Launch
from pabench.device.checked import KernelFindings
from pabench.device.ptx.tensor_map import encode_tiled
from pabench.device.registry import open_device
from pabench.errors import CompileError, DeviceFault, LaunchError
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir
from tests.device.ptx.test_device import needs_nvrtc

FILE = Path(__file__).parents[2] / "support" / "cuda" / "bulk.cu"
COPIES = FILE.with_name("copies.cu")
TABLE = np.array([5, 0, 3, 5, 2, 6, 1], np.int32)
TOKENS, DIM = 8, 64
IN_VAIN = r"waited at the mbarrier at byte \d+ of shared memory \(.* arrivals missing, .* bytes expected"
HEAD = ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k()"


def load(device: Any, defines: dict[str, str], path: Path = FILE) -> Any:
    return device.load(KernelSource(path=path, include_dir=resource_dir("kernels_cuda"), defines=defines))


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros whose address is a multiple of 16, as a tensor map needs."""
    room = np.zeros(int(np.prod(shape)) * np.dtype(dtype).itemsize + 16, np.uint8)
    first = -room.ctypes.data % 16
    found: Array = room[first : first + room.nbytes - 16].view(dtype).reshape(shape)
    return found


def gather(
    defines: dict[str, str] | None = None, *, checked: bool = False, poll_seconds: int = 60
) -> tuple[Array, Array]:
    """Return what the kernel gathered, and the pages as the table names them."""
    device = open_device("ptx:sm_90a", checked=checked, seed=5, poll_seconds=poll_seconds)
    pages = device.zeros((7, TOKENS, DIM), np.dtype(np.uint16))
    pages[...] = np.arange(pages.size, dtype=np.uint16).reshape(pages.shape)
    out = device.zeros((len(TABLE), TOKENS, DIM), np.dtype(np.uint16))
    table = device.zeros(TABLE.shape, np.dtype(np.int32))
    table[...] = TABLE
    tensor = encode_tiled(pages, box=(DIM, TOKENS, 1), swizzle=128)
    arguments = (tensor, table, np.int32(len(TABLE)), out)
    launch = Launch(entry="gather", grid=(1, 1, 1), block=(64, 1, 1), args=arguments)
    load(device, defines or {}).launch(launch)
    return np.array(out), pages[TABLE]


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, True])
def test_pages_come_through_a_tensor_map(checked: bool) -> None:
    found, want = gather(checked=checked)
    np.testing.assert_array_equal(found, want)


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        # producer and consumers wait for one another: which of them is named is a matter of time
        ({"EXPECTED": "1040"}, IN_VAIN),
        ({"EXPECTED": "1008"}, IN_VAIN),
        ({"ARRIVES": "0"}, IN_VAIN),
        ({"PARITY_OFF": "1"}, r"mbarrier at byte \d+ .*: more arrivals in a phase than its count 1"),
    ],
    ids=["too many bytes", "too few bytes", "missing arrive", "wrong parity"],
)
def test_a_fault_ends_as_a_verdict(fault: dict[str, str], says: str) -> None:
    with pytest.raises(DeviceFault, match=says):
        gather(fault, poll_seconds=1)


@needs_nvrtc
@pytest.mark.slow
def test_a_copy_that_nobody_waits_for_does_not_arrive() -> None:
    found, want = gather({"LEAVES": "0"})
    assert not np.array_equal(found, want)


@needs_nvrtc
@pytest.mark.slow
def test_a_buffer_read_before_its_barrier_was_never_written() -> None:
    with pytest.raises(
        KernelFindings, match=r"^init: .* never written in shared memory .* read at bulk.cu:\d+"
    ):
        gather({"PARITY_OFF": "1"}, checked=True)


def gather_by_threads(
    defines: dict[str, str] | None = None, *, checked: bool = False, poll_seconds: int = 60, seed: int = 5
) -> tuple[Array, Array]:
    """Likewise, by ``cp.async`` of a warp."""
    device = open_device("ptx:sm_80", checked=checked, seed=seed, poll_seconds=poll_seconds)
    pages = device.zeros((7, 256), np.dtype(np.uint16))
    pages[...] = np.arange(pages.size, dtype=np.uint16).reshape(pages.shape)
    out, table = device.zeros((len(TABLE), 256), np.dtype(np.uint16)), device.zeros(TABLE.shape, TABLE.dtype)
    table[...] = TABLE
    launch = Launch(
        entry="gather", grid=(1, 1, 1), block=(64, 1, 1), args=(pages, table, np.int32(len(TABLE)), out)
    )
    load(device, defines or {}, COPIES).launch(launch)
    return np.array(out), pages[TABLE]


@needs_nvrtc
@pytest.mark.parametrize("counted", ["1", "0"], ids=["noinc", "inc"])
@pytest.mark.parametrize("checked", [False, True])
def test_copies_of_threads_tell_an_mbarrier_of_their_end(checked: bool, counted: str) -> None:
    found, want = gather_by_threads({"COUNTED": counted}, checked=checked)
    np.testing.assert_array_equal(found, want)


@needs_nvrtc
@pytest.mark.parametrize("counted", ["1", "0"], ids=["noinc", "inc"])
def test_an_arrival_that_copies_do_not_make_is_missed(counted: str) -> None:
    with pytest.raises(DeviceFault, match=IN_VAIN):
        gather_by_threads({"COUNTED": counted, "ARRIVES": "0"}, poll_seconds=1)


@needs_nvrtc
def test_copies_of_threads_that_nobody_waits_for_are_found() -> None:
    with pytest.raises(KernelFindings, match=r"copies\.cu:\d+"):
        gather_by_threads({"WAITS": "0"}, checked=True, poll_seconds=1)


@needs_nvrtc
@pytest.mark.slow
def test_a_tile_over_the_edge_reads_zeros_and_writes_nothing_there() -> None:
    device = open_device("ptx:sm_90a", seed=2)
    source, target = aligned((6, 12), np.float32), aligned((6, 12), np.float32)
    source[...] = np.arange(1, 73).reshape(6, 12)
    target[...] = -1
    tensors = [encode_tiled(one, box=(8, 8), swizzle=32) for one in (source, target)]
    module = load(device, {})
    for x, y in ((7, -3), (-2, 2)):
        arguments = (*tensors, np.int32(x), np.int32(y))
        module.launch(Launch(entry="edges", grid=(1, 1, 1), block=(32, 1, 1), args=arguments))
    want = np.full((6, 12), -1, np.float32)
    want[:5, 7:], want[2:, :6] = source[:5, 7:], source[2:, :6]
    np.testing.assert_array_equal(target, want)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"box": (64, 8)}, "a box of 2 dimensions: must be as many as the tensor has: 3"),
        ({"box": (64, 300, 1)}, r"box \[64, 300, 1\]: must be 1 to 256"),
        ({"box": (3, 8, 1)}, "a row of 6 bytes in the box: must be a multiple of 16"),
        ({"box": (64, 8, 1), "swizzle": 64}, "a row of 128 bytes: must be at most the swizzle's 64"),
        ({"box": (64, 8, 1), "swizzle": 96}, "swizzle 96: must be 0, 32, 64 or 128"),
        ({"box": (64, 8, 1), "strides": (100, 1024)}, r"strides \[100, 1024\]: must be multiples of 16"),
    ],
)
def test_a_tensor_map_that_breaks_a_rule_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(LaunchError, match=says):
        encode_tiled(aligned((7, 8, 64), np.uint16), **given)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("setmaxnreg.dec.sync.aligned.u32 20;", "20 registers: must be a multiple of 8 from 24 to 256"),
        (
            "cp.async.bulk.tensor.4d.shared::cluster.global.im2col [%r1], [%rd1], [%r1];",
            "modifier .im2col",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(line: str, says: str, tmp_path: Path) -> None:
    body = f"\n{{ .reg .b32 %r<2>; .reg .b64 %rd<2>;\n{line}\nret; }}\n"
    _refused(HEAD + body, says, tmp_path)


def test_a_cluster_of_blocks_is_refused(tmp_path: Path) -> None:
    _refused(
        f"{HEAD}\n.reqnctapercluster 2, 1, 1\n{{ ret; }}\n",
        "clusters of several blocks are not supported yet",
        tmp_path,
    )


def _refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "k.ptx"
    path.write_text(text, encoding="utf-8")
    source = KernelSource(path=path, include_dir=resource_dir("kernels_cuda"))
    with pytest.raises(CompileError, match=says):
        open_device("ptx:sm_90a").load(source)
