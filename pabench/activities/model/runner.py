# SPDX-License-Identifier: Apache-2.0
"""Continuous batching of real prompts: ``serving`` decides who runs, the model makes the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import numpy as np

from pabench.activities.model.attention import Judgement, Member, PagedAttention
from pabench.activities.model.choose import choose
from pabench.activities.model.job import Job
from pabench.activities.model.language import LanguageModel
from pabench.activities.model.memory import PREFIXES, Copied, PagedMemory, pool_for
from pabench.activities.serving.driver import Driver
from pabench.activities.serving.executors import StepWork
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.schedulers import Scheduler, scheduler_by_name
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.results import NULL_PAGE, Prompt
from pabench.subjects.backends.base import Backend
from pabench.subjects.registry import load_allocator
from pabench.workloads.requests import Requests


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """The pages at the end of a step.

    Attributes:
        step: number, from 1 on.
        new_tokens: by sequence that ran.
        tables: pages of each live sequence, by name.
        shared_pages: pages that more than one sequence holds.
        copied: pages that were copied in it.
        preempted: prompts that gave up their pages.
        took_ns: of the host, model and judge included.
    """

    step: int
    new_tokens: dict[str, int]
    tables: dict[str, tuple[int, ...]]
    shared_pages: int
    copied: tuple[Copied, ...]
    preempted: int
    took_ns: int


@dataclass(slots=True, kw_only=True)
class Generation:
    """What came of a job at one page size.

    Attributes:
        answers: tokens by prompt and answer.
        logits: of each of them, as they were chosen from.
        steps: the pages over time.
        judgement: of attention, layer by layer.
        hits: prompt tokens found in the prefix cache.
        preemption: ``swap`` or ``recompute``.
    """

    answers: list[list[list[int]]]
    logits: dict[tuple[int, int, int], Array] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    judgement: Judgement = field(default_factory=lambda: Judgement([]))
    hits: int = 0
    preemption: str = "recompute"


class _Driver(Driver):
    """The driver of ``serving`` with real tokens for the prefix cache, and one preemption on request."""

    job: Job
    generation: Generation
    memory: PagedMemory

    def _decode(self) -> int:
        # alone in the pool, nobody could ever give it its pages back
        if self.number == self.job.preempt_step and len(self.running) > 1 and self._decoding().size:
            self.memory.refuse_once()
        return super()._decode()

    def _words(self, request: int, tokens: int) -> Prompt | None:
        if not self.limits.prefix_cache:
            return None
        known = (*self.job.tokens[request], *self.generation.answers[request][0])
        return Prompt(tokens=known[:tokens])


class _ModelExecutor:
    """Runs the model over what the driver has given room to; each step takes one unit of the clock."""

    name = "language-model"
    provenance = "counted"

    def __init__(self, model: LanguageModel, job: Job, attention: PagedAttention, found: Generation) -> None:
        self._model, self._job, self._attention, self._found = model, job, attention, found
        self.driver: Any = None
        self.ran: dict[str, int] = {}

    def step(self, work: StepWork) -> float:
        """See ``Executor``."""
        members, owners = self._members()
        self.ran = {member.name: len(member.tokens) for member in members}
        if not members:
            return 1.0
        self._attention.begin(members)
        ends = np.cumsum([len(member.tokens) for member in members])
        logits = self._model.forward(
            [token for member in members for token in member.tokens],
            [
                place
                for member in members
                for place in range(member.length - len(member.tokens), member.length)
            ],
            (ends - 1).tolist(),
            self._attention,
        )
        for row, (request, answers, whole) in zip(logits, owners, strict=True):
            for answer in answers if whole else ():
                self._add(request, answer, row)
        return 1.0

    def _add(self, request: int, answer: int, logits: Array) -> None:
        tokens = self._found.answers[request][answer]
        self._found.logits[request, answer, len(tokens)] = logits
        chosen = choose(logits, self._job, prompt=request, answer=answer, place=len(tokens))
        tokens.append(chosen.token)

    def _members(self) -> tuple[tuple[Member, ...], list[tuple[int, tuple[int, ...], bool]]]:
        """Who has new tokens; and for each its prompt, the answers its logits serve, and whether they do."""
        memory, job = self._attention.memory, self._job
        granted, memory.granted = memory.granted, {}
        members, owners = [], []
        for request, seat in self.driver.running.items():
            if self.driver.log.generated[request] == 0 and not seat.end:
                # begun, or begun anew: answers to come
                self._found.answers[request] = [[] for _ in range(job.samples)]
            for answer, slot in enumerate(seat.slots[: seat.live]):
                if slot not in granted:
                    continue
                known = (*job.tokens[request], *self._found.answers[request][answer])
                length = int(memory.subject.length(slot) or 0)
                tokens = known[length - granted[slot] : length]
                name = f"prompt {request} answer {answer}"
                members.append(Member(slot=slot, name=name, tokens=tokens, length=length))
                # before it forks, the first sequence makes the first token of every answer
                serves = (answer,) if seat.end else tuple(range(job.samples))
                owners.append((request, serves, length == len(known)))
        return tuple(members), owners


def chosen_scheduler(job: Job, allocator: str, scheduler: str | None) -> Scheduler:
    """Return the scheduler of a run, ``swap`` or ``fcfs`` as the allocator can where nobody asks for one.

    Raises:
        UnknownName: no such allocator or scheduler.
        Unsupported: the allocator lacks what scheduler or answers need.
    """
    can = load_allocator(allocator).capabilities.operations
    chosen = scheduler_by_name(scheduler or ("swap" if "swap_out" in can else "fcfs"))
    if job.samples > 1 and "fork" not in can:
        raise Unsupported(f"{allocator} offers no fork, which {job.samples} answers to a prompt need")
    if chosen.preemption == "swap" and "swap_out" not in can:
        raise Unsupported(f"{allocator} offers no swap_out, which the scheduler {chosen.name} needs")
    return chosen


def generate(
    model: LanguageModel,
    job: Job,
    *,
    backend: Backend,
    device: Device,
    allocator: str,
    page_size: int,
    dtype: str,
    scheduler: str | None = None,
    judged: bool = True,
    alive: Callable[[int], None] = lambda step: None,
) -> Generation:
    """Answer all prompts of a job in one continuous batch; ends early at the first fault of attention.

    Args:
        model: makes keys, values, queries and logits.
        job: prompts and answers.
        backend: attends, on ``device``.
        device: where the cache lies.
        allocator: of ``pabench list allocators``.
        page_size: tokens of a page.
        dtype: storage type of queries, cache and attention's output.
        scheduler: of ``pabench list schedulers``; None for ``swap`` where the allocator swaps, else ``fcfs``.
        judged: compare each layer of each step with the oracle.
        alive: told the number of the step, after each layer of it.

    Raises:
        InvalidCase: a number out of range.
        Unsupported: backend or allocator cannot do it, or the allocator never finds room for a prompt.
        UnknownName: no such allocator, scheduler or storage type.
    """
    problem = model.sizes.problem(page_size=page_size, dtype=dtype)
    num_pages = job.pages(page_size)
    chosen = chosen_scheduler(job, allocator, scheduler)
    swaps = chosen.preemption == "swap"
    seqs = len(job.prompts) * job.samples
    shape = pool_for(
        page_size=page_size,
        num_pages=num_pages,
        # shared pages go there once a sequence
        swap_pages=seqs * pages_needed(job.longest, page_size) if swaps else 0,
        max_seqs=seqs,
        longest_tokens=job.longest,
    )
    memory = PagedMemory(
        load_allocator(allocator).make(device, shape), device, problem, model.sizes.num_layers
    )
    attention = PagedAttention(
        backend=backend,
        device=device,
        memory=memory,
        problem=problem,
        judged=judged,
        alive=lambda: alive(driver.number),
    )
    answers: list[list[list[int]]] = [[[] for _ in range(job.samples)] for _ in job.prompts]
    found = Generation(answers=answers, preemption=chosen.preemption)
    found.judgement = attention.judgement
    executor = _ModelExecutor(model, job, attention, found)
    requests = Requests(
        name="prompts",
        prompt_tokens=np.array([len(tokens) for tokens in job.tokens]),
        output_tokens=np.full(len(job.tokens), job.max_new_tokens),
        arrival_s=np.arange(len(job.tokens), dtype=np.float64) * job.stagger,
        forks=job.samples,
    )
    limits = Limits(prefix_cache=memory.capabilities.operations >= PREFIXES)
    driver = _Driver(requests, memory, chosen, executor, limits)
    driver.job, driver.generation, driver.memory = job, found, memory
    executor.driver = driver
    while found.judgement.wrong is None:
        began = perf_counter_ns()
        preempted = int(sum(driver.log.preemptions))
        if not driver.step():
            break
        went = int(sum(driver.log.preemptions)) - preempted
        found.steps.append(_record(driver, executor.ran, went, perf_counter_ns() - began))
    if driver.log.skipped:
        request, reason = min(driver.log.skipped.items())
        raise Unsupported(f"{allocator}: prompt {request} of {len(job.tokens[request])} tokens {reason}")
    found.hits = int(sum(driver.log.hit))
    return found


def _record(driver: _Driver, ran: dict[str, int], preempted: int, took_ns: int) -> StepRecord:
    memory, tables = driver.memory, {}
    for request, seat in driver.running.items():
        for answer, slot in enumerate(seat.slots[: seat.live]):
            tables[f"prompt {request} answer {answer}"] = memory.subject.pages(slot)
    held = [page for pages in tables.values() for page in pages if page != NULL_PAGE]
    _, counts = np.unique(held, return_counts=True)
    copied, memory.copied = tuple(memory.copied), []
    return StepRecord(
        step=driver.number,
        new_tokens=ran,
        tables=tables,
        shared_pages=int((counts > 1).sum()),
        copied=copied,
        preempted=preempted,
        took_ns=took_ns,
    )
