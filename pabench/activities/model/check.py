# SPDX-License-Identifier: Apache-2.0
"""Are the tokens those of the model's own dense attention, and by how much?

Each answer is put behind its prompt and read by the dense model once.  Where every token is what the dense
logits before it choose, the model alone, token by token, would have said the same; the first that is not is
where it would have parted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pabench.activities.model.choose import choose
from pabench.activities.model.dense import rounded_logits
from pabench.activities.model.job import Job
from pabench.activities.model.language import LanguageModel
from pabench.activities.model.runner import Generation
from pabench.problem.dtypes import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCheck:
    """One token beside what dense attention says.

    Attributes:
        token: chosen.
        dense: what the dense logits choose.
        margin: by how much they choose it: best score less the second, in units of a logit.
        error: largest difference of a logit, paged and dense.
        noise: the same of dense attention whose operands are rounded as in the cache: no pages, no kernel.
    """

    token: int
    dense: int
    margin: float
    error: float
    noise: float

    @property
    def equal(self) -> bool:
        """Whether both chose the same."""
        return self.token == self.dense

    @property
    def near_tie(self) -> bool:
        """Whether rounding alone could have turned the choice: both logits may move by the noise."""
        return self.margin <= 2.0 * self.noise


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCheck:
    """One answer.

    Attributes:
        prompt, answer: which.
        text: of it, up to the model's end token.
        tokens: each with its margin.
    """

    prompt: int
    answer: int
    text: str
    tokens: tuple[TokenCheck, ...]

    @property
    def parted(self) -> int | None:
        """Place of the first token that dense attention would not have chosen."""
        return next((place for place, token in enumerate(self.tokens) if not token.equal), None)


class DenseLogits:
    """Dense logits by sequence, kept: the same answers come back at the next page size.

    Args:
        model: asked.
        dtype: storage type for the rounded ones.
    """

    def __init__(self, model: LanguageModel, dtype: str) -> None:
        self._model, self._dtype = model, dtype
        self._kept: dict[tuple[tuple[int, ...], int], tuple[Array, Array]] = {}

    def of(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> tuple[Array, Array]:
        """Return logits before each token of an answer, ``(len(answer), vocabulary)``: dense, and the noise.

        The noise is float64 ``(len(answer),)``: the largest difference that rounding makes to a logit.
        """
        tokens = (*prompt, *answer[:-1])
        key = tokens, len(prompt)
        if key not in self._kept:
            dense = self._model.dense(tokens)[len(prompt) - 1 :]
            rounded = rounded_logits(self._model, tokens, self._dtype)[len(prompt) - 1 :]
            self._kept[key] = dense, np.abs(dense - rounded).max(axis=1).astype(np.float64)
        return self._kept[key]


def check_answers(
    model: LanguageModel, job: Job, found: Generation, dense: DenseLogits
) -> tuple[AnswerCheck, ...]:
    """Compare each token of each answer with the dense model."""
    checks = []
    for prompt, answers in enumerate(found.answers):
        for answer, tokens in enumerate(answers):
            logits, noise = dense.of(job.tokens[prompt], tuple(tokens))
            rows = []
            for place, token in enumerate(tokens):
                right = choose(logits[place], job, prompt=prompt, answer=answer, place=place)
                paged = found.logits[prompt, answer, place]
                rows.append(
                    TokenCheck(
                        token=token,
                        dense=right.token,
                        margin=right.margin,
                        error=float(np.abs(paged - logits[place]).max()),
                        noise=float(noise[place]),
                    )
                )
            text = model.decode(_before_end(tokens, model.end_token))
            checks.append(AnswerCheck(prompt=prompt, answer=answer, text=text, tokens=tuple(rows)))
    return tuple(checks)


def _before_end(tokens: list[int], end: int | None) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
