# SPDX-License-Identifier: Apache-2.0
"""Workload -> scheduler -> allocator under test -> executor, step by step on a virtual clock.

A step grows every decoding sequence by the token made last, in one call of the allocator; goes on with
prompts that were begun; brings back what was swapped out; admits from the queue; and then takes as long as
the executor says, after which every sequence has its next token.  A prompt that is done makes the first token
in the same step, so that a request of o output tokens decodes o - 1 times and ends with
``prompt + o - 1`` cached tokens.  Nothing loops over the sequences of a plain decode step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from pabench.activities.serving.arrivals import Arrivals
from pabench.activities.serving.choices import candidates_of, check_offered, outranked, rank_of, victim_of
from pabench.activities.serving.ends import Ends
from pabench.activities.serving.executors import Executor, StepWork
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.queue import Queue
from pabench.activities.serving.records import SAMPLE_COLUMNS, STEP_COLUMNS, RequestLog, Table
from pabench.activities.serving.schedulers import Scheduler
from pabench.activities.serving.seats import Seat, Seats
from pabench.errors import OutOfPages
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.results import Prompt
from pabench.workloads.requests import Requests, prompt_tokens_of

NOTHING = np.empty(0, np.int64)
NEVER_FITS, EMPTY = "never fits the pool", "has no prompt or asks for no output"


class Driver:
    """State of a run; ``step`` does one step."""

    def __init__(
        self,
        requests: Requests,
        allocator: PageAllocator,
        scheduler: Scheduler,
        executor: Executor,
        limits: Limits,
    ) -> None:
        check_offered(allocator, scheduler, requests, prefix_cache=limits.prefix_cache)
        self.requests, self.scheduler, self.executor, self.limits = requests, scheduler, executor, limits
        self.seats = Seats(allocator, limits.reserve_pages)
        swaps, tiered = scheduler.preemption == "swap", self.seats.tier is not None and limits.prefix_cache
        self._swaps, self._lowers = swaps and not tiered, swaps and tiered and requests.forks == 1
        self._kept: set[int] = set()  # preempted, what they had offered to the cache
        self.log = RequestLog(requests.num_requests)
        self.steps, self.samples = Table(STEP_COLUMNS), Table(SAMPLE_COLUMNS)
        self.clock, self.number = 0.0, 0
        self._candidate = candidates_of(requests, self.log.preemptions)
        self._rank = rank_of(scheduler, self._candidate)
        self.queue = Queue(self._rank)
        self.running: dict[int, Seat] = {}  # in order of admission
        self.swapped: deque[int] = deque()
        self.away: dict[int, Seat] = {}
        self.gaps: list[float] = []
        self._prompt, self._output = requests.prompt_tokens.tolist(), requests.output_tokens.tolist()
        self.arrivals = Arrivals(requests)
        self._prefilling: dict[int, Seat] = {}
        self._fresh: list[Seat] = []  # whose further answers are still to fork
        self._done: list[Seat] = []  # finished, its pages not given back
        self._ends = Ends(late=scheduler.ahead)
        self._final, self._mask = (np.zeros(allocator.shape.max_seqs, kind) for kind in (np.int64, bool))
        self._active, self._stale = NOTHING, False
        self._context = 0
        self._blocked = -1
        self._last_token: dict[int, float] = {}
        self._returned: deque[tuple[int, int]] = deque()  # step in which a request was swapped in

    # --- one step ----------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do one step; False when nothing is left to do."""
        if not self._arrivals():
            return False
        self.number += 1
        before = sum(self.seats.ns.values())
        yielded = self._make_way()
        preempted = self._decode()
        decodes, context = self._decoding().size, self._context
        prefills, admitted = list[tuple[int, int]](), 0
        preempted += self._go_on(prefills)
        if not preempted:
            self._swap_in()
            if not self.swapped:
                admitted = self._admit(prefills)
        moved = self.seats.take_moved()
        took = self.executor.step(StepWork(self.number, decodes, context, tuple(prefills), moved))
        self.clock += took
        # as it is while the step runs: who ends with it is still there
        running, used = len(self.running), self.seats.allocator.shape.num_pages - self.seats.available
        if self.number % self.limits.sample_steps == 0:
            row = self.clock, self.limits.sample_steps, running
            self.samples.add((*row, *self.seats.memory(self._final, blocked=self._blocked >= 0)))
        finished = self._tokens_come()
        self.steps.add(
            (
                *(self.clock, took, running, len(self.queue) + len(self.swapped), decodes),
                *(sum(new for new, _ in prefills), context, admitted, finished, preempted + yielded, used),
                sum(self.seats.ns.values()) - before,
            )
        )
        return True

    def _arrivals(self) -> bool:
        """Queue what has come; with nobody here, go to the next arrival.  False when all is done."""
        while True:
            for request in self.arrivals.come(self.clock):
                self._enqueue(request)
            if self.queue or self.running or self.swapped:
                return True
            if (at := self.arrivals.next_s()) is None:
                return False
            self.clock = at

    def _enqueue(self, request: int) -> None:
        if not self._prompt[request] or not self._output[request]:
            self._skip(request, EMPTY)
            return
        shape, final = self.seats.allocator.shape, self._last(request)
        forks, size = self.requests.forks, self.seats.allocator.shape.page_size
        # answers share the full pages of their prompt
        shared = self._prompt[request] // size
        pages = shared + forks * (pages_needed(final, size) - shared) + self.limits.reserve_pages
        if final > shape.max_tokens or pages > shape.num_pages:
            self._skip(request, NEVER_FITS)
        else:
            self.queue.come(request)

    def _skip(self, request: int, reason: str) -> None:
        self.log.skipped[request] = reason
        self.arrivals.end(request, self.clock)

    def _decoding(self) -> Array:
        if self._stale:
            self._active, self._stale = np.flatnonzero(self._mask), False
        return self._active

    def _decode(self) -> int:
        """Grow every decoding sequence by one; return how many were preempted."""
        preempted = 0
        while self._fresh:
            seat = self._fresh[0]
            try:
                self.seats.fork(seat)
            except OutOfPages:
                self._preempt()  # maybe this one, which is fresh no longer
                preempted += 1
                continue
            self._fresh.pop(0)
            self._join(seat.slots[1:])
            self._context += seat.target * (len(seat.slots) - 1)
        active = self._decoding()
        if not active.size:
            self._context = 0
            return preempted
        left = self.seats.grow_each(active)
        while left.size:
            self._preempt()
            preempted += 1
            left = left[self._mask[left]]
            if left.size:
                left = self.seats.grow_each(left)
        self._context += self._decoding().size
        if preempted:
            # a victim may have had its new token already, or not
            self._context = int(self.seats.allocator.lengths()[self._decoding()].sum())
        return preempted

    def _go_on(self, chunks: list[tuple[int, int]]) -> int:
        """Compute the next chunk of prompts that were begun; return how many requests were preempted."""
        budget = self.limits.token_budget - self._decoding().size
        for seat in self._prefilling.values():
            chunk = min(seat.target - seat.done, budget)
            if chunk <= 0:
                break
            try:
                self.seats.grow(seat.slots[0], chunk)
            except OutOfPages:
                # it keeps what it has, and waits for those that decode; nobody decodes: somebody must go
                if not self._decoding().size and not chunks:
                    self._preempt()
                    return 1
                break
            chunks.append((chunk, seat.done))
            seat.done, budget = seat.done + chunk, budget - chunk
        return 0

    def _admit(self, chunks: list[tuple[int, int]]) -> int:
        """Start requests from the queue, adding their prompts to ``chunks``; return how many."""
        scheduler, forks = self.scheduler, self.requests.forks
        if not self.queue or len(self.seats.spare) < forks or self.queue.first == self._blocked:
            return 0
        if scheduler.static and (self.running or self._done):
            return 0
        budget = self.limits.token_budget - self._decoding().size - sum(new for new, _ in chunks)
        admitted = 0
        while self.queue and len(self.seats.spare) >= forks:
            request = self.queue.first
            if request == self._blocked or (scheduler.chunked and budget <= 0):
                break
            target = self._prompt[request] + self.log.generated[request]
            whole = not scheduler.chunked
            if whole and not scheduler.static and chunks and target > budget:
                break
            seat = Seat([self.seats.spare.pop() for _ in range(forks)], target)
            chunk = target if whole else min(target, budget)
            seat.words = self._words(request, target)
            try:
                hit = self.seats.start(seat, chunk, final=self._last(request), prompt=seat.words)
            except OutOfPages:
                self.seats.spare.extend(reversed(seat.slots))
                if self.running or self.away or self._done:
                    self._blocked = request
                    break
                self.queue.leave()
                self._skip(request, NEVER_FITS)
                continue
            self.queue.leave()
            seat.done = max(chunk, hit)
            chunks.append((seat.done - hit, hit))
            budget -= seat.done - hit
            self.running[request] = self._prefilling[request] = seat
            self._final[seat.slots] = self._last(request)
            self.log.hit[request] += hit
            if request in self._kept:
                self._kept.remove(request)
                self.log.recomputed[request] += max(0, target - 1 - hit)  # the newest never was
            if self.log.scheduled_s[request] is None:
                self.log.scheduled_s[request] = self.clock
            admitted += 1
        return admitted

    def _last(self, request: int) -> int:
        """Tokens in the cache when a request leaves."""
        return int(self._prompt[request] + self._output[request] - 1 + self.scheduler.ahead)

    def _words(self, request: int, tokens: int) -> Prompt | None:
        """The first tokens of a request's prompt and output, where the prefix cache is asked."""
        if not self.limits.prefix_cache:
            return None
        extra = tokens - self._prompt[request]
        return Prompt(tokens=prompt_tokens_of(self.requests, request, extra=extra))

    def _tokens_come(self) -> int:
        """At the end of a step every prompt that is done, and every decoding sequence, has a token."""
        log, now = self.log, self.clock
        while self._returned and self._returned[0][0] < self.number:
            request = self._returned.popleft()[1]
            if request in self.running:
                self.gaps.append(now - self._last_token.pop(request))
        for request, seat in [(r, s) for r, s in self._prefilling.items() if s.done == s.target]:
            del self._prefilling[request]
            log.generated[request] += 1
            if log.first_token_s[request] is None:
                log.first_token_s[request] = now
            elif request in self._last_token:
                self.gaps.append(now - self._last_token.pop(request))
            if seat.words is not None:
                self.seats.allocator.commit(seat.slots[0], seat.words)
                seat.words = None
            left = self._output[request] - log.generated[request]
            if not left and not self.scheduler.ahead:
                self._ends.add(self.number, request)
                continue
            self._decode_until(request, seat, self.number + left)
            if left and len(seat.slots) > 1:
                self._fresh.append(seat)
        finished, seen = self._ends.come(self.number)
        for request in finished:
            log.generated[request], log.finish_s[request] = self._output[request], now
            self.arrivals.end(request, now)
        for request in seen:
            self._leave(request)
        if seen:
            self._release()
        return len(finished)

    # --- coming and going --------------------------------------------------------------------------------

    def _decode_until(self, request: int, seat: Seat, end: int) -> None:
        seat.end = end
        self._ends.add(end, request)
        self._join(seat.slots[: seat.live])
        self._context += sum(self.seats.lengths(seat.slots[: seat.live]))

    def _join(self, slots: Iterable[int]) -> None:
        self._mask[list(slots)] = self._stale = True

    def _part(self, seat: Seat) -> None:
        """Take a seat out of the decode step; its sequences are live still."""
        if seat.end:
            slots = seat.slots[: seat.live]
            self._context -= sum(self.seats.lengths(slots))
            self._mask[slots] = False
            self._stale = True
            self._fresh = [other for other in self._fresh if other is not seat]
        self._blocked = -1

    def _leave(self, request: int) -> None:
        seat = self.running.pop(request)
        self._part(seat)
        if (words := self._words(request, self._prompt[request] + self._output[request] - 1)) is not None:
            self.seats.allocator.commit(seat.slots[0], words)
        self._done.append(seat)

    def _release(self) -> None:
        """Give back what has finished; a static batch does so when its last request has."""
        if self._done and not (self.scheduler.static and self.running):
            self.seats.leave(self._done, look=self.number % self.limits.sample_steps == 0)
            self._done.clear()

    def _make_way(self) -> int:
        """Let requests go that come behind the first one that waits, where that makes room for it."""
        if not (self.scheduler.preempts and self.queue and self._rank):
            return 0
        first, size = self.queue.first, self.seats.allocator.shape.page_size
        target = self._prompt[first] + self.log.generated[first]
        pages = pages_needed(target, size) + self.limits.reserve_pages - self.seats.available
        lacks = pages, self.requests.forks - len(self.seats.spare)
        gone = outranked(self.running, first, self._rank, self._room, lacks) if max(lacks) > 0 else []
        for request in gone:
            self._preempt(request)
        return len(gone)

    def _room(self, request: int) -> tuple[int, int]:
        return self.seats.room(self.running[request])

    def _preempt(self, request: int | None = None) -> None:
        """Make a request go, the one that the scheduler names if none is."""
        alone = request is None and len(self.running) == 1 and not (self._done or self.away)
        if request is None:
            request = victim_of(self.scheduler, self.running, self._rank, self._candidate)
        if request in self._ends.unseen:
            self._ends.unseen.remove(request)
            self._leave(request)  # it has all that it asked for
            return self._release()
        seat = self.running.pop(request)
        self._prefilling.pop(request, None)
        slots = seat.slots[: seat.live]
        lengths = self.seats.lengths(slots)
        if seat.end:
            # its last token is not in the cache yet, and no further one comes in this step
            self.log.generated[request] = self._output[request] - (seat.end - self.number + 1)
            self._ends.remove(seat.end, request)
            self._last_token[request] = self.clock
        self._part(seat)
        self.log.preemptions[request] += 1
        if self._swaps and seat.end and self.seats.swap_out(slots):
            self.away[request] = seat
            self.swapped.appendleft(request)
            return
        if self._lowers and seat.end and (words := self._words(request, lengths[0])) is not None:
            # it comes back from the cache, or from below; what does not, is counted then
            self.seats.allocator.commit(slots[0], words)
            self._kept.add(request)
        else:
            self.log.recomputed[request] += sum(lengths)
        self.seats.leave([seat])
        if alone:
            # nobody is left whose end it could wait for
            self._skip(request, NEVER_FITS)
        else:
            self._again(request)
        self._release()

    def _again(self, request: int) -> None:
        """Queue a request whose pages are gone; one with several answers begins anew."""
        if self.requests.forks > 1:
            self.log.generated[request] = 0
        self.queue.come_again(request)

    def _swap_in(self) -> None:
        """Bring back what was swapped out, oldest first."""
        while self.swapped:
            request = self.swapped[0]
            seat = self.away[request]
            slots = seat.slots[: seat.live]
            tokens = [int(self.seats.allocator.swapped(slot) or 0) for slot in slots]
            if not self.seats.swap_in(slots, tokens):
                if self.running:
                    break
                # what was shared is not any more, so that it may never fit again
                self.seats.leave([self.away.pop(request)])
                self.log.recomputed[request] += sum(tokens)
                self._again(self.swapped.popleft())
                continue
            self.swapped.popleft()
            self.running[request] = self.away.pop(request)
            self._returned.append((self.number, request))
            left = self._output[request] - self.log.generated[request]
            self._decode_until(request, seat, self.number + left)
