# SPDX-License-Identifier: Apache-2.0
"""What this checkout costs beside another one: processor time and memory of whole commands, as ratios.

``python suites/benchmark/against.py BASE`` runs each command in both checkouts at the same time, so that both
meet the same machine, with the packages of this interpreter.  ``--setup`` adds ``make sweep`` from nothing,
with an environment of its own for each, which takes minutes and a package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from pabench.cli.text_table import text_table

HERE = Path(__file__).resolve().parents[2]
COMMANDS: dict[str, tuple[str, ...]] = {
    "quick conformance": ("conformance", "--profile", "quick", "--device", "emulated", "--artifacts", "run"),
    "sweep": ("sweep", "--page-sizes", "8,16,32", "--device", "emulated", "--out", "run"),
    "19,366 requests": ("serving", "--requests", "19366", "--allocator", "host", "--out", "run"),
}
"""What both checkouts understand."""


class Cost(NamedTuple):
    """Of a command and all that it starts; memory is that of the largest process."""

    cpu_s: float
    wall_s: float
    peak_mib: float


def costs(words: Sequence[str], trees: Sequence[Path]) -> list[Cost]:
    """Run a command in each tree, all at once; exits where one fails."""
    with tempfile.TemporaryDirectory() as scratch:
        running = {}
        for place, tree in enumerate(trees):
            folder = Path(scratch, str(place))
            folder.mkdir()
            given = [word.format(tree=tree, folder=folder) for word in words]
            log = (folder / "log").open("w")
            environment = {**os.environ, "PYTHONPATH": str(tree)}
            process = subprocess.Popen(given, cwd=folder, env=environment, stdout=log, stderr=log)
            running[process.pid] = place
        began, found = time.monotonic(), dict[int, Cost]()
        while len(found) < len(trees):
            pid, status, used = os.wait4(-1, 0)
            place = running[pid]
            if status:
                said = Path(scratch, str(place), "log").read_text()
                sys.exit(f"{trees[place]}: {' '.join(words)}: failed\n{said}")
            cpu_s = used.ru_utime + used.ru_stime
            found[place] = Cost(cpu_s, time.monotonic() - began, used.ru_maxrss / 1024)
    return [found[place] for place in range(len(trees))]


@click.command()
@click.argument("base", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.option("--only", multiple=True, help="One of the rows.")
@click.option("--setup", is_flag=True, help="Install and sweep from nothing too.")
def main(base: Path, only: tuple[str, ...], setup: bool) -> None:
    """Print what this checkout costs beside the one in BASE."""
    commands = {name: (sys.executable, "-m", "pabench", *words) for name, words in COMMANDS.items()}
    if setup:
        places = ("VENV={folder}/venv", "ARGS=--out {folder}/run")
        commands["make sweep from nothing"] = ("make", "-C", "{tree}", "sweep", *places)
    rows = []
    for name, words in commands.items():
        if only and name not in only:
            continue
        here, there = costs(words, (HERE, base))
        rows.append(
            {
                "command": name,
                "CPU s": round(here.cpu_s, 1),
                "of base": round(there.cpu_s, 1),
                "CPU ratio": round(here.cpu_s / there.cpu_s, 2),
                "wall ratio": round(here.wall_s / there.wall_s, 2),
                "peak MiB": round(here.peak_mib),
                "peak of base": round(there.peak_mib),
            }
        )
    click.echo(text_table(rows))


if __name__ == "__main__":
    main()
