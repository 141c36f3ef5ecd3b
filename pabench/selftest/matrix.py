"""Judges a list of mutants, several at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pabench.cores import usable_cores
from pabench.device.registry import open_device
from pabench.selftest.catalogue import checks_of
from pabench.selftest.experience import Experience
from pabench.selftest.fates import FateFile
from pabench.selftest.killing import Fate, Killer
from pabench.selftest.mutants import Mutant
from pabench.selftest.own_subjects import SUBJECTS, subjects_of


def kill_matrix(
    mutants: Sequence[Mutant],
    *,
    seeds: Sequence[int],
    hasty: bool = False,
    file: FateFile | None = None,
    on_fate: Callable[[Fate], None] = lambda fate: None,
) -> list[Fate]:
    """Judge each of ``mutants`` under each of ``seeds``.

    Args:
        mutants: any; those whose file nothing here is made of are refused one by one.
        seeds: of the generated cases.
        hasty: go no further than the first, cheap rounds with mutants of which no check is named.
        file: fates in it are not looked for again, new ones are added.
        on_fate: called in the calling thread, in the order of ``mutants``.

    Raises:
        UsageError: a mutant does not fit its file.
        EnvironmentRefused: there is no C++ compiler.
    """
    device = open_device("emulated")
    wanted = {subject.name for mutant in mutants for subject in subjects_of(mutant.file)}
    tests = {subject.name: checks_of(subject, device) for subject in SUBJECTS if subject.name in wanted}
    mine, writing, experience = threading.local(), threading.Lock(), Experience()

    def judge(mutant: Mutant) -> Fate:
        if file is not None and (known := file.known(mutant)) is not None:
            return known
        if not hasattr(mine, "killer"):
            mine.killer = killers.enter_context(
                Killer(tests, seeds=seeds, experience=experience, hasty=hasty)
            )
        fate: Fate = mine.killer.judge(mutant)
        if file is not None:
            with writing:
                file.add(fate)
        return fate

    fates: list[Fate] = []
    # the threads end before the killers that they use
    with (
        contextlib.ExitStack() as killers,
        ThreadPoolExecutor(max_workers=usable_cores()) as pool,
    ):
        try:
            for fate in pool.map(judge, mutants):
                on_fate(fate)
                fates.append(fate)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return fates


def counts(fates: Sequence[Fate]) -> dict[str, Any]:
    """Return ``mutants, judged, killed, lives, refused`` and ``by_another`` check than the named one."""
    judged = [fate for fate in fates if fate.refused is None]
    killed = [fate for fate in judged if fate.status == "killed"]
    by_name = [fate for fate in killed if all(k and k.is_by(fate.mutant.killed_by) for k in fate.kills)]
    return {
        "mutants": len(fates),
        "judged": len(judged),
        "killed": len(killed),
        "lives": len(judged) - len(killed),
        "refused": len(fates) - len(judged),
        "by_another": len(killed) - len(by_name),
    }
