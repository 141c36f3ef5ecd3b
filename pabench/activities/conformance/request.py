# SPDX-License-Identifier: Apache-2.0
"""What a conformance run is asked for; goes to a worker process as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pabench.checks.scope import EVERYTHING, Scope, scope_from_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceRequest:
    """What to judge and how hard.

    Attributes:
        backends: names of attention backends.
        allocators: names of page allocators.
        profile: of ``suites/conformance/profiles.toml``.
        seed: of the generated cases.
        select: which questions, as ``-k`` says it (see ``checks/selection.py``), or None for all.
        questions: ids of the only ones to ask, in this order; empty for all.
        stop: end with the first failure, and do not make it smaller.
        scope: what the cases are drawn from.
        spec: version of the specification whose questions alone are asked, or None.
        workloads: file of workloads for Solutions; None for those that pabench brings.
        secret: what is told of a secret seed in place of it; empty for a seed that anybody may know.
    """

    backends: tuple[str, ...]
    allocators: tuple[str, ...]
    profile: str
    seed: int
    select: str | None = None
    questions: tuple[str, ...] = ()
    stop: bool = False
    scope: Scope = EVERYTHING
    workloads: str | None = None
    spec: str | None = None
    secret: str = ""

    @property
    def subjects(self) -> tuple[tuple[str, str], ...]:
        """Kind and name of all subjects, backends first."""
        backends = (("backend", name) for name in self.backends)
        return (*backends, *(("allocator", name) for name in self.allocators))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``request_from_dict`` reads them back."""
        return asdict(self)


def request_from_dict(data: dict[str, Any]) -> ConformanceRequest:
    """Read ``ConformanceRequest.to_dict`` back from JSON."""
    names = {key: tuple(data[key]) for key in ("backends", "allocators", "questions")}
    return ConformanceRequest(**{**data, **names, "scope": scope_from_dict(data["scope"])})
