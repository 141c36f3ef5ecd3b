"""What commands that write a run directory have in common."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path


def default_out(kind: str) -> Path:
    """Return ``runs/<kind>-<UTC time>``, with a number behind it when two start in the same second."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs") / f"{kind}-{stamp}", 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{kind}-{stamp}-{number}"
    return path


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM (a cancelled CI job) end a run as Ctrl-C does."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
