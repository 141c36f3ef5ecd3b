"""The journal line of a model's run at one page size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pabench.activities.model.check import AnswerCheck
from pabench.activities.model.job import Job
from pabench.activities.model.runner import Generation, StepRecord

FIGURES = ("ratios", "outputs", "hits", "preemptions", "copies", "margin", "error", "noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how a job ran.

    Attributes:
        model, backend, allocator, device: names.
        page_size: tokens of a page.
        dtype: storage type of the cache.
    """

    model: str
    backend: str
    allocator: str
    device: str
    page_size: int
    dtype: str

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the fields."""
        said = json.dumps([getattr(self, name) for name in self.__slots__])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def state_of(found: Generation, answers: Sequence[AnswerCheck]) -> tuple[str, str | None]:
    """Return ``ok``, ``failed`` or ``inconclusive`` and why it is not ``ok``.

    A token that dense attention would not have chosen is a failure, unless every layer was inside its bound
    and rounding the operands alone, without pages and kernels, moves logits by as much: then nobody can say.
    """
    if found.judgement.wrong is not None:
        return "failed", found.judgement.wrong.said
    parted = [answer for answer in answers if answer.parted is not None]
    if not parted:
        return "ok", None
    ties = [answer.tokens[answer.parted or 0].near_tie for answer in parted]
    # a clear difference is told before a near tie
    first = parted[ties.index(False)] if False in ties else parted[0]
    place = first.parted or 0
    token = first.tokens[place]
    said = (
        f"token {place} of prompt {first.prompt} answer {first.answer} is {token.token}, dense attention "
        f"chooses {token.dense} by {token.margin:.3g}; the logits differ by {token.error:.3g}, of which "
        f"rounding alone makes {token.noise:.3g}"
    )
    return ("failed", said) if False in ties else ("inconclusive", f"a near tie: {said}")


def model_line(
    setting: Setting, job: Job, found: Generation, answers: Sequence[AnswerCheck]
) -> dict[str, Any]:
    """Return the line; see ``docs/model.md`` for its fields."""
    status, reason = state_of(found, answers)
    wrong, tokens = found.judgement.wrong, [token for answer in answers for token in answer.tokens]
    return {
        "kind": "model",
        "id": setting.id,
        "status": status,
        "reason": reason,
        "model": setting.model,
        "subject": setting.backend,
        "allocator": setting.allocator,
        "device": setting.device,
        "page_size": setting.page_size,
        "dtype": setting.dtype,
        "layer": None if wrong is None else wrong.layer,
        "position": None if wrong is None else wrong.position,
        "ratios": list(found.judgement.ratios),
        "outputs": found.judgement.outputs,
        "hits": found.hits,
        "preemption": found.preemption,
        "preemptions": sum(step.preempted for step in found.steps),
        "copies": sum(len(copied.pages) for step in found.steps for copied in step.copied),
        "margin": min((token.margin for token in tokens), default=None),
        "error": max((token.error for token in tokens), default=None),
        "noise": max((token.noise for token in tokens), default=None),
        "prompts": [
            {"text": text, "tokens": len(read)} for text, read in zip(job.prompts, job.tokens, strict=True)
        ],
        "answers": [_answer(answer) for answer in answers],
        "steps": [_step(step) for step in found.steps],
        "step_ns": [step.took_ns for step in found.steps],
        "provenance": {**dict.fromkeys(FIGURES, "counted"), "step_ns": "host"},
    }


def _answer(answer: AnswerCheck) -> dict[str, Any]:
    columns = ("token", "dense", "margin", "error", "noise")
    return {
        "prompt": answer.prompt,
        "answer": answer.answer,
        "text": answer.text,
        "parted": answer.parted,
        **{name: [getattr(token, name) for token in answer.tokens] for name in columns},
    }


def _step(step: StepRecord) -> dict[str, Any]:
    return {
        "step": step.step,
        "new_tokens": step.new_tokens,
        "tables": {name: list(pages) for name, pages in step.tables.items()},
        "shared_pages": step.shared_pages,
        "copied": [
            {"why": copied.why, "pages": [list(page) for page in copied.pages]} for copied in step.copied
        ],
        "preempted": step.preempted,
    }
