# SPDX-License-Identifier: Apache-2.0
"""The scan allocator: block table, lengths, counts and free ring on the device, one launch a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import DeviceFault, InvalidCase, OutOfPages
from pabench.kernels import alloc_scan
from pabench.problem.checks import INT32_MAX, one_of, whole_number
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.device_tables import DeviceTables
from pabench.subjects.allocators.groups import GROUP_KINDS
from pabench.subjects.allocators.results import NULL_PAGE, Granted
from pabench.subjects.allocators.scan_groups import needed_behind, rows_of, slide_of
from pabench.subjects.allocators.sliding import uncuttable

NOTHING = {"pages": 0, "needed": 0, "served": 0, "tokens": 0, "copies": 0}
"""Of the status of a release that was refused."""
OPERATIONS = (
    *("alloc", "append", "append_batch", "fork", "truncate", "free", "free_window", "reset"),
    *("begin_step", "end_step"),
)


class ScanAllocator(DeviceTables):
    """Runs ``page_alloc_scan.cu`` and ``page_alloc_release.cu``; grants the ids of the reference model.

    What the protocol has to return is read back after each step; a caller on the device goes through
    ``pabench.kernels.alloc_scan`` and reads nothing.
    """

    name = "scan"
    capabilities = Capabilities(
        operations=frozenset(OPERATIONS), progress="blocking", groups=frozenset(GROUP_KINDS)
    )
    kernel_entries = frozenset({alloc_scan.EXTEND, alloc_scan.DROP, alloc_scan.FORK})

    def __init__(
        self, device: Device, shape: PoolShape, *, batch_mode: str = "all", blocks: int | None = None
    ) -> None:
        one_of("batch_mode", batch_mode, ("all", "prefix"))
        groups = self.capabilities.groups if batch_mode == "all" else frozenset[str]()
        self.capabilities = replace(self.capabilities, batch_mode=batch_mode, groups=groups)
        super().__init__(device, shape)
        self._groups = shape.kv_groups
        if shape.groups:
            self.kernel_entries = frozenset()  # type: ignore[misc]  # what a request breaks is a group's to say
        self._state = alloc_scan.new_state(
            device,
            num_pages=shape.num_pages,
            page_size=shape.page_size,
            max_seqs=shape.max_seqs,
            max_pages_per_seq=shape.max_pages_per_seq,
            blocks=_blocks(shape.num_pages) if blocks is None else blocks,
            group_sizes=[group.page_size for group in shape.groups],
        )
        self._lengths, self._table = self._state.lengths, self._state.block_table

    # --- state ----------------------------------------------------------------------------------------

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return super().lengths()[:: len(self._groups)]

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        return super().block_table().reshape(self.shape.max_seqs, self.shape.columns)

    def refcounts(self) -> Array:
        """See ``PageAllocator``."""
        return self._device.to_host(self._state.refcounts).astype(np.int32)

    @property
    def free_pages(self) -> int:
        """Pages of the ring that no step in flight may still use."""
        head, _, open_to, _, _ = self._cursor()
        return open_to - head

    @property
    def returning_pages(self) -> int:
        """Pages of the ring behind the fence."""
        _, tail, open_to, _, _ = self._cursor()
        return tail - open_to

    def fingerprint(self) -> bytes:
        """See ``PageAllocator``."""
        state = self._state
        arrays = (state.ring, state.cursor, state.marks, state.refcounts, state.lengths, state.block_table)
        return b"".join(self._device.to_host(array).tobytes() for array in arrays)

    # --- operations -----------------------------------------------------------------------------------

    def alloc(self, sequence: int, tokens: int, *, final_tokens: int | None = None) -> Granted:
        """See ``PageAllocator``; pages are taken when needed, so ``final_tokens`` changes nothing."""
        sequence, tokens = self.check_start(sequence, tokens, final_tokens)
        return self._grow({sequence: tokens}, prefix=False)

    def append(self, sequence: int, tokens: int) -> Granted:
        """See ``PageAllocator``."""
        return self._append([sequence], [tokens], prefix=False)

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``."""
        return self._append(sequences, tokens, prefix=self.capabilities.batch_mode == "prefix")

    def fork(self, parent: int, child: int) -> None:
        """See ``PageAllocator``."""
        lengths = self.lengths()
        parent = self._live(parent, lengths, "parent")
        child = self._new(child, lengths, "child")
        alloc_scan.fork(self._state, *self._request(self._rows([parent]), self._rows([child])))
        self._expect_ok("page_alloc_fork")

    def truncate(self, sequence: int, length: int) -> None:
        """See ``PageAllocator``."""
        rule = "must be at most what it is, and no less than what its window gave up"
        if self.shape.groups:
            self._check_cut(self._live(sequence, self.lengths()), length)
        self._cut(sequence, whole_number("length", length, low=0), alloc_scan.CUT, "length", rule)

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        named = self.check_leaving(sequences)
        rows = self._rows(named)
        entries, values = self._request(rows, [0] * len(rows))
        alloc_scan.drop(self._state, entries, values, alloc_scan.END)
        self._expect_ok("page_alloc_drop")

    def free_window(self, sequence: int, keep_from: int) -> None:
        """See ``PageAllocator``."""
        keep_from = whole_number("keep_from", keep_from, low=0)
        if self.shape.groups:
            raise InvalidCase(
                "keep_from", keep_from, "must not be set: windows of groups slide by themselves"
            )
        self._cut(sequence, keep_from, alloc_scan.WINDOW, "keep_from", "must be at most the length")

    def begin_step(self) -> None:
        """See ``PageAllocator``; at most ``alloc_scan.STEPS_IN_FLIGHT`` steps are in flight."""
        returning = self.returning_pages
        alloc_scan.begin_step(self._state)
        self._refuse_steps("page_alloc_fence", f"must be fewer than {alloc_scan.STEPS_IN_FLIGHT}")
        self._expect_ok("page_alloc_fence", pages=returning - self.returning_pages)

    def end_step(self) -> None:
        """See ``PageAllocator``."""
        returning = self.returning_pages
        alloc_scan.end_step(self._state)
        self._refuse_steps("page_alloc_fence", "must be one at least")
        self._expect_ok("page_alloc_fence", pages=returning - self.returning_pages)

    def reset(self) -> None:
        """See ``PageAllocator``."""
        alloc_scan.reset(self._state)
        done = self._refuse_steps("page_alloc_reset", "must all have ended before a reset")
        if done.code == alloc_scan.STILL_LIVE:
            live = np.flatnonzero(self.lengths() >= 0).tolist()
            self._believe("page_alloc_reset", done, concerned=live[0] * len(self._groups), **NOTHING)
            raise InvalidCase("sequences", live, "must all be freed before a reset")
        self._expect_ok("page_alloc_reset")

    def start_empty(self, count: int) -> None:
        """See ``DeviceTables``."""
        self._grow(dict.fromkeys(range(count), 0), prefix=False)

    def launch(self, entry: str, columns: Sequence[Sequence[int]]) -> dict[str, Any]:
        """See ``PageAllocator``; a drop has its kind as a third column, a single number."""
        state = self._state
        if entry == alloc_scan.EXTEND:
            sequences, tokens = self._request(*columns)
            alloc_scan.extend(state, sequences, tokens, self._slots(columns[1]))
        elif entry == alloc_scan.DROP:
            sequences, values = self._request(*columns[:2])
            alloc_scan.drop(state, sequences, values, columns[2][0])
        elif entry == alloc_scan.FORK:
            alloc_scan.fork(state, *self._request(*columns))
        else:
            raise self.no(entry)
        return asdict(alloc_scan.read_status(state))

    # --- parts ----------------------------------------------------------------------------------------

    def _cursor(self) -> list[int]:
        """Head and tail of the ring, where what can be granted ends, steps begun and ended."""
        return [int(value) for value in self._device.to_host(self._state.cursor)]

    def _refuse_steps(self, entry: str, rule: str) -> alloc_scan.Status:
        """Return the status; raises ``InvalidCase`` where it says too many or too few steps in flight."""
        done = alloc_scan.read_status(self._state)
        if done.code == alloc_scan.WRONG_STEPS:
            self._believe(entry, done, **NOTHING)
            *_, begun, ended = self._cursor()
            raise InvalidCase("steps in flight", begun - ended, rule)
        return done

    def _expect_ok(self, entry: str, **expected: int) -> None:
        done = alloc_scan.read_status(self._state)
        if done.code != alloc_scan.OK:
            raise DeviceFault(f"{entry}: status {done.code} after the host's checks passed")
        self._believe(entry, done, needed=0, served=0, tokens=0, copies=0, **expected)

    def _believe(self, entry: str, done: alloc_scan.Status, **expected: int) -> None:
        """Hold a status to what the tables say: in a graph of launches nobody else looks at it.

        Raises:
            DeviceFault: it says something else.
        """
        expected |= {"free": self.free_pages} | ({"concerned": -1} if done.code == alloc_scan.OK else {})
        for field, value in expected.items():
            if (said := getattr(done, field)) != value:
                raise DeviceFault(f"{entry}: status says {field} = {said}, must be {value}")

    def _cut(self, sequence: int, value: int, what: int, field: str, rule: str) -> None:
        """Let pages of one sequence go; the kernel knows which values it can take."""
        rows = self._rows([self._live(sequence, self.lengths())])
        entries, values = self._request(rows, [min(value, INT32_MAX)] * len(rows))
        alloc_scan.drop(self._state, entries, values, what)
        done = alloc_scan.read_status(self._state)
        if done.code == alloc_scan.BAD_VALUE:
            self._believe("page_alloc_drop", done, **NOTHING)
            raise InvalidCase(field, value, rule)
        self._expect_ok("page_alloc_drop")

    def _append(self, sequences: Any, tokens: Any, *, prefix: bool) -> Granted:
        lengths = self.lengths()
        requests = self.check_batch(sequences, tokens, lengths)
        if self.shape.groups:
            self._slide(requests, lengths)
        return self._grow(requests, prefix=prefix)

    def _grow(self, requests: dict[int, int], *, prefix: bool) -> Granted:
        """One launch; the kernel starts a sequence that is not live."""
        tokens = [count for count in requests.values() for _ in self._groups]
        slots = self._slots(tokens)
        entries, counts = self._request(self._rows(requests), tokens)
        before = self.free_pages
        alloc_scan.extend(self._state, entries, counts, slots, prefix=prefix)
        done = alloc_scan.read_status(self._state)
        taken = before - self.free_pages
        self._believe("page_alloc_extend", done, pages=taken)
        if done.code == alloc_scan.TOO_FEW_PAGES:
            raise OutOfPages(done.needed, done.free)
        if done.code != alloc_scan.OK:
            raise DeviceFault(f"page_alloc_extend: status {done.code} after the host's checks passed")
        served = min(done.served // len(self._groups), len(requests))
        return Granted(
            new_slots=self._device.to_host(slots)[: done.tokens],
            copies=self._device.to_host(self._state.copies)[: done.copies],
            refused=np.arange(served, len(requests), dtype=np.int64),
        )

    def _rows(self, sequences: Iterable[int]) -> list[int]:
        return rows_of(sequences, len(self._groups))

    def _by_group(self) -> Array:
        """The table, int32 ``(max_seqs, groups, columns)``."""
        return self.block_table().reshape(self.shape.max_seqs, len(self._groups), -1)

    def _slide(self, requests: dict[int, int], lengths: Array) -> None:
        """Give up what growing sequences no longer see, if the growth then fits."""
        table, refcounts = self._by_group(), self.refcounts()
        slide = slide_of(self._groups, requests, lengths, table)
        if not slide.rows:
            return
        head, _, open_to, begun, ended = self._cursor()
        # what windows give up can be granted at once, unless a step in flight still reads it
        gained = sum(refcounts[page] == count for page, count in slide.pages.items()) if begun == ended else 0
        needed = needed_behind(slide, self._groups, requests, lengths, table, refcounts)
        if needed > (available := open_to - head + gained):
            raise OutOfPages(needed, available)
        entries, values = self._request(slide.rows, slide.keep_from)
        alloc_scan.drop(self._state, entries, values, alloc_scan.WINDOW)
        self._expect_ok("page_alloc_drop")

    def _check_cut(self, sequence: int, length: int) -> None:
        """Raise ``InvalidCase`` where a group cannot be cut to ``length``, if it is not too long."""
        tokens = self.length(sequence) or 0
        for group, row in zip(self._groups, self._by_group()[sequence], strict=True):
            gone = int(np.count_nonzero(row[: group.pages(tokens)] == NULL_PAGE))
            if rule := uncuttable(group, length, tokens, gone):
                raise InvalidCase("length", length, rule)

    def _slots(self, tokens: Sequence[int]) -> Any:
        """Room on the device for the slots of a growth."""
        # no more tokens can be served than free pages and last pages hold
        room = (self.shape.num_pages + len(tokens)) * self.shape.page_size
        wanted = sum(max(0, count) for count in tokens)
        return self._device.empty((max(1, min(wanted, room)),), np.dtype(np.int64))


def _blocks(num_pages: int) -> int:
    """Blocks of a launch: one plans, the others help to spread many pages.

    From a few pages on there are two at least, so that small pools too show what blocks do to each other; of
    fewer pages one takes care alone.
    """
    return 1 if num_pages < 6 else max(2, min(128, 1 << (num_pages // 1024).bit_length()))


class ScanPrefix(ScanAllocator):
    """The same, but a batch that does not fit is served up to the first request that lacks pages."""

    name = "scan-prefix"
    capabilities = replace(ScanAllocator.capabilities, batch_mode="prefix", groups=frozenset())

    def __init__(self, device: Device, shape: PoolShape) -> None:
        super().__init__(device, shape, batch_mode="prefix")
