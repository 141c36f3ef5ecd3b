# SPDX-License-Identifier: Apache-2.0
"""A bench of ``pabench serving`` in whose worker process some allocators break."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pabench.activities.serving.bench import ServingBench
from pabench.activities.serving.plug import Serving
from pabench.run.plug import Env
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.peers.named import NamedSubject

HERE = Path(__file__).resolve()


class Raising(HostAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        raise KeyError("no such sequence")


class Crashing(HostAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        os.abort()


class Hanging(HostAllocator):
    def free(self, sequences: Sequence[int]) -> None:
        time.sleep(3600)


class Losing(HostAllocator):
    """Loses a page at every third free, and is right otherwise."""

    frees = 0

    def free(self, sequences: Sequence[int]) -> None:
        super().free(sequences)
        self.frees += 1
        self._ring.take(int(self.frees % 3 == 0))


class Keeping(HostAllocator):
    """Keeps a prefix page for good that no lookup finds any more."""

    @property
    def evictable_pages(self) -> int:
        return max(super().evictable_pages - 1, 0)


BROKEN = {
    name: NamedSubject(about="broken", place=f"tests.support.serving_work:{made.__name__}")
    for name, made in (("raises", Raising), ("crashes", Crashing), ("hangs", Hanging))
}


class BrokenBench(ServingBench):
    """As shipped, with allocators that break."""

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        ALLOCATORS.update(BROKEN)
        super().__init__(setup, env)


class BrokenServing(Serving):
    """``pabench serving`` with that bench."""

    bench = f"{HERE}:BrokenBench"
