"""Judges a list of mutants, several at a time."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pabench.cores import usable_cores
from pabench.device.compiler import find_compiler
from pabench.errors import PabenchError
from pabench.selftest.experience import Experience
from pabench.selftest.fates import FateFile
from pabench.selftest.killing import Fate, Killer
from pabench.selftest.mutants import Mutant


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

    Returns:
        A fate for each.  Whatever goes wrong in judging one is the fate of that one, so that nothing is lost
        of the others; it is not added to ``file``, and looked for again the next time.

    Raises:
        EnvironmentRefused: there is no C++ compiler, or ``file`` cannot be written.
    """
    find_compiler()
    mine, writing, experience = threading.local(), threading.Lock(), Experience()

    def judge(mutant: Mutant) -> Fate:
        if file is not None and (known := file.known(mutant)) is not None:
            return known
        if not hasattr(mine, "killer"):
            mine.killer = killers.enter_context(Killer(seeds=seeds, experience=experience, hasty=hasty))
        try:
            fate: Fate = mine.killer.judge(mutant)
        except Exception as error:
            del mine.killer  # its processes may be in any state
            return Fate(mutant=mutant, error=f"judging it failed: {_described(error)}")
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


def _described(error: Exception) -> str:
    """An error in one line, with the place that raised it unless its text is meant for users."""
    if isinstance(error, PabenchError):
        return str(error)
    (*_, last) = traceback.extract_tb(error.__traceback__)
    return " ".join(f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})".split())


def counts(fates: Sequence[Fate]) -> dict[str, Any]:
    """Return ``mutants, judged, killed, lives, refused, errors`` and ``by_another`` check than named."""
    judged = [fate for fate in fates if fate.status in ("killed", "lives")]
    killed = [fate for fate in judged if fate.status == "killed"]
    by_name = [fate for fate in killed if all(k and k.is_by(fate.mutant.killed_by) for k in fate.kills)]
    return {
        "mutants": len(fates),
        "judged": len(judged),
        "killed": len(killed),
        "lives": len(judged) - len(killed),
        "refused": sum(fate.status == "refused" for fate in fates),
        "errors": sum(fate.status == "error" for fate in fates),
        "by_another": len(killed) - len(by_name),
    }
