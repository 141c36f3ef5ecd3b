# SPDX-License-Identifier: Apache-2.0
"""What each test costs, measured: decides what ``make check`` and ``make test`` leave out.

``make costs`` runs every test under this plugin and writes ``tests/costs.txt`` anew.  It counts CPU seconds
of a test and of the processes it waited for, which hold on a busy machine too.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FILE = TESTS / "costs.txt"
WRITTEN_S = 0.1
HEAD = f"""\
# CPU seconds of each test that takes {WRITTEN_S} or more, with the processes it waits for and compilations.
# Written by `make costs`; read by tests/conftest.py.
"""
ELSEWHERE = "beside_the_checkout"
"""In the name of a test whose cases are files that not every machine has."""
MEASURED = "PABENCH_TEST_COSTS"
"""Environment: the file that tests being measured add their lines to."""


def read(path: Path = FILE) -> dict[str, float]:
    """Return CPU seconds by test, named as pytest does inside the folder ``tests``."""
    costs, place = {}, ""
    for line in path.read_text().splitlines():
        if line.startswith("  "):
            seconds, name = line.strip().split(" ", 1)
            costs[f"{place}::{name}"] = float(seconds)
        elif not line.startswith("#"):
            place = line
    return costs


def write(costs: dict[str, float], path: Path = FILE) -> None:
    """Write what costs enough, by file."""
    lines, place = [], ""
    for test, seconds in sorted(costs.items()):
        if seconds < WRITTEN_S or ELSEWHERE in test:
            continue
        file, name = test.split("::", 1)
        if file != place:
            place = file
            lines.append(f"{file}\n")
        lines.append(f"  {seconds:.1f} {name}\n")
    path.write_text(HEAD + "".join(lines))


def measured(path: Path) -> dict[str, float]:
    """Return what tests added to ``path``; of a test that ran twice the second time."""
    lines = (line.split(" ", 1) for line in path.read_text().splitlines())
    return {test: float(seconds) for seconds, test in lines}


def spent() -> float:
    """Return CPU seconds of this process and of those it waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(of.ru_utime + of.ru_stime for of in used)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Add the test's line; lines this short are added whole, whoever else writes."""
    before = spent()
    result = yield
    place = os.path.relpath(item.path, TESTS)
    with open(os.environ[MEASURED], "a") as file:
        file.write(f"{spent() - before:.3f} {place}::{item.nodeid.split('::', 1)[1]}\n")
    return result


if __name__ == "__main__":
    write(measured(Path(os.environ[MEASURED])))
