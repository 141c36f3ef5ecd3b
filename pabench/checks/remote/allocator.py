# SPDX-License-Identifier: Apache-2.0
"""An allocator in another process: an operation is one trip, and brings along what it has changed."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from pabench.checks.remote.answers import error_of
from pabench.checks.remote.backend import GONE
from pabench.checks.remote.errors import SubjectEnded
from pabench.checks.remote.facts import Caller, allocator_capabilities
from pabench.kernels.pool_launches import Churned, Launched
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.kept import Digests
from pabench.subjects.allocators.results import Granted, Hit, MemorySplit, Prompt
from pabench.subjects.allocators.rounds import Call, Rounds


class RemoteAllocator(PageAllocator):
    """Answers from the state that came with the last operation.

    Args:
        subject: whose process it is.
        shape: of the pool.

    Attributes:
        launches: makes a pool of the kind that the allocator runs on; None where it runs on none.
        kernel_entries: as of the allocator.

    Raises:
        Unsupported: it lacks what the shape asks for.
    """

    def __init__(self, subject: Caller, shape: PoolShape) -> None:
        # what the shape asks for and the allocator lacks is refused over there
        self.shape = shape
        self._subject = subject
        self._number = subject.number()
        self._state: dict[str, Any] = {}
        about, news = subject.call("make", self._number, shape)
        self._hear(news)
        self._life = subject.lives
        self.name = str(about["name"])  # type: ignore[misc]
        self.capabilities = allocator_capabilities(about["capabilities"])
        self.launches = self._new_pool if about["pool"] else None
        entries = frozenset(str(entry) for entry in about["kernel_entries"])
        self.kernel_entries = entries  # type: ignore[misc]
        self._own_split = bool(about["own_split"])
        weakref.finalize(self, subject.later, "drop", self._number)

    # --- state ----------------------------------------------------------------------------------------

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        found: Array = self._read("lengths")
        return found

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        found: Array = self._read("block_table")
        return found

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        found: int = self._read("free_pages")
        return found

    @property
    def evictable_pages(self) -> int:
        """See ``PageAllocator``."""
        found: int = self._read("evictable_pages")
        return found

    @property
    def returning_pages(self) -> int:
        """See ``PageAllocator``."""
        found: int = self._read("returning_pages")
        return found

    @property
    def free_swap_pages(self) -> int:
        """See ``PageAllocator``."""
        found: int = self._read("free_swap_pages")
        return found

    @property
    def pinned_pages(self) -> int:
        """See ``PageAllocator``."""
        found: int = self._read("pinned_pages")
        return found

    @property
    def free_host_pages(self) -> int:
        """See ``PageAllocator``."""
        found: int = self._read("free_host_pages")
        return found

    @property
    def cached_host_pages(self) -> int:
        """See ``PageAllocator``."""
        found: int = self._read("cached_host_pages")
        return found

    def refcounts(self) -> Array | None:
        """See ``PageAllocator``."""
        found: Array | None = self._read("refcounts")
        return found

    def swapped(self, sequence: int) -> int | None:
        """See ``PageAllocator``."""
        found: int | None = self._read("swapped")[sequence]
        return found

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        return str(self._read("fingerprint")).encode()

    def memory_split(self) -> MemorySplit:
        """See ``PageAllocator``."""
        if not self._own_split:
            return super().memory_split()
        found: MemorySplit = self._read("memory_split")
        return found

    @property
    def own_split(self) -> bool:
        """See ``PageAllocator``."""
        return self._own_split

    # --- operations -----------------------------------------------------------------------------------

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``."""
        found: Granted = self._do("alloc", sequence, tokens, final_tokens=final_tokens)
        return found

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        found: Granted = self._do("append", sequence, tokens)
        return found

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        found: Granted = self._do("append_batch", sequences, tokens)
        return found

    def fork(self, parent: int, child: int) -> Array | None:
        """See ``PageAllocator``."""
        found: Array | None = self._do("fork", parent, child)
        return found

    def truncate(self, sequence: int, length: int) -> None:
        """See ``PageAllocator``."""
        self._do("truncate", sequence, length)

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        self._do("free", sequences)

    def free_window(self, sequence: int, keep_from: int) -> None:
        """See ``PageAllocator``."""
        self._do("free_window", sequence, keep_from)

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """See ``PageAllocator``."""
        self._do("commit", sequence, prompt)

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``."""
        found: Hit = self._do("lookup", prompt)
        return found

    def adopt(self, sequence: int, hit: Hit) -> Array | None:
        """See ``PageAllocator``."""
        found: Array | None = self._do("adopt", sequence, hit)
        return found

    def evict(self, pages: int) -> tuple[int, ...]:
        """See ``PageAllocator``."""
        found: tuple[int, ...] = self._do("evict", pages)
        return found

    def defragment(self) -> Array:
        """See ``PageAllocator``."""
        found: Array = self._do("defragment")
        return found

    def swap_out(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        found: Array = self._do("swap_out", sequence)
        return found

    def swap_in(self, sequence: int) -> Array:
        """See ``PageAllocator``."""
        found: Array = self._do("swap_in", sequence)
        return found

    def begin_step(self) -> None:
        """See ``PageAllocator``."""
        self._do("begin_step")

    def end_step(self) -> None:
        """See ``PageAllocator``."""
        self._do("end_step")

    def retain(self, prompt: Prompt, priority: int, seconds: int | None) -> None:
        """See ``PageAllocator``."""
        self._do("retain", prompt, priority, seconds)

    def pass_time(self, seconds: int) -> None:
        """See ``PageAllocator``."""
        self._do("pass_time", seconds)

    def move_down(self, pages: int) -> Array:
        """See ``PageAllocator``."""
        found: Array = self._do("move_down", pages)
        return found

    def load(self, prompt: Prompt) -> Array:
        """See ``PageAllocator``."""
        found: Array = self._do("load", prompt)
        return found

    def end_copy(self) -> None:
        """See ``PageAllocator``."""
        self._do("end_copy")

    def pin(self, hit: Hit) -> None:
        """See ``PageAllocator``."""
        self._do("pin", hit)

    def unpin(self, hit: Hit) -> None:
        """See ``PageAllocator``."""
        self._do("unpin", hit)

    def reset(self) -> None:
        """See ``PageAllocator``."""
        self._do("reset")

    def launch(self, entry: str, columns: Sequence[Sequence[int]]) -> dict[str, Any]:
        """See ``PageAllocator``."""
        found: dict[str, Any] = self._ask("launch", entry, tuple(tuple(column) for column in columns))
        return found

    # --- asked again ----------------------------------------------------------------------------------

    def handed_out(self) -> list[Digests]:
        """Return what all that was handed out says now; see ``KeptResults``, which is kept over there."""
        self._must_live()
        told = self._subject.call("handed_out", self._number)["digests"]
        return [{str(part): str(said) for part, said in one.items()} for one in told]

    def run_rounds(self, calls: Sequence[Call], times: int, *, watched: bool = True) -> Rounds:
        """See ``rounds.run_rounds``, which runs over there."""
        refused, memory = self._ask("rounds", list(calls), times, watched)
        return Rounds([int(count) for count in refused], [int(count) for count in memory])

    # --- parts ----------------------------------------------------------------------------------------

    def _do(self, name: str, *given: Any, **named: Any) -> Any:
        return self._ask("operate", name, given, named)

    def _ask(self, call: str, *given: Any) -> Any:
        """Call what answers with a result and what of the state has changed."""
        self._must_live()
        result, news = self._subject.call(call, self._number, *given)
        self._hear(news)
        return _value(result)

    def _hear(self, news: Any) -> None:
        """Take what has changed."""
        self._state.update(zip(news[0]["names"], news[1:], strict=True))

    def _read(self, name: str) -> Any:
        told = self._state[name]
        return told[0] if type(told) is list else _value(told)

    def _new_pool(self) -> RemotePool:
        self._must_live()
        return RemotePool(self._subject, self._number)

    def _must_live(self) -> None:
        if self._life != self._subject.lives:
            raise SubjectEnded(GONE)


class RemotePool:
    """Launches on a pool in the subject's process; see ``PoolLaunches``."""

    def __init__(self, subject: Caller, allocator: int) -> None:
        self._subject = subject
        self._number = subject.number()
        self.num_pages = int(subject.call("make_pool", self._number, allocator))
        self._life = subject.lives

    def launch(self, counts: Sequence[int], gone: Sequence[int], kept: Sequence[int]) -> Launched:
        """See ``PoolLaunches``."""
        return Launched(*self._call("pool_launch", list(counts), list(gone), list(kept)))

    def churn(self, held: Sequence[int], *, threads: int, rounds: int, most: int) -> Churned:
        """See ``PoolLaunches``."""
        return Churned(*self._call("pool_churn", list(held), threads, rounds, most))

    def _call(self, name: str, *given: Any) -> Any:
        if self._life != self._subject.lives:
            raise SubjectEnded(GONE)
        return self._subject.call(name, self._number, *given)


def _value(told: Any) -> Any:
    """What was read over there, or raise what was raised."""
    if isinstance(told, dict):
        raise error_of(told["raised"])
    return told[0]
