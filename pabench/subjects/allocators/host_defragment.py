# SPDX-License-Identifier: Apache-2.0
"""Where pages go so that those in use lie together, from id 0 on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pabench.problem.dtypes import Array


class Moves(NamedTuple):
    """Which page goes where.

    Attributes:
        sources, targets: int32 page ids, both rising; no page is in both.
        new: int32, the id that each page has from now on, and ``NULL_PAGE`` behind them for itself.
        free: int32, the ids that are free then, rising.
    """

    sources: Array
    targets: Array
    new: Array
    free: Array

    def copies(self, page_size: int) -> Array:
        """Return int32 ``(n, 3)``: source, target, and all slots of a page."""
        slots = np.full(self.sources.size, page_size, np.int32)
        return np.stack((self.sources, self.targets, slots), axis=1)


def moves_of(free: Array, num_pages: int) -> Moves:
    """Return the fewest moves, where ``free`` are the ids that nobody uses."""
    idle = np.zeros(num_pages, bool)
    idle[free] = True
    used = num_pages - free.size
    sources = (np.flatnonzero(~idle[used:]) + used).astype(np.int32)
    targets = np.flatnonzero(idle[:used]).astype(np.int32)
    new = np.append(np.arange(num_pages, dtype=np.int32), np.int32(-1))
    new[sources] = targets
    return Moves(sources, targets, new, np.arange(used, num_pages, dtype=np.int32))
