# SPDX-License-Identifier: Apache-2.0
"""What the suite does to a mutant: which check kills it, under which seeds, and how clearly.

Checks run in worker processes, since a fault may crash or hang.  A search begins with the check that is named
to kill the mutant, on few dtypes and head dimensions, each of which is a kernel to compile; it goes on to the
subject's whole range and to every other check.  Where no check is named, a few cases of each question come
first, those leading that have killed most so far, and the checked device comes last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pabench.activities.conformance.items import CheckItem
from pabench.activities.conformance.plug import Conformance
from pabench.activities.conformance.request import ConformanceRequest
from pabench.checks.scope import EVERYTHING, Scope
from pabench.checks.suite import questions_for
from pabench.device.registry import DeviceRequest
from pabench.errors import PabenchError
from pabench.problem.features import all_features
from pabench.resources import resource_dir
from pabench.run.record import BROKEN, Record
from pabench.run.shards import WorkerShard
from pabench.run.workers import WorkerEnded
from pabench.selftest.experience import Experience
from pabench.selftest.mutants import Mutant, overlay, overlay_package
from pabench.selftest.own_subjects import Subject, subjects_of, units_of

DEADLINE_S = 30.0
PTX_FACTOR = 2
"""How much longer a worker may be silent where NVRTC compiles first."""
EMULATED, PTX = "emulated", "ptx:sm_80"
ASSEMBLY = "pab/intrinsics_cuda.cuh"
"""What the emulated device has in C++ of its own: faults in it show where the compiled code runs."""
POLL_SECONDS = 2
FINDING_CLASSES = ("memory", "init", "race", "sync")
"""A mutant that is killed by one of these is looked for on the checked device."""
CHEAP = ("-O1", "-g0")
"""A mutant's kernels are compiled once and run for a second: optimize for compile time."""
SPEARHEAD = 6
"""Questions of the first round of a search in which no check is named."""
NO_COMPILE = "CompileError: "
FEW_DTYPES = ("float32", "bfloat16")
ASSEMBLY_DTYPES = ("float32", "float16", "bfloat16")  # an instruction is for one type
FEW_HEAD_DIM = 16
WIDE = Scope(dtypes=("bfloat16",))
"""One dtype over every head dimension: a loop over a head's chunks runs once where the head is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """How a mutant failed.

    Attributes:
        check: id of the question.
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
class MutantResult:
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

    def details(self) -> dict[str, Any]:
        """Return what a record tells beside its figures, as JSON values."""
        kills = [kill for kill in self.kills if kill is not None]
        return {
            "file": self.mutant.file,
            "before": self.mutant.before,
            "after": self.mutant.after,
            "trigger": self.mutant.trigger,
            "named": self.mutant.killed_by,
            "by_name": bool(self.kills) and all(k and k.is_by(self.mutant.killed_by) for k in self.kills),
            "checks": sorted({f"{kill.subject}/{kill.check}" for kill in kills}),
            "text": kills[0].text if kills else None,
        }


class DoesNotCompile(Exception):
    """The fault is one that the compiler refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One run of part of the suite.

    Attributes:
        hasty: of the first rounds of a search in which no check is named.
        most: questions to ask, those that kill best; None for all.
    """

    subject: Subject
    questions: tuple[str, ...]
    scope: Scope
    profile: str
    checked: bool
    hasty: bool = False
    most: int | None = None


