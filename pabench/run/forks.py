# SPDX-License-Identifier: Apache-2.0
"""Notices copies of a worker: a backend that forks comes back from one call twice."""

from __future__ import annotations

import os
import select

WAIT_SECONDS = 2.0
"""How long a copy that the interpreter knows of is waited for; it does what its parent has just done."""
FORKED = "forked: a copy of the process came back from the backend"


class ForkGuard:
    """Made once in a worker, asked after each call of foreign code."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._forks = 0
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.register_at_fork(after_in_parent=self._count)

    def copy_came_back(self) -> bool:
        """Whether a copy has come back since the last call; in the copy itself this does not return."""
        if os.getpid() != self._owner:
            os.write(self._write, b"x")
            os._exit(0)
        # a fork by way of C is not counted, but heard of as soon as its copy is here
        wait, self._forks = (WAIT_SECONDS if self._forks else 0.0), 0
        if not select.select([self._read], [], [], wait)[0]:
            return False
        os.read(self._read, 4096)
        return True

    def _count(self) -> None:
        self._forks += 1
