# SPDX-License-Identifier: Apache-2.0
"""What a cache format is: how the vector of a token and head lies in the cache, and what it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pabench.problem.dtypes import E8M0, SMALL_TYPES, Array, DType, decode, encode

ALIGNMENT = 4
"""Bytes of which the numbers of a row, and the row, take a multiple where scales lie behind the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Rows of a cache, taken apart.

    Attributes:
        codes: ``(tokens, heads, dim)`` uint8, bits of each number.
        scales: ``(tokens, heads, blocks)`` float64, what the numbers of a block are multiplied by.
    """

    format: CacheFormat
    codes: Array
    scales: Array

    @property
    def numbers(self) -> Array:
        """What the rows stand for, float64 ``(tokens, heads, dim)``."""
        return decode(self.codes, self.format.numbers) * self.spread

    @property
    def spread(self) -> Array:
        """The scale of each number."""
        size, dim = self.format.block_of(self.codes.shape[-1]), self.codes.shape[-1]
        spread: Array = np.repeat(self.scales, size, axis=-1)[..., :dim]
        return spread

    def with_scales(self, scales: Array) -> Parts:
        """Return the same numbers with other scales."""
        return replace(self, scales=scales)


Mistake = Callable[[Parts], Array]
"""From the parts of rows to the numbers that a kernel takes them for which gets them wrong."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheFormat:
    """One way to store keys and values, a row of ``FORMATS``.

    A row of the cache is the vector of one token and KV head.  Without ``scale`` it has one element a number.
    With it, it has bytes: numbers (of 4 bits the even one low), then the scales of its blocks, either part
    filled up to ``ALIGNMENT`` bytes with what means nothing.

    Attributes:
        name: value of ``kv_dtype``.
        feature: what a backend declares.
        clause: of docs/specification.md.
        about: what is asked, in a sentence.
        numbers: type of the numbers.
        scale: type of the scales within a row; None where it has none.
        block: numbers that share a scale; None for all of a row.
        tensor_scale: whether ``k_scale`` and ``v_scale`` multiply what a row says.
        mistakes: what kernels get wrong, in words, with the numbers that they take then.
    """

    name: str
    feature: str
    clause: str
    about: str
    numbers: DType
    scale: DType | None = None
    block: int | None = None
    tensor_scale: bool = False
    mistakes: Mapping[str, Mistake] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return SMALL_TYPES[self.numbers.name].bits

    def block_of(self, dim: int) -> int:
        """Return how many numbers of a row of ``dim`` share a scale."""
        return dim if self.block is None else self.block

    def blocks(self, dim: int) -> int:
        """Return how many scales a row of ``dim`` numbers has."""
        return 0 if self.scale is None else -(-dim // self.block_of(dim))

    def scales_at(self, dim: int) -> int:
        """Return the bytes of a row before its scales."""
        return _filled(-(-dim * self.bits // 8))

    def row_units(self, dim: int) -> int:
        """Return the elements that a row of ``dim`` numbers takes in the cache."""
        if self.scale is None:
            return dim
        return _filled(self.scales_at(dim) + self.blocks(dim) * self.scale.itemsize)

    def used(self, dim: int) -> Array:
        """Return which elements of a row mean something, bool ``(row_units,)``."""
        found = np.zeros(self.row_units(dim), bool)
        found[: -(-dim * self.bits // 8) if self.scale else dim] = True
        if self.scale is not None:
            start = self.scales_at(dim)
            found[start : start + self.blocks(dim) * self.scale.itemsize] = True
        return found

    def encode(self, numbers: Array) -> Array:
        """Round to nearest, ties to even, with the scales that follow from the largest of each block.

        Args:
            numbers: float64 ``(..., dim)``, finite, divided by ``k_scale`` or ``v_scale``.

        Returns:
            ``(..., row_units)``, as the cache stores it; what fills it up is 0.
        """
        if self.scale is None:
            return encode(np.clip(numbers, -self.numbers.maximum, self.numbers.maximum), self.numbers)
        dim = numbers.shape[-1]
        size, count = self.block_of(dim), self.blocks(dim)
        blocks = np.zeros((*numbers.shape[:-1], count * size))
        blocks[..., :dim] = numbers
        blocks = blocks.reshape(*numbers.shape[:-1], count, size)
        stored = self._scale_for(np.abs(blocks).max(-1, initial=0.0), self.scale)
        scales = decode(stored, self.scale)[..., None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shares = np.where(scales == 0.0, 0.0, blocks / scales)
        codes = encode(np.clip(shares, -self.numbers.maximum, self.numbers.maximum), self.numbers)
        return self.packed(codes.reshape(*numbers.shape[:-1], count * size)[..., :dim], stored)

    def _scale_for(self, largest: Array, scale: DType) -> Array:
        """Return the stored scale of blocks whose largest magnitude is given; 0 has the smallest."""
        if scale is not E8M0:
            return encode(largest / self.numbers.maximum, scale)
        exponent = np.frexp(largest)[1] - np.frexp(self.numbers.maximum)[1]
        return np.where(largest == 0.0, 0, np.clip(exponent + 127, 0, 254)).astype(np.uint8)

    def packed(self, codes: Array, scales: Array) -> Array:
        """Return rows ``(..., row_units)`` of ``codes (..., dim)`` and stored ``scales (..., blocks)``."""
        dim = codes.shape[-1]
        rows = np.zeros((*codes.shape[:-1], self.row_units(dim)), np.uint8)
        if self.bits == 4:
            rows[..., : (dim + 1) // 2] = codes[..., ::2]
            rows[..., : dim // 2] |= codes[..., 1::2] << 4
        else:
            rows[..., :dim] = codes
        start, size = self.scales_at(dim), self.blocks(dim) * scales.itemsize
        raw = np.ascontiguousarray(scales).view(np.uint8).reshape(*codes.shape[:-1], size)
        rows[..., start : start + size] = raw
        return rows

    def parts(self, stored: Array, dim: int) -> Parts:
        """Take rows ``(tokens, heads, row_units)`` of ``dim`` numbers apart."""
        if self.scale is None:
            return Parts(format=self, codes=stored, scales=np.ones((*stored.shape[:-1], 1)))
        codes = stored[..., :dim]
        if self.bits == 4:
            both = np.stack([stored & 15, stored >> 4], axis=-1)
            codes = both.reshape(*stored.shape[:-1], 2 * stored.shape[-1])[..., :dim]
        start, size = self.scales_at(dim), self.scale.itemsize
        raw = np.ascontiguousarray(stored[..., start : start + self.blocks(dim) * size])
        return Parts(format=self, codes=codes, scales=decode(raw.view(self.scale.storage), self.scale))

    def decode(self, stored: Array, dim: int) -> Array:
        """Return the numbers ``(..., dim)`` that rows ``(..., row_units)`` stand for, exactly."""
        with np.errstate(invalid="ignore"):  # a poisoned scale
            return self.parts(stored, dim).numbers

    def blank(self, value: float, dim: int) -> Array:
        """Return a row full of ``value``, of NaN, or as near to an infinity as the format comes."""
        if self.scale is None:
            return np.repeat(encode(np.asarray(value), self.numbers), dim)
        if value == 0.0:
            return np.zeros(self.row_units(dim), np.uint8)
        # a NaN of scales alone: float32 with all bits set would come out as memory that nobody wrote
        codes = encode(np.full(dim, self.numbers.maximum), self.numbers)
        return self.packed(codes, np.repeat(encode(np.asarray(value), self.scale), self.blocks(dim)))

    @property
    def maximum(self) -> float:
        """The largest number that a row can hold."""
        return self.numbers.maximum * (1.0 if self.scale is None else self.scale.maximum)

    @property
    def smallest_normal(self) -> float:
        """The smallest number that a row of its like holds with all its bits."""
        if self.scale is None:
            return self.numbers.smallest_normal
        return self.numbers.smallest_normal * self.scale.smallest_normal


def _filled(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
