# SPDX-License-Identifier: Apache-2.0
"""Conformance as a plug for the engine: every question of the suite to every subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pabench.activities.conformance.items import CheckItem
from pabench.activities.conformance.load import ABOUT, LOAD
from pabench.activities.conformance.plan import Planned, plan_of
from pabench.activities.conformance.request import ConformanceRequest
from pabench.activities.conformance.secret import shown_seed
from pabench.checks.case_files import READERS, save_arrays
from pabench.checks.suite import question_by_id
from pabench.checks.workloads import WORKLOADS, workload_question
from pabench.device.registry import DeviceRequest
from pabench.problem.recorded import RECORDED
from pabench.run.plug import ActivityBase, Facts, FailingCase
from pabench.run.record import Record
from pabench.subjects.registry import is_place

JUDGE_SLACK_S = 120.0
"""What a judge may take beside the calls of its subject: drawing, truth, and the search for a small case."""


class Conformance(ActivityBase):
    """Backends and allocators against the suite.

    Args:
        request: what to judge and how hard.
        device: where.
        deadline_s: seconds that one call of a subject may take; None judges in this process.
        config: further options, for ``run.json``.
        path: folders in which subjects look for modules first.

    Raises:
        UsageError: ``-k`` names no question.
        Unsupported: nothing is left to ask.
    """

    kind = "conformance"
    noun = "check"
    bench = "pabench.activities.conformance.bench:ConformanceBench"

    def __init__(
        self,
        request: ConformanceRequest,
        *,
        device: DeviceRequest,
        deadline_s: float | None,
        config: Mapping[str, Any] | None = None,
        path: Sequence[str] = (),
    ) -> None:
        self._request, self._device, self._deadline_s = request, device, deadline_s
        self._config, self._path = dict(config or {}), tuple(path)
        self._plan = plan_of(request)
        self._known: Mapping[str, Any] | None = None

    def brief(self, record: Record) -> str | None:
        """Return the first cause that fits, in place of the verdict with its numbers."""
        causes = record.details.get("causes") or {}
        return next(iter(causes.values()), None) or super().brief(record)

    def setup(self) -> Mapping[str, Any]:
        """See ``Activity``; what the first worker has found, the others need not look for."""
        return {
            "request": self._request.to_dict(),
            "device": self._device.to_dict(),
            "deadline_s": self._deadline_s,
            "path": list(self._path),
            "known": None if self._known is None else dict(self._known),
        }

    def silence_s(self, deadline_s: float) -> float:
        """See ``Activity``: a judge is silent while its subject is, which it ends itself."""
        return 2 * deadline_s + JUDGE_SLACK_S

    def items(self, facts: Facts) -> Sequence[CheckItem]:
        """See ``Activity``."""
        self._known = facts.more
        found = {(one["kind"], one["name"]): one for one in facts.more["subjects"]}
        items: list[CheckItem] = []
        for asked in self._plan:
            one = found[asked.subject_kind, asked.subject]
            broken = one["broken"]
            if broken and items and (items[-1].subject_kind, items[-1].subject) == (one["kind"], one["name"]):
                continue
            items.append(
                CheckItem(
                    question=LOAD if broken else asked.question,
                    about=ABOUT if broken else _sentence(asked),
                    broken=broken,
                    subject=asked.subject,
                    subject_kind=asked.subject_kind,
                    version=one["version"],
                    mode=one["mode"],
                    workload=asked.workload,
                )
            )
        return items

    @property
    def subjects(self) -> Sequence[Mapping[str, Any]]:
        """What the first worker has found of each subject."""
        return () if self._known is None else self._known["subjects"]

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """See ``Activity``."""
        request = self._request
        return {
            "backends": request.backends,
            "allocators": request.allocators,
            "device": facts.device,
            "profile": request.profile,
            "seed": shown_seed(request),
            "select": request.select,
            "workloads": request.workloads,
            "spec": request.spec,
            **self._config,
        }

    def replay_words(self, record: Record) -> Iterator[str]:
        """See ``Activity``."""
        if is_place(record.subject.kind, record.subject.name):
            yield from ("--backend", record.subject.name)
        for option in ("kernels", "inputs_file"):
            if self._config.get(option):
                yield from (f"--{option.partition('_')[0]}", str(self._config[option]))
        if self._config.get("checked"):
            yield "--checked"

    def beside(self, folder: Path, failing: FailingCase) -> None:
        """Write the arrays of the case and a script that runs a kernel on them."""
        if failing.case.get("family") == RECORDED:
            # its arrays are those of a file, which the worker has read and this process has not
            uuid = failing.check.partition("[")[2].rstrip("]")
            workload_question(self._subject_of(failing), self._request.workloads, uuid)
        save_arrays(folder, failing.check, READERS[failing.kind](failing.case))

    def _subject_of(self, failing: FailingCase) -> str:
        """A subject that was asked this: all of them were asked it with the same arrays."""
        return next(asked.subject for asked in self._plan if asked.question == failing.check)


def _sentence(asked: Planned) -> str:
    if asked.workload is not None:
        return WORKLOADS[asked.question.partition("[")[0]].about
    return question_by_id(asked.question).sentence
