# SPDX-License-Identifier: Apache-2.0
"""``make fuzz``: runs the property tests with one random seed after another, and says how to repeat failures.

``make test`` draws the same examples every time, so that it is red because of a change or not at all.  What
it does not draw is looked for here.
"""

from __future__ import annotations

import argparse
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = "short test summary info"
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
"""A line of it."""
OK, FAILURE, INTERRUPTED, INTERNAL, NOTHING_RAN = 0, 1, 2, 3, 5
PASSED, SOME_FAILED = 0, 1
"""Exit codes of pytest that are an answer."""
UNFINISHED = None
END_S = 30.0
"""For pytest to say what it has found, once it is told to end."""


def command(seed: int, arguments: Sequence[str], *, workers: str = "0") -> list[str]:
    """The command line of pytest that draws with ``seed``."""
    return [*again(seed, arguments), "-m", "hypothesis", "-q", "-rfE", "-n", workers]


def again(seed: int, arguments: Sequence[str]) -> list[str]:
    """The command line that repeats a failure."""
    python = Path(sys.executable)
    shown = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    draws = ["--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
    return [str(shown), "-m", "pytest", *draws, *arguments]


def run_seed(
    seed: int, arguments: Sequence[str], *, workers: str, seconds: float
) -> tuple[int | None, list[str]]:
    """Run the property tests with ``seed``, for ``seconds`` at most.

    Returns:
        pytest's exit code, ``UNFINISHED`` when the time was over, and the tests that failed.
    """
    with subprocess.Popen(
        command(seed, arguments, workers=workers),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        code: int | None
        try:
            said, _ = run.communicate(timeout=seconds)
            code = run.returncode
        except subprocess.TimeoutExpired:
            code = UNFINISHED
            run.send_signal(signal.SIGINT)
            try:
                said, _ = run.communicate(timeout=END_S)
            except subprocess.TimeoutExpired:
                run.kill()
                said, _ = run.communicate()
        except KeyboardInterrupt:
            run.communicate()  # it was interrupted as well
            raise
    failed = list(dict.fromkeys(FAILED.findall(said.partition(SUMMARY)[2])))
    if failed or code not in (PASSED, SOME_FAILED, UNFINISHED):
        sys.stdout.write(said)
    return code, failed


def fuzz(seeds: Sequence[int], arguments: Sequence[str], *, workers: str, seconds: float) -> int:
    """Run seed after seed, a line each, until ``seconds`` are over; return the exit code."""
    end = time.monotonic() + seconds
    finished, found = 0, []
    for seed in seeds:
        left = end - time.monotonic()
        if left <= 0:
            break
        begin = time.monotonic()
        code, failed = run_seed(seed, arguments, workers=workers, seconds=left)
        if code not in (PASSED, SOME_FAILED, UNFINISHED):
            say(f"seed {seed}: pytest ended with code {code}")
            return NOTHING_RAN if code == NOTHING_RAN else INTERNAL
        word = "time is over" if code is UNFINISHED else "failed" if failed else "passed"
        say(f"seed {seed}: {word}, {time.monotonic() - begin:.0f} s")
        finished += code is not UNFINISHED
        for test in failed:
            say(f"  again: {shlex.join(again(seed, [test]))}")
            found.append((seed, test))
    tests = len({test for _, test in found})
    say(f"{finished} of {len(seeds)} seeds finished, {tests} property tests failed")
    if found:
        return FAILURE
    return OK if finished else NOTHING_RAN


def property_files() -> list[str]:
    """Files with a property test: to import all others takes longer than many a test."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "@given(" in file.read_text(encoding="utf-8")]


def say(text: str) -> None:
    """Print a line at once: a run takes long, and may be cut off."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many random seeds")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all seeds together")
    parser.add_argument("--workers", default="auto", help="processes of pytest")
    parser.add_argument("arguments", nargs="*", help="for pytest: tests, or -k and others after --")
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"--seeds {given.seeds}: must be at least 1")
    if not given.seconds > 0:
        parser.error(f"--seconds {given.seconds}: must be above 0")
    seeds = [secrets.randbelow(2**32) for _ in range(given.seeds)]
    try:
        return fuzz(seeds, given.arguments or property_files(), workers=given.workers, seconds=given.seconds)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
