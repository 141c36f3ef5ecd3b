"""Who runs next, and who goes when pages run out; a scheduler is a handful of choices."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import UnknownName
from pabench.problem.checks import one_of

PREEMPTIONS = ("recompute", "swap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """Requests are admitted first come, first served; the newest goes first when pages run out.

    Attributes:
        name: as on the command line.
        about: one line for lists.
        static: admit only when nobody runs, and give pages back only when all have finished.
        chunked: split prompts so that a step computes at most the token budget.
        preemption: ``recompute``: pages are given up and the tokens computed again; ``swap``: pages move to
            the swap store, as long as it has room, and come back.
        allocator: the one that belongs to it, where nobody asks for another.
    """

    name: str
    about: str
    static: bool = False
    chunked: bool = False
    preemption: str = "recompute"
    allocator: str = "host"

    def __post_init__(self) -> None:
        one_of("preemption", self.preemption, PREEMPTIONS)


SCHEDULERS: dict[str, Scheduler] = {
    scheduler.name: scheduler
    for scheduler in (
        Scheduler(
            name="fcfs",
            about="as vLLM: continuous batching, whole prompts, recompute on preemption (Kwon et al., 2023)",
        ),
        Scheduler(
            name="sarathi",
            about="chunked prefill under a token budget, decodes first (Agrawal et al., 2024)",
            chunked=True,
        ),
        Scheduler(name="swap", about="as fcfs, but victims go to the swap store", preemption="swap"),
        Scheduler(
            name="static",
            about="a batch is filled once and waits for its slowest (before Orca)",
            static=True,
            allocator="contiguous",
        ),
        Scheduler(
            name="orca-max",
            about="continuous batching, room for the longest length there may be (Yu et al., 2022)",
            allocator="buddy-max",
        ),
        Scheduler(
            name="orca-pow2",
            about="as orca-max, room for the output rounded up to a power of two",
            allocator="buddy",
        ),
        Scheduler(
            name="orca-oracle",
            about="as orca-max, room for the true output",
            allocator="buddy-oracle",
        ),
    )
}


def scheduler_by_name(name: str) -> Scheduler:
    """Return a scheduler; raises ``UnknownName``."""
    if name not in SCHEDULERS:
        raise UnknownName("scheduler", name, SCHEDULERS)
    return SCHEDULERS[name]
