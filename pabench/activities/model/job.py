# SPDX-License-Identifier: Apache-2.0
"""What a model is asked for, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.activities.model.language import LanguageModel
from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number, whole_number
from pabench.problem.layout import pages_needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Prompts, how many answers each, and how tokens are chosen.

    Attributes:
        prompts: text.
        tokens: of each prompt, as the model reads it.
        max_new_tokens: of each answer; the end token does not stop it.
        samples: answers of each prompt, forked from it when it is done.  The first takes the likeliest token,
            the others draw.
        temperature: of the draws.
        seed: of the draws.
        stagger: steps between the arrivals of two prompts.
        preempt_step: step in which the newest prompt is made to give up its pages; 0 for none.
        pool_pages: pages of the pool; 0 for as many as all answers need at once.
    """

    prompts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    max_new_tokens: int = 32
    samples: int = 2
    temperature: float = 0.7
    seed: int = 0
    stagger: int = 2
    preempt_step: int = 8
    pool_pages: int = 0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InvalidCase("prompt", self.prompts, "must be at least one")
        whole_number("max_new_tokens", self.max_new_tokens, low=1, high=2**20)
        whole_number("samples", self.samples, low=1, high=16)
        finite_number("temperature", self.temperature, low=1e-3, high=1e3)
        for field, low in (("seed", 0), ("stagger", 0), ("preempt_step", 0), ("pool_pages", 0)):
            whole_number(field, getattr(self, field), low=low, high=2**62)

    @property
    def longest(self) -> int:
        """Tokens that the longest sequence ends with in the cache; the last token never gets there."""
        return max(len(tokens) for tokens in self.tokens) + self.max_new_tokens - 1

    def pages(self, page_size: int) -> int:
        """Return the pages of the pool.

        Raises:
            InvalidCase: fewer than the longest prompt with its answers takes.
        """
        need, apart = [], 0
        for prompt in self.tokens:
            shared = len(prompt) // page_size
            final = pages_needed(len(prompt) + self.max_new_tokens - 1, page_size)
            need.append(shared + self.samples * (final - shared))
            apart += self.samples * final  # what comes back from the swap store is shared no more
        if not self.pool_pages:
            return apart
        if self.pool_pages < max(need):
            at = need.index(max(need))
            which = f"prompt {at} of {len(self.tokens[at])} tokens and its answers"
            rule = f"{which} need {max(need)} pages of {page_size}"
            raise InvalidCase("pool_pages", self.pool_pages, rule)
        return self.pool_pages


def job_for(model: LanguageModel, prompts: tuple[str, ...], **options: object) -> Job:
    """Return a job of ``prompts``.

    Raises:
        InvalidCase: no prompt, an empty one, or one that is longer than the model was made for.
    """
    check_prompts(prompts)
    tokens = tuple(model.encode(prompt) for prompt in prompts)
    job = Job(prompts=prompts, tokens=tokens, **options)  # type: ignore[arg-type]
    most = model.sizes.max_tokens
    if job.longest > most:
        raise InvalidCase(
            "prompt and max_new_tokens", job.longest, f"{model.name} takes at most {most} tokens"
        )
    return job


def check_prompts(prompts: tuple[str, ...]) -> None:
    """Raise ``InvalidCase`` for a prompt with nothing in it; needs no model."""
    for place, prompt in enumerate(prompts):
        if not prompt.strip():
            raise InvalidCase(f"prompt {place}", prompt, "must have text in it")
