# SPDX-License-Identifier: Apache-2.0
"""What single PTX instructions compute, against numpy: one kernel with an output for each."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.device.base import KernelSource, Launch
from pabench.device.ptx.device import PtxDevice
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir

HEAD = ".version 9.0\n.target sm_80\n.address_size 64\n"
Numbers = Callable[..., Any]


def mod32(values: Any) -> Array:
    """The low 32 bits of whole numbers."""
    return np.array([int(value) & 0xFFFFFFFF for value in values], np.uint32)


def run(body: str, kernel: str, tmp_path: Path, *arrays: Array, threads: int = 32) -> None:
    """Compile a kernel of pointers ``%rd1``, ``%rd2``, ... and the thread ``%r1``; run one block."""
    parameters = ",\n".join(f".param .u64 p{at}" for at in range(len(arrays)))
    loads = "\n".join(f"ld.param.u64 %rd{at + 1}, [p{at}];" for at in range(len(arrays)))
    text = f"""{HEAD}.visible .entry {kernel}({parameters})
{{
  .reg .pred %p<8>; .reg .b16 %h<40>; .reg .b32 %r<400>; .reg .f32 %f<400>; .reg .b64 %rd<400>;
  {loads}
  mov.u32 %r1, %tid.x;
{body}
  ret;
}}
"""
    path = tmp_path / "kernel.ptx"
    path.write_text(text, encoding="utf-8")
    source = KernelSource(path=path, include_dir=resource_dir("kernels_cuda"))
    PtxDevice(workers=1).load(source).launch(
        Launch(entry=kernel, grid=(1, 1, 1), block=(threads, 1, 1), args=arrays)
    )


def signed(x: Array) -> Array:
    return x.astype(np.int32).astype(np.int64)


INTS = np.array(
    [
        0,
        1,
        2,
        3,
        31,
        32,
        33,
        127,
        128,
        255,
        32768,
        65535,
        305419896,
        2147483647,
        2147483648,
        4294967295,
        3735928559,
        16711935,
        4042322160,
        5,
        7,
        100,
        1000,
        4294967294,
        1073741824,
        3221225472,
        12,
        13,
        255,
        256,
        16909060,
        2779096485,
    ],
    np.uint32,
)
OTHERS = np.roll(INTS, 7)


def brev(x: int) -> int:
    return int(f"{x:032b}"[::-1], 2)


def bfe_s32(x: int, position: int, length: int) -> int:
    top = min(position + length - 1, 31)
    sign = x >> top & 1
    bits = [(x >> (position + at) & 1) if position + at <= min(top, 31) else sign for at in range(32)]
    bits = [bit if at < length else sign for at, bit in enumerate(bits)]
    return sum(bit << at for at, bit in enumerate(bits)) if length else 0


def permuted(a: int, b: int, selector: int) -> int:
    pool = (b << 32 | a).to_bytes(8, "little")
    out = []
    for at in range(4):
        choice = selector >> 4 * at & 15
        byte = pool[choice & 7]
        out.append((0xFF if byte & 0x80 else 0) if choice & 8 else byte)
    return int.from_bytes(bytes(out), "little")


def div_toward_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


WHOLE: dict[str, Numbers] = {
    "add.u32 %d, %a, %b": lambda a, b: a + b,
    "sub.s32 %d, %a, %b": lambda a, b: a - b,
    "mul.lo.s32 %d, %a, %b": lambda a, b: a * b,
    "mul.hi.u32 %d, %a, %b": lambda a, b: a * b >> 32,
    "mul.hi.s32 %d, %a, %b": lambda a, b: s(a) * s(b) >> 32,
    "mad.lo.s32 %d, %a, %b, -5": lambda a, b: a * b - 5,
    "div.u32 %d, %a, 7": lambda a, b: a // 7,
    "div.s32 %d, %a, -3": lambda a, b: div_toward_zero(s(a), -3),
    "rem.s32 %d, %a, 10": lambda a, b: s(a) - 10 * div_toward_zero(s(a), 10),
    "rem.u32 %d, %a, 10": lambda a, b: a % 10,
    "min.s32 %d, %a, %b": lambda a, b: min(s(a), s(b)),
    "max.u32 %d, %a, %b": max,
    "neg.s32 %d, %a": lambda a, b: -a,
    "abs.s32 %d, %a": lambda a, b: abs(s(a)),
    "and.b32 %d, %a, %b": lambda a, b: a & b,
    "or.b32 %d, %a, 0x0F": lambda a, b: a | 15,
    "xor.b32 %d, %a, -1": lambda a, b: ~a,
    "not.b32 %d, %a": lambda a, b: ~a,
    "cnot.b32 %d, %a": lambda a, b: int(a == 0),
    "shl.b32 %d, %a, %b": lambda a, b: a << b if b < 32 else 0,
    "shr.u32 %d, %a, %b": lambda a, b: a >> b if b < 32 else 0,
    "shr.s32 %d, %a, %b": lambda a, b: s(a) >> min(b, 31),
    "shf.l.wrap.b32 %d, %a, %b, 36": lambda a, b: (b << 32 | a) << 4 >> 32,
    "shf.r.clamp.b32 %d, %a, %b, 40": lambda a, b: b,
    "prmt.b32 %d, %a, %b, 0x7D3A": lambda a, b: permuted(a, b, 0x7D3A),
    "bfe.u32 %d, %a, 4, 9": lambda a, b: a >> 4 & 511,
    "bfe.s32 %d, %a, 4, 9": lambda a, b: bfe_s32(a, 4, 9),
    "bfe.s32 %d, %a, 28, 9": lambda a, b: bfe_s32(a, 28, 9),
    "bfi.b32 %d, %a, %b, 8, 5": lambda a, b: (b & ~(31 << 8)) | (a & 31) << 8,
    "lop3.b32 %d, %a, %b, 0xFF00FF00, 0xCA": lambda a, b: (a & b) | (~a & 0xFF00FF00),
    "popc.b32 %d, %a": lambda a, b: a.bit_count(),
    "clz.b32 %d, %a": lambda a, b: 32 - a.bit_length(),
    "brev.b32 %d, %a": lambda a, b: brev(a),
    "bfind.u32 %d, %a": lambda a, b: a.bit_length() - 1,
    "sad.s32 %d, %a, %b, 3": lambda a, b: abs(s(a) - s(b)) + 3,
    "dp4a.u32.u32 %d, %a, %b, 9": lambda a, b: 9 + sum(x * y for x, y in zip(le(a), le(b), strict=True)),
    "add.sat.s32 %d, %a, %b": lambda a, b: max(-(2**31), min(2**31 - 1, s(a) + s(b))),
    "selp.b32 %d, %a, %b, %p1": lambda a, b: a if s(a) < s(b) else b,
    "cvt.s32.s8 %d, %a": lambda a, b: (a & 0xFF) - (256 if a & 0x80 else 0),
    "cvt.u32.u16 %d, %a": lambda a, b: a & 0xFFFF,
    "cvt.sat.u8.s32 %d, %a": lambda a, b: max(0, min(255, s(a))),
    "cvt.rzi.s32.f32 %d, 0fC0600000": lambda a, b: -3,
}


def s(x: int) -> int:
    return x - 2**32 if x & 0x80000000 else x


def le(x: int) -> bytes:
    return x.to_bytes(4, "little")


def test_whole_numbers_are_numpys(tmp_path: Path) -> None:
    out = np.zeros((len(WHOLE), 32), np.uint32)
    lines = [
        "mul.wide.u32 %rd10, %r1, 4; add.s64 %rd11, %rd1, %rd10; add.s64 %rd12, %rd2, %rd10;",
        "add.s64 %rd13, %rd3, %rd10; ld.global.u32 %r2, [%rd11]; ld.global.u32 %r3, [%rd12];",
        "setp.lt.s32 %p1, %r2, %r3;",
    ]
    for at, form in enumerate(WHOLE):
        line = form.replace("%d", f"%r{10 + at}").replace("%a", "%r2").replace("%b", "%r3")
        lines.append(f"{line}; st.global.b32 [%rd13+{128 * at}], %r{10 + at};")
    run("\n".join(lines), "whole", tmp_path, INTS, OTHERS, out)
    for at, (form, want) in enumerate(WHOLE.items()):
        expected = mod32([want(int(a), int(b)) for a, b in zip(INTS, OTHERS, strict=True)])
        np.testing.assert_array_equal(out[at], expected, err_msg=form)


NAN = 0x7FFFFFFF
FLOATS = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.5,
        2.5,
        -2.5,
        3.49999,
        1e-40,
        -1e-40,
        2 ** (-126),
        1e38,
        -1e38,
        np.inf,
        -np.inf,
        np.nan,
        0.1,
        0.2,
        0.3,
        1 / 3,
        65504.0,
        65520.0,
        1e-08,
        448.0,
        464.0,
        470.0,
        7.0,
        10000000000.0,
        -7.25,
        2**31,
        3000000000.0,
        123456.789,
    ],
    np.float32,
)
MORE = np.roll(FLOATS, 5)


def half_bits(x: Any) -> Array:
    return np.asarray(x).astype(np.float16).view(np.uint16).astype(np.uint32)


def f32(x: Any) -> Array:
    return np.asarray(x, np.float32)


def exact(x: Array) -> Array:
    return x.astype(np.longdouble)


def directed(a: Array, b: Array, operation: Callable[[Fraction, Fraction], Fraction], *, down: bool) -> Array:
    """Round exact results to float32 towards minus infinity, or towards zero."""
    with np.errstate(all="ignore"):
        out = f32(operation(a, b))  # type: ignore[arg-type]
    for at in np.flatnonzero(np.isfinite(a) & np.isfinite(b)):
        exact_one = operation(Fraction(float(a[at])), Fraction(float(b[at])))
        near = np.float32(float(exact_one)) if np.isfinite(out[at]) else out[at]
        toward = -np.inf if down or exact_one > 0 else np.inf
        beyond = (
            near == -toward
            if np.isinf(near)
            else (Fraction(float(near)) - exact_one) * int(np.sign(toward)) < 0
        )
        out[at] = np.nextafter(near, f32(toward)) if beyond else near
    return out


def flushed(x: Array) -> Array:
    return np.where(np.abs(x) < 2.0**-126, np.copysign(f32(0), x), x).astype(np.float32)


FLOATING: dict[str, Numbers] = {
    "add.f32 %d, %a, %b": lambda a, b: a + b,
    "mul.rn.f32 %d, %a, %b": lambda a, b: a * b,
    "mul.ftz.f32 %d, %a, %b": lambda a, b: flushed(flushed(a) * flushed(b)),
    "sub.rz.f32 %d, %a, %b": lambda a, b: directed(a, b, operator.sub, down=False),
    "mul.rm.f32 %d, %a, %b": lambda a, b: directed(a, b, operator.mul, down=True),
    "fma.rn.f32 %d, %a, %b, 0f40400000": lambda a, b: (exact(a) * exact(b) + 3).astype(np.float32),
    "div.rn.f32 %d, %a, %b": lambda a, b: a / b,
    "sqrt.rn.f32 %d, %a": lambda a, b: np.sqrt(a),
    "rcp.rn.f32 %d, %a": lambda a, b: f32(1) / a,
    "min.f32 %d, %a, %b": np.fmin,
    "max.f32 %d, %a, %b": np.fmax,
    "max.NaN.f32 %d, %a, %b": np.maximum,
    "neg.f32 %d, %a": lambda a, b: -a,
    "abs.f32 %d, %a": lambda a, b: np.abs(a),
    "add.sat.f32 %d, %a, %b": lambda a, b: np.nan_to_num(np.clip(a + b, 0, 1), nan=0.0),
    "cvt.rni.f32.f32 %d, %a": lambda a, b: np.rint(a),
    "cvt.rmi.f32.f32 %d, %a": lambda a, b: np.floor(a),
}


def test_floating_numbers_are_numpys_and_their_nan_is_cudas(tmp_path: Path) -> None:
    out = np.zeros((len(FLOATING), 32), np.uint32)
    lines = [
        "mul.wide.u32 %rd10, %r1, 4; add.s64 %rd11, %rd1, %rd10; add.s64 %rd12, %rd2, %rd10;",
        "add.s64 %rd13, %rd3, %rd10; ld.global.f32 %f2, [%rd11]; ld.global.f32 %f3, [%rd12];",
    ]
    for at, form in enumerate(FLOATING):
        line = form.replace("%d", f"%f{10 + at}").replace("%a", "%f2").replace("%b", "%f3")
        lines.append(f"{line}; st.global.f32 [%rd13+{128 * at}], %f{10 + at};")
    run("\n".join(lines), "floating", tmp_path, FLOATS, MORE, out)
    with np.errstate(all="ignore"):
        for at, (form, want) in enumerate(FLOATING.items()):
            expected = f32(want(FLOATS, MORE)).view(np.uint32).copy()
            expected[np.isnan(expected.view(np.float32))] = NAN
            # which zero the smaller or larger of two is numpy leaves open
            zeros = (
                (expected & 0x7FFFFFFF == 0) & (out[at] & 0x7FFFFFFF == 0)
                if form[:3] in ("min", "max")
                else False
            )
            np.testing.assert_array_equal(
                np.where(zeros, 0, out[at]), np.where(zeros, 0, expected), err_msg=form
            )


CONVERT: dict[str, Numbers] = {
    "cvt.rn.f16.f32 %h1, %a; cvt.u32.u16 %d, %h1": lambda a, b: half_bits(a),
    "cvt.rn.f16x2.f32 %d, %a, %b": lambda a, b: half_bits(a) << 16 | half_bits(b),
    "cvt.rzi.s32.f32 %d, %a": lambda a, b: mod32(
        np.clip(np.trunc(np.nan_to_num(exact(a), nan=0)), -(2**31), 2**31 - 1)
    ),
    "cvt.rzi.u32.f32 %d, %a": lambda a, b: mod32(
        np.clip(np.trunc(np.nan_to_num(exact(a), nan=0)), 0, 2**32 - 1)
    ),
    "setp.lt.f32 %p1, %a, %b; selp.u32 %d, 1, 0, %p1": lambda a, b: (a < b).astype(np.uint32),
    "setp.geu.f32 %p1, %a, %b; selp.u32 %d, 1, 0, %p1": lambda a, b: (~(a < b)).astype(np.uint32),
    "setp.ne.f32 %p1, %a, %b; selp.u32 %d, 1, 0, %p1": lambda a, b: ((a < b) | (a > b)).astype(np.uint32),
    "setp.neu.f32 %p1, %a, %b; selp.u32 %d, 1, 0, %p1": lambda a, b: (a != b).astype(np.uint32),
    "setp.nan.f32 %p1, %a, %b; selp.u32 %d, 1, 0, %p1": lambda a, b: (np.isnan(a) | np.isnan(b)).astype(
        np.uint32
    ),
    "setp.gt.f32 %p1|%p2, %a, %b; selp.u32 %d, 1, 2, %p2": lambda a, b: np.where(a > b, 2, 1).astype(
        np.uint32
    ),
    "set.gt.u32.f32 %d, %a, %b": lambda a, b: np.where(a > b, 0xFFFFFFFF, 0).astype(np.uint32),
    "mov.b32 {%h1, %h2}, %a; mov.b32 %d, {%h2, %h1}": lambda a, b: (
        a.view(np.uint32) << np.uint32(16) | a.view(np.uint32) >> np.uint32(16)
    ),
}


def test_conversions_and_comparisons_are_numpys(tmp_path: Path) -> None:
    out = np.zeros((len(CONVERT), 32), np.uint32)
    lines = [
        "mul.wide.u32 %rd10, %r1, 4; add.s64 %rd11, %rd1, %rd10; add.s64 %rd12, %rd2, %rd10;",
        "add.s64 %rd13, %rd3, %rd10; ld.global.f32 %f2, [%rd11]; ld.global.f32 %f3, [%rd12];",
    ]
    for at, form in enumerate(CONVERT):
        line = form.replace("%d", f"%r{10 + at}").replace("%a", "%f2").replace("%b", "%f3")
        lines.append(f"{line}; st.global.b32 [%rd13+{128 * at}], %r{10 + at};")
    run("\n".join(lines), "convert", tmp_path, FLOATS, MORE, out)
    with np.errstate(all="ignore"):
        for at, (form, want) in enumerate(CONVERT.items()):
            expected = np.asarray(want(FLOATS, MORE), np.uint32)
            if "f16" in form:  # one NaN
                for half in (0, 16):
                    nan = (expected >> half & 0x7FFF) > 0x7C00
                    expected = np.where(
                        nan, expected & np.uint32(0xFFFF0000 >> half) | np.uint32(0x7FFF << half), expected
                    )
            np.testing.assert_array_equal(out[at], expected, err_msg=form)


@pytest.mark.parametrize(
    ("instruction", "want"),
    [
        ("mul.rn.f16x2 %r11, %r2, %r3", lambda a, b: a * b),
        ("fma.rn.f16x2 %r11, %r2, %r3, %r2", lambda a, b: (a.astype(np.float64) * b + a).astype(np.float16)),
    ],
)
def test_pairs_of_halves_round_once(tmp_path: Path, instruction: str, want: Numbers) -> None:
    generator = np.random.default_rng(5)
    a, b = (generator.normal(size=64).astype(np.float16) for _ in range(2))
    out = np.zeros(64, np.float16)
    body = f"""mul.wide.u32 %rd10, %r1, 4; add.s64 %rd11, %rd1, %rd10; add.s64 %rd12, %rd2, %rd10;
    add.s64 %rd13, %rd3, %rd10; ld.global.b32 %r2, [%rd11]; ld.global.b32 %r3, [%rd12];
    {instruction}; st.global.b32 [%rd13], %r11;"""
    run(body, "pairs", tmp_path, a, b, out)
    np.testing.assert_array_equal(out, want(a, b))
