"""Planted faults in allocators: each is found by the trial, and named."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.allocators.base import PageAllocator, PoolShape
from pabench.allocators.invariants import Trial
from pabench.allocators.model import ModelAllocator
from pabench.allocators.scan import ScanAllocator
from pabench.device.emulated import EmulatedDevice
from pabench.errors import OutOfPages
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir

SHAPE = PoolShape(num_pages=8, page_size=4, max_seqs=5, max_pages_per_seq=4)
HISTORY: list[Any] = [
    {0: 6, 1: 4},
    {0: 3, 2: 1},
    [1],
    {1: 9, 0: 0},
    {3: 16},
    [0, 7],
    {0: 3},
    [2],
    {2: 8},
    [0, 1],
    {1: 5},
    {0: 7, 4: 2},
    [4, 0, 1],
    {3: 9, 0: 2},
    {1: 9},
    [3, 1],
    {4: 10},
]


def violation(allocator: PageAllocator) -> str | None:
    """The first violation of a fixed history, drained at the end."""
    trial = Trial(allocator)
    for operation in HISTORY:
        found = trial.extend(operation) if isinstance(operation, dict) else trial.free(operation)
        if found:
            return found
    return trial.drain()


class LosesPage(ModelAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        super().free(sequences)
        self._free.pop()


class LosesPageSilently(LosesPage):
    @property
    def free_pages(self) -> int:
        held = sum(len(pages) for pages in self._pages.values())
        return self.shape.num_pages - held


class DoublesPage(ModelAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        returned = [page for sequence in sequences for page in self._pages.get(sequence, [])]
        super().free(sequences)
        self._free.extendleft(returned[:1])

    @property
    def free_pages(self) -> int:
        return self.shape.num_pages - sum(len(pages) for pages in self._pages.values())


class OnePageTooFew(ModelAllocator):
    """page = len // P instead of ceil(len / P)."""

    def pages(self, sequence: int) -> tuple[int, ...]:
        return tuple(self._pages[sequence][: self._lengths[sequence] // self.shape.page_size])


class OnePageTooMany(ModelAllocator):
    """page = len // P + 1: one too many where the length is a multiple of P."""

    def extend(self, tokens: Mapping[int, int]) -> Array:
        slots = super().extend(tokens)
        for sequence in tokens:
            need = self._lengths[sequence] // self.shape.page_size + 1
            while len(self._pages[sequence]) < need and self._free:
                self._pages[sequence].append(self._free.popleft())
        return slots


class PermutesTable(ModelAllocator):
    def extend(self, tokens: Mapping[int, int]) -> Array:
        slots = super().extend(tokens)
        for sequence in tokens:
            self._pages[sequence].reverse()
        return slots


class SwapsSlots(ModelAllocator):
    def extend(self, tokens: Mapping[int, int]) -> Array:
        return super().extend(tokens)[::-1]


class AllocatesPartly(ModelAllocator):
    """Takes what there is before it says that there is not enough."""

    def extend(self, tokens: Mapping[int, int]) -> Array:
        try:
            return super().extend(tokens)
        except OutOfPages:
            for sequence in tokens:
                self._pages.setdefault(sequence, []).append(self._free.popleft())
            raise


class ForgetsPartly(ModelAllocator):
    """Loses pages on a refusal without showing it in any table."""

    def extend(self, tokens: Mapping[int, int]) -> Array:
        try:
            return super().extend(tokens)
        except OutOfPages:
            self._free.popleft()
            raise


class KeepsLength(ModelAllocator):
    def extend(self, tokens: Mapping[int, int]) -> Array:
        old = {sequence: self._lengths.get(sequence, 0) for sequence in tokens}
        slots = super().extend(tokens)
        for sequence, count in tokens.items():
            if count == 9:
                self._lengths[sequence] = old[sequence]
        return slots


class KeepsTheDead(ModelAllocator):
    def length(self, sequence: int) -> int | None:
        return self._lengths.get(sequence, 0)

    def pages(self, sequence: int) -> tuple[int, ...]:
        return tuple(self._pages.get(sequence, ()))


class RefusesTooEarly(ModelAllocator):
    def extend(self, tokens: Mapping[int, int]) -> Array:
        if sum(tokens.values()) > 4 * (self.free_pages - 1):
            raise OutOfPages("one page is kept back")
        return super().extend(tokens)


class FreesTwice(ModelAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        super().free([sequence for sequence in sequences if sequence in self._lengths])


class LeavesThePool(ModelAllocator):
    def pages(self, sequence: int) -> tuple[int, ...]:
        return tuple(page + 8 for page in super().pages(sequence))


class ReturnsFewSlots(ModelAllocator):
    def extend(self, tokens: Mapping[int, int]) -> Array:
        return super().extend(tokens)[:-1]


class ReturnsNothing(ModelAllocator):
    def extend(self, tokens: Mapping[int, int]) -> Array:
        super().extend(tokens)
        return None  # type: ignore[return-value]


class MovesOnAppend(ModelAllocator):
    """Copies a sequence to other pages, contents and all, where it should have stayed."""

    def extend(self, tokens: Mapping[int, int]) -> Array:
        slots = super().extend(tokens)
        if 2 in tokens and 0 in tokens:
            old = self._pages[0][0]
            new = self._free.popleft()
            self._free.append(old)
            self._pages[0][0] = new
        return slots


FAULTS: dict[type[ModelAllocator], str] = {
    LosesPage: "invariant 1: 4 held and 3 free pages, must add up to 8",
    LosesPageSilently: "invariant 9: extend {2: 8} gave OutOfPages, must give success",
    DoublesPage: "invariant 2: page ",
    OnePageTooFew: "invariant 3: sequence 0 of 6 tokens has 1 pages, needs 2",
    OnePageTooMany: "invariant 3: sequence 1 of 4 tokens has 2 pages, needs 1",
    PermutesTable: "invariant 7: token 0 of sequence 0 is not in slot",
    SwapsSlots: "invariant 7: token 0 of sequence 0 is not in slot 0",
    AllocatesPartly: "invariant 8: refused extend {3: 16} changed the state",
    ForgetsPartly: "invariant 8: refused extend {3: 16} changed the state",
    KeepsLength: "sequence 1 has length 0, must have 9",
    KeepsTheDead: "sequence 2 has length 0, must have None",
    RefusesTooEarly: "invariant 9: extend ",
    FreesTwice: "free [0, 7] gave success, must give InvalidCase",
    LeavesThePool: "sequence 0 holds page 8, must be in 0..7",
    ReturnsFewSlots: "extend {0: 6, 1: 4} returned 9 slots, must return 10",
    ReturnsNothing: "extend {0: 6, 1: 4} returned NoneType, must return a vector of slots",
    MovesOnAppend: "invariant 5: an append changed the pages of sequence 0 from (0, 1) to (",
}


def test_allocators_invariants_hold_for_the_model() -> None:
    assert violation(ModelAllocator(SHAPE)) is None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_allocators_invariants_name_planted_faults(fault: type[ModelAllocator]) -> None:
    found = violation(fault(SHAPE))
    assert found is not None
    assert found.startswith(FAULTS[fault]), found


EDITS = {
    "page count rounded down": (
        "{ return (tokens + page_size - 1) / page_size; }",
        "{ return tokens / page_size; }",
    ),
    "page count one too high": (
        "{ return (tokens + page_size - 1) / page_size; }",
        "{ return tokens / page_size + 1; }",
    ),
    "ring not masked": (
        "ring[(first + (j - have)) & ring_mask]",
        "ring[first % 8 + 0 * (j - have) & ring_mask]",
    ),
    "offsets of other sequences left out": ("head + carried.pages + before.pages;", "head + carried.pages;"),
    "lack of pages overlooked": (
        "if (too_long >= 0 || carried.pages > free_pages) {",
        "if (too_long >= 0) {",
    ),
    "lack of pages by one": ("carried.pages > free_pages)", "carried.pages >= free_pages)"),
    "length not written": ("lengths[sequence] = static_cast<i32>(old + added);", ""),
    "length before the append": ("static_cast<i32>(old + added);", "static_cast<i32>(old);"),
    "head not moved": ("cursor[0] = head + carried.pages;", ""),
    "tail not moved": ("cursor[1] = tail + carried;", ""),
    "freed in reverse and one lost": ("for (i64 j = 0; j < have; ++j) {", "for (i64 j = 1; j < have; ++j) {"),
    "freed pages not carried": (
        "(tail + carried + before.pages + j) & ring_mask",
        "(tail + carried + j) & ring_mask",
    ),
    "still live after free": ("      lengths[sequence] = -1;\n", ""),
    "slots of the old tokens": ("slots[t - old] =", "slots[old + added - 1 - t] ="),
}


@pytest.mark.parametrize("edit", EDITS)
def test_allocators_invariants_kill_edited_kernels(edit: str, tmp_path: Path) -> None:
    shutil.copytree(resource_dir("kernels_cuda"), tmp_path / "kernels")
    source, (before, after) = tmp_path / "kernels" / "page_alloc_scan.cu", EDITS[edit]
    text = source.read_text()
    assert text.count(before) == 1
    source.write_text(text.replace(before, after))
    scan = ScanAllocator(EmulatedDevice(kernels=tmp_path / "kernels"), SHAPE)
    assert violation(scan) is not None


def test_allocators_invariants_hold_for_the_kernel() -> None:
    assert violation(ScanAllocator(EmulatedDevice(), SHAPE)) is None
    many = np.arange(3)
    assert Trial(ScanAllocator(EmulatedDevice(), SHAPE)).extend({int(s): 3 for s in many}) is None
