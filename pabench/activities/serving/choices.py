# SPDX-License-Identifier: Apache-2.0
"""What a scheduler chooses: who is next, who goes when pages run out, and who makes way for another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pabench.activities.serving.schedulers import Candidate, Rank, Scheduler
from pabench.errors import InvalidCase, Unsupported
from pabench.problem.checks import finite_number
from pabench.subjects.allocators.base import PageAllocator
from pabench.workloads.requests import Requests


def check_offered(
    allocator: PageAllocator, scheduler: Scheduler, requests: Requests, *, prefix_cache: bool
) -> None:
    """Raise ``Unsupported`` where an allocator lacks what a scheduler and a workload need of it."""
    needed = {"alloc", "append", "free"}
    needed |= {"fork"} if requests.forks > 1 else set()
    tiered = allocator.shape.host_pages > 0
    needed |= {"swap_out", "swap_in"} if scheduler.preemption == "swap" and not tiered else set()
    needed |= {"move_down", "load", "end_copy", "pin", "unpin"} if tiered else set()
    needed |= {"lookup", "adopt", "commit"} if prefix_cache else set()
    if missing := sorted(needed - allocator.capabilities.operations):
        raise Unsupported(f"{allocator.name} offers no {', '.join(missing)}")
    if requests.forks > allocator.shape.max_seqs:
        raise InvalidCase("forks", requests.forks, f"must be at most {allocator.shape.max_seqs} sequences")


def candidates_of(requests: Requests, preemptions: Sequence[int]) -> Callable[[int], Candidate]:
    """Return what makes a candidate of a request by its number."""
    prompt, output, priorities = requests.prompt_tokens, requests.output_tokens, requests.priorities

    def candidate(request: int) -> Candidate:
        priority = 0 if priorities is None else int(priorities[request])
        return Candidate(request, int(prompt[request]), int(output[request]), preemptions[request], priority)

    return candidate


def rank_of(scheduler: Scheduler, candidate: Callable[[int], Candidate]) -> Rank | None:
    """Return the rank of requests under a scheduler, None where it has no order.

    It raises ``InvalidCase`` for an order that is no number.
    """
    order = scheduler.order
    if order is None:
        return None

    def rank(request: int) -> tuple[float, int]:
        place = finite_number(f"order of scheduler {scheduler.name!r}", order(candidate(request)))
        return place, request

    return rank


def victim_of(
    scheduler: Scheduler, running: dict[int, Any], rank: Rank | None, candidate: Callable[[int], Candidate]
) -> int:
    """Return the request that goes, of those that run in order of admission.

    Raises:
        InvalidCase: the scheduler names one that does not run.
    """
    if scheduler.victim is None:
        last: int = max(running, key=rank) if rank else next(reversed(running))
        return last
    chosen = scheduler.victim([candidate(request) for request in running])
    if chosen not in running:
        raise InvalidCase(f"victim of scheduler {scheduler.name!r}", chosen, "must be a request that runs")
    return chosen


def outranked(
    running: Iterable[int],
    first: int,
    rank: Rank,
    room: Callable[[int], tuple[int, int]],
    lacks: tuple[int, int],
) -> list[int]:
    """Return who makes way for a request that waits: the last by rank, as many as it takes.

    Args:
        running: requests, of which those behind ``first`` may go.
        first: the one that waits.
        rank: of requests.
        room: pages and sequences that a request has.
        lacks: pages and sequences that ``first`` needs more than there are; nobody goes for none.

    Returns:
        Nobody, where it would not be enough.
    """
    pages, sequences = lacks
    gone: list[int] = []
    behind = (request for request in running if rank(request) > rank(first))
    for request in sorted(behind, key=rank, reverse=True):
        if pages <= 0 and sequences <= 0:
            break
        held, seats = room(request)
        pages, sequences = pages - held, sequences - seats
        gone.append(request)
    return gone if pages <= 0 and sequences <= 0 else []
