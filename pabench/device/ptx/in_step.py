# SPDX-License-Identifier: Apache-2.0
"""Both schedules of one launch: whether what it leaves in memory depends on lanes that run in step."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable

import numpy as np

from pabench.device.allocations import Allocation
from pabench.errors import PabenchError

MOST_BYTES = 2**28
"""Device memory that is copied before a launch; with more of it the schedules are not compared."""


class Memory:
    """What device memory holds before a launch.

    Args:
        entries: its allocations; those that were freed are left out.
    """

    def __init__(self, entries: Iterable[Allocation]) -> None:
        live = [one for one in entries if not one.freed and not one.gone]
        self.whole = sum(one.nbytes for one in live) <= MOST_BYTES
        self._held = [(one.base, _bytes_at(one.base, one.nbytes)) for one in live if self.whole]

    def compared(self, again: Callable[[], None]) -> str:
        """Return in words how what ``again`` leaves differs from what is there now, which is put back.

        Args:
            again: does once more what was done since, in another schedule.
        """
        now = [(base, _bytes_at(base, len(held))) for base, held in self._held]
        # only what was written is put back: other memory may be the host's, to be read alone
        written = [
            (base, held, found)
            for (base, held), (_, found) in zip(self._held, now, strict=True)
            if held != found
        ]
        for base, held, _ in written:
            ctypes.memmove(base, held, len(held))
        try:
            again()
        except PabenchError as error:
            return f"; in step it fails: {error}"
        finally:
            there = [_bytes_at(base, len(found)) for base, _, found in written]
            for base, _, found in written:
                ctypes.memmove(base, found, len(found))
        differ = sum(_unequal(found, other) for (_, _, found), other in zip(written, there, strict=True))
        return (
            f"; in step {differ} bytes of the result differ" if differ else "; in step the result is the same"
        )


def _bytes_at(base: int, nbytes: int) -> bytes:
    return ctypes.string_at(base, nbytes)


def _unequal(one: bytes, other: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)))