class MutantRunner:
    """Judges mutants one after another; a context manager that leaves no process behind.

    Args:
        seeds: of the generated cases.
        hasty: go no further than the first rounds, where no check is named.
        deadline_s: seconds of silence of a worker that count as hanging; compiling a kernel is silence too.
        note: told each question that is asked.
        scratch: folder for copies of the sources; None for the system's.
    """

    def __init__(
        self,
        *,
        seeds: Sequence[int],
        hasty: bool = False,
        deadline_s: float = DEADLINE_S,
        note: Callable[[str], None] = lambda text: None,
        scratch: str | None = None,
    ) -> None:
        self._seeds, self._hasty, self._scratch = seeds, hasty, scratch
        self._deadline_s, self._note = deadline_s, note
        # NVRTC compiles first
        self._ptx_deadline_s = PTX_FACTOR * deadline_s
        self._experience = Experience()
        self._shard: WorkerShard | None = None

    def __enter__(self) -> MutantRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        if self._shard is not None:
            self._shard.close()

    def judge(self, mutant: Mutant) -> MutantResult:
        """Plant ``mutant`` and look what kills it.

        Raises:
            UsageError: it does not fit its file.
        """
        if not subjects_of(mutant.file):
            return MutantResult(
                mutant=mutant, refused=f"no backend or allocator here is made of {mutant.file}"
            )
        with tempfile.TemporaryDirectory(prefix="pabench-mutant-", dir=self._scratch) as folder:
            if not mutant.file.endswith(".py"):
                kernels = overlay(mutant, resource_dir("kernels_cuda"), Path(folder) / "kernels")
                return self._result(mutant, kernels, ())
            package = overlay_package(mutant, Path(folder) / "package")
            return self._result(mutant, None, (str(package),))

    def _result(self, mutant: Mutant, kernels: Path | None, path: tuple[str, ...]) -> MutantResult:
        stages = [one for one in stages_of(mutant) if one.hasty or not self._hasty]
        units = units_of(mutant.file)
        if not stages:
            return MutantResult(mutant=mutant, refused=f"no check of the suite runs {mutant.file}")
        kills: list[Kill | None] = []
        cases = first = 0
        for seed in self._seeds:
            # what killed it once comes first, the rest is there in case it lives
            found = None
            for index in [first, *(i for i in range(len(stages)) if i != first)]:
                try:
                    found, judged = self._run(stages[index], mutant, units, seed, kernels, path)
                except DoesNotCompile as refused:
                    return MutantResult(mutant=mutant, refused=f"does not compile: {refused}")
                if found is not None:
                    first = index
                    break
                cases += judged
            kills.append(found)
            if found is None:
                break  # it lives; other seeds would say the same at the same price
        kills += [None] * (len(self._seeds) - len(kills))
        return MutantResult(mutant=mutant, kills=tuple(kills), cases=cases)

    def _run(
        self,
        stage: Stage,
        mutant: Mutant,
        units: frozenset[str] | None,
        seed: int,
        kernels: Path | None,
        path: tuple[str, ...],
    ) -> tuple[Kill | None, int]:
        """Run a stage until something fails; return that, and the number of cases that did not."""
        place = (stage.subject.name, stage.checked, stage.profile, seed, stage.scope)
        asked = stage.questions
        if len(asked) > 1:
            asked = self._experience.order(place, mutant.file, units, asked)[: stage.most]
        if not asked:
            return None, 0
        device = DeviceRequest(
            name=device_of(mutant.file),
            kernels=None if kernels is None else str(kernels),
            checked=stage.checked,
            poll_seconds=POLL_SECONDS,
            flags=CHEAP,
        )
        deadline_s = self._deadline_s if device.name == EMULATED else self._ptx_deadline_s
        plug = Conformance(_request(stage, asked, seed), device=device, deadline_s=deadline_s, path=path)
        try:
            shard, items = self._begin(plug)
        except (PabenchError, WorkerEnded) as refused:
            # a fault may show before the first check: the subject cannot even be made
            return _kill("loading", stage.subject.name, f"{type(refused).__name__}: {refused}"), 0
        cases = 0
        for item in items:
            self._note(f"seed {seed}: {item.label}")
            record = shard.run(item, lambda text: None).record
            cases += int(record.figures["cases"].value or 0)
            if record.status in BROKEN:
                self._experience.killed(mutant.file, item.question)
                return _kill_of(record), cases
            reached = [str(name) for name in shard.ask({"kernels": True})["kernels"]]
            took = record.duration_s or 0.0
            self._experience.passed(place, item.question, seconds=took, reached=reached)
        return None, cases

    def _begin(self, plug: Conformance) -> tuple[WorkerShard, Sequence[CheckItem]]:
        """A judge for the stage: the one of the stage before, which need not be started again."""
        # for one who asks PTX devices as well
        silence_s = plug.silence_s(self._ptx_deadline_s)
        if self._shard is None:
            self._shard = WorkerShard(plug, deadline_s=silence_s)
            facts = self._shard.open()
        else:
            facts = self._shard.renew(plug)
        return self._shard, plug.items(facts)


def device_of(file: str) -> str:
    """Return the name of the device on which a fault in ``file`` can show."""
    if file == ASSEMBLY:
        return PTX
    return next((one.only_on for one in subjects_of(file) if one.only_on), EMULATED)


def _request(stage: Stage, questions: tuple[str, ...], seed: int) -> ConformanceRequest:
    """Ask these questions of the subject alone, up to the first failure."""
    name, backend = stage.subject.name, stage.subject.kind == "backend"
    return ConformanceRequest(
        backends=(name,) if backend else (),
        allocators=() if backend else (name,),
        profile=stage.profile,
        seed=seed,
        questions=questions,
        stop=True,
        scope=stage.scope,
    )


def stages_of(mutant: Mutant) -> Iterator[Stage]:
    """Yield runs of parts of the suite that may kill ``mutant``, the likeliest and cheapest first.

    Its ``killed_by`` may name a question, a class of findings, or nothing that is known here.
    """
    subjects = sorted(subjects_of(mutant.file), key=lambda one: one.name != mutant.subject)
    checked = mutant.killed_by in FINDING_CLASSES
    named_features = tuple(name for name in all_features() if f"[{name}]" in mutant.killed_by)
    dtypes = ASSEMBLY_DTYPES if mutant.file == ASSEMBLY else FEW_DTYPES
    few = Scope(dtypes=dtypes, max_head_dim=FEW_HEAD_DIM, features=named_features)
    small = Scope(dtypes=dtypes, max_head_dim=FEW_HEAD_DIM)
    rounds: tuple[list[Stage], ...] = ([], [], [])
    looked_at: set[tuple[str, ...]] = set()
    rest, last = [], []
    for subject in subjects:
        known = [row.id for row in questions_for(subject.kind)]
        named = tuple(name for name in known if name == mutant.killed_by)
        others = tuple(name for name in known if name not in named)

        def stage(
            questions: tuple[str, ...], scope: Scope, profile: str, subject: Subject = subject
        ) -> Stage:
            return Stage(subject=subject, questions=questions, scope=scope, profile=profile, checked=checked)

        if named:
            yield stage(named, few, "quick")
            if subject.kernels and not checked:
                # an index beyond an array may change no number, and stops here
                last.append(replace(stage(named, few, "quick"), checked=True))
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


def _kill_of(record: Record) -> Kill:
    ratio = record.figures["max_ratio"].value if "max_ratio" in record.figures else None
    check = str(record.details["check"])
    kill = _kill(check, record.subject.name, record.reason or "", ratio)
    found = {str(finding["check"]) for finding in record.details["findings"]}
    return replace(kill, found=tuple(sorted(found)))


def _kill(check: str, subject: str, text: str, ratio: float | None = None) -> Kill:
    if text.startswith(NO_COMPILE):
        raise DoesNotCompile(text.removeprefix(NO_COMPILE))
    return Kill(check=check, subject=subject, text=text, max_ratio=ratio)
