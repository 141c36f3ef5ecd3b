# SPDX-License-Identifier: Apache-2.0
"""One allocator at one page size, which serves the workload: an item of a serving run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pabench.activities.serving.config import ServingConfig
from pabench.activities.serving.workload import Workload
from pabench.errors import InvalidCase
from pabench.problem.identity import content_id
from pabench.run.record import Record, Status, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Implements ``Item``.

    Attributes:
        id: first 16 hex digits of the hash of all that decides the outcome.
        allocator, scheduler, executor: names.
        workload: in words.
        page_size: tokens of a page.
        num_pages: of the pool.
        max_seqs: sequences at once.
    """

    id: str
    allocator: str
    scheduler: str
    executor: str
    workload: str
    page_size: int
    num_pages: int
    max_seqs: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.allocator} under {self.scheduler}, page size {self.page_size}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the arguments of this class."""
        return asdict(self)

    def blank(self, device: str) -> Record:
        """See ``Item``."""
        return Record(
            kind="serving",
            id=self.id,
            label=self.label,
            subject=Subject(kind="allocator", name=self.allocator),
            device=device,
            status=Status.INTERRUPTED,
            details={name: value for name, value in asdict(self).items() if name != "id"},
        )


def servers_of(config: ServingConfig, workload: Workload) -> Iterator[Server]:
    """Yield allocators x page sizes.

    Raises:
        InvalidCase: a pool that cannot be made, or one that cannot hold the answers of one prompt.
    """
    forks, longest, text = workload.requests.forks, workload.longest(config), workload.text
    if forks > config.max_seqs:
        rule = f"must be at most the sequences at once, {config.max_seqs}"
        raise InvalidCase("answers of a prompt", forks, rule)
    asked = {
        "workload": [text, workload.id],
        "scheduler": config.scheduler,
        "executor": [config.executor, config.constants, config.step_s],
        "pool": [config.pool_slots, config.swap_slots, config.max_seqs, longest],
        # runs without a lower tier keep the ids they had before there was one
        **({"host": config.host_slots} if config.host_slots else {}),
        "limits": [config.token_budget, config.watermark, config.prefix_cache],
    }
    for name in config.allocators:
        for size in config.page_sizes:
            yield Server(
                id=content_id({**asked, "allocator": name, "page_size": size}),
                allocator=name,
                scheduler=config.scheduler,
                executor=config.executor,
                workload=text,
                page_size=size,
                num_pages=config.shape(size, longest).num_pages,
                max_seqs=config.max_seqs,
            )
