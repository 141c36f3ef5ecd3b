# SPDX-License-Identifier: Apache-2.0
"""What stops a run in order, and when it must wait."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop:
    """Whether signals have to wait, and whether one does."""

    held = False
    waiting = False


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Let SIGTERM (a cancelled job) and SIGHUP (a closed terminal) end a run as Ctrl-C does.

    A second one that comes while the run is being closed is heard too, and ends it at once.
    """

    def stop(number: int, frame: object) -> None:
        if Stop.held:
            Stop.waiting = True
            return
        raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    try:
        for one in SIGNALS:
            # nohup and a shell's & have them ignored on purpose
            if one == signal.SIGHUP and signal.getsignal(one) is signal.SIG_IGN:
                continue
            before[one] = signal.signal(one, stop)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def no_stop() -> Iterator[None]:
    """Let a signal wait for what must not be torn apart; raises ``KeyboardInterrupt`` at its end."""
    if Stop.held:
        yield
        return
    Stop.held = True
    try:
        yield
    finally:
        Stop.held = False
        waiting, Stop.waiting = Stop.waiting, False
    if waiting:
        raise KeyboardInterrupt
