# SPDX-License-Identifier: Apache-2.0
"""The checks by name, for ledgers, replays and lists: what the rows of the suite ask."""

from __future__ import annotations

from pabench.checks.question import AllocatorCheck, Check, Question
from pabench.checks.suite import QUESTIONS
from pabench.checks.workloads import WORKLOADS
from pabench.errors import UnknownName

CHECKS: dict[str, Check] = {row.check.id: row.check for row in QUESTIONS if isinstance(row, Question)}
"""Checks of backends."""
ALLOCATOR_CHECKS: dict[str, AllocatorCheck] = {
    row.check.id: row.check for row in QUESTIONS if not isinstance(row, Question)
}
"""Checks of allocators."""


def check_by_id(name: str) -> Check:
    """Return a check of backends, that of workloads included; raises ``UnknownName``."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    if name not in CHECKS:
        raise UnknownName("check", name, [*CHECKS, *ALLOCATOR_CHECKS])
    return CHECKS[name]
