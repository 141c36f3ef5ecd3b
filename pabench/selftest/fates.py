"""A file of fates that grows by a line a mutant, so that an interrupted search for survivors can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pabench.errors import EnvironmentRefused, UsageError, reason
from pabench.run.files import json_line
from pabench.selftest.killing import Fate, Kill
from pabench.selftest.mutants import Mutant, present_file


class FateFile:
    """Fates on disk, of one list of seeds.

    Args:
        path: of JSON lines; need not exist, its folder must.
        seeds: of the generated cases; lines of others are left alone and not used.
        hasty: whether the search goes no further than its first rounds.  What lives through those alone is
            judged again by a search that is not hasty.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """

    def __init__(self, path: Path, *, seeds: Sequence[int], hasty: bool) -> None:
        self._path = path
        self._seeds = list(seeds)
        self._hasty = hasty
        self._lines = self._read()

    def known(self, mutant: Mutant) -> Fate | None:
        """Return what became of ``mutant`` as it reads now, or None when that is not in the file."""
        line = self._lines.get(_key(mutant))
        if line is None:
            return None
        fate = Fate(
            mutant=mutant,
            kills=tuple(kill and _kill(kill) for kill in line["kills"]),
            refused=line["refused"],
            cases=line["cases"],
        )
        return None if fate.status == "lives" and line["hasty"] and not self._hasty else fate

    def add(self, fate: Fate) -> None:
        """Append a line.

        Raises:
            EnvironmentRefused: the file cannot be written.
        """
        line = {
            "mutant": asdict(fate.mutant),
            "seeds": self._seeds,
            "hasty": self._hasty,
            "kills": [kill and asdict(kill) for kill in fate.kills],
            "refused": fate.refused,
            "cases": fate.cases,
        }
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json_line(line) + "\n")
        except OSError as error:
            raise EnvironmentRefused(f"cannot write {self._path}: {reason(error)}") from error

    def _read(self) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        try:
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--out {str(self._path)!r}: cannot be read: {error}") from None
        whole, _, torn = text.rpartition("\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                data = json.loads(line)
                told = data["mutant"]
                pairs = {"bugs": tuple(told["bugs"]), "also": tuple(map(tuple, told.get("also", ())))}
                mutant = Mutant(**{**told, **pairs})
                mutant = replace(mutant, file=present_file(mutant.file))
                if data["seeds"] == self._seeds:
                    found[_key(mutant)] = data
            except (ValueError, KeyError, TypeError, UsageError):
                rule = "is not the fate of a mutant"
                raise UsageError(f"--out {str(self._path)!r}: line {number} {rule}") from None
        if torn:  # a kill in the midst of a line: what follows must begin a line of its own
            self._path.write_text(whole + "\n" if whole else "", encoding="utf-8")
        return found


def _kill(data: Mapping[str, Any]) -> Kill:
    ratio = data["max_ratio"]  # JSON has no infinity: it stands there as text
    return Kill(
        **{**data, "found": tuple(data["found"]), "max_ratio": None if ratio is None else float(ratio)}
    )


def _key(mutant: Mutant) -> str:
    return json_line([mutant.file, mutant.before, mutant.after, mutant.killed_by])
