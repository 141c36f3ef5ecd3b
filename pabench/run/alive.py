# SPDX-License-Identifier: Apache-2.0
"""Signs of life from a bench while code of our own is busy for long: reading a trace, loading weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 1.0


@contextmanager
def alive(say: Callable[[], None], *, every_s: float = EVERY_S) -> Iterator[None]:
    """Call ``say`` at once, and every ``every_s`` seconds from a thread until the block ends.

    For code of pabench alone, which has an end: a subject that hangs behind it would never be found out.  The
    block must not speak to the engine itself.
    """
    say()
    over = threading.Event()

    def tell() -> None:
        while not over.wait(every_s):
            say()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
