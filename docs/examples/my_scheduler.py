# SPDX-License-Identifier: Apache-2.0
"""Schedulers of one's own: short requests first, and the longest is preempted."""

from __future__ import annotations

from collections.abc import Sequence

from pabench.activities.serving.schedulers import Candidate, Scheduler


def tokens(candidate: Candidate) -> float:
    return candidate.prompt_tokens + candidate.output_tokens


def longest(running: Sequence[Candidate]) -> int:
    return max(running, key=tokens).request


SHORT_FIRST = Scheduler(
    name="short-first",
    about="the shortest request is admitted first, the longest is preempted",
    order=tokens,
    victim=longest,
)

URGENT_FIRST = Scheduler(
    name="urgent-first",
    about="urgent requests first, of equals the short ones; whoever waits takes the place of those behind it",
    order=lambda candidate: candidate.priority * 10**9 + tokens(candidate),
    preempts=True,
)
