# SPDX-License-Identifier: Apache-2.0
"""What a step of a server may hold."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.problem.checks import whole_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a step may hold.

    Attributes:
        token_budget: tokens computed in a step; one prompt that is longer goes alone, unless it is chunked.
        reserve_pages: admission leaves so many pages available (the watermark).
        sample_steps: every so many steps memory is split.
        prefix_cache: look prompts up, and offer them when they are done.
    """

    token_budget: int = 8192
    reserve_pages: int = 0
    sample_steps: int = 16
    prefix_cache: bool = False

    def __post_init__(self) -> None:
        whole_number("token_budget", self.token_budget, low=1)
        whole_number("reserve_pages", self.reserve_pages, low=0)
        whole_number("sample_steps", self.sample_steps, low=1)
