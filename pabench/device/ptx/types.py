# SPDX-License-Identifier: Apache-2.0
"""Fundamental types of PTX: their width, and the C++ type that stands for a value of one."""

from __future__ import annotations

from pabench.errors import CompileError

WIDTHS = {
    "pred": 1,
    **{f"{kind}{bits}": bits for kind in "bus" for bits in (8, 16, 32, 64)},
    "b128": 128,
    "f16": 16,
    "bf16": 16,
    "f32": 32,
    "tf32": 32,
    "f64": 64,
    "f16x2": 32,
    "bf16x2": 32,
    "f32x2": 64,
    "e4m3x2": 16,
    "e5m2x2": 16,
}
"""Type to bits."""
ELEMENTS = ("e4m3", "e5m2")
"""What matrix instructions name beside the types of registers."""
FLOATING = ("f16", "bf16", "f32", "f64")


class PtxError(CompileError):
    """PTX that cannot be translated: cut, or with an instruction that the device does not know."""


class NotYet(PtxError):
    """PTX with an instruction that is right, and that the device does not execute yet."""


def width(name: str) -> int:
    """Return the bits of a type.

    Raises:
        PtxError: no such type.
    """
    if name not in WIDTHS:
        raise PtxError(f"unknown type .{name}")
    return WIDTHS[name]


def cxx(name: str) -> str:
    """Return the C++ type of a value of type ``name``: whole numbers, ``float``, ``double`` or ``bool``."""
    if name == "pred":
        return "bool"
    if name in ("f32", "f64"):
        return name
    return f"{'s' if name[0] == 's' else 'u'}{width(name)}"


def bits_type(name: str) -> str:
    """Return the untyped counterpart, such as ``b32`` of ``f32``."""
    return "pred" if name == "pred" else f"b{width(name)}"
