# SPDX-License-Identifier: Apache-2.0
"""Which page size to take: a sentence that decides, and says when it would be another.

Among the sizes that engines offer, those within 1 % of the best throughput are as good as one another in
practice; of these the smallest wastes least and shares prefixes most finely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pabench.problem.step_time import StepModel

OFFERED = (16, 32, 64, 128, 256)
"""Tokens of a page that vLLM, SGLang and TensorRT-LLM can be asked for; not each of them offers all."""
WITHIN = 0.01
MOST_COST_S = 1e-6
"""Highest cost of a page that is looked at: a hundred times what a short burst costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A page size to take.

    Attributes:
        size: to take.
        low, high: smallest and largest size about as good.
        waste: share of the held slots at ``size`` that no token fills.
        most_waste: the same at ``high``.
        other_size, other_cost_s: what it would be from which cost of a page on; 0 where no cost changes it.
        page_cost_s: cost that it holds for.
    """

    size: int
    low: int
    high: int
    waste: float
    most_waste: float
    other_size: int
    other_cost_s: float
    page_cost_s: float

    @property
    def sentence(self) -> str:
        """One sentence for people."""
        now = f"{self.page_cost_s * 1e9:g} ns a page and step"
        if self.low == self.high:
            why = f"the others are more than 1 % slower (modelled); it wastes {self.waste:.1%}"
        else:
            wastes = f"{self.low} wastes {self.waste:.1%}, {self.high} wastes {self.most_waste:.1%}"
            why = f"{self.low} to {self.high} differ by less than 1 % (modelled), and {wastes}"
        if self.other_size:
            other = f"it would be {self.other_size} from {self.other_cost_s * 1e9:.3g} ns on (here {now})"
        else:
            other = f"no cost up to {MOST_COST_S * 1e9:,.0f} ns a page and step would change it"
        return f"take page size {self.size}: {why}; {other}"


def advise(step: StepModel, pool_bytes: float, wastes: Sequence[float] | None = None) -> Advice:
    """Return the page size to take where memory limits the batch.

    Args:
        step: constants of a step.
        pool_bytes: of the pool.
        wastes: share of the held slots that no token fills, for each of ``OFFERED``; of lengths that are
            spread evenly where it is not known.
    """
    if wastes is None:
        wastes = [(size - 1) / 2 / (step.mean_tokens + (size - 1) / 2) for size in OFFERED]
    good = _good(step, pool_bytes)
    other_size, other_cost = _other(step, pool_bytes, good[0])
    return Advice(
        size=good[0],
        low=good[0],
        high=good[-1],
        waste=wastes[OFFERED.index(good[0])],
        most_waste=wastes[OFFERED.index(good[-1])],
        other_size=other_size,
        other_cost_s=other_cost,
        page_cost_s=step.page_cost_s,
    )


def _good(step: StepModel, pool_bytes: float) -> list[int]:
    """Sizes within 1 % of the best of ``OFFERED``."""
    found = [step.full_throughput(pool_bytes, size) for size in OFFERED]
    least = (1 - WITHIN) * max(found)
    return [size for size, value in zip(OFFERED, found, strict=True) if value >= least]


def _other(step: StepModel, pool_bytes: float, size: int) -> tuple[int, float]:
    """The size that it would be, and the least cost of a page above today's at which it is; 0 for none."""

    def at(cost: float) -> int:
        return _good(replace(step, page_cost_s=cost), pool_bytes)[0]

    low, high = step.page_cost_s, MOST_COST_S
    if low >= high or at(high) == size:
        return 0, 0.0
    # dearer pages make larger ones better, never smaller ones, so that halving finds the edge
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) == size else (low, middle)
    return at(high), high
