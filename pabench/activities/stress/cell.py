# SPDX-License-Identifier: Apache-2.0
"""What a stress run does: cells, one scenario of one allocator at one size each.

``scenarios.py`` says what a scenario is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pabench.errors import InvalidCase
from pabench.problem.checks import one_of, whole_number
from pabench.problem.identity import content_id
from pabench.run.record import Record, Status, Subject

SIZED = ("requests", "pages")
SCENARIOS = ("requests", "pages", "churn", "oversubscription", "fill")
MAX_EXPONENT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StressCell:
    """One item of the journal.

    Attributes:
        allocator: its name.
        scenario: of ``SCENARIOS``.
        size: requests or pages of a sized scenario; 0 for the others.
        num_pages: of the pool, where the size does not say.
        page_size: tokens of a page.
        rounds: of the scenarios that go on and on.
        seed: of what is drawn.
    """

    allocator: str
    scenario: str
    size: int
    num_pages: int
    page_size: int
    rounds: int
    seed: int

    def __post_init__(self) -> None:
        one_of("scenario", self.scenario, SCENARIOS)
        sized = self.scenario in SIZED
        limits = {"size": (1 if sized else 0, 2**MAX_EXPONENT if sized else 0), "num_pages": (16, 2**20)}
        limits |= {"page_size": (1, 2**16), "rounds": (1, 10_000), "seed": (0, 2**63 - 1)}
        for field, (low, high) in limits.items():
            whole_number(field, getattr(self, field), low=low, high=high)

    @property
    def check(self) -> str:
        """The scenario, with its size in brackets where it has one."""
        return f"{self.scenario}[{self.size}]" if self.size else self.scenario

    @property
    def label(self) -> str:
        """Allocator, scenario and size."""
        return f"{self.allocator} {self.check}"

    @property
    def id(self) -> str:
        """Allocator, scenario, size and a hash of the rest."""
        return f"{self.allocator}-{self.scenario}-{self.size}-{content_id(asdict(self))}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the arguments of this class."""
        return asdict(self)

    def blank(self, device: str) -> Record:
        """See ``Item``."""
        return Record(
            kind="stress",
            id=self.id,
            label=self.label,
            subject=Subject(kind="allocator", name=self.allocator),
            device=device,
            status=Status.INTERRUPTED,
            details={
                "check": self.check,
                "scenario": self.scenario,
                "size": self.size,
                "num_pages": self.size or self.num_pages,
                "page_size": self.page_size,
                "rounds": self.rounds,
                "seed": self.seed,
            },
        )


def stress_cells(
    allocators: Sequence[str],
    *,
    scenarios: Sequence[str] = SCENARIOS,
    max_requests: int = 2**MAX_EXPONENT,
    num_pages: int = 2**14,
    page_size: int = 16,
    rounds: int = 40,
    seed: int = 0,
) -> Iterator[StressCell]:
    """Yield the cells of a run: for each allocator the scenarios, the sized ones at powers of four.

    Args:
        allocators: their names.
        scenarios: of ``SCENARIOS``.
        max_requests: the largest size, itself included; at most ``2**MAX_EXPONENT``.
        num_pages, page_size, rounds, seed: see ``StressCell``.

    Raises:
        InvalidCase: a number is out of range.
    """
    if not 1 <= max_requests <= 2**MAX_EXPONENT:
        raise InvalidCase("max_requests", max_requests, f"must be from 1 to {2**MAX_EXPONENT}")
    steps = [4**exponent for exponent in range(MAX_EXPONENT // 2 + 1)]
    sizes = sorted({size for size in steps if size <= max_requests} | {max_requests})
    for allocator in allocators:
        for scenario in scenarios:
            for size in sizes if scenario in SIZED else (0,):
                yield StressCell(
                    allocator=allocator,
                    scenario=scenario,
                    size=size,
                    num_pages=num_pages,
                    page_size=page_size,
                    rounds=rounds,
                    seed=seed,
                )
