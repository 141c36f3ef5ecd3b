# SPDX-License-Identifier: Apache-2.0
"""What a model's run is asked for, in values that go to a worker process as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pabench.activities.model.job import Job, check_prompts, job_for
from pabench.activities.model.language import LanguageModel
from pabench.activities.serving.schedulers import scheduler_by_name
from pabench.problem.dtypes import dtype_by_name

OF_JOB = ("max_new_tokens", "samples", "temperature", "seed", "preempt_step", "pool_pages")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Prompts, and what answers them; all that can be refused without a model is refused when it is made.

    Attributes:
        prompts: text.
        page_sizes: tokens of a page; each runs all prompts.
        backend, allocator: names.
        scheduler: name; None for ``swap`` where the allocator swaps, else ``fcfs``.
        dtype: storage type of queries, cache and output.
        weights: a GGUF file; None for that of the package.
        max_new_tokens, samples, temperature, seed, preempt_step, pool_pages: see ``Job``.
        capture: file that queries, keys and values of ``layers`` are written to; None for no file.
        layers: for the capture.
    """

    prompts: tuple[str, ...]
    page_sizes: tuple[int, ...]
    backend: str
    allocator: str
    scheduler: str | None
    dtype: str
    weights: str | None
    max_new_tokens: int
    samples: int
    temperature: float
    seed: int
    preempt_step: int
    pool_pages: int
    capture: str | None
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        dtype_by_name(self.dtype)
        if self.scheduler is not None:
            scheduler_by_name(self.scheduler)
        Job(prompts=self.prompts, tokens=((0,),) * len(self.prompts), **self._numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``config_from_dict`` reads them back."""
        return asdict(self)

    def job(self, model: LanguageModel) -> Job:
        """Return the prompts as ``model`` reads them; raises ``InvalidCase`` for one that is too long."""
        return job_for(model, self.prompts, **self._numbers)

    @property
    def _numbers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OF_JOB}


def config_from_dict(data: Mapping[str, Any]) -> ModelConfig:
    """Read ``ModelConfig.to_dict`` back, from JSON too."""
    lists = {name: tuple(data[name]) for name in ("prompts", "page_sizes", "layers")}
    return ModelConfig(**{**data, **lists})
