# SPDX-License-Identifier: Apache-2.0
"""The protocol of a page allocator.

A sequence is named by an index in ``0..max_seqs-1`` and is live, swapped out or neither.  Every operation is
all or nothing: when it raises, the state is as before.  ``InvalidCase`` is a request that no pool could serve
or that names what is not there; ``OutOfPages`` one that this pool cannot serve now; ``Unsupported`` one that
the allocator does not offer.  ``model.py`` says by running what each operation means.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pabench.errors import Unsupported
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.arguments import ArgumentChecks
from pabench.subjects.allocators.cache_operations import CacheOperations
from pabench.subjects.allocators.capabilities import OPERATIONS, Capabilities
from pabench.subjects.allocators.results import Granted, MemorySplit, split_of
from pabench.subjects.allocators.shape import PoolShape as PoolShape


class PageAllocator(CacheOperations, ArgumentChecks):
    """Hands out pages to growing sequences.

    A subclass overrides the operations it offers.  Where it sets no ``capabilities``, they are those
    operations and no promise about page ids; where it sets no ``name``, the name is that of the class.

    Attributes:
        on_device: it is made as ``cls(device, shape)``, else as ``cls(shape)``.
        kernel_entries: entry points of its kernels that ``launch`` takes.

    Raises:
        Unsupported: ``shape`` asks for a watermark or for swapping and the allocator has none.
    """

    name: ClassVar[str]
    capabilities: Capabilities
    on_device: ClassVar[bool] = False
    kernel_entries: ClassVar[frozenset[str]] = frozenset()
    _derived: ClassVar[bool] = True

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "name" not in vars(cls) and cls._derived:
            cls.name = cls.__name__
        if "capabilities" in vars(cls):
            cls._derived = False
        elif cls._derived:
            offered = frozenset(name for name in OPERATIONS if offers(cls, name))
            cls.capabilities = Capabilities(operations=offered, order="set", determinism="counts")

    def __init__(self, shape: PoolShape) -> None:
        self.shape = shape
        if shape.swap_pages and "swap_out" not in self.capabilities.operations:
            raise Unsupported(f"{self.name}: swap_pages = {shape.swap_pages}: swaps nothing, must be 0")
        if shape.host_pages and "move_down" not in self.capabilities.operations:
            raise Unsupported(f"{self.name}: host_pages = {shape.host_pages}: has one tier, must be 0")
        if shape.reserve_pages and not self.capabilities.watermark:
            raise Unsupported(f"{self.name}: reserve_pages = {shape.reserve_pages}: keeps none, must be 0")
        if lacking := sorted({group.kind for group in shape.groups} - self.capabilities.groups):
            raise Unsupported(f"{self.name}: groups of kind {', '.join(lacking)}: keeps none")

    # --- state, to be read at any time ----------------------------------------------------------------

    @abstractmethod
    def lengths(self) -> Array:
        """Return the tokens of every sequence, int64 ``(max_seqs,)``; -1 where it is not live."""

    @abstractmethod
    def block_table(self) -> Array:
        """Return the table, int32 ``(max_seqs, columns)``: in a row one group stands behind the other.

        ``NULL_PAGE`` past the last page of a sequence and where a sliding window gave a page up.
        """

    @property
    @abstractmethod
    def free_pages(self) -> int:
        """Pages that nobody holds and that hold nothing worth keeping."""

    @property
    def evictable_pages(self) -> int:
        """Cached pages that no sequence holds; they are granted when no page is free."""
        return 0

    @property
    def returning_pages(self) -> int:
        """Pages that nobody holds and that are on their way back: they are not to be granted yet.

        So are those that a copy between the tiers reads or writes.
        """
        return 0

    @property
    def pinned_pages(self) -> int:
        """Cached pages that no sequence holds, and that a pin keeps."""
        return 0

    @property
    def free_host_pages(self) -> int:
        """Pages of the lower tier that hold nothing, and that no copy reads or writes."""
        return self.shape.host_pages

    @property
    def cached_host_pages(self) -> int:
        """Pages of the lower tier that hold a prefix, and that no copy reads or writes."""
        return 0

    @property
    def free_swap_pages(self) -> int:
        """Pages of the swap store that nobody holds."""
        return self.shape.swap_pages

    def refcounts(self) -> Array | None:
        """Return how many table entries hold each page id, int32, as the allocator itself counts.  No pins.

        None when it keeps no such count.
        """
        return None

    def swapped(self, sequence: int) -> int | None:
        """Return the tokens of a swapped-out sequence, or None when it is not swapped out."""
        return None

    def length(self, sequence: int) -> int | None:
        """Return the tokens of a sequence, or None when it is not live."""
        tokens = int(self.lengths()[sequence])
        return None if tokens < 0 else tokens

    def pages(self, sequence: int) -> tuple[int, ...]:
        """Return the pages of a live sequence in logical order, ``NULL_PAGE`` where a window gave them up.

        One group stands behind the other.
        """
        tokens, row = max(int(self.lengths()[sequence]), 0), self.block_table()[sequence].tolist()
        width, groups = self.shape.max_pages_per_seq, self.shape.kv_groups
        parts = [row[at * width :][: group.pages(tokens)] for at, group in enumerate(groups)]
        return tuple(page for part in parts for page in part)

    def fingerprint(self) -> bytes:
        """Return bytes that are equal when the whole state is, as far as the allocator can show it."""
        parts = (self.free_pages, self.evictable_pages, self.returning_pages, self.free_swap_pages)
        counts = np.array((*parts, self.pinned_pages, self.free_host_pages, self.cached_host_pages))
        return self.lengths().tobytes() + self.block_table().tobytes() + counts.tobytes()

    def memory_split(self) -> MemorySplit:
        """Return where the slots of the pool are; shared pages count once."""
        shape, lengths, table = self.shape, self.lengths(), self.block_table()
        sizes = [group.page_size for group in shape.kv_groups]
        return split_of(lengths, table, sizes, page_size=shape.page_size, num_pages=shape.num_pages)

    @property
    def own_split(self) -> bool:
        """Whether ``memory_split`` is its own; else it follows from lengths and table, and always adds up."""
        return type(self).memory_split is not PageAllocator.memory_split

    # --- growing and ending ---------------------------------------------------------------------------

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """Start a sequence of ``tokens``, at least 0.

        Args:
            sequence: neither live nor swapped out.
            tokens: of its beginning.
            final_tokens: how long it will become, where the caller knows; allocators that reserve use it.

        Raises:
            OutOfPages: too few pages are available above the watermark.
            InvalidCase: an index, a count or a length out of range, or the sequence is there already.
        """
        raise self.no("alloc")

    def append(self, sequence: int, tokens: int) -> Granted:
        """Add ``tokens``, at least 0, to a live sequence.

        A last page with room that other sequences hold too is replaced by a copy of its own; one that is
        cached leaves the cache, since it is about to change.  Groups of kind ``window`` and ``state`` first
        give up what the new tokens no longer see: these pages may be granted in the same call.

        Raises:
            OutOfPages: too few pages are available; the watermark does not count here.
            InvalidCase: the sequence is not live, or would outgrow its row.
        """
        raise self.no("append")

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """Add tokens to many live sequences, as ``append`` one after another, in one step.

        Args:
            sequences: ``(n,)`` indices, none twice.
            tokens: ``(n,)`` counts, or one for all.

        Raises:
            OutOfPages: in batch mode ``all``, too few pages are available for all of them together.
            InvalidCase: as for ``append``, or a sequence named twice; whatever the batch mode.
        """
        raise self.no("append_batch")

    def fork(self, parent: int, child: int) -> Array | None:
        """Start ``child`` with the pages of ``parent``, shared.

        Returns:
            None, and no page is taken; or, where forks are declared ``copied``, int32 ``(n, 3)``: a last page
            with room is copied at once, as the copies of a grant are.

        Raises:
            OutOfPages: a copy has no page above the watermark.
            InvalidCase: the parent is not live, or the child is there already.
        """
        raise self.no("fork")

    def truncate(self, sequence: int, length: int) -> None:
        """Cut a live sequence to its first ``length`` tokens.

        Raises:
            InvalidCase: longer than it is, or shorter than what a sliding window gave up; with a group of
                kind ``state``, any length but its own.
        """
        raise self.no("truncate")

    def free(self, sequences: Sequence[int]) -> None:
        """End sequences, live or swapped out, and take back the pages that nobody else holds.

        Free pages queue up in logical order, sequence by sequence.  Cached ones become evictable, those of
        one sequence last page first, so that a prefix goes from its tail.

        Raises:
            InvalidCase: a sequence is not there, or is named twice.
        """
        raise self.no("free")

    def free_window(self, sequence: int, keep_from: int) -> None:
        """Give up the pages of a live sequence that lie wholly before token ``keep_from``.

        Raises:
            InvalidCase: ``keep_from`` beyond the length, or the pool has groups, whose windows slide by
                themselves.
        """
        raise self.no("free_window")

    # --- moving away ----------------------------------------------------------------------------------

    def defragment(self) -> Array:
        """Move pages so that those in use, cached ones among them, have the lowest ids, by the fewest moves.

        Rising ids go to rising ids, and free pages queue up by their ids.  Hits are out of date afterwards.

        Returns:
            Int32 ``(n, 3)``: copy the first ``[i, 2]`` slots of page ``[i, 0]`` to page ``[i, 1]``.

        Raises:
            InvalidCase: a step or a copy is in flight, or a hit is pinned.
        """
        raise self.no("defragment")

    def swap_out(self, sequence: int) -> Array:
        """Move a live sequence to the swap store.

        Returns:
            Int32 ``(n, 3)``: copy the first ``[i, 2]`` slots of page ``[i, 0]`` to swap page ``[i, 1]``.

        Raises:
            OutOfPages: too few swap pages.
            InvalidCase: the sequence is not live.
        """
        raise self.no("swap_out")

    def swap_in(self, sequence: int) -> Array:
        """Bring a swapped-out sequence back, on pages of its own.

        Returns:
            Int32 ``(n, 3)``: copy the first ``[i, 2]`` slots of swap page ``[i, 0]`` to page ``[i, 1]``.

        Raises:
            OutOfPages: too few pages are available above the watermark.
            InvalidCase: the sequence is not swapped out.
        """
        raise self.no("swap_in")

    # --- steps in flight ------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """Say that a step is launched, which may read and write all pages that are held now.

        What is given back while steps are in flight is on its way until those have ended: it is neither
        granted nor evicted.  A cached page among it may be adopted, since full pages are only read.

        Raises:
            InvalidCase: as many steps are in flight as the allocator has room for, 1,024 at least.
        """
        raise self.no("begin_step")

    def end_step(self) -> None:
        """Say that the oldest step in flight has ended.

        Raises:
            InvalidCase: no step is in flight.
        """
        raise self.no("end_step")

    def reset(self) -> None:
        """Return to the state of a new allocator, the cache and the lower tier emptied.

        Raises:
            InvalidCase: a sequence is live or swapped out, a step or a copy in flight, or a hit pinned.
        """
        raise self.no("reset")

    def launch(self, entry: str, columns: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Launch a kernel on a request as it is, unchecked by the host, as a graph of launches does.

        Args:
            entry: one of ``kernel_entries``.
            columns: of the request, as the kernel takes them; all whole numbers of int32.

        Returns:
            Its status or results, as whole numbers and lists of them.
        """
        raise self.no(entry)


def offers(made: type[PageAllocator], operation: str) -> bool:
    """Whether a class overrides an operation of the protocol."""
    return getattr(made, operation) is not getattr(PageAllocator, operation)
