# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind, in columns: one row a step, one a sample of memory, one a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pabench.problem.dtypes import Array

STEP_COLUMNS = (
    *("clock_s", "step_s", "running", "waiting", "decode_tokens", "prefill_tokens", "context_tokens"),
    *("admitted", "finished", "preempted", "used_pages", "allocator_ns"),
)
SAMPLE_COLUMNS = (
    *("clock_s", "steps", "running", "tokens", "reserved", "internal", "external", "idle"),
    *("evictable_pages", "saved_pages"),
)
ROWS = 8192


class Table:
    """Rows of numbers that become columns; kept in blocks, so that a long run costs 8 bytes a number."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._blocks: list[Array] = []
        self._rows: list[tuple[float, ...]] = []

    def add(self, row: tuple[float, ...]) -> None:
        """Add a row in the order of ``names``."""
        self._rows.append(row)
        if len(self._rows) == ROWS:
            self._pack()

    def columns(self) -> dict[str, Array]:
        """Return name to float64 column."""
        self._pack()
        whole = np.concatenate(self._blocks) if self._blocks else np.empty((0, len(self.names)))
        return {name: whole[:, at] for at, name in enumerate(self.names)}

    def _pack(self) -> None:
        if self._rows:
            self._blocks.append(np.array(self._rows, np.float64))
            self._rows = []


class RequestLog:
    """One row a request, in lists, which are quicker than arrays to write one by one.

    Attributes:
        scheduled_s, first_token_s, finish_s: when; None until it comes.
        preemptions, recomputed, hit, generated: how often it was preempted, tokens computed once more, tokens
            found in the prefix cache, tokens of its output so far.
        skipped: why a request was not served, by index.
    """

    def __init__(self, size: int) -> None:
        self.scheduled_s, self.first_token_s, self.finish_s = (
            list[float | None]([None]) * size for _ in range(3)
        )
        self.preemptions, self.recomputed, self.hit, self.generated = ([0] * size for _ in range(4))
        self.skipped: dict[int, str] = {}

    def columns(self) -> dict[str, Array]:
        """Return name to column: times float64, NaN where there is none; counts int64."""
        times = ("scheduled_s", "first_token_s", "finish_s")
        counts = ("preemptions", "recomputed", "hit", "generated")
        return {name: np.array(getattr(self, name), np.float64) for name in times} | {
            name: np.array(getattr(self, name), np.int64) for name in counts
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A run that has ended.

    Attributes:
        steps, samples: columns of ``STEP_COLUMNS`` and ``SAMPLE_COLUMNS``.
        log: of the requests.
        arrival_s: when each request came, float64.
        gaps_s: time between two tokens of requests that were preempted in between, float64.
        host_s: seconds of the host's clock.
        allocator_ns: nanoseconds of the host's clock within the allocator, by operation.
        steps_done: steps.
        copies: pages copied on write.
        moves, moved_pages: see ``Seats``.
    """

    steps: Mapping[str, Array]
    samples: Mapping[str, Array]
    log: RequestLog
    arrival_s: Array
    gaps_s: Array
    host_s: float
    allocator_ns: Mapping[str, int]
    steps_done: int
    copies: int
    moves: tuple[int, int, int]
    moved_pages: tuple[int, int]
