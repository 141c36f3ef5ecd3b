# SPDX-License-Identifier: Apache-2.0
"""Which planted faults are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from pabench.errors import EnvironmentRefused, UnknownName, UsageError
from pabench.resources import resource_dir
from pabench.selftest.mutants import PACKAGE, Mutant, load_mutants, mutated
from pabench.selftest.mutation import generated


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


def choose(what: str, faults: Sequence[Fault], only: Sequence[str]) -> list[Fault]:
    """Return those of ``faults`` whose id or file is among ``only``, or all; raises ``UnknownName``."""
    known = {name for fault in faults for name in (fault.id, fault.file)}
    for name in only:
        if name not in known:
            raise UnknownName(what, name, known)
    return [fault for fault in faults if not only or fault.id in only or fault.file in only]


def planted(source: str | None, *, generate: int | None, seed: int) -> list[Mutant]:
    """Return the mutants of ``source``, a file, a folder of files or ``OWN``, or ``generate`` made by rule.

    Raises:
        EnvironmentRefused: this installation has no mutants of its own.
        UsageError: a file cannot be read, or a mutant fits nowhere.
        InvalidCase: a field of one is wrong.
    """
    if generate is not None:
        return generated(generate, seed=seed)
    folder = PACKAGE.parent / "tests" / "mutants" if source == OWN else Path(str(source))
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
