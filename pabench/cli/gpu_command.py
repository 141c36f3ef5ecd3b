# SPDX-License-Identifier: Apache-2.0
"""``pabench gpu``: everything that an NVIDIA GPU is needed for, in one command with a budget."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pabench.cli.stamp import check_json, json_option, write_json
from pabench.console import say
from pabench.errors import EnvironmentRefused, UnknownName, UsageError
from pabench.run.options import parse_seconds, whole
from pabench.run.signals import stop_signals

if TYPE_CHECKING:
    from pabench.cli.gpu_steps import Step

PARTS = ("check", "sweep", "all")
CONFORMANCE = "conformance"
ALLOCATORS, KINDS = "allocators", "kinds"
SWEEP_SECONDS = {ALLOCATORS: 25.0, KINDS: 60.0, "sweep": 3600.0}
"""Likewise, of the second part."""
CHECK_SECONDS = {"doctor": 30.0, "kernels": 90.0, CONFORMANCE: 200.0, "controls": 75.0}
"""At most; what a step does not use is the sweep's."""
SWEEP_MARGIN = 30.0
"""Seconds of the sweep's time in which no cell begins: the last one ends, and the report is written."""
PEERS = ("torch-sdpa",)
STRESS = (
    *("stress", "--device", "cuda", "--allocator", "scan", "--scenario", "requests"),
    *("--max-requests", "1024", "--budget", "15s"),
)
"""What pages cost that are taken and given back on the GPU."""


@click.command()
@click.option(
    "--part", default="all", metavar="NAME", help="Part to run: check, sweep or all.", show_default=True
)
@click.option("--grid", default="core", metavar="NAME", help="Grid of the sweep.", show_default=True)
@click.option(
    "--kinds",
    default="kinds",
    metavar="NAME",
    help="Grid of calls other than plain decode.",
    show_default=True,
)
@click.option("--replicates", metavar="N", help="Fresh processes that time each cell.  [default: 5]")
@click.option("--budget", default="540s", metavar="TIME", help="Total time budget.", show_default=True)
@click.option("--out", metavar="DIR", help="Run directory.  [default: runs/gpu-TIME]")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@json_option("the outcome of each step")
def command(
    part: str,
    grid: str,
    kinds: str,
    replicates: str | None,
    budget: str,
    out: str | None,
    resume: bool,
    json_file: Path | None,
) -> int:
    """Check and measure our kernels on this machine's GPU.

    check: versions, kernels compiled for this GPU, conformance, controls under compute-sanitizer.
    sweep: memory ceilings; the allocator; append, merge, gather, copies, prefill, formats, windows, latent
    caches and shared beginnings; then the core grid, beside every backend that is installed.

    \b
    Examples:
      pabench gpu
      pabench gpu --part sweep --grid core-small
      pabench gpu --resume --out runs/gpu-20260801-120000
    """
    began = time.monotonic()
    if part not in PARTS:
        raise UnknownName("part", part, PARTS)
    ends_at = began + parse_seconds("--budget", budget)
    if resume and out is None:
        raise UsageError("--resume: needs the folder of the run", hint="add --out DIR")
    from pabench.activities.sweep.grid_file import read_grid
    from pabench.cli.gpu_steps import begin, exit_code, plan_of, read_outcomes, run_steps
    from pabench.device.cuda import why_no_cuda
    from pabench.run.directory import check_new

    check_json(json_file)
    for name in (grid, kinds):
        read_grid(name)
    several = (
        []
        if replicates is None
        else ["--replicates", str(whole("--replicates", replicates, low=1, high=100))]
    )
    if why := why_no_cuda():
        raise EnvironmentRefused(f"no CUDA device: {why}", hint="pabench gpu needs an NVIDIA GPU and CuPy")
    folder = Path(out) if out is not None else Path("runs") / f"gpu-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    done = read_outcomes(folder) if resume else ()
    if not resume:
        check_new(folder)
        begin(folder)
    steps = [step for step in _steps(folder, grid, kinds, several) if part in (step.part, "all")]
    say(f"{plan_of(steps, ends_at - began)}\nfolder: {folder}")
    with stop_signals():
        outcomes = run_steps(steps, folder, ends_at=ends_at, done=done, show=say)
    _report(folder)
    code = exit_code(outcomes)
    record = {"folder": str(folder), "exit_code": code, "steps": [asdict(one) for one in outcomes]}
    write_json(json_file, "gpu", record)
    ended = {outcome.name for outcome in outcomes if outcome.state in ("ok", "skipped")}
    if not all(step.name in ended and step.complete() for step in steps):
        say(f"go on with: {shlex.join(['pabench', 'gpu', '--resume', '--out', str(folder)])}")
    return code


