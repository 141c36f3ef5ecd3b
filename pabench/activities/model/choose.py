# SPDX-License-Identifier: Apache-2.0
"""From logits to a token: the likeliest, or a draw that anybody can repeat."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pabench.activities.model.job import Job
from pabench.problem.dtypes import Array


class Choice(NamedTuple):
    """A token, and by how much it was chosen.

    Attributes:
        token: the one with the highest score.
        margin: its score less the second's, in units of a logit.
    """

    token: int
    margin: float


def choose(logits: Array, job: Job, *, prompt: int, answer: int, place: int) -> Choice:
    """Return the next token of an answer.

    Answer 0 takes the highest logit.  Another draws from the softmax at the job's temperature: noise of
    temperature x Gumbel(0, 1) on each logit and then the highest (the Gumbel-max trick), which needs no sum
    and makes the draw a comparison of logits like the other.  The noise depends on seed, prompt, answer and
    place alone, so that two ways to the same logits draw the same token.

    Args:
        logits: ``(vocabulary,)``.
        job: temperature and seed.
        prompt, answer: whose token.
        place: how many tokens the answer has.
    """
    scores = logits.astype(np.float64)
    if answer:
        key = np.random.SeedSequence(job.seed, spawn_key=(prompt, answer, place))
        scores = scores + job.temperature * np.random.default_rng(key).gumbel(size=scores.shape)
    second, first = np.argpartition(scores, -2)[-2:]
    return Choice(token=int(first), margin=float(scores[first] - scores[second]))
