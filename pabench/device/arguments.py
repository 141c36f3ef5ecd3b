# SPDX-License-Identifier: Apache-2.0
"""Checks of a launch that hold for every device: limits and argument types, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pabench.device.base import Launch
from pabench.errors import LaunchError

MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)
MAX_THREADS = 1024
MAX_SHARED_BYTES = 227 * 1024
"""Dynamic shared memory that a block of the largest supported GPU can have (sm_90)."""


def check_limits(launch: Launch) -> None:
    """Raise ``LaunchError`` when grid, block or shared memory break a limit of CUDA."""
    for axis, size, limit in zip("xyz", launch.grid, MAX_GRID, strict=True):
        if not 1 <= size <= limit:
            raise LaunchError(f"{launch.entry}: grid.{axis} = {size}: must be in 1..{limit}")
    for axis, size, limit in zip("xyz", launch.block, MAX_BLOCK, strict=True):
        if not 1 <= size <= limit:
            raise LaunchError(f"{launch.entry}: block.{axis} = {size}: must be in 1..{limit}")
    threads = launch.block[0] * launch.block[1] * launch.block[2]
    if threads > MAX_THREADS:
        raise LaunchError(f"{launch.entry}: block of {threads} threads: must be at most {MAX_THREADS}")
    if not 0 <= launch.shared_bytes <= MAX_SHARED_BYTES:
        rule = f"must be in 0..{MAX_SHARED_BYTES}"
        raise LaunchError(f"{launch.entry}: shared_bytes = {launch.shared_bytes}: {rule}")


def check_scalars(launch: Launch) -> None:
    """Raise ``LaunchError`` for a Python number among the arguments: its width would be a guess."""
    for position, arg in enumerate(launch.args):
        # a numpy float64 is a Python float as well, and as good a scalar as any
        if isinstance(arg, bool | int | float | complex) and not isinstance(arg, np.generic):
            rule = "give numbers as numpy scalars such as np.int32(3)"
            raise LaunchError(f"{launch.entry}: argument {position} is the Python number {arg!r}: {rule}")


def check_signature(launch: Launch, signature: Sequence[tuple[str, int]]) -> None:
    """Raise ``LaunchError`` unless the arguments fit the kernel's parameters.

    Args:
        launch: arrays and numpy scalars.
        signature: one ``(kind, bytes)`` a parameter; kind ``p`` pointer, ``i``, ``u`` or ``f`` scalar.
    """
    if len(launch.args) != len(signature):
        message = f"takes {len(signature)} arguments, got {len(launch.args)}"
        raise LaunchError(f"{launch.entry}: {message}")
    for position, (arg, (kind, size)) in enumerate(zip(launch.args, signature, strict=True)):
        given = _kind(arg)
        if given != (kind, size):
            want = "an array" if kind == "p" else f"a {kind}{size * 8} scalar"
            raise LaunchError(f"{launch.entry}: argument {position} must be {want}, got {_describe(arg)}")


def _kind(arg: Any) -> tuple[str, int]:
    if isinstance(arg, np.generic):
        kind = {"i": "i", "u": "u", "f": "f", "b": "u"}.get(arg.dtype.kind, "?")
        return kind, arg.dtype.itemsize
    return ("p", 8) if hasattr(arg, "shape") else ("?", 0)


def _describe(arg: Any) -> str:
    if isinstance(arg, np.generic):
        return f"{arg.dtype.name} {arg}"
    return f"array {arg.dtype}{list(arg.shape)}" if hasattr(arg, "shape") else type(arg).__name__
