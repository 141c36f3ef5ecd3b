# SPDX-License-Identifier: Apache-2.0
"""A pool and its launches as a trial sees them: what came out, and what the pool is like afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pabench.kernels import page_pool
from pabench.problem.dtypes import Array


class Launched(NamedTuple):
    """What a launch of requests gave.

    Attributes:
        pages: int32 ``(n, most)``, the pages of each request, -1 where there is none.
        served: int32 ``(n,)``, 1 for a request that was served, 0 for one that was refused.
        violations: uint32 ``(3,)``, see ``page_pool.Stamps``.
        free: entries of the free list when the launch is over.
    """

    pages: Array
    served: Array
    violations: Array
    free: list[int]


class Churned(NamedTuple):
    """What a churn gave: ``served`` is how often each thread was served, the rest as in ``Launched``."""

    served: Array
    violations: Array
    free: list[int]


class PoolLaunches:
    """Launches on one pool.

    Args:
        pool: all of its pages free.
    """

    def __init__(self, pool: page_pool.PoolState) -> None:
        self._pool = pool

    @property
    def num_pages(self) -> int:
        """Pages of the pool."""
        return self._pool.num_pages

    def launch(self, counts: Sequence[int], gone: Sequence[int], kept: Sequence[int]) -> Launched:
        """Ask for pages and give others back at the same time.

        Args:
            counts: pages of each request.
            gone: pages that are given back; somebody holds them.
            kept: pages that somebody holds and keeps.
        """
        stamps = page_pool.new_stamps(self._pool, np.array([*gone, *kept], np.int64))
        out, served = page_pool.batch(
            self._pool, stamps, np.array(counts, np.int64), np.array(gone, np.int64)
        )
        return Launched(self._host(out), self._host(served), self._host(stamps.violations), self.free())

    def churn(self, held: Sequence[int], *, threads: int, rounds: int, most: int) -> Churned:
        """Let threads take and give back up to ``most`` pages for some rounds, while others are held."""
        stamps = page_pool.new_stamps(self._pool, np.array(held, np.int64))
        # two blocks, so that two cores take part where there are as many
        served = page_pool.churn(
            self._pool, stamps, blocks=2, threads=32 * -(-threads // 64), rounds=rounds, most=most
        )
        return Churned(self._host(served), self._host(stamps.violations), self.free())

    def free(self) -> list[int]:
        """Return the free list."""
        return page_pool.free_list(self._pool)

    def _host(self, array: object) -> Array:
        self._pool.device.synchronize()
        return self._pool.device.to_host(array)
