# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error: a bar on a terminal, one line per finished item elsewhere; with time left.

What is unsupported took no time and is counted at the end of the run: it has no line.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol

from pabench.console import say
from pabench.text import one_line

UNSUPPORTED = "unsupported"


class Labelled(Protocol):
    """What is worked on: a cell of a sweep, a server of a serving run."""

    @property
    def label(self) -> str:
        """What tells it from the others, in one line."""


class Progress(Protocol):
    """Told about each item; a context manager that is open while items are worked on."""

    def start(self, item: Labelled) -> None:
        """Note that ``item`` begins."""

    def note(self, item: Labelled, text: str) -> None:
        """Say how far ``item`` is."""

    def done(self, item: Labelled, status: str, why: str | None, seconds: float | None) -> None:
        """Note what became of ``item``, in a few words why it is not passed, and what it took if known."""

    def __enter__(self) -> Progress:
        """Open the display."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the display."""


def make_progress(total: int) -> Progress:
    """Return the display that suits standard error, for ``total`` items that are still to run."""
    return BarProgress(total) if sys.stderr.isatty() else PlainProgress(total)


def seconds_text(seconds: float) -> str:
    """Return a duration as people say it: ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class PlainProgress:
    """One line per finished item."""

    def __init__(self, total: int) -> None:
        self._total, self._count = total, 0
        self._began = time.monotonic()

    def start(self, item: Labelled) -> None:
        """Keep quiet until it is done: other items run beside it."""

    def note(self, item: Labelled, text: str) -> None:
        """Keep quiet: lines cannot be taken back."""

    def done(self, item: Labelled, status: str, why: str | None, seconds: float | None) -> None:
        """Print the item, its status and the time left at the mean pace so far."""
        self._count += 1
        if status == UNSUPPORTED:
            return
        left = (time.monotonic() - self._began) / self._count * (self._total - self._count)
        took = "" if seconds is None else f"{seconds:.1f} s, "
        status += f" ({one_line(why)})" if why else ""
        place = f"[{self._count:{len(str(self._total))}d}/{self._total}]"
        text = f"{place} {item.label}  {status}  {took}{seconds_text(left)} left"
        say(text, err=True)

    def __enter__(self) -> PlainProgress:
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the lines as they are."""


class BarProgress:
    """A rich progress bar with the running item, count, elapsed and remaining time."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("preparing", total=total)

    def start(self, item: Labelled) -> None:
        """Show which item runs."""
        self._bar.update(self._task, description=one_line(item.label))

    def note(self, item: Labelled, text: str) -> None:
        """Show it behind the label."""
        self._bar.update(self._task, description=one_line(f"{item.label}: {text}"))

    def done(self, item: Labelled, status: str, why: str | None, seconds: float | None) -> None:
        """Advance; an item that is not passed leaves a line above the bar."""
        if status not in ("passed", UNSUPPORTED):
            said = one_line(f"{item.label}  {status}: {why}")
            self._bar.console.print(said, markup=False, emoji=False)
        self._bar.advance(self._task)

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display."""
        self._bar.stop()
