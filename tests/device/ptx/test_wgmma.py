# SPDX-License-Identifier: Apache-2.0
"""wgmma: shapes, types, layouts and signs against exact sums, and what goes wrong around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pabench.device.base import KernelSource, Launch
from pabench.device.checked import KernelFindings
from pabench.device.ptx.tensor_map import encode_tiled
from pabench.device.registry import open_device
from pabench.errors import DeviceFault
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir
from tests.device.ptx.test_device import needs_nvrtc

FILE = Path(__file__).parents[2] / "support" / "cuda" / "wgmma.cu"
ROWS, PIECE, THREADS = 64, 16, 128
DEEP = 320
"""Depth of the matrices of the kernel of tiles: five of them."""
HEAD = ".version 9.0\n.target sm_90a\n.address_size 64\n"
SWIZZLES = {16: 0, 128: 1, 64: 2, 32: 3}
SECOND = 64 * 1024
"""Where B lies in shared memory."""
BYTES = {"tf32": 4, "f16": 2, "bf16": 2}
TORCH = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How a matrix lies in shared memory: bytes of a row of the pattern, turned, offsets, start."""

    width: int = 16
    transposed: bool = False
    leading: int = 128
    stride: int = 512
    start: int = 0

    def descriptor(self, base: int) -> int:
        fields = ((base + self.start, 0), (self.leading, 16), (self.stride, 32))
        return sum(value >> 4 << at for value, at in fields) | SWIZZLES[self.width] << 62

    def address(self, row: int, byte: int, size: int) -> int:
        """Where a byte of row ``row`` (of M or N) lies, as the layouts in the PTX ISA have it."""
        along, across = (row * size, byte // size) if self.transposed else (byte, row)
        pieces, within = divmod(along, self.width)
        if self.width > PIECE or not self.transposed:
            at = across // 8 * self.stride + pieces * self.leading
        else:
            at = across // 8 * self.leading + pieces * self.stride
        at += self.start + across % 8 * self.width + within + (byte % size if self.transposed else 0)
        phase = at >> 7 & self.width // PIECE - 1
        return at ^ phase << 4


def encoded(values: Array, kind: str) -> Array:
    """Small whole numbers as the bytes of their type, a row of 32."""
    if kind in ("f16", "s8", "u8"):
        found = values.astype({"f16": np.float16, "s8": np.int8, "u8": np.uint8}[kind])
        return found.view(np.uint8).reshape(len(values), -1)
    if kind == "tf32":
        # the low 13 bits are not looked at
        return (values.astype(np.float32).view(np.uint32) | 0x1FFF).view(np.uint8).reshape(len(values), -1)
    there = torch.from_numpy(values.astype(np.float32)).to(TORCH[kind])
    found = there.view(torch.uint8).numpy()
    return np.ascontiguousarray(found).reshape(len(values), -1)


def sums(columns: int) -> Array:
    """Row and column of register ``i`` of each thread, two of them of each pair of columns."""
    thread, i = np.meshgrid(np.arange(THREADS), np.arange(columns // 2), indexing="ij")
    rows = thread // 32 * 16 + thread % 32 // 4 + i // 2 % 2 * 8
    return np.stack([rows, i // 4 * 8 + thread % 4 * 2 + i % 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One product: type, shape, where its matrices lie (None: in registers), and the numbers."""

    columns: int = 64
    kinds: tuple[str, str] = ("f16", "f16")
    result: str = "f32"
    places: tuple[Place | None, Place] = (Place(), Place())
    signs: tuple[int, int] = (1, 1)
    adds: bool = True
    saturates: bool = False
    most: int = 4
    start: int = 50

    @property
    def depth(self) -> int:
        return 32 // BYTES.get(self.kinds[0], 1)

    @property
    def count(self) -> int:
        return self.columns // (4 if self.result == "f16" else 2)

    def instruction(self) -> str:
        sums_of = ", ".join(f"%d{at}" for at in range(self.count))
        left = "%rd5" if self.places[0] else "{%a0, %a1, %a2, %a3}"
        operands = "" if self.result == "s32" else f", {self.signs[0]}, {self.signs[1]}"
        if self.depth == 16:
            operands += "".join(f", {int(one.transposed)}" for one in self.places if one)
        shape = f"m64n{self.columns}k{self.depth}.{self.result}.{self.kinds[0]}.{self.kinds[1]}"
        saturated = ".satfinite" if self.saturates else ""
        name = f"wgmma.mma_async.sync.aligned.{shape}{saturated}"
        return f"{name} {{{sums_of}}}, {left}, %rd6, %p1{operands};"

    def kernel(self, name: str) -> str:
        """The PTX: shared memory from an image, registers from arrays of a row a thread, one product."""
        kind = "f32" if self.result == "f32" else "b32"
        loads = "\n".join(f"ld.global.{kind} %d{at}, [%rd7+{4 * at}];" for at in range(self.count))
        stores = "\n".join(f"st.global.{kind} [%rd7+{4 * at}], %d{at};" for at in range(self.count))
        parts = "\n".join(f"ld.global.b32 %a{at}, [%rd9+{4 * at}];" for at in range(4))
        return f""".visible .entry {name}(.param .u64 image, .param .u64 parts, .param .u64 sums,
  .param .u64 bytes, .param .u64 first, .param .u64 second, .param .u32 adds)
{{
  .reg .pred %p<4>; .reg .b32 %r<9>; .reg .{kind} %d<{self.count}>; .reg .b32 %a<4>; .reg .b64 %rd<14>;
  ld.param.u64 %rd1, [image]; ld.param.u64 %rd2, [parts]; ld.param.u64 %rd3, [sums];
  ld.param.u64 %rd4, [bytes];
  ld.param.u64 %rd5, [first]; ld.param.u64 %rd6, [second]; ld.param.u32 %r1, [adds];
  setp.ne.u32 %p1, %r1, 0;
  mov.u32 %r2, %tid.x;
  cvt.u64.u32 %rd10, %r2;
  mad.lo.u64 %rd7, %rd10, {4 * self.count}, %rd3;
  mad.lo.u64 %rd9, %rd10, 16, %rd2;
  mov.u32 %r3, memory;
  cvt.u64.u32 %rd11, %r3;
  shl.b64 %rd12, %rd10, 4;
again:
  add.u64 %rd13, %rd1, %rd12;
  ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd13];
  add.u64 %rd13, %rd11, %rd12;
  st.shared.v4.b32 [%rd13], {{%r4, %r5, %r6, %r7}};
  add.u64 %rd12, %rd12, {16 * THREADS};
  setp.lt.u64 %p2, %rd12, %rd4;
  @%p2 bra again;
  fence.proxy.async.shared::cta;
  bar.sync 0;
{loads}
{parts}
  wgmma.fence.sync.aligned;
  {self.instruction()}
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
{stores}
  ret;
}}
"""

    def run(self, device: Any, module: Any, name: str) -> tuple[Array, Array]:
        """Return D and what it must be, 64 rows each."""
        random = np.random.default_rng(self.columns + self.most)
        low = 0 if "u8" in self.kinds else -self.most
        values = [random.integers(low, self.most + 1, (rows, self.depth)) for rows in (ROWS, self.columns)]
        added = random.integers(-self.start, self.start + 1, (ROWS, self.columns))
        image = np.full(SECOND + 32 * 1024, 0x7F, np.uint8)
        codes = [encoded(one, kind) for one, kind in zip(values, self.kinds, strict=True)]
        for base, code, place, kind in zip((0, SECOND), codes, self.places, self.kinds, strict=True):
            for row, byte in np.ndindex(*code.shape) if place else ():
                assert place
                image[base + place.address(row, byte, BYTES.get(kind, 1))] = code[row, byte]
        thread, i = np.meshgrid(np.arange(THREADS), np.arange(4), indexing="ij")
        rows, words = thread // 32 * 16 + thread % 32 // 4 + i % 2 * 8, i // 2 * 4 + thread % 4
        held: Any = {"f32": np.float32, "s32": np.int32, "f16": np.float16}[self.result]
        at = sums(self.columns)
        registers = np.ascontiguousarray(added[at[0], at[1]].astype(held).view(np.uint32))
        given = (image, codes[0].view(np.uint32)[rows, words], registers)
        lent = [device.zeros(one.shape, one.dtype) for one in given]
        for array, one in zip(lent, given, strict=True):
            array[...] = one
        descriptors = [
            np.uint64(one.descriptor(base) if one else 0)
            for one, base in zip(self.places, (0, SECOND), strict=True)
        ]
        arguments = (*lent, np.uint64(image.size), *descriptors, np.uint32(self.adds))
        module.launch(
            Launch(entry=name, grid=(1, 1, 1), block=(THREADS, 1, 1), args=arguments, shared_bytes=image.size)
        )
        found = np.zeros((ROWS, self.columns), held)
        found[at[0], at[1]] = np.array(lent[2]).view(held).reshape(THREADS, -1)
        want = self.signs[0] * self.signs[1] * (values[0] @ values[1].T) + added * self.adds
        if self.saturates:
            want = want.clip(-(1 << 31), (1 << 31) - 1)
        return found.astype(np.int64), want


K = {width: Place(width=width, stride=8 * width + 1024 * (width == 128)) for width in (32, 64, 128)}
"""Rows of K side by side, in patterns of each width, apart by more than their size for the widest."""
MN = {
    width: Place(width=width, transposed=True, leading=16 * width, stride=8 * width)
    for width in (32, 64, 128)
}
PLAIN_MN = Place(transposed=True, leading=1024, stride=128)
PRODUCTS = (
    Product(),
    Product(columns=8),
    Product(columns=256, kinds=("bf16", "bf16")),
    Product(places=(None, Place()), columns=40),
    Product(places=(None, K[128]), kinds=("bf16", "bf16"), signs=(-1, 1)),
    Product(places=(K[32], K[64]), signs=(-1, -1)),
    Product(places=(K[128], K[128]), columns=128),
    # the second 16 of 64 elements: what the swizzle turns is the address
    Product(places=(Place(width=128, stride=1024, start=96), Place(width=64, stride=512, start=32))),
    Product(places=(MN[128], MN[128]), columns=128),
    Product(places=(MN[64], MN[32])),
    Product(places=(None, MN[128])),
    Product(places=(PLAIN_MN, PLAIN_MN)),
    Product(adds=False, places=(K[128], K[128])),
    Product(result="f16", signs=(1, -1)),
    Product(result="f16", columns=24, places=(None, K[64])),
    Product(kinds=("tf32", "tf32"), places=(K[128], K[32])),
    Product(kinds=("tf32", "tf32"), places=(None, K[64])),
    Product(kinds=("e4m3", "e4m3"), places=(K[128], K[128])),
    Product(kinds=("e4m3", "e5m2"), places=(None, K[32]), result="f16"),
    Product(kinds=("e5m2", "e4m3"), columns=96),
    Product(kinds=("s8", "s8"), result="s32", most=127, places=(None, K[128])),
    Product(kinds=("s8", "s8"), result="s32", most=127, start=(1 << 31) - 1, saturates=True),
    Product(kinds=("u8", "u8"), result="s32", most=255),
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A device with one kernel for each of ``PRODUCTS``."""
    path = tmp_path_factory.mktemp("wgmma") / "products.ptx"
    kernels = "".join(one.kernel(f"product_{at}") for at, one in enumerate(PRODUCTS))
    path.write_text(f"{HEAD}.extern .shared .align 1024 .b8 memory[];\n{kernels}", encoding="utf-8")
    device = open_device("ptx:sm_90a", seed=3)
    return device, device.load(KernelSource(path=path, include_dir=resource_dir("kernels_cuda")))


@pytest.mark.parametrize("at", range(len(PRODUCTS)))
def test_a_product_is_the_exact_sum(at: int, loaded: tuple[Any, Any]) -> None:
    found, want = PRODUCTS[at].run(*loaded, f"product_{at}")
    np.testing.assert_array_equal(found, want)


FAULTS = ("none", "swizzle", "no wait", "waits late", "no fence", "computed behind fence", "no proxy fence")
"""Those that the kernel of tiles plants, in the order of its enumeration."""


def tiles(fault: str = "none", *, checked: bool = False) -> tuple[Array, Array]:
    """Return what the kernel of tiles makes, and what it must be."""
    device: Any = open_device("ptx:sm_90a", checked=checked, seed=5, poll_seconds=5)
    random = np.random.default_rng(1)
    left, right = (random.integers(-3, 4, (ROWS, DEEP)).astype(np.float16) for _ in range(2))
    lent = [device.zeros((ROWS, DEEP), np.dtype(np.float16)) for _ in range(2)]
    lent[0][...], lent[1][...] = left, right
    out = device.zeros((ROWS, ROWS), np.dtype(np.float32))
    tensor = encode_tiled(lent[1].view(np.uint16), box=(64, ROWS), swizzle=128)
    number = np.int32(FAULTS.index(fault))
    arguments = (tensor, lent[0], np.int32(DEEP // 64), np.float32(2), number, out)
    device.load(KernelSource(path=FILE, include_dir=resource_dir("kernels_cuda"))).launch(
        Launch(entry="multiply_tiles", grid=(1, 1, 1), block=(160, 1, 1), args=arguments)
    )
    want = np.zeros((ROWS, ROWS))
    for first in range(0, DEEP, 64):
        part = slice(first, first + 64)
        want = 2 * want + left[:, part].astype(float) @ right[:, part].astype(float).T
    return np.array(out), want


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, True])
def test_tiles_that_a_producer_brings_are_multiplied(checked: bool) -> None:
    found, want = tiles(checked=checked)
    np.testing.assert_array_equal(found, want)


@needs_nvrtc
@pytest.mark.slow
def test_a_wrong_swizzle_gives_another_result() -> None:
    found, want = tiles("swizzle")
    assert not np.array_equal(found, want)


@needs_nvrtc
@pytest.mark.slow
def test_sums_that_nobody_waited_for_are_refused() -> None:
    with pytest.raises(
        DeviceFault, match=r"a register of a product is read before a wgmma.wait_group covers it"
    ):
        tiles("no wait")


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("no fence", r"^sync: wgmma with no wgmma.fence before it.*wgmma.cu:\d+"),
        (
            "computed behind fence",
            r"^sync: wgmma takes a register that was written after the last wgmma.fence.*wgmma.cu:\d+",
        ),
        (
            "no proxy fence",
            r"^race: write and read by wgmma of the same bytes with no fence.proxy.async.*wgmma.cu:\d+",
        ),
        (
            "waits late",
            r"^race: bulk write and read by wgmma of the same bytes with no wgmma.wait_group between them",
        ),
    ],
)
def test_a_checked_device_sees_what_is_missing(fault: str, says: str) -> None:
    with pytest.raises(KernelFindings, match=says):
        tiles(fault, checked=True)
