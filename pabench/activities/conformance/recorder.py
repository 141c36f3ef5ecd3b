"""Writes results down as they come: the journal line, and the case directory of a failure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pabench.activities.conformance.results import CheckResult, Failure
from pabench.activities.conformance.subject_facts import SubjectFacts
from pabench.checks.case_files import AnyCase, SavedCase, save_case
from pabench.run.directory import RunDirectory
from pabench.subjects.backends.registry import is_place


class Recording(Protocol):
    """Whom a suite tells its results."""

    @property
    def results(self) -> Sequence[CheckResult]:
        """What has been told, in order."""
        ...

    def record(self, result: CheckResult, failing: AnyCase | None = None) -> CheckResult:
        """Take one result, and the failing case where there is one; return it as it is known now."""
        ...


@dataclass(slots=True, kw_only=True)
class Recorder:
    """The only writer of a conformance run.

    Attributes:
        run: the run directory.
        subjects: version and mode of each, which its results carry.
        replay_options: options that a replay of this run's failures needs.
        on_result: told each result.
        results: what has been recorded, in order.
    """

    run: RunDirectory
    subjects: tuple[SubjectFacts, ...] = ()
    replay_options: tuple[str, ...] = ()
    on_result: Callable[[CheckResult], None] = lambda result: None
    results: list[CheckResult] = field(default_factory=list)

    def record(self, result: CheckResult, failing: AnyCase | None = None) -> CheckResult:
        """Add one result; with ``failing``, save that case as the failure that the result's reason tells.

        Returns it with version, mode and failure.
        """
        if failing is not None:
            result = replace(result, failure=self._save(result, failing))
        for facts in self.subjects:
            if (facts.kind, facts.name) == (result.subject_kind, result.subject):
                result = replace(result, version=facts.version, mode=facts.mode)
        self.results.append(result)
        self.run.append(result.to_line())
        self.on_result(result)
        return result

    def _save(self, result: CheckResult, case: AnyCase) -> Failure:
        # a subject may be a place in the file system: only what a folder name can hold is kept
        name = re.sub(r"[^A-Za-z0-9_]+", "-", f"{result.check.split('[')[0]}-{result.subject}")
        folder = self.run.failure_dir(f"{case.id}-{name[:80]}")
        saved = SavedCase(check=result.check, subject=result.subject, device=result.device, case=case)
        text = result.reason or ""
        save_case(folder, saved, text)
        place = ("--backend", result.subject) if is_place(result.subject) else ()
        command = ["pabench", "replay", str(folder), *place, *self.replay_options]
        path = str(folder.relative_to(self.run.path))
        return Failure(case_id=case.id, text=text, path=path, replay=shlex.join(command))
