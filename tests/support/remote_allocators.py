# SPDX-License-Identifier: Apache-2.0
"""Allocators that a registry in a process of its own offers for the time of a test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pabench.errors import OutOfPages
from pabench.problem.dtypes import Array
from pabench.run.channel import Channel
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Granted, MemorySplit
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.peers.named import NamedSubject
from pabench.subjects.process.serve import work


class LosesPages(HostAllocator):
    """Keeps the last page of whoever is freed."""

    def free(self, sequences: Sequence[int]) -> None:
        super().free(sequences)
        if self.free_pages > 6:
            self._take(1)


class ReturnsLiveTable(HostAllocator):
    """Its table is its own state, which changes under whoever keeps it."""

    def block_table(self) -> Array:
        return self._table


class ReturnsNothing(HostAllocator):
    def append(self, sequence: int, tokens: int) -> Any:
        super().append(sequence, tokens)


class RaisesInState(HostAllocator):
    @property
    def free_pages(self) -> int:
        raise RuntimeError("nobody knows")


class RaisesInOperation(HostAllocator):
    def append_batch(self, sequences: Any, tokens: Any) -> Granted:
        raise ZeroDivisionError("first line\nsecond line")


class RefusesWithoutNeed(HostAllocator):
    def append(self, sequence: int, tokens: int) -> Granted:
        raise OutOfPages(1, 0)


class TableOfTheWrongType(HostAllocator):
    def block_table(self) -> Array:
        return super().block_table().astype(np.int64)


class CountsTooMuch(HostAllocator):
    """Says itself where its slots are, and has more than there are."""

    def memory_split(self) -> MemorySplit:
        split = super().memory_split()
        return replace(split, external=split.external + 1)


class Dies(HostAllocator):
    def fork(self, parent: int, child: int) -> None:
        os.abort()


FAULTY: dict[str, type[HostAllocator]] = {
    kind.__name__: kind
    for kind in (
        *(LosesPages, ReturnsLiveTable, ReturnsNothing, RaisesInState, RaisesInOperation),
        *(RefusesWithoutNeed, TableOfTheWrongType, CountsTooMuch, Dies),
    )
}


def entry(name: str) -> AllocatorEntry:
    kind = FAULTY[name]
    return AllocatorEntry.of(kind)


def serve(channel: Channel) -> None:
    """What a worker does: serve one of the registry, or of those above."""
    ALLOCATORS.update({name: NamedSubject(about=name, place=f"{__name__}:{name}") for name in FAULTY})
    work(channel)
