# SPDX-License-Identifier: Apache-2.0
"""Priority classes of requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number
from pabench.workloads.requests import Requests

PRIORITY_SEED = 2**65
"""Set in the seed of the classes, so that they are independent of lengths and times."""
MOST_CLASSES = 16


def checked_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Return the shares of the classes, the most urgent first; raises ``InvalidCase``."""
    found = tuple(finite_number("share of a priority", share, low=0.0, high=1.0) for share in shares)
    if found and (len(found) > MOST_CLASSES or abs(sum(found) - 1) > 1e-6):
        rule = f"must be up to {MOST_CLASSES} shares of the requests that add up to 1"
        raise InvalidCase("priorities", ",".join(f"{share:g}" for share in found), rule)
    return found


def with_priorities(requests: Requests, shares: Sequence[float], *, seed: int) -> Requests:
    """Return the requests with a class each, drawn by ``shares``; without shares as they are."""
    shares = checked_shares(shares)
    if not shares:
        return requests
    edges = np.cumsum(shares)[:-1]
    drawn = np.random.default_rng(seed | PRIORITY_SEED).random(requests.num_requests)
    return replace(requests, priorities=np.searchsorted(edges, drawn, side="right").astype(np.int64))
