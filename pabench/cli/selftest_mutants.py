"""``pabench selftest --mutants`` and ``--generate``: what the suite does to planted faults."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pabench.console import say
from pabench.errors import (
    EXIT_FAILURE,
    EXIT_INTERNAL,
    EXIT_NOTHING_RAN,
    EXIT_OK,
    EnvironmentRefused,
    UnknownName,
    UsageError,
)

if TYPE_CHECKING:
    from pabench.selftest.killing import Fate
    from pabench.selftest.mutants import Mutant


class Planted(Protocol):
    """A fault with a name, in a file: a control or a mutant."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def file(self) -> str:
        """The file it is in."""


Fault = TypeVar("Fault", bound=Planted)
OWN = "own"
"""Stands for the mutants that come with a checkout; a wheel has none."""
CHECK_WIDTH = 44
SHOWN = 100


def judge_mutants(
    source: str | None,
    *,
    generate: int | None,
    seed: int,
    seeds: int,
    only: Sequence[str],
    json_file: Path | None,
    hasty: bool = False,
    out: Path | None = None,
) -> int:
    """Judge the mutants of ``source``, or ``generate`` made ones, print a line each; return the exit code.

    The code is 0 when every mutant that could be judged was killed under every seed, 1 when one lives, 3 when
    judging one failed, 5 when none could be judged.
    """
    from pabench.run.files import atomic_write_text, pretty
    from pabench.selftest.fates import FateFile
    from pabench.selftest.matrix import counts, kill_matrix

    chosen = choose("mutant", _load(source, generate, seed), only)
    file = None if out is None else FateFile(out, seeds=range(seeds), hasty=hasty)
    begin = time.monotonic()
    width = max(len(mutant.id) for mutant in chosen)
    say(f"{'mutant':<{width}}  {'killed':<7}  {'by':<{CHECK_WIDTH}}  smallest err/T")
    fates = kill_matrix(
        chosen,
        seeds=range(seeds),
        hasty=hasty,
        file=file,
        on_fate=lambda fate: say(_line(fate, width)),
    )
    for fate in fates:
        if fate.status != "killed":
            say(f"{fate.status.upper()} {fate.mutant.id} ({fate.mutant.file}): {_why(fate)}")
    record: dict[str, Any] = counts(fates) | {
        "seeds": seeds,
        "duration_s": round(time.monotonic() - begin, 3),
    }
    refused = f", {record['refused']} not judged" if record["refused"] else ""
    refused += f", {record['errors']} with an internal error" if record["errors"] else ""
    another = f", {record['by_another']} by another check than the one named" if generate is None else ""
    say(
        f"{record['killed']}/{record['judged']} killed in {seeds} of {seeds} seeds{another}{refused}, "
        f"{record['duration_s']:.0f} s"
    )
    if json_file is not None:
        atomic_write_text(json_file, pretty({**record, "results": [fate.to_json() for fate in fates]}))
    if record["lives"]:
        return EXIT_FAILURE
    if record["errors"]:
        return EXIT_INTERNAL
    return EXIT_OK if record["judged"] else EXIT_NOTHING_RAN


def _load(source: str | None, generate: int | None, seed: int) -> list[Mutant]:
    if generate is not None:
        from pabench.selftest.mutation import generated

        return generated(generate, seed=seed)
    from pabench.resources import resource_dir
    from pabench.selftest.mutants import PACKAGE, load_mutants, mutated

    folder = Path(__file__).resolve().parents[2] / "tests" / "mutants" if source == OWN else Path(str(source))
    if source == OWN and not folder.is_dir():
        raise EnvironmentRefused("pabench's own mutants come with a checkout, not with a wheel")
    files = sorted(folder.glob("*.toml")) if folder.is_dir() else [folder]
    if not files:
        raise UsageError(f"--mutants {str(folder)!r}: holds no .toml file")
    found: dict[str, Mutant] = {}
    for file in files:
        for mutant in load_mutants(file):
            if mutant.id in found:
                raise UsageError(f"mutant {mutant.id!r}: must be unique over all files")
            # all must fit before the first is judged: the whole takes minutes
            mutated(mutant, PACKAGE if mutant.file.endswith(".py") else resource_dir("kernels_cuda"))
            found[mutant.id] = mutant
    return list(found.values())


def choose(what: str, faults: Sequence[Fault], only: Sequence[str]) -> list[Fault]:
    """Return those of ``faults`` whose id or file is among ``only``, or all; raises ``UnknownName``."""
    known = {name for fault in faults for name in (fault.id, fault.file)}
    for name in only:
        if name not in known:
            raise UnknownName(what, name, known)
    return [fault for fault in faults if not only or fault.id in only or fault.file in only]


def _line(fate: Fate, width: int) -> str:
    seen = dict.fromkeys(f"{kill.subject}/{kill.check}" for kill in fate.kills if kill is not None)
    checks = ", ".join(seen) or "-"
    ratio = fate.smallest_ratio
    shown = f"{fate.killed}/{len(fate.kills)}" if fate.kills else "-"
    return (
        f"{fate.mutant.id:<{width}}  {shown:<7}  {checks:<{CHECK_WIDTH}}  "
        f"{'-' if ratio is None else f'{ratio:.3g}'}"
    )


def _why(fate: Fate) -> str:
    if fate.refused is not None or fate.error is not None:
        return str(fate.refused or fate.error)
    change = " ".join(f"{fate.mutant.before!r} -> {fate.mutant.after!r}".split())
    return f"survived {fate.cases} cases; {change[:SHOWN]}"
