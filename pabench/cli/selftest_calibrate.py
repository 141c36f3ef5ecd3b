"""``pabench selftest --calibrate``: right kernels must pass the error bound."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pabench.console import say
from pabench.errors import EXIT_FAILURE, EXIT_OK

SHOWN_FAILURES = 10


def judge_right_kernels(trials: int, *, seed: int, json_file: Path | None) -> int:
    """Judge ``trials`` simulated right kernels, print the largest err/T, and return the exit code."""
    from rich.console import Console
    from rich.progress import track

    from pabench.problem.dtypes import DTYPES
    from pabench.run.files import atomic_write_text, pretty
    from pabench.selftest.calibration import KINDS, calibrate

    begin = time.monotonic()
    ratios: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    failures: list[str] = []
    outcomes = calibrate(trials, seed=seed)
    for found in track(outcomes, "trials", trials, console=Console(stderr=True), transient=True):
        of_kind = ratios[found.kind]
        of_kind[found.dtype] = max(of_kind.get(found.dtype, 0.0), found.ratio)
        if found.failure is not None:
            failures.append(found.failure)
    width = max(len(kind) for kind in KINDS)
    say(f"{'largest err/T':<{width}}  " + "  ".join(f"{name:>8}" for name in DTYPES))
    for kind, of_kind in ratios.items():
        cells = (f"{of_kind[name]:.3f}" if name in of_kind else "-" for name in DTYPES)
        say(f"{kind:<{width}}  " + "  ".join(f"{cell:>8}" for cell in cells))
    for failure in failures[:SHOWN_FAILURES]:
        say(f"FALSE ALARM {failure}")
    duration_s = round(time.monotonic() - begin, 3)
    say(f"{trials - len(failures)}/{trials} right kernels pass, seed {seed}, {duration_s:.0f} s")
    if json_file is not None:
        record: dict[str, Any] = {"trials": trials, "seed": seed, "duration_s": duration_s}
        record |= {"false_alarms": len(failures), "largest_ratio": ratios, "failures": failures}
        atomic_write_text(json_file, pretty(record))
    return EXIT_FAILURE if failures else EXIT_OK
