# SPDX-License-Identifier: Apache-2.0
"""What a serving run is asked for, resolved, in values that go to a worker process as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pabench.activities.serving.limits import Limits
from pabench.activities.serving.schedulers import scheduler_by_name
from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number, one_of, whole_number
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.base import PoolShape
from pabench.workloads.priorities import checked_shares

EXECUTORS = ("null", "model", "kernel")
MAX_TABLE_ENTRIES = 2**28
"""A block table with more entries (1 GiB) is almost certainly a typo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """A workload, and everything that serves it.

    Attributes:
        trace: file of requests; None to draw them.
        block_tokens, time_unit, turns: what the file does not say of itself; None for what its format has.
        lengths, outputs: specs of prompt and output lengths; None for the defaults.
        count: requests; None for all of the trace, or the default.
        arrivals, prefixes: specs; None for the default.
        priorities: shares of the priority classes, the most urgent first; none for one class.
        seed: of all draws.
        scheduler: who runs.
        allocators: names; each serves the whole workload, at each page size.
        page_sizes: tokens of a page.
        executor: one of ``EXECUTORS``.
        model: name of the model whose cache it is.
        token_bytes: of the cache, all layers together.
        cache_parts: layers, and tensors of each: 2 for keys and values, 1 for a latent cache; empty where
            nobody knows.
        pool_slots: tokens that the pool holds; rounded down to pages.
        swap_slots: the same of the swap store.
        host_slots: the same of the lower tier of the prefix cache; 0 for none.
        max_seqs: sequences at once.
        max_tokens: longest sequence; None for the longest of the workload.
        token_budget, sample_steps, prefix_cache: see ``Limits``.
        watermark: share of the pool that admission leaves available.
        check_steps: invariants are checked every so many steps; 0 for never.
        kernel_steps: the kernel executor runs the kernel every so many steps.
        ttft_limit_s, tpot_limit_s: limits of goodput, None for none.
        gpus: GPUs that a step runs on.
        step_s: of a clock that only counts steps.
        constants: of the model executor: ``weight_bytes``, ``bandwidth`` (bytes a second), ``tflops``,
            ``page_cost_s``, ``fixed_cost_s``, ``swap_gbps``; none for the other executors.
    """

    scheduler: str
    allocators: tuple[str, ...]
    page_sizes: tuple[int, ...]
    pool_slots: int
    model: str
    token_bytes: int
    trace: str | None = None
    block_tokens: int | None = None
    time_unit: str | None = None
    turns: str | None = None
    lengths: str | None = None
    outputs: str | None = None
    count: int | None = None
    arrivals: str | None = None
    prefixes: str | None = None
    priorities: tuple[float, ...] = ()
    seed: int = 0
    executor: str = "null"
    cache_parts: tuple[int, ...] = ()
    swap_slots: int = 0
    host_slots: int = 0
    max_seqs: int = 256
    max_tokens: int | None = None
    token_budget: int = 8192
    sample_steps: int = 16
    prefix_cache: bool = False
    watermark: float = 0.0
    check_steps: int = 0
    kernel_steps: int = 1
    ttft_limit_s: float | None = None
    tpot_limit_s: float | None = None
    gpus: int = 1
    step_s: float = 1.0
    constants: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        one_of("executor", self.executor, EXECUTORS)
        scheduler_by_name(self.scheduler)
        checked_shares(self.priorities)
        for field in ("pool_slots", "max_seqs", "kernel_steps", "gpus", "token_budget", "sample_steps"):
            whole_number(field, getattr(self, field), low=1, high=2**40)
        for field in ("swap_slots", "host_slots", "check_steps"):
            whole_number(field, getattr(self, field), low=0, high=2**40)
        finite_number("watermark", self.watermark, low=0.0, high=0.9)
        for field in ("ttft_limit_s", "tpot_limit_s"):
            if getattr(self, field) is not None:
                finite_number(field, getattr(self, field), low=0.0)
        if self.prefix_cache and (self.executor == "kernel" or self.check_steps):
            what = "kernel" if self.executor == "kernel" else f"check_steps = {self.check_steps}"
            raise InvalidCase("prefix_cache", True, f"has no place in a history, as {what} needs it")
        if self.host_slots and not self.prefix_cache:
            raise InvalidCase(
                "host_slots", self.host_slots, "must be 0 without --prefix-cache, whose lower tier they are"
            )
        for size in self.page_sizes:
            whole_number("page_size", size, low=1)
            if 0 < self.host_slots < size:
                raise InvalidCase("host_slots", self.host_slots, f"must be 0 or hold a page of {size} tokens")
            if not self.pool_slots // size:
                rule = f"must be at most the pool, {self.pool_slots} slots"
                raise InvalidCase("page_size", size, rule)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``config_from_dict`` reads them back."""
        return asdict(self)

    def shape(self, page_size: int, longest: int) -> PoolShape:
        """Return the pool at a page size, for sequences of up to ``longest`` tokens.

        Raises:
            InvalidCase: the block table would be too large.
        """
        pages = self.pool_slots // page_size
        width = min(pages_needed(longest, page_size), pages)
        if width * self.max_seqs > MAX_TABLE_ENTRIES:
            rule = f"makes a table of {width} pages a sequence: at most {MAX_TABLE_ENTRIES} entries"
            raise InvalidCase("max_seqs", self.max_seqs, rule, hint="larger pages, or --max-tokens")
        return PoolShape(
            num_pages=pages,
            page_size=page_size,
            max_seqs=self.max_seqs,
            max_pages_per_seq=width,
            swap_pages=self.swap_slots // page_size,
            host_pages=self.host_slots // page_size,
        )

    def limits(self, shape: PoolShape) -> Limits:
        """Return the limits of a step."""
        return Limits(
            token_budget=self.token_budget,
            reserve_pages=int(self.watermark * shape.num_pages),
            sample_steps=self.sample_steps,
            prefix_cache=self.prefix_cache,
        )


def config_from_dict(data: Mapping[str, Any]) -> ServingConfig:
    """Read ``ServingConfig.to_dict`` back, from JSON too."""
    lists = {
        name: tuple(data.get(name, ())) for name in ("allocators", "page_sizes", "priorities", "cache_parts")
    }
    return ServingConfig(**{**data, **lists})