def architecture(major: int, minor: int) -> str:
    """Return the architecture of the static table that a GPU of this compute capability runs."""
    from pabench.device.architecture import capability_of
    from pabench.device.nvrtc import ARCHITECTURES

    number = 10 * major + minor
    known = {capability_of(name): name for name in ARCHITECTURES}
    fitting = [value for value in known if value <= number and value // 10 == major]
    return known[max(fitting, default=min(known))]


def _steps(folder: Path, grid: str, kinds: str = "kinds", more: Sequence[str] = ()) -> tuple[Step, ...]:
    from pabench.cli.gpu_steps import Step

    controls = ("selftest", "--controls", "--device", "cuda", "--seeds", "1", *_quick_controls())
    fixed: dict[str, Sequence[str]] = {
        "doctor": ("doctor",),
        "kernels": ("kernels", "--arch", _architecture_here()),
        **_conformance(folder),
        "controls": (*controls, "--out", str(_unused(folder / "controls"))),
    }
    return (
        *(
            Step(
                name=name,
                part="check",
                seconds=CHECK_SECONDS[name.partition("-")[0]],
                words=partial(_same, words),
                # one subject leaves most of a machine idle: drawing and judging are one process's work
                group=CONFORMANCE if name.startswith(CONFORMANCE) else "",
                may_lack=name == "controls",
            )
            for name, words in fixed.items()
        ),
        Step(
            name=ALLOCATORS,
            part="sweep",
            seconds=SWEEP_SECONDS[ALLOCATORS],
            words=partial(_same, (*STRESS, "--out", str(_unused(folder / ALLOCATORS)))),
        ),
        *(
            Step(
                name=name,
                part="sweep",
                seconds=SWEEP_SECONDS[name],
                words=partial(_sweep, folder / name, which, more),
                shown=True,
                complete=partial(_all_cells_ran, folder / name),
            )
            for name, which in ((KINDS, kinds), ("sweep", grid))
        ),
    )


def _conformance(folder: Path) -> dict[str, Sequence[str]]:
    """A run for each of our backends and for the allocator that has its pages on the GPU."""
    from pabench.subjects.backends.own import OWN

    made: dict[str, Sequence[str]] = {}
    here = _architecture_here()
    mine = (name for name, one in OWN.items() if one.architecture in ("", here) and name not in PEERS)
    subjects = [("backend", name) for name in mine]
    for kind, subject in (*subjects, ("allocator", "scan")):
        name = f"{CONFORMANCE}-{subject}"
        words = ("conformance", "--device", "cuda", "--profile", "quick", f"--{kind}", subject)
        made[name] = (*words, "--artifacts", str(_unused(folder / name)))
    return made


def _same(words: Sequence[str], seconds: float) -> Sequence[str]:
    return words


def _sweep(out: Path, grid: str, more: Sequence[str], seconds: float) -> Sequence[str]:
    from pabench.run.read import RUN_FILE

    budget = max(1, round(seconds - SWEEP_MARGIN))
    words = ["sweep", "--out", str(out), "--budget", f"{budget}s"]
    if (out / RUN_FILE).is_file():
        return [*words, "--resume"]
    return [*words, "--grid", grid, "--device", "cuda", *more]


def _all_cells_ran(out: Path) -> bool:
    from pabench.run.read import read_run

    record = read_run(out).record
    return record["status"] == "finished" and not record.get("not_run")


def _unused(path: Path) -> Path:
    """``path``, or with a number behind it when an earlier try has begun there."""
    made, number = path, 1
    while made.exists():
        number += 1
        made = path.with_name(f"{path.name}-{number}")
    return made


def _quick_controls() -> list[str]:
    from pabench.controls.table import controls_dir, load_controls

    return [word for c in load_controls(controls_dir()) if c.quick for word in ("--only", c.id)]


def _architecture_here() -> str:
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return architecture(int(properties["major"]), int(properties["minor"]))


def _report(folder: Path) -> None:
    """One page over all runs of the folder."""
    from pabench.report.render import render_report
    from pabench.run.directory import REPORT_FILE
    from pabench.run.read import RUN_FILE

    runs = sorted(path.parent for path in folder.glob(f"*/{RUN_FILE}"))
    if runs:
        say(f"report: {render_report(runs, folder / REPORT_FILE)}")
