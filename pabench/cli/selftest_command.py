# SPDX-License-Identifier: Apache-2.0
"""``pabench selftest``: whether pabench's own instruments can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pabench.errors import UnknownName, UsageError
from pabench.run.options import Options, activity_options, options_of

if TYPE_CHECKING:
    from pabench.run.command import Words
    from pabench.run.plug import Activity

DEVICES = ("emulated", "cuda")
CONTROL_SEEDS, MUTANT_SEEDS = 20, 3
DEFAULT_DEADLINE_S = 30.0
WITHOUT = ("checked", "inputs", "ray")
OWN = "own"


@click.command(name="selftest")
@click.option(
    "--controls",
    is_flag=True,
    help="Test the checked device: kernels with seeded bugs, and correct look-alikes.",
)
@click.option(
    "--mutants",
    is_flag=False,
    flag_value=OWN,
    metavar="[FILE]",
    help="Test the suite on seeded bugs: from a file or folder, else pabench's own.",
)
@click.option(
    "--generate",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Test the suite on N bugs generated in the kernel sources.",
)
@click.option(
    "--calibrate",
    type=click.IntRange(1, 100_000_000),
    metavar="N",
    help="Test the error bound on N random correct kernels: all must pass.",
)
@click.option(
    "--suite",
    metavar="NAME",
    help="Give faults to another project's suite: vllm, flashmla, flashinfer-fuzzer, ..., or all.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Schedules per control or seeds per mutant.  [default: 20 and 3]",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Run only this control, mutant or file of them; may be repeated.",
)
@click.option("--hasty", is_flag=True, help="With --generate: run only the first, cheap rounds.")
@activity_options(deadline_s=DEFAULT_DEADLINE_S, without=WITHOUT)
def command(
    *,
    controls: bool,
    mutants: str | None,
    generate: int | None,
    calibrate: int | None,
    suite: str | None,
    seeds: int | None,
    only: tuple[str, ...],
    hasty: bool,
    **given: Any,
) -> int:
    """Self-test: verify that seeded bugs are detected and correct kernels pass.

    --controls runs small kernels on the checked device: each seeded bug must be found at its place, and no
    correct look-alike may be reported.  --mutants and --generate seed bugs in copies of pabench's kernels and
    allocators: the conformance suite must catch each.  --calibrate simulates correct kernels of many designs:
    the error bound must accept each.  --suite seeds bugs for the inputs and tolerances of another project's
    suite, and for pabench's own.

    \b
    Examples:
      pabench selftest --controls
      pabench selftest --controls --only order.cu --seeds 100 --json controls.json
      pabench selftest --mutants --only page_copy.cu
      pabench selftest --mutants mine.toml --json kills.json
      pabench selftest --generate 20 --seed 7
      pabench selftest --generate 400 --seed 1 --seeds 1 --hasty --out runs/faults
      pabench selftest --calibrate 1000
      pabench selftest --suite vllm
    """
    from pabench.run.command import run_activity

    if controls + sum(one is not None for one in (mutants, generate, calibrate, suite)) != 1:
        raise UsageError(
            "selftest: exactly one thing to test must be named",
            hint="--controls, --mutants, --generate, --calibrate or --suite",
        )
    options = options_of("selftest", given, deadline_s=DEFAULT_DEADLINE_S, without=WITHOUT)
    if hasty and generate is None:
        raise UsageError("--hasty: is for --generate")
    if not controls:
        for option, is_given in (("--device", options.device != "auto"), ("--kernels", options.kernels)):
            if is_given:
                raise UsageError(f"{option}: is for --controls")
    if controls:
        plug, words = _controls(options, only, seeds or CONTROL_SEEDS)
    elif suite is not None:
        plug, words = _trial(suite)
    elif calibrate is not None:
        plug, words = _calibration(options, calibrate)
    else:
        plug, words = _mutants(options, mutants, generate, only, seeds or MUTANT_SEEDS, hasty=hasty)
    return run_activity(plug, options, words)


def _controls(options: Options, only: Sequence[str], seeds: int) -> tuple[Activity, Words]:
    from pabench.controls.table import load_controls
    from pabench.device.ptx.architectures import is_ptx, read_name
    from pabench.device.registry import check_kernels
    from pabench.run.command import Words
    from pabench.selftest.choose import choose
    from pabench.selftest.controls import Controls, counts, tool_counts

    device = "emulated" if options.device == "auto" else options.device
    if is_ptx(device):
        read_name(device)
    elif device not in DEVICES:
        raise UnknownName("device", device, (*DEVICES, "ptx:sm_80"))
    if options.kernels is not None:
        check_kernels(options.kernels)
    chosen = choose("control", load_controls(), only)
    plug = Controls(chosen, seeds=seeds, device=device, kernels=options.kernels)
    from pabench.cli.selftest_words import control_lines

    on_gpu = device == "cuda"
    words = Words(
        summary=partial(control_lines, seeds=seeds, beside_tool=on_gpu),
        json=lambda records: (
            counts(records) | ({"compute_sanitizer": tool_counts(records)} if on_gpu else {})
        ),
    )
    return plug, words


def _calibration(options: Options, trials: int) -> tuple[Activity, Words]:
    from pabench.cli.selftest_words import bound_lines
    from pabench.run.command import Words
    from pabench.selftest.bound import Calibration, largest_ratios

    words = Words(
        summary=partial(bound_lines, seed=options.seed),
        json=lambda records: {"trials": trials, "largest_ratio": largest_ratios(records)},
    )
    return Calibration(trials, seed=options.seed), words


def _trial(suite: str) -> tuple[Activity, Words]:
    from pabench.cli.selftest_words import suite_lines
    from pabench.run.command import Words
    from pabench.selftest.on_trial.plug import Trial, counts, suite_names

    return Trial(suite_names(suite)), Words(summary=suite_lines, json=counts)


def _mutants(
    options: Options,
    source: str | None,
    generate: int | None,
    only: Sequence[str],
    seeds: int,
    *,
    hasty: bool,
) -> tuple[Activity, Words]:
    from pabench.cli.selftest_words import mutant_lines
    from pabench.run.command import Words
    from pabench.selftest.choose import choose, planted
    from pabench.selftest.kills import Mutants, counts

    chosen = choose("mutant", planted(source, generate=generate, seed=options.seed), only)
    config = {"test": "mutants" if generate is None else "generate", "seed": options.seed}
    plug = Mutants(chosen, seeds=seeds, hasty=hasty, deadline_s=options.deadline_s, config=config)
    words = Words(
        summary=partial(mutant_lines, seeds=seeds, named=generate is None),
        json=counts,
    )
    return plug, words
