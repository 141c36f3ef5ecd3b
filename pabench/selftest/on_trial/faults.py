# SPDX-License-Identifier: Apache-2.0
"""Planted faults, one a class, of kinds that projects have shipped: in all sequences and heads."""

from __future__ import annotations

import math

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors
from pabench.selftest.on_trial.kernel import Kernel

SPLIT = 256


class LastKey(Kernel):
    """The last key is left out."""

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """See ``Kernel``."""
        return np.arange(max(0, n - 1))


class FirstKey(Kernel):
    """The first key is left out."""

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """See ``Kernel``."""
        return np.arange(min(1, n), n)


class OnePastEnd(Kernel):
    """One slot behind the end is read as a key."""

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """See ``Kernel``."""
        return np.arange(n + 1) if n else np.arange(0)

    def seen(self, at: Array, n: int, rows: int) -> Array:
        """See ``Kernel``."""
        return super().seen(at, n + 1, rows)


class LastPage(Kernel):
    """The last page is left out where there are several."""

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """See ``Kernel``."""
        size = t.case.problem.page_size
        return np.arange((n - 1) // size * size if n > size else n)


class Beyond1024(Kernel):
    """Keys behind the 1,024th are left out."""

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """See ``Kernel``."""
        return np.arange(min(n, 1024))


class Position15Bits(Kernel):
    """Keys whose position takes more than 15 bits are left out."""

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """See ``Kernel``."""
        return np.arange(min(n, 2**15))


class LastSequence(Kernel):
    """The last sequence of a batch of several loses its last page."""

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """See ``Kernel``."""
        last = 0 < i == t.case.batch.num_seqs - 1
        return LastPage.tokens(self, t, i, n) if last else np.arange(n)  # type: ignore[arg-type]


class DeadSlots(Kernel):
    """Slots to the end of the last page are weighed by 0 instead of left out: 0 times NaN is NaN."""

    def tokens(self, t: Tensors, i: int, n: int) -> Array:
        """See ``Kernel``."""
        size = t.case.problem.page_size
        return np.arange(-(-n // size) * size)


class SecondPage(Kernel):
    """The second page is read where the first lies."""

    def pages(self, t: Tensors, i: int, at: Array, kind: str) -> Array:
        """See ``Kernel``."""
        size = t.case.problem.page_size
        return super().pages(t, i, np.where(at // size == 1, at % size, at), kind)


class NextPage(Kernel):
    """The last page is taken from the place behind it in the pool."""

    def pages(self, t: Tensors, i: int, at: Array, kind: str) -> Array:
        """See ``Kernel``."""
        size = t.case.problem.page_size
        return np.asarray(super().pages(t, i, at, kind) + (at // size == at.max() // size))


class KeysOfAPage(SecondPage):
    """The keys of the second page are read where the first lies; its values are right."""

    def pages(self, t: Tensors, i: int, at: Array, kind: str) -> Array:
        """See ``Kernel``."""
        return super().pages(t, i, at, kind) if kind == "k" else Kernel.pages(self, t, i, at, kind)


class PageId16Bits(Kernel):
    """Page ids are cut to 16 bits."""

    def pages(self, t: Tensors, i: int, at: Array, kind: str) -> Array:
        """See ``Kernel``."""
        return super().pages(t, i, at, kind) & 0xFFFF


class RowOfTheTable(Kernel):
    """The last sequence of a batch reads through the row of the one before it."""

    def pages(self, t: Tensors, i: int, at: Array, kind: str) -> Array:
        """See ``Kernel``."""
        return super().pages(t, i - (0 < i == t.case.batch.num_seqs - 1), at, kind)


class Scale1Percent(Kernel):
    """The softmax scale is 1 % too large."""

    def scale(self, problem: Problem) -> float:
        """See ``Kernel``."""
        return super().scale(problem) * 1.01


class ScaleOfTheWidth(Kernel):
    """The softmax scale is that of a head 9/8 as wide."""

    def scale(self, problem: Problem) -> float:
        """See ``Kernel``."""
        return super().scale(problem) * math.sqrt(8 / 9)


class HeadModulo(Kernel):
    """Query head h reads KV head h mod num_kv_heads."""

    def kv_heads(self, problem: Problem) -> Array:
        """See ``Kernel``."""
        return np.arange(problem.num_qo_heads) % problem.num_kv_heads


class TileOfHeads(Kernel):
    """16 query heads at once, all with the KV head of the first."""

    def kv_heads(self, problem: Problem) -> Array:
        """See ``Kernel``."""
        return np.arange(problem.num_qo_heads) // 16 * 16 // problem.group_size


class LastElement(Kernel):
    """The last element of a head is left out of the products."""

    def queries(self, q: Array) -> Array:
        """See ``Kernel``."""
        return np.concatenate([q[..., :-1], np.zeros_like(q[..., -1:])], axis=-1)


class CausalByOne(Kernel):
    """Rows but the last see one key too many."""

    def seen(self, at: Array, n: int, rows: int) -> Array:
        """See ``Kernel``."""
        return np.asarray(super().seen(at, n + 1, rows) & (at[None, :] < n))


class NoMaximum(Kernel):
    """Exponentials in float32 without the maximum taken off."""

    def softmax(self, logits: Array, values: Array, head: int) -> tuple[Array, Array]:
        """See ``Kernel``."""
        weights = np.exp(logits.astype(np.float32)).astype(np.float64)
        total = weights.sum(axis=-1, keepdims=True)
        return weights @ values / np.where(total > 0, total, 1.0), np.log(total)[:, 0]


class HalfSums(Kernel):
    """Sums of outputs run in float16, 32 keys at a time."""

    def softmax(self, logits: Array, values: Array, head: int) -> tuple[Array, Array]:
        """See ``Kernel``."""
        _, lse = super().softmax(logits, values, head)
        weights = np.exp(logits - np.where(np.isfinite(lse), lse, 0.0)[:, None])
        total = np.zeros((len(logits), values.shape[1]))
        for start in range(0, logits.shape[-1], 32):
            part = weights[:, start : start + 32] @ values[start : start + 32]
            total = (total + part).astype(np.float16).astype(np.float64)
        return total, lse


class EqualSplits(Kernel):
    """Splits of 256 keys are merged by their mean, whatever they weigh."""

    def softmax(self, logits: Array, values: Array, head: int) -> tuple[Array, Array]:
        """See ``Kernel``."""
        _, lse = super().softmax(logits, values, head)
        parts = [
            Kernel.softmax(self, logits[:, at : at + SPLIT], values[at : at + SPLIT], head)[0]
            for at in range(0, logits.shape[1], SPLIT)
        ]
        return np.mean(parts, axis=0), lse


class LseBase2(Kernel):
    """The LSE is in base 2 where the natural log is promised."""

    def after(self, t: Tensors, out: Array, lse: Array) -> tuple[Array, Array]:
        """See ``Kernel``."""
        return out, lse / math.log(2)


class LseWithoutLastKey(Kernel):
    """The LSE leaves the last key out; the output does not."""

    def softmax(self, logits: Array, values: Array, head: int) -> tuple[Array, Array]:
        """See ``Kernel``."""
        out, _ = super().softmax(logits, values, head)
        fewer = logits if logits.shape[1] < 2 else logits[:, :-1]
        return out, super().softmax(fewer, values[: fewer.shape[1]], head)[1]


class OneHead(Kernel):
    """The first query head of a sequence loses its last key."""

    def softmax(self, logits: Array, values: Array, head: int) -> tuple[Array, Array]:
        """See ``Kernel``."""
        if head == 0 and logits.shape[1] > 1:
            logits, values = logits[:, :-1], values[:-1]
        return super().softmax(logits, values, head)


class EmptySequence(Kernel):
    """A sequence without keys gives 0 over 0."""

    def empty(self, out: Array, lse: Array) -> tuple[Array, Array]:
        """See ``Kernel``."""
        return np.full_like(out, np.nan), lse


FAULTS: tuple[type[Kernel], ...] = (
    *(LastKey, FirstKey, OnePastEnd, LastPage, SecondPage, NextPage, KeysOfAPage, RowOfTheTable),
    *(LastSequence, OneHead, HeadModulo, TileOfHeads, LastElement, CausalByOne),
    *(Scale1Percent, ScaleOfTheWidth, NoMaximum, HalfSums, EqualSplits, LseBase2, LseWithoutLastKey),
    *(DeadSlots, EmptySequence, Beyond1024, Position15Bits, PageId16Bits),
)
"""What is planted, in the order of the table."""


def words_of(fault: type[Kernel]) -> str:
    """Return what a fault is, in a sentence."""
    return str(fault.__doc__).splitlines()[0].rstrip(".")
