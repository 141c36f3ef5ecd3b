# SPDX-License-Identifier: Apache-2.0
"""Who runs next, and who goes when pages run out; a scheduler is a handful of choices.

One of your own is named by its place, ``file.py:name`` or ``module:name``; an installed package brings one as
an entry point of the group ``pabench.schedulers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.checks import one_of
from pabench.subjects.importing import import_place
from pabench.subjects.registry import resolve_place

PREEMPTIONS = ("recompute", "swap")
GROUP = "pabench.schedulers"


Rank = Callable[[int], tuple[float, int]]
"""Of a request by its number: the least is served first, and goes last."""


class Candidate(NamedTuple):
    """A request that waits, or that may have to go.

    Attributes:
        request: its number, in order of arrival.
        prompt_tokens, output_tokens: what it asks for.
        preemptions: how often it was preempted before.
        priority: its class; 0 is the most urgent.
    """

    request: int
    prompt_tokens: int
    output_tokens: int
    preemptions: int
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """Requests are admitted first come, first served, where no ``order`` says otherwise.

    Attributes:
        name: as on the command line.
        about: one line for lists.
        static: admit only when nobody runs, and give pages back only when all have finished.
        chunked: split prompts so that a step computes at most the token budget.
        preemption: ``recompute``: pages are given up and the tokens computed again; ``swap``: pages move to
            the swap store, as long as it has room, and come back.
        allocator: the one that belongs to it, where nobody asks for another.
        victim: returns the number of the request that goes when pages run out, of those that run, in order of
            admission; None for the last by ``order``, or the newest.
        order: returns a number: of the requests that wait, the one with the least is admitted first, of
            equals the one that came first.
        ahead: a step is scheduled while the one before it runs: who has its last token is seen one step
            later, and has grown by a token that nobody asked for.
        preempts: requests that run and come behind the first one that waits, by ``order``, go when that makes
            room for it.
    """

    name: str
    about: str
    static: bool = False
    chunked: bool = False
    preemption: str = "recompute"
    allocator: str = "host"
    victim: Callable[[Sequence[Candidate]], int] | None = None
    order: Callable[[Candidate], float] | None = None
    preempts: bool = False
    ahead: bool = False

    def __post_init__(self) -> None:
        one_of("preemption", self.preemption, PREEMPTIONS)
        if self.preempts and (self.order is None or self.static or self.preemption == "swap"):
            # what is swapped out comes back before anybody is admitted
            rule = "goes with an order, and neither with static batches nor with swapping"
            raise InvalidCase("preempts", True, rule)


def by_priority(candidate: Candidate) -> float:
    """Order of priority classes."""
    return candidate.priority


SCHEDULERS: dict[str, Scheduler] = {
    scheduler.name: scheduler
    for scheduler in (
        Scheduler(
            name="fcfs",
            about="as vLLM: continuous batching, whole prompts, recompute on preemption (Kwon et al., 2023)",
        ),
        Scheduler(
            name="fcfs-ahead",
            about="as fcfs, each step scheduled while the one before it runs (as vLLM's async scheduling)",
            ahead=True,
        ),
        Scheduler(
            name="sarathi",
            about="chunked prefill under a token budget, decodes first (Agrawal et al., 2024)",
            chunked=True,
        ),
        Scheduler(
            name="priority",
            about="as fcfs, urgent requests first; the least urgent is preempted (as vLLM's priority policy)",
            order=by_priority,
        ),
        Scheduler(
            name="priority-preempt",
            about="as priority, and a request that waits takes the place of less urgent ones that run",
            order=by_priority,
            preempts=True,
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


def scheduler_names() -> list[str]:
    """Return all names: our own, then those of installed packages."""
    return list(dict.fromkeys((*SCHEDULERS, *(point.name for point in _points()))))


def scheduler_by_name(name: str) -> Scheduler:
    """Return a scheduler, of our own, of an installed package, or at a place.

    Raises:
        UnknownName: no such name; the nearest is offered.
        UsageError: it cannot be loaded, is no scheduler, or two packages bring one.
    """
    if name in SCHEDULERS:
        return SCHEDULERS[name]
    if ":" in name:
        reference = resolve_place("scheduler", name)
        return _checked(name, reference.where, import_place(reference))
    found = [point for point in _points() if point.name == name]
    if not found:
        raise UnknownName("scheduler", name, scheduler_names())
    if len({point.value for point in found}) > 1:
        raise UsageError(
            f"scheduler {name!r}: two packages bring one: {' and '.join(p.value for p in found)}"
        )
    where = found[0].value
    try:
        scheduler = found[0].load()
    except Exception as error:  # somebody else's code
        raise UsageError(f"scheduler {name!r}: {where} cannot be loaded: {error}") from error
    return _checked(name, where, scheduler)


def _checked(name: str, where: str, scheduler: object) -> Scheduler:
    if not isinstance(scheduler, Scheduler):
        raise UsageError(f"scheduler {name!r}: {where} must be a Scheduler, is {type(scheduler).__name__}")
    return scheduler


def _points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))
