# SPDX-License-Identifier: Apache-2.0
"""Planted faults as a plug for the engine: an item a mutant, passed when the suite kills it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory
from typing import Any

from pabench.device.compiler import find_compiler
from pabench.errors import PabenchError
from pabench.run.figures import figures_of
from pabench.run.plug import ActivityBase, Answer, BenchBase, Env, Facts
from pabench.run.record import Record, Status
from pabench.selftest.item import KIND, TestItem
from pabench.selftest.killing import EMULATED, MutantResult, MutantRunner
from pabench.selftest.mutants import Mutant, content_id, mutant_of_dict
from pabench.tracebacks import described

STATUS = {"killed": Status.PASSED, "lives": Status.FAILED, "refused": Status.UNSUPPORTED}
SILENCE_S = 3600.0
"""The runner's own workers have deadlines; what waits for them is not looked at before."""
SHOWN = 100


class Mutants(ActivityBase):
    """Each mutant under each seed.

    Args:
        mutants: any; those whose file nothing here is made of come out as unsupported.
        seeds: how many seeds of generated cases, from 0.
        hasty: go no further than the first, cheap rounds with mutants of which no check is named.  What lives
            through those alone is judged again by a resumed run that is not hasty.
        deadline_s: seconds that one case may take.
        config: options as they were resolved.
    """

    kind = KIND
    noun = "mutant"
    bench = "pabench.selftest.kills:KillBench"

    def __init__(
        self,
        mutants: Sequence[Mutant],
        *,
        seeds: int,
        hasty: bool,
        deadline_s: float,
        config: Mapping[str, Any],
    ) -> None:
        self._mutants, self._seeds, self._hasty = tuple(mutants), seeds, hasty
        self._deadline_s, self._config = deadline_s, config
        # this process removes it; a worker may be ended in the midst of a mutant
        self._scratch = TemporaryDirectory(prefix="pabench-mutants-")

    def setup(self) -> Mapping[str, Any]:
        """See ``Activity``."""
        asked = {"seeds": self._seeds, "hasty": self._hasty, "deadline_s": self._deadline_s}
        return {**asked, "scratch": self._scratch.name}

    def items(self, facts: Facts) -> Sequence[TestItem]:
        """See ``Activity``."""
        return [self._item(mutant, hasty=self._hasty) for mutant in self._mutants]

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """See ``Activity``."""
        return {**self._config, "seeds": self._seeds}

    def spare(self, item: TestItem, done: Sequence[Record]) -> Record | None:
        """Leave out what a hasty search has killed."""
        if self._hasty:
            return None
        hasty = self._item(mutant_of_dict(item.asked), hasty=True).id
        known = next((one for one in done if one.id == hasty and one.status != Status.FAILED), None)
        return None if known is None else replace(known, id=item.id, label=item.label)

    def silence_s(self, deadline_s: float) -> float:
        """See ``Activity``."""
        return SILENCE_S

    def _item(self, mutant: Mutant, *, hasty: bool) -> TestItem:
        return TestItem(
            id=f"{mutant.id}-{content_id(mutant)}{'-hasty' if hasty else ''}",
            label=f"{mutant.id} in {mutant.file}",
            test="mutant",
            name=mutant.id,
            asked=asdict(mutant),
        )


class KillBench(BenchBase):
    """Implements ``Bench``: a runner, replaced when judging a mutant goes wrong.

    Args:
        setup: ``seeds``, ``hasty``, ``deadline_s``, ``scratch``.
        env: hears which question is asked.
    """

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._setup, self._env = setup, env
        self._runner: MutantRunner | None = None

    def open(self) -> Mapping[str, Any]:
        """See ``Bench``."""
        find_compiler()
        return {"device": EMULATED, "description": "the emulated device and its checked kind"}

    def run(self, item: Mapping[str, Any]) -> Answer:
        """See ``Bench``; whatever goes wrong in judging a mutant is no verdict, and loses no other."""
        asked, began = TestItem(**item), time.monotonic()
        mutant = mutant_of_dict(asked.asked)
        if self._runner is None:
            self._runner = MutantRunner(
                seeds=range(self._setup["seeds"]),
                hasty=self._setup["hasty"],
                deadline_s=self._setup["deadline_s"],
                note=self._env.note,
                scratch=self._setup["scratch"],
            )
        try:
            record = record_of_mutant(asked.blank(EMULATED), self._runner.judge(mutant))
        except Exception as error:
            self.close()  # its processes may be in any state
            text = str(error) if isinstance(error, PabenchError) else described(error)
            said = f"judging it failed: {' '.join(text.split())}"
            record = replace(asked.blank(EMULATED), status=Status.INCONCLUSIVE, reason=said)
        return Answer(record=replace(record, duration_s=round(time.monotonic() - began, 3)))

    def close(self) -> None:
        """End the runner's processes."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


def record_of_mutant(blank: Record, result: MutantResult) -> Record:
    """Return the record of what became of a mutant."""
    figures: dict[str, Any] = {"cases": result.cases}
    if result.kills:
        figures |= {"killed": result.killed, "seeds": len(result.kills)}
    if result.smallest_ratio is not None:
        figures["max_ratio"] = result.smallest_ratio
    reason = result.refused
    if result.status == "lives":
        change = " ".join(f"{result.mutant.before!r} -> {result.mutant.after!r}".split())
        reason = f"survived {result.cases} cases; {change[:SHOWN]}"
    return replace(
        blank,
        status=STATUS[result.status],
        reason=reason,
        figures=figures_of(figures, dict.fromkeys(figures, "counted")),
        details=result.details(),
    )


def counts(records: Sequence[Record]) -> dict[str, int]:
    """Return ``judged, killed, lives`` and ``by_another`` check than the one named."""
    judged = [one for one in records if one.status in (Status.PASSED, Status.FAILED)]
    killed = [one for one in judged if one.status == Status.PASSED]
    return {
        "judged": len(judged),
        "killed": len(killed),
        "lives": len(judged) - len(killed),
        "by_another": sum(not one.details["by_name"] for one in killed),
    }
