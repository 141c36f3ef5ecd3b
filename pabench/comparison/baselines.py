# SPDX-License-Identifier: Apache-2.0
"""Baselines: runs kept under a name, to be compared with later, whatever becomes of their folders."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pabench.errors import EnvironmentRefused, UnknownName, UsageError, reason
from pabench.run.read import JOURNAL, RUN_FILE, Run, read_run

VARIABLE = "PABENCH_BASELINES"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)
NAME_RULE = "must be 1 to 80 letters, digits, dots, dashes or underscores, and begin with a letter or digit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A run that is kept.

    Attributes:
        name: what it is kept under.
        run: as it was when it was kept.
    """

    name: str
    run: Run


def store_root() -> Path:
    """Return the folder of the baselines: ``$PABENCH_BASELINES``, else one among the user's data."""
    if given := os.environ.get(VARIABLE):
        return Path(given).absolute()
    from platformdirs import user_data_path

    return user_data_path("pabench") / "baselines"


def save_baseline(run_path: Path, name: str, *, overwrite: bool = False) -> Path:
    """Keep journal and record of a run under ``name``, all or nothing, and return where.

    Raises:
        UsageError: no such name is possible or it is taken, or the run is none, holds nothing or still runs.
        EnvironmentRefused: the store cannot be written.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"--save {name!r}: {NAME_RULE}")
    run = read_run(run_path)
    if not run.records:
        raise UsageError(f"--save {name}: {run_path} holds no result")
    if run.record["status"] == "running":
        raise UsageError(f"--save {name}: {run_path} is not finished", hint="finish it with --resume")
    kept = store_root() / name
    if kept.exists() and not overwrite:
        raise UsageError(f"--save {name}: there is such a baseline already", hint="replace it: --overwrite")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as made:
            new, old = Path(made) / "new", Path(made) / "old"
            new.mkdir()
            for file in (RUN_FILE, JOURNAL):
                shutil.copyfile(run_path / file, new / file)
            if kept.exists():
                kept.rename(old)
            new.rename(kept)
    except OSError as error:
        raise EnvironmentRefused(f"cannot keep a baseline in {kept.parent}: {reason(error)}") from error
    return kept


def find_baseline(name: str) -> Path:
    """Return the folder of a baseline.

    Raises:
        UnknownName: nothing is kept under ``name``.
    """
    if name not in (known := _names()):
        raise UnknownName("baseline", name, known)
    return store_root() / name


def baselines() -> tuple[Baseline, ...]:
    """Return what is kept, by name."""
    return tuple(Baseline(name=name, run=read_run(store_root() / name)) for name in _names())


def _names() -> list[str]:
    try:
        return sorted(path.name for path in store_root().iterdir() if NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EnvironmentRefused(f"cannot read baselines in {store_root()}: {reason(error)}") from error
