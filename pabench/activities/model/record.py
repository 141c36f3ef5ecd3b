# SPDX-License-Identifier: Apache-2.0
"""What came of a model's run at one page size, as a record of the journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pabench.activities.model.check import AnswerCheck
from pabench.activities.model.job import Job
from pabench.activities.model.runner import Generation, StepRecord
from pabench.run.figures import figures_of
from pabench.run.record import Record, Status, Subject

COUNTED = ("ratios", "outputs", "hits", "preemptions", "copies", "margin", "error", "noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how a job runs; implements ``Item``.

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

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.model} through {self.backend}, page size {self.page_size}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the arguments of this class."""
        return asdict(self)

    def blank(self, device: str) -> Record:
        """See ``Item``."""
        asked = {name: getattr(self, name) for name in ("model", "allocator", "page_size", "dtype")}
        return Record(
            kind="model",
            id=self.id,
            label=self.label,
            subject=Subject(kind="backend", name=self.backend),
            device=device,
            status=Status.INTERRUPTED,
            details={**asked, "ratios": [], "prompts": [], "answers": [], "steps": []},
        )


def state_of(found: Generation, answers: Sequence[AnswerCheck]) -> tuple[Status, str | None]:
    """Return whether all is right, wrong, or inconclusive, and why it is not right.

    A token that dense attention would not have chosen is a failure, unless every layer was inside its bound
    and rounding the operands alone, without pages and kernels, moves logits by as much: then nobody can say.
    """
    if found.judgement.wrong is not None:
        return Status.FAILED, found.judgement.wrong.said
    parted = [answer for answer in answers if answer.parted is not None]
    if not parted:
        return Status.PASSED, None
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
    return (Status.FAILED, said) if False in ties else (Status.INCONCLUSIVE, f"a near tie: {said}")


def model_record(setting: Setting, job: Job, found: Generation, answers: Sequence[AnswerCheck]) -> Record:
    """Return the record; see ``docs/model.md`` for its fields."""
    status, reason = state_of(found, answers)
    wrong, tokens = found.judgement.wrong, [token for answer in answers for token in answer.tokens]
    values = {
        "ratios": list(found.judgement.ratios),
        "outputs": found.judgement.outputs,
        "hits": found.hits,
        "preemptions": sum(step.preempted for step in found.steps),
        "copies": sum(len(copied.pages) for step in found.steps for copied in step.copied),
        "margin": min((token.margin for token in tokens), default=None),
        "error": max((token.error for token in tokens), default=None),
        "noise": max((token.noise for token in tokens), default=None),
        "step_ns": [step.took_ns for step in found.steps],
    }
    blank = setting.blank(setting.device)
    return replace(
        blank,
        status=status,
        reason=reason,
        figures=figures_of(values, {**dict.fromkeys(COUNTED, "counted"), "step_ns": "host"}),
        details={
            **{name: value for name, value in blank.details.items() if name not in values},
            "layer": None if wrong is None else wrong.layer,
            "position": None if wrong is None else wrong.position,
            "preemption": found.preemption,
            "prompts": [
                {"text": text, "tokens": len(read)}
                for text, read in zip(job.prompts, job.tokens, strict=True)
            ],
            "answers": [_answer(answer) for answer in answers],
            "steps": [_step(step) for step in found.steps],
        },
    )


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
