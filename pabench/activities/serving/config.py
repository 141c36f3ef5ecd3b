"""What a serving run is made of, resolved; and the servers that it compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pabench.activities.serving.driver import Limits
from pabench.activities.serving.executors import Executor
from pabench.activities.serving.schedulers import Scheduler
from pabench.device.base import Device
from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number, one_of, whole_number
from pabench.problem.identity import content_id
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.registry import allocator_entry
from pabench.workloads.requests import Requests

EXECUTORS = ("null", "model", "kernel")
MAX_TABLE_ENTRIES = 2**28
"""A block table with more entries (1 GiB) is a slip of the pen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """A workload, and everything that serves it.

    Attributes:
        requests: the workload.
        workload: how it was asked for, for people and for the identity of a server.
        scheduler: who runs.
        allocators: names; each serves the whole workload, at each page size.
        page_sizes: tokens of a page.
        pool_slots: tokens that the pool holds; rounded down to pages.
        swap_slots: the same of the swap store.
        max_seqs: sequences at once.
        max_tokens: longest sequence; None for the longest of the workload.
        token_budget, sample_steps, prefix_cache: see ``Limits``.
        watermark: share of the pool that admission leaves available.
        executor: one of ``EXECUTORS``.
        clock: makes the executor that tells the time, for a page size.
        check_steps: invariants are checked every so many steps; 0 for never.
        kernel_steps: the kernel executor runs the kernel every so many steps.
        ttft_limit_s, tpot_limit_s: limits of goodput, None for none.
        gpus: GPUs that a step runs on.
        page_model: throughput by page size for a mean length, as JSON values; None without a model.
    """

    requests: Requests
    workload: str
    scheduler: Scheduler
    allocators: tuple[str, ...]
    page_sizes: tuple[int, ...]
    pool_slots: int
    clock: Callable[[int], Executor]
    swap_slots: int = 0
    max_seqs: int = 256
    max_tokens: int | None = None
    token_budget: int = 8192
    sample_steps: int = 16
    prefix_cache: bool = False
    watermark: float = 0.0
    executor: str = "null"
    check_steps: int = 0
    kernel_steps: int = 1
    ttft_limit_s: float | None = None
    tpot_limit_s: float | None = None
    gpus: int = 1
    page_model: Callable[[float], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        one_of("executor", self.executor, EXECUTORS)
        for name in self.allocators:
            allocator_entry(name)
        for field in ("pool_slots", "max_seqs", "kernel_steps", "gpus"):
            whole_number(field, getattr(self, field), low=1, high=2**40)
        for field in ("swap_slots", "check_steps"):
            whole_number(field, getattr(self, field), low=0, high=2**40)
        finite_number("watermark", self.watermark, low=0.0, high=0.9)
        for field in ("ttft_limit_s", "tpot_limit_s"):
            if getattr(self, field) is not None:
                finite_number(field, getattr(self, field), low=0.0)
        if self.prefix_cache and (self.executor == "kernel" or self.check_steps):
            what = "kernel" if self.executor == "kernel" else f"check_steps = {self.check_steps}"
            raise InvalidCase("prefix_cache", True, f"has no place in a history, as {what} needs it")
        for size in self.page_sizes:
            self.shape(size)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence there may be."""
        if self.max_tokens is not None:
            return self.max_tokens
        final = self.requests.prompt_tokens + np.maximum(self.requests.output_tokens, 1) - 1
        return max(1, min(int(final.max()), self.pool_slots))

    def shape(self, page_size: int) -> PoolShape:
        """Return the pool at a page size; raises ``InvalidCase`` when it holds no page or is too large."""
        whole_number("page_size", page_size, low=1)
        pages = self.pool_slots // page_size
        if not pages:
            raise InvalidCase("page_size", page_size, f"must be at most the pool, {self.pool_slots} slots")
        width = min(pages_needed(self.longest, page_size), pages)
        if width * self.max_seqs > MAX_TABLE_ENTRIES:
            rule = f"makes a table of {width} pages a sequence: at most {MAX_TABLE_ENTRIES} entries"
            raise InvalidCase("max_seqs", self.max_seqs, rule, hint="larger pages, or --max-tokens")
        return PoolShape(
            num_pages=pages,
            page_size=page_size,
            max_seqs=self.max_seqs,
            max_pages_per_seq=width,
            swap_pages=self.swap_slots // page_size,
        )

    def limits(self, shape: PoolShape) -> Limits:
        """Return the limits of a step."""
        return Limits(
            token_budget=self.token_budget,
            reserve_pages=int(self.watermark * shape.num_pages),
            sample_steps=self.sample_steps,
            prefix_cache=self.prefix_cache,
        )

    def servers(self) -> Iterator[Server]:
        """Yield allocators x page sizes."""
        for name in self.allocators:
            for size in self.page_sizes:
                yield Server(config=self, allocator=name, page_size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One allocator at one page size, which serves the workload."""

    config: ServingConfig
    allocator: str
    page_size: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.config.scheduler.name} {self.allocator} page size {self.page_size}"

    @property
    def id(self) -> str:
        """First 16 hex digits of the hash of all that decides the outcome."""
        config = self.config
        return content_id(
            {
                "workload": config.workload,
                "scheduler": config.scheduler.name,
                "allocator": self.allocator,
                "page_size": self.page_size,
                "executor": config.executor,
                "pool": [config.pool_slots, config.swap_slots, config.max_seqs, config.longest],
                "limits": [config.token_budget, config.watermark, config.prefix_cache],
            }
        )

    def maker(self, device: Callable[[], Device]) -> Callable[[PoolShape], PageAllocator]:
        """Return what makes an empty allocator; a device is opened only for one that uses it."""
        entry = allocator_entry(self.allocator)
        entry.load()
        where: Any = device() if entry.on_device else None
        return partial(entry.make, where)
