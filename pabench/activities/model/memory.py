# SPDX-License-Identifier: Apache-2.0
"""An allocator with the cache of all layers behind it: what it says must be copied is copied, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pabench.activities.model.contents import Contents
from pabench.device.base import Device
from pabench.errors import InvalidCase, OutOfPages
from pabench.kernels.page_copy import copy_pages
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool, pool_shape
from pabench.problem.problem import Problem
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.forwarding import ForwardingAllocator
from pabench.subjects.allocators.results import Granted, Hit, Prompt

PREFIXES = frozenset({"lookup", "adopt", "commit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Pages that were copied at once.

    Attributes:
        why: ``write`` (a shared page was about to change), ``swap-out`` or ``swap-in``.
        pages: (source, target, slots), ids of the pool; those of the swap store follow it.
    """

    why: str
    pages: tuple[tuple[int, int, int], ...]


class PagedMemory(ForwardingAllocator):
    """Passes operations on to ``subject``, moves the contents of pages, and notes who has new tokens.

    An allocator without a prefix cache that can fork and cut gets one here: a prompt that begins like a live
    sequence forks from it and is cut to the full pages that they share.

    Attributes:
        subject: the allocator under test.
        pools: the cache of each layer on the device, those of the swap store last; NaN at first.
        contents: what they must hold.
        granted: new tokens of each slot since the last step.
        copied: what was copied since the last step.
    """

    def __init__(self, subject: PageAllocator, device: Device, problem: Problem, num_layers: int) -> None:
        can = subject.capabilities
        self._forks = not can.operations >= PREFIXES and can.operations >= {"fork", "truncate"}
        self.capabilities = replace(
            can, operations=can.operations | (PREFIXES if self._forks else frozenset())
        )
        super().__init__(subject)
        self._device = device
        self._swap = subject.shape.num_pages + len(can.reserved_pages)
        self.num_pages = self._swap + subject.shape.swap_pages
        shape = pool_shape(problem, self.num_pages, kv_layout="NHD", interleaved=False)
        self.pools = tuple(
            KvPool(
                storage=device.empty(shape, problem.kv_storage.storage), kv_layout="NHD", interleaved=False
            )
            for _ in range(num_layers)
        )
        self.contents = Contents(num_layers)
        self.granted: dict[int, int] = {}
        self.copied: list[Copied] = []
        self._refuse = False
        self._committed: dict[int, tuple[int, ...]] = {}

    def refuse_once(self) -> None:
        """Let the next growth fail as if no page were left."""
        self._refuse = True

    # --- growing and ending -----------------------------------------------------------------------------

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``."""
        granted = self.subject.alloc(sequence, tokens, final_tokens=final_tokens)
        self.contents.start(sequence)
        return self._note(granted, [sequence], [tokens])

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        self._check_refusal()
        return self._note(self.subject.append(sequence, tokens), [sequence], [tokens])

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        self._check_refusal()
        named = [int(sequence) for sequence in sequences]
        counts = np.broadcast_to(np.asarray(tokens), (len(named),)).tolist()
        return self._note(self.subject.append_batch(sequences, tokens), named, counts)

    def fork(self, parent: int, child: int) -> None:
        """See ``PageAllocator``."""
        self.subject.fork(parent, child)
        self.contents.fork(parent, child)

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        self.subject.free(sequences)
        self.contents.drop(sequences)
        for sequence in sequences:
            self.granted.pop(sequence, None)
            self._committed.pop(sequence, None)

    def swap_out(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        moves = self.subject.swap_out(sequence)
        self._copy("swap-out", moves + np.array([0, self._swap, 0], np.int32))
        return moves

    def swap_in(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        moves = self.subject.swap_in(sequence)
        self._copy("swap-in", moves + np.array([self._swap, 0, 0], np.int32))
        return moves

    # --- prefixes ---------------------------------------------------------------------------------------

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """See ``PageAllocator``."""
        if not self._forks:
            self.subject.commit(sequence, prompt)
        self.contents.commit(sequence, prompt.tokens)
        self._committed[sequence] = prompt.tokens

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``."""
        if not self._forks:
            return self.subject.lookup(prompt)
        page_size, best = self.shape.page_size, Hit(prompt=prompt, pages=())
        for sequence, known in self._committed.items():
            # the last token is computed, since its query is wanted
            most = (len(prompt.tokens) - 1) // page_size
            held = min(most, len(known) // page_size) if self.subject.length(sequence) is not None else 0
            while held and known[: held * page_size] != prompt.tokens[: held * page_size]:
                held -= 1
            if held > len(best.pages):
                best = Hit(prompt=prompt, pages=self.subject.pages(sequence)[:held])
        return best

    def adopt(self, sequence: int, hit: Hit) -> None:
        """See ``PageAllocator``."""
        count = len(hit.pages) * self.shape.page_size
        if not self._forks:
            self.subject.adopt(sequence, hit)
        else:
            self._fork_from_holder(sequence, hit)
        self.contents.adopt(sequence, hit.prompt.tokens[:count])

    def _fork_from_holder(self, sequence: int, hit: Hit) -> None:
        for holder in self._committed:
            live = self.subject.length(holder) is not None
            if live and self.subject.pages(holder)[: len(hit.pages)] == hit.pages:
                self.subject.fork(holder, sequence)
                self.subject.truncate(sequence, len(hit.pages) * self.shape.page_size)
                return
        raise InvalidCase("hit", hit.pages, "must be pages that a live sequence begins with")

    # --- parts ------------------------------------------------------------------------------------------

    def _check_refusal(self) -> None:
        if self._refuse:
            self._refuse = False
            raise OutOfPages(1, 0)

    def _note(self, granted: Granted, sequences: list[int], tokens: list[int]) -> Granted:
        self._copy("write", granted.copies)
        refused = set(granted.refused.tolist())
        for place, (sequence, count) in enumerate(zip(sequences, tokens, strict=True)):
            if count and place not in refused:
                self.granted[sequence] = self.granted.get(sequence, 0) + count
        return granted

    def _copy(self, why: str, moves: Array) -> None:
        if not len(moves):
            return
        moves = np.ascontiguousarray(moves, np.int32)
        device = self._device
        copy_pages(device, self.pools, device.to_device(moves), device.to_device(np.array([len(moves)])))
        pages = tuple((int(source), int(target), int(slots)) for source, target, slots in moves)
        self.copied.append(Copied(why=why, pages=pages))


def pool_for(
    *, page_size: int, num_pages: int, swap_pages: int, max_seqs: int, longest_tokens: int
) -> PoolShape:
    """Return the shape of a pool whose rows hold ``longest_tokens``."""
    return PoolShape(
        num_pages=num_pages,
        page_size=page_size,
        max_seqs=max_seqs,
        max_pages_per_seq=-(-longest_tokens // page_size),
        swap_pages=swap_pages,
    )
