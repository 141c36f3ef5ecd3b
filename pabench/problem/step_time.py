# SPDX-License-Identifier: Apache-2.0
"""Time of a decode step, throughput, and the best page size; provenance ``modelled``.

With W bytes of weights, bandwidth BW, b bytes of cache a token, mean length S, batch n, c seconds a page and
step (table read, short burst, branch) and c0 seconds of fixed cost:

    t(n) = W / BW + n b S / BW + n c (S / P + (P - 1) / (2 P)) + c0

because a sequence of uniformly spread length has ``S / P + (P - 1) / (2 P)`` pages on average.  A kernel that
reads whole pages has ``S + (P - 1) / 2`` in the second term.  Throughput is ``X = n / t(n)``.  Where memory
limits the batch, ``n = M / (b (S + (P - 1) / 2))`` for a pool of M bytes, so that

    1 / X = A (P - 1) / 2 + c (S - 1/2) / P + const        A = (W / BW + c0) b / M

which is least at ``P* = sqrt(2 c (S - 1/2) / A)``; with whole-page reads A has ``b / BW`` on top.  The curve
is flat around it, hence the interval within a percentage of the best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number

LARGEST_PAGE = 4096
"""Largest page size that the search for the best one looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Constants of the step time.

    Attributes:
        weight_bytes: W.
        bandwidth: BW, bytes a second.
        token_bytes: b, cache of one token over all layers.
        mean_tokens: S, mean length of a running sequence.
        page_cost_s: c.
        fixed_cost_s: c0.
        whole_pages: whether the kernel reads unused slots of last pages too.
    """

    weight_bytes: float
    bandwidth: float
    token_bytes: float
    mean_tokens: float
    page_cost_s: float = 0.0
    fixed_cost_s: float = 0.0
    whole_pages: bool = False

    def __post_init__(self) -> None:
        for field in ("weight_bytes", "page_cost_s", "fixed_cost_s"):
            finite_number(field, getattr(self, field), low=0.0)
        for field in ("bandwidth", "token_bytes"):
            if finite_number(field, getattr(self, field), low=0.0) == 0.0:
                raise InvalidCase(field, getattr(self, field), "must be above 0")
        finite_number("mean_tokens", self.mean_tokens, low=0.5)

    def step_s(self, batch: float, page_size: float) -> float:
        """Return t(n) in seconds."""
        tokens, size = self.mean_tokens, page_size
        read = tokens + (size - 1) / 2 if self.whole_pages else tokens
        pages = tokens / size + (size - 1) / (2 * size)
        fixed = self.weight_bytes / self.bandwidth + self.fixed_cost_s
        return fixed + batch * (self.token_bytes * read / self.bandwidth + self.page_cost_s * pages)

    def throughput(self, batch: float, page_size: float) -> float:
        """Return X = n / t(n), tokens a second."""
        return batch / self.step_s(batch, page_size)

    def largest_batch(self, pool_bytes: float, page_size: float) -> float:
        """Return the mean batch that a pool holds, ``M / (b (S + (P - 1) / 2))``; not rounded."""
        return pool_bytes / (self.token_bytes * (self.mean_tokens + (page_size - 1) / 2))

    def full_throughput(self, pool_bytes: float, page_size: float) -> float:
        """Return X at the largest batch."""
        return self.throughput(self.largest_batch(pool_bytes, page_size), page_size)

    def best_page_size(self, pool_bytes: float) -> float:
        """Return P* in tokens, not rounded and at least 1; 1 when a page costs nothing."""
        slope = (self.weight_bytes / self.bandwidth + self.fixed_cost_s) * self.token_bytes / pool_bytes
        if self.whole_pages:
            slope += self.token_bytes / self.bandwidth
        gain = 2 * self.page_cost_s * (self.mean_tokens - 0.5)
        if slope == 0.0:
            return math.inf if gain else 1.0
        return max(1.0, math.sqrt(gain / slope))

    def best_interval(self, pool_bytes: float, *, within: float = 0.01) -> BestPages:
        """Return the whole page sizes whose throughput is within ``within`` of the best."""
        share = 1.0 - finite_number("within", within, low=0.0, high=1.0)
        curve = [self.full_throughput(pool_bytes, size) for size in range(1, LARGEST_PAGE + 1)]
        best = max(curve)
        good = [size for size, value in enumerate(curve, 1) if value >= share * best]
        return BestPages(best=curve.index(best) + 1, low=good[0], high=good[-1], throughput=best)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestPages:
    """The best whole page size, and the interval that is about as good.

    Attributes:
        best: page size of the highest throughput.
        low: smallest page size within the tolerance.
        high: largest one; ``LARGEST_PAGE`` means that the search ended there.
        throughput: at ``best``, tokens a second.
    """

    best: int
    low: int
    high: int
    throughput: float


def throughput_gain(
    contiguous_batch: float, paged_batch: float, *, fixed_s: float, per_sequence_s: float
) -> float:
    """Return X_paged / X_contiguous = ``(n_p / n_c) (w + n_c k) / (w + n_p k)``.

    It is the memory gain while weights dominate and 1 when the cache does.

    Args:
        contiguous_batch: n_c.
        paged_batch: n_p.
        fixed_s: w, seconds of a step whatever the batch.
        per_sequence_s: k, seconds that each sequence adds.
    """
    for field, value in (("contiguous_batch", contiguous_batch), ("paged_batch", paged_batch)):
        if finite_number(field, value, low=0.0) == 0.0:
            raise InvalidCase(field, value, "must be above 0")
    fixed = finite_number("fixed_s", fixed_s, low=0.0)
    each = finite_number("per_sequence_s", per_sequence_s, low=0.0)
    if fixed + each == 0.0:
        raise InvalidCase("fixed_s", fixed_s, "must be above 0 where per_sequence_s is 0")
    ratio = paged_batch / contiguous_batch
    return ratio * (fixed + contiguous_batch * each) / (fixed + paged_batch * each)
