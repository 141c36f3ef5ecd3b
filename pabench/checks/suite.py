# SPDX-License-Identifier: Apache-2.0
"""The suite: every question in the order in which a subject is asked."""

from __future__ import annotations

from pabench.checks.question import AnyQuestion
from pabench.checks.questions.allocators import ALLOCATORS
from pabench.checks.questions.append import APPENDS, COPIES, GATHERS
from pabench.checks.questions.contract import CONTRACT
from pabench.checks.questions.decode import DECODES
from pabench.checks.questions.formats import FORMATS_ASKED
from pabench.checks.questions.masks import MASKED_PROMPTS, MASKS_ASKED
from pabench.checks.questions.merge import MERGES
from pabench.checks.questions.prefill import PREFILLS
from pabench.checks.questions.relations import RELATED
from pabench.checks.questions.scales import SCALES_ASKED
from pabench.errors import UnknownName

CHAPTERS = "SDQFXAKGMPC"
"""First letters of the clauses in the order of docs/specification.md."""

QUESTIONS: tuple[AnyQuestion, ...] = (
    *ALLOCATORS,
    *APPENDS,
    *CONTRACT,
    *COPIES,
    *DECODES,
    *FORMATS_ASKED,
    *GATHERS,
    *MASKS_ASKED,
    MASKED_PROMPTS,
    *MERGES,
    *PREFILLS,
    *RELATED,
    *SCALES_ASKED,
)
BY_ID: dict[str, AnyQuestion] = {row.id: row for row in QUESTIONS}
if len(BY_ID) < len(QUESTIONS):
    raise TypeError("two rows of the suite have one id")


def question_by_id(name: str) -> AnyQuestion:
    """Return a question; raises ``UnknownName``."""
    if name not in BY_ID:
        raise UnknownName("question", name, BY_ID)
    return BY_ID[name]


def questions_for(subject_kind: str) -> tuple[AnyQuestion, ...]:
    """Return the questions that are put to a ``backend`` or an ``allocator``."""
    return tuple(row for row in QUESTIONS if row.subject_kind == subject_kind)


def clause_map() -> dict[str, tuple[str, ...]]:
    """Return clause to the checks that test it, clauses in the order of the specification's chapters."""
    found = {clause for row in QUESTIONS for clause in row.clauses}
    ordered = sorted(found, key=lambda clause: (CHAPTERS.index(clause[0]), int(clause[1:])))
    return {
        clause: tuple(dict.fromkeys(row.check.id for row in QUESTIONS if clause in row.clauses))
        for clause in ordered
    }
