"""Who runs next, and who goes when pages run out; a scheduler is a handful of choices.

An installed package brings one of its own as an entry point of the group ``pabench.schedulers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.checks import one_of
from pabench.workloads.requests import Requests

PREEMPTIONS = ("recompute", "swap")
GROUP = "pabench.schedulers"


class Running(NamedTuple):
    """A request that may have to go.

    Attributes:
        request: its number, in order of arrival.
        prompt_tokens, output_tokens: what it asks for.
        preemptions: how often it went before.
    """

    request: int
    prompt_tokens: int
    output_tokens: int
    preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """Requests are admitted first come, first served.

    Attributes:
        name: as on the command line.
        about: one line for lists.
        static: admit only when nobody runs, and give pages back only when all have finished.
        chunked: split prompts so that a step computes at most the token budget.
        preemption: ``recompute``: pages are given up and the tokens computed again; ``swap``: pages move to
            the swap store, as long as it has room, and come back.
        allocator: the one that belongs to it, where nobody asks for another.
        victim: returns the number of the request that goes when pages run out, of those that run, in order of
            admission; None for the newest.
    """

    name: str
    about: str
    static: bool = False
    chunked: bool = False
    preemption: str = "recompute"
    allocator: str = "host"
    victim: Callable[[Sequence[Running]], int] | None = None

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


def scheduler_names() -> list[str]:
    """Return all names: our own, then those of installed packages."""
    return list(dict.fromkeys((*SCHEDULERS, *(point.name for point in _points()))))


def scheduler_by_name(name: str) -> Scheduler:
    """Return a scheduler, of our own or of an installed package.

    Raises:
        UnknownName: no such name; the nearest is offered.
        UsageError: the package's cannot be loaded, is no scheduler, or two packages bring one.
    """
    if name in SCHEDULERS:
        return SCHEDULERS[name]
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
    if not isinstance(scheduler, Scheduler):
        raise UsageError(f"scheduler {name!r}: {where} must be a Scheduler, is {type(scheduler).__name__}")
    return scheduler


def victim_of(
    scheduler: Scheduler, running: dict[int, Any], requests: Requests, preemptions: Sequence[int]
) -> int:
    """Return the request that goes, of those that run in order of admission.

    Raises:
        InvalidCase: the scheduler names one that does not run.
    """
    if scheduler.victim is None:
        newest: int = next(reversed(running))
        return newest
    prompt, output = requests.prompt_tokens, requests.output_tokens
    chosen = scheduler.victim([Running(r, int(prompt[r]), int(output[r]), preemptions[r]) for r in running])
    if chosen not in running:
        raise InvalidCase(f"victim of scheduler {scheduler.name!r}", chosen, "must be a request that runs")
    return chosen


def _points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))
