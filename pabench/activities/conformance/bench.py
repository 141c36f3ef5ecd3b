# SPDX-License-Identifier: Apache-2.0
"""The worker's side of a conformance run: the judge.

Hypothesis, tensors, truth, bound and verdict live here; the subject that is judged lives in a process of its
own (``checks/remote``).  What ends that process is a verdict as others are, with a case made small.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pabench.activities.conformance.items import CheckItem, failing_case, record_of_result
from pabench.activities.conformance.load import why_broken
from pabench.activities.conformance.request import request_from_dict
from pabench.activities.conformance.smallest import smallest
from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.case_files import AnyCase
from pabench.checks.ledger import known_deviations
from pabench.checks.observer import CaseObserver
from pabench.checks.outcome import Outcome
from pabench.checks.process import own_process
from pabench.checks.question import AnyQuestion
from pabench.checks.remote.errors import SubjectEnded
from pabench.checks.remote.fork_server import shared_fork_server
from pabench.checks.remote.subject import RemoteSubject
from pabench.checks.runner import CheckRunner
from pabench.checks.subject_facts import Judged, SubjectFacts, load_judged, load_subject
from pabench.checks.suite import question_by_id
from pabench.checks.workloads import workload_question
from pabench.controls.hold import open_verified
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import DeviceFault, EnvironmentRefused, PabenchError, Unsupported
from pabench.run.ending import Ending
from pabench.run.plug import Answer, BenchBase, Env
from pabench.run.record import Status
from pabench.subjects.allocators.entry import AllocatorEntry

ALIVE_S = 0.5
"""How often a judge says that it is at work."""


def _nothing() -> None:
    pass


class JudgeObserver(CaseObserver):
    """Remembers the case in flight, and says now and then that the judge is alive."""

    isolated = True

    def __init__(self, env: Env) -> None:
        self.announced: AnyCase | None = None
        self.cases = 0
        self.begin: Callable[[], None] = lambda: None
        self._env, self._told = env, time.monotonic()

    def check(self, name: str, about: str) -> None:
        """Hear which check begins."""
        self.announced, self.cases = None, 0

    def case(self, case: AnyCase) -> None:
        """Hear which case is about to be judged."""
        # a process that cannot be started for it is not the case's doing
        self.begin()
        self.announced, self.cases = case, self.cases + 1
        if (now := time.monotonic()) - self._told > ALIVE_S:
            self._told = now
            self._env.note(f"{self.cases} cases")

    def judged(self, outcome: Outcome, device: Device) -> Outcome:
        """Notice a CUDA context that is lost with the case that lost it: only a new process helps."""
        if device.name == "cuda" and not outcome.passed:
            try:
                device.synchronize()
            except DeviceFault as fault:
                raise SubjectEnded(Ending(text=f"{type(fault).__name__}: {fault}")) from None
        return outcome


class ConformanceBench(BenchBase):
    """Implements ``Bench``.

    Args:
        setup: ``request``, ``device``, ``deadline_s`` (None: the subject in this very process), ``path``
            (folders in which the subject's process looks for modules first) and ``known``: the facts of the
            subjects, when another worker has found them.
        env: hears that the judge is alive.
    """

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._request = request_from_dict(setup["request"])
        self._wanted, self._deadline_s = DeviceRequest(**setup["device"]), setup["deadline_s"]
        self._path, self._known = tuple(setup["path"]), setup["known"]
        self._env, self._stack = env, contextlib.ExitStack()
        self._observer = CaseObserver() if self._deadline_s is None else JudgeObserver(env)
        self._device: Device | None = None
        self._remote: RemoteSubject | None = None

    def open(self) -> Mapping[str, Any]:
        """Start the subject's processes, one after another, and say what they are."""
        if self._known is not None:
            return dict(self._known)
        if self._deadline_s is None or self._wanted.checked:
            self._env.loading(f"device {self._wanted.name!r}")
            self._device = open_verified(self._wanted, must_run=False)
        found, places = [], []
        for kind, name in self._request.subjects:
            self._env.loading(f"{kind} {name!r}")
            facts = self._facts(kind, name)
            if facts.lacking is None and not self._request.stop:
                # who stops at the first failure is told by it
                facts = replace(facts, broken=self._broken(kind, name))
            found.append(facts.to_dict())
            if self._remote is not None:
                places.append(self._remote.facts.device_description)
        if self._remote is not None:
            device, description = self._remote.facts.device_name, "; ".join(dict.fromkeys(places))
        elif self._device is not None:
            device, description = self._device.name, self._device.description
        else:
            raise PabenchError("a conformance run needs a subject")
        self._known = {"device": device, "description": description, "subjects": found}
        return dict(self._known)

    def run(self, item: Mapping[str, Any]) -> Answer:
        """Ask one question."""
        asked, began = CheckItem(**item), time.monotonic()
        if asked.broken is not None:
            record = replace(asked.blank(self._device_name()), status=Status.FAILED, reason=asked.broken)
            return Answer(record=record)
        question = self._question(asked)
        self._observer.check(asked.question, asked.about)
        with own_process(interruptible=self._deadline_s is None):
            try:
                subject, device = self._judged(asked.subject_kind, asked.subject)
                runner = CheckRunner(
                    device=device,
                    case_budget=replace(CASE_BUDGETS[self._request.profile], shrink=not self._request.stop),
                    seed=self._request.seed,
                    scope=self._request.scope,
                    observer=self._observer,
                )
                found = runner.answer(question, subject)
            except SubjectEnded as ended:
                return self._ended(asked, question, ended.ending, began)
        record = record_of_result(asked, found.result)
        return Answer(
            record=record,
            failing=None if found.failing is None else failing_case(asked.question, found.failing),
        )

    def close(self) -> None:
        """End the subject's process."""
        self._stack.close()
        self._remote = None

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """Say which kernel files the subject has asked for since this was last asked (``kernels``)."""
        return {"kernels": [] if self._remote is None else self._remote.device.take_asked()}

    def _question(self, asked: CheckItem) -> AnyQuestion:
        if asked.workload is None:
            return question_by_id(asked.question)
        uuid = str(asked.workload["workload"]["uuid"])
        return workload_question(asked.subject, self._request.workloads, uuid)

    def _facts(self, kind: str, name: str) -> SubjectFacts:
        if self._deadline_s is None and self._device is not None:
            return load_subject(kind, name, self._device)
        told = self._subject(kind, name).facts
        return SubjectFacts(
            name=name,
            kind=kind,
            package=told.package,
            version=told.version,
            mode=told.mode,
            lacking=told.lacking,
        )

    def _broken(self, kind: str, name: str) -> str | None:
        """Why no case of a subject can run; its end is told by the first question."""
        with own_process(interruptible=self._deadline_s is None):
            try:
                subject, device = self._judged(kind, name)
                begin = self._observer.begin if isinstance(self._observer, JudgeObserver) else _nothing
                return why_broken(subject, device, begin)
            except (KeyboardInterrupt, EnvironmentRefused):
                raise
            except BaseException:
                # whatever else a subject does, ending its process included, the first question tells
                return None

    def _judged(self, kind: str, name: str) -> tuple[Judged, Any]:
        """The subject as checks see it, and the device that they see."""
        if self._deadline_s is None and self._device is not None:
            return load_judged(kind, name, self._device), self._device
        remote = self._subject(kind, name)
        told = remote.facts
        if told.lacking is not None:
            return Judged(name=name, kind=kind, lacking=told.lacking), remote.device
        known = known_deviations(kind, name, told.version, told.mode)
        if kind == "backend":
            return Judged(name=name, kind=kind, backend=remote.backend, known=known), remote.device
        if told.capabilities is None:
            raise PabenchError(f"allocator {name!r} declares nothing")
        entry = AllocatorEntry(
            capabilities=told.capabilities,
            make=lambda device, shape: remote.new_allocator(shape),
        )
        return Judged(name=name, kind=kind, allocator=entry, known=known), remote.device

    def _subject(self, kind: str, name: str) -> RemoteSubject:
        """The process of a subject; that of another one ends."""
        if self._remote is not None and (self._remote.kind, self._remote.name) == (kind, name):
            return self._remote
        self._stack.close()
        self._remote = None
        made = RemoteSubject(
            shared_fork_server(self._path),
            self._wanted,
            kind,
            name,
            deadline_s=self._deadline_s,
            loaded=self._known is not None,
        )
        self._remote = self._stack.enter_context(made)
        if isinstance(self._observer, JudgeObserver):
            self._observer.begin = made.begin_case
        return made

    def _ended(self, asked: CheckItem, question: AnyQuestion, ending: Ending, began: float) -> Answer:
        """The verdict of a question whose subject's process ended, with the smallest case that ends one."""
        remote, observer = self._remote, self._observer
        case = observer.announced if isinstance(observer, JudgeObserver) else None
        cases = observer.cases if isinstance(observer, JudgeObserver) else 0
        if case is None or remote is None:
            ending = Ending(text=f"before its first case: {ending.text}", hung=ending.hung)
        elif not self._request.stop:
            case, ending = self._smallest(remote, question, case, ending)
        blank = asked.blank(self._device_name())
        figures = {**blank.figures, "cases": replace(blank.figures["cases"], value=cases)}
        record = replace(
            blank,
            status=Status.HUNG if ending.hung else Status.CRASHED,
            reason=ending.text,
            figures=figures,
            duration_s=round(time.monotonic() - began, 3),
        )
        return Answer(record=record, failing=None if case is None else failing_case(asked.question, case))

    def _smallest(
        self, remote: RemoteSubject, question: AnyQuestion, case: AnyCase, ending: Ending
    ) -> tuple[AnyCase, Ending]:
        before = remote.deadline_s

        def ends(tried: AnyCase, deadline_s: float) -> Ending | None:
            remote.deadline_s = before
            remote.ready()
            remote.deadline_s = deadline_s
            self._env.note("looking for a smaller case")
            try:
                with contextlib.suppress(Unsupported, Exception):
                    remote.judge(question.check.run, tried)
            except SubjectEnded as ended:
                return ended.ending
            return None

        try:
            return smallest(case, ending, ends, before)
        except SubjectEnded as lost:
            return case, Ending(text=f"{ending.text}; {lost.ending.text}", hung=ending.hung)
        finally:
            remote.deadline_s = before

    def _device_name(self) -> str:
        return "" if self._known is None else str(self._known["device"])
