"""What the suite does to a mutant: which check kills it, under which seeds, and how clearly.

Checks run in worker processes, since a fault may crash or hang.  A search begins with the check that is named
to kill the mutant, on few dtypes and head dimensions, each of which is a kernel to compile; it goes on to the
subject's whole range and to every other check.  Where no check is named, a few cases of each test come first,
those tests leading that have killed most so far, and the checked device comes last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pabench.activities.conformance.messages import ENTRY
from pabench.checks.scope import EVERYTHING, Scope
from pabench.device.registry import DeviceRequest
from pabench.errors import PabenchError
from pabench.problem.problem import FEATURES
from pabench.resources import resource_dir
from pabench.run.channel import raise_refusal
from pabench.run.workers import Nursery, Worker, WorkerEnded
from pabench.selftest.catalogue import request_for
from pabench.selftest.experience import Experience
from pabench.selftest.mutants import Mutant, overlay, overlay_package
from pabench.selftest.own_subjects import Subject, subjects_of, units_of

DEADLINE_S = 30.0
"""Silence of a worker that counts as hanging; compiling a kernel is silence too."""
POLL_SECONDS = 2
FINDING_CLASSES = ("memory", "init", "race", "sync")
"""A mutant that is killed by one of these is looked for on the checked device."""
CHEAP = ("-O1", "-g0")
"""A mutant's kernels are compiled once and run for a second: a compiler that hurries is the better one."""
SPEARHEAD = 6
"""Tests of the first round of a search in which no check is named."""
NO_COMPILE = "CompileError: "
FEW_DTYPES = ("float32", "bfloat16")
FEW_HEAD_DIM = 16
WIDE = Scope(dtypes=("bfloat16",))
"""One dtype over every head dimension: a loop over a head's chunks runs once where the head is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """How a mutant failed.

    Attributes:
        check: id of the check.
        subject: backend or allocator that was judged.
        text: the verdict, one line.
        max_ratio: its err/T, None where no number was compared or the subject crashed.
        found: classes of the checked device's findings.
    """

    check: str
    subject: str
    text: str
    max_ratio: float | None
    found: tuple[str, ...] = ()

    def is_by(self, name: str) -> bool:
        """Whether ``name`` is the check, or a class among the findings."""
        return name == self.check or name in self.found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of a mutant.

    Attributes:
        mutant: the mutant.
        kills: one a seed, None where it lived.
        refused: why it could not be judged: it does not compile, or nothing here is made of its file.
        cases: generated problems that it survived.
    """

    mutant: Mutant
    kills: tuple[Kill | None, ...] = ()
    refused: str | None = None
    cases: int = 0

    @property
    def killed(self) -> int:
        """Seeds under which it was killed."""
        return sum(kill is not None for kill in self.kills)

    @property
    def status(self) -> str:
        """``killed`` under every seed, ``lives`` under one at least, or ``refused``."""
        if self.refused is not None:
            return "refused"
        return "killed" if self.killed == len(self.kills) else "lives"

    @property
    def smallest_ratio(self) -> float | None:
        """The smallest err/T of the verdicts: how near it came to passing."""
        ratios = [kill.max_ratio for kill in self.kills if kill is not None and kill.max_ratio is not None]
        return min(ratios, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        checks = sorted({f"{kill.subject}/{kill.check}" for kill in self.kills if kill is not None})
        first = next((kill.text for kill in self.kills if kill is not None), None)
        return {
            "id": self.mutant.id,
            "file": self.mutant.file,
            "before": self.mutant.before,
            "after": self.mutant.after,
            "trigger": self.mutant.trigger,
            "named": self.mutant.killed_by,
            "status": self.status,
            "killed": self.killed,
            "seeds": len(self.kills),
            "checks": checks,
            "smallest_ratio": self.smallest_ratio,
            "text": first or self.refused,
            "cases_survived": self.cases,
        }


class DoesNotCompile(Exception):
    """The fault is one that the compiler refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One run of part of the suite.

    Attributes:
        hasty: of the first rounds of a search in which no check is named.
        most: tests to run, those that kill best; None for all.
    """

    subject: Subject
    tests: tuple[str, ...]
    scope: Scope
    profile: str
    checked: bool
    hasty: bool = False
    most: int | None = None


class Killer:
    """Judges mutants one after another; a context manager that leaves no process behind.

    Args:
        tests: of each subject by name, test name to check id: ``checks_of`` of the unchanged sources.
        seeds: of the generated cases.
        experience: shared with others who judge at the same time, and added to.
        hasty: go no further than the first rounds, where no check is named.
    """

    def __init__(
        self,
        tests: Mapping[str, Mapping[str, str]],
        *,
        seeds: Sequence[int],
        experience: Experience | None = None,
        hasty: bool = False,
    ) -> None:
        self._tests = tests
        self._seeds = seeds
        self._experience = experience or Experience()
        self._hasty = hasty
        self._nursery = Nursery(ENTRY)

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.close()

    def judge(self, mutant: Mutant) -> Fate:
        """Plant ``mutant`` and look what kills it.

        Raises:
            UsageError: it does not fit its file.
        """
        if not subjects_of(mutant.file):
            return Fate(mutant=mutant, refused=f"no backend or allocator here is made of {mutant.file}")
        with tempfile.TemporaryDirectory(prefix="pabench-mutant-") as folder:
            if not mutant.file.endswith(".py"):
                kernels = overlay(mutant, resource_dir("kernels_cuda"), Path(folder) / "kernels")
                return self._fate(mutant, self._nursery, kernels)
            package = overlay_package(mutant, Path(folder) / "package")
            with Nursery(ENTRY, path=[str(package)]) as nursery:
                return self._fate(mutant, nursery, None)

    def _fate(self, mutant: Mutant, nursery: Nursery, kernels: Path | None) -> Fate:
        stages = [one for one in stages_of(mutant, self._tests) if one.hasty or not self._hasty]
        units = units_of(mutant.file)
        if not stages:
            return Fate(mutant=mutant, refused=f"no check of the suite runs {mutant.file}")
        kills: list[Kill | None] = []
        cases = first = 0
        for seed in self._seeds:
            # what killed it once comes first, the rest is there in case it lives
            found = None
            for index in [first, *(i for i in range(len(stages)) if i != first)]:
                try:
                    found, judged = self._run(nursery, stages[index], mutant, units, seed, kernels)
                except DoesNotCompile as refused:
                    return Fate(mutant=mutant, refused=f"does not compile: {refused}")
                if found is not None:
                    first = index
                    break
                cases += judged
            kills.append(found)
            if found is None:
                break  # it lives; other seeds would say the same at the same price
        kills += [None] * (len(self._seeds) - len(kills))
        return Fate(mutant=mutant, kills=tuple(kills), cases=cases)

    def _run(
        self,
        nursery: Nursery,
        stage: Stage,
        mutant: Mutant,
        units: frozenset[str] | None,
        seed: int,
        kernels: Path | None,
    ) -> tuple[Kill | None, int]:
        """Run a stage until something fails; return that, and the number of cases that did not."""
        given = {"profile": stage.profile, "seed": seed, "scope": stage.scope}
        place = (stage.subject.name, stage.checked, *given.values())
        known = self._tests[stage.subject.name]
        tests = stage.tests
        if len(tests) > 1:
            named = {test: known[test] for test in tests}
            tests = self._experience.order(place, mutant.file, units, named)[: stage.most]
        if not tests:
            return None, 0
        request = request_for(stage.subject, tests=tests, stop=True, **given)
        device = DeviceRequest(
            name="emulated",
            kernels=None if kernels is None else str(kernels),
            checked=stage.checked,
            poll_seconds=POLL_SECONDS,
            flags=CHEAP,
        )
        worker = nursery.start()
        worker.send({"task": "suite", "request": request.to_dict(), "device": device.to_dict(), "skip": 0})
        heard = _Heard(worker)
        try:
            for test, result, reached in heard.results():
                if result["status"] in ("failed", "crashed"):
                    self._experience.killed(mutant.file, test)
                    return _kill_of(result), heard.cases
                self._experience.passed(place, test, seconds=result["duration_s"], reached=reached)
            return None, heard.cases
        except WorkerEnded as ended:
            self._experience.killed(mutant.file, heard.test)
            return _kill(heard.check, stage.subject.name, ended.ending.text), heard.cases
        except PabenchError as refused:
            # a fault may show before the first check: the subject cannot even be made
            return _kill("loading", stage.subject.name, f"{type(refused).__name__}: {refused}"), 0
        finally:
            nursery.stop()


class _Heard:
    """What a worker says of a run of the suite.

    Attributes:
        check: that is under way.
        test: likewise.
        cases: judged so far.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._tests: list[str] = []
        self.check, self.test, self.cases = "loading", "", 0

    def results(self) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
        """Yield test, result and the kernel files that it asked for, until the suite ends."""
        while True:
            message = self._worker.receive(DEADLINE_S)
            raise_refusal(message)
            event = message["event"]
            if event == "collected":
                self._tests = [str(test["name"]) for test in message["tests"]]
                self._worker.send({"share": (0, 1)})
            elif event == "start":
                self.test = self._tests[message["position"]]
            elif event == "check":
                self.check = str(message["check"])
            elif event == "result":
                self.cases += int(message["result"]["cases"])
                yield self.test, message["result"], message["kernels"]
            elif event == "end":
                if not self._tests:
                    raise PabenchError("no test of the suite could be collected")
                return


def stages_of(mutant: Mutant, tests: Mapping[str, Mapping[str, str]]) -> Iterator[Stage]:
    """Yield runs of the suite that may kill ``mutant``, the likeliest and cheapest first.

    Args:
        mutant: its ``killed_by`` may name a check, a class of findings, or nothing that is known here.
        tests: of each subject by name, test name to check id.
    """
    subjects = subjects_of(mutant.file)
    checked = mutant.killed_by in FINDING_CLASSES
    named_features = tuple(name for name in FEATURES if f"[{name}]" in mutant.killed_by)
    few = Scope(dtypes=FEW_DTYPES, max_head_dim=FEW_HEAD_DIM, features=named_features)
    small = Scope(dtypes=FEW_DTYPES, max_head_dim=FEW_HEAD_DIM)
    rounds: tuple[list[Stage], ...] = ([], [], [])
    looked_at: set[tuple[str, ...]] = set()
    rest, last = [], []
    for subject in subjects:
        known = tests.get(subject.name, {})
        named = tuple(name for name, check in known.items() if check == mutant.killed_by)
        others = tuple(name for name in known if name not in named)

        def stage(tests: tuple[str, ...], scope: Scope, profile: str, subject: Subject = subject) -> Stage:
            return Stage(subject=subject, tests=tests, scope=scope, profile=profile, checked=checked)

        if named:
            yield stage(named, few, "quick")
        elif others and (kernels := subject.kernels) not in looked_at:
            # one backend of these very kernels will do for a glance
            looked_at |= {kernels} if subject.kind == "backend" else set()
            glance = replace(stage(others, small, "glance"), hasty=True)
            rounds[0].append(replace(glance, scope=few, most=SPEARHEAD))
            rounds[1].append(glance)
            if subject.kind == "backend":
                rounds[2].append(replace(glance, scope=WIDE))
            if kernels and not checked:
                last.append(replace(stage(others, small, "quick"), checked=True))
        if named:
            rest.append(stage(named, EVERYTHING, "default"))
        if others:
            rest.append(stage(others, EVERYTHING, "quick"))
    for stages in rounds:
        yield from stages
    yield from sorted(rest, key=lambda stage: stage.profile != "default")
    yield from last  # a barrier or fence that is missing may do no harm in any run, and is found all the same


def _kill_of(result: Mapping[str, Any]) -> Kill:
    kill = _kill(str(result["check"]), str(result["subject"]), str(result["reason"]), result["max_ratio"])
    return replace(kill, found=tuple(sorted({str(finding["check"]) for finding in result["findings"]})))


def _kill(check: str, subject: str, text: str, ratio: float | None = None) -> Kill:
    if text.startswith(NO_COMPILE):
        raise DoesNotCompile(text.removeprefix(NO_COMPILE))
    return Kill(check=check, subject=subject, text=text, max_ratio=ratio)
