# SPDX-License-Identifier: Apache-2.0
"""The inputs of calls: memory of the judge's, which this process can read and nobody here can write."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from pabench.problem.dtypes import Array

Place = tuple[int, int, str, tuple[int, ...], tuple[int, ...]]
"""Where an array lies: segment, offset in bytes, dtype, shape, and strides in bytes."""


def lent(*place: Any) -> Array:
    """Stand in a request for the array at a place; whoever reads the request has the memory."""
    raise TypeError(f"the memory of {place} is not at hand")


class Inputs:
    """Segments that the judge has lent, and the arrays in them; an array asked for again is the same."""

    def __init__(self) -> None:
        self._segments: dict[int, tuple[mmap.mmap, int]] = {}
        self._arrays: dict[Place, Array] = {}

    def add(self, number: int, size: int, descriptor: int) -> None:
        """Map a segment; takes the descriptor."""
        try:
            memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(descriptor)
        self._segments[number] = (memory, np.frombuffer(memory, np.uint8).ctypes.data)

    def array(self, place: Place) -> Array:
        """Return the array at ``place``, which is not writeable."""
        if place not in self._arrays:
            number, offset, dtype, shape, strides = place
            memory = self._segments[number][0]
            self._arrays[place] = np.ndarray(shape, np.dtype(dtype), memory, offset, strides)
        return self._arrays[place]

    def keep(self, live: Iterable[int]) -> None:
        """Forget all arrays, and the segments that are not among ``live``."""
        self._arrays.clear()
        kept = set(live)
        for number in [number for number in self._segments if number not in kept]:
            # unmapped when the subject, too, has let go of it
            del self._segments[number]

    def place_of(self, array: Array) -> tuple[int, int] | None:
        """Return segment and offset of an array that lies in the inputs, or None."""
        if not self._segments:
            return None
        address = array.__array_interface__["data"][0]
        for number, (memory, start) in self._segments.items():
            if start <= address < start + len(memory):
                return number, address - start
        return None
