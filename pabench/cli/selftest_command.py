"""``pabench selftest``: whether pabench's own instruments can be believed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.selftest_calibrate import judge_right_kernels
from pabench.cli.selftest_mutants import OWN, choose, judge_mutants
from pabench.console import say
from pabench.errors import EXIT_FAILURE, EXIT_OK, UnknownName, UsageError
from pabench.run.files import check_output

if TYPE_CHECKING:
    from pabench.controls.compare import Compared
    from pabench.controls.verdict import Verdict

DEVICES = ("emulated", "cuda")
CONTROL_SEEDS, MUTANT_SEEDS = 20, 3


@click.command(name="selftest")
@click.option("--controls", is_flag=True, help="Ask the checked device about kernels with planted faults.")
@click.option(
    "--mutants",
    is_flag=False,
    flag_value=OWN,
    metavar="[FILE]",
    help="Ask the suite about planted faults: of a file or folder of them, or pabench's own.",
)
@click.option(
    "--generate",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Ask the suite about N faults made by rule in the kernel sources.",
)
@click.option(
    "--calibrate",
    type=click.IntRange(1, 100_000_000),
    metavar="N",
    help="Ask the error bound about N random right kernels: all must pass.",
)
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(0, 2**32 - 1),
    help="Of --generate and --calibrate.",
    show_default=True,
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 10_000),
    help="Schedules of each control, default 20; seeds of each mutant, default 3.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="A control, a mutant, or a file of theirs; may be repeated.",
)
@click.option("--hasty", is_flag=True, help="Of --generate: the first, cheap rounds alone.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Of --mutants and --generate: write each verdict as it falls; go on where FILE ends.",
)
@click.option(
    "--device",
    default="emulated",
    metavar="NAME",
    help="emulated, ptx:sm_80; or cuda: compare with compute-sanitizer on a GPU.",
    show_default=True,
)
@click.option(
    "--kernels", type=click.Path(path_type=Path), metavar="DIR", help="A copy of kernels_cuda to use."
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all verdicts."
)
def command(
    controls: bool,
    mutants: str | None,
    generate: int | None,
    calibrate: int | None,
    seed: int,
    seeds: int | None,
    only: tuple[str, ...],
    hasty: bool,
    out: Path | None,
    device: str,
    kernels: Path | None,
    json_file: Path | None,
) -> int:
    """Find out whether pabench would notice: by faults that are planted for it to find.

    --controls runs small kernels on the checked device: each fault must be found where it was planted, and no
    right twin be flagged.  --mutants and --generate plant faults in copies of our own kernels and allocators:
    the conformance suite must kill each.  --calibrate simulates right kernels of many makes: the error bound
    must let each pass.

    \b
    Examples:
      pabench selftest --controls
      pabench selftest --controls --only order.cu --seeds 100 --json controls.json
      pabench selftest --mutants --only page_copy.cu
      pabench selftest --mutants mine.toml --json fates.json
      pabench selftest --generate 20 --seed 7
      pabench selftest --generate 400 --seed 1 --seeds 1 --hasty --out fates.jsonl
      pabench selftest --calibrate 1000
    """
    if controls + sum(given is not None for given in (mutants, generate, calibrate)) != 1:
        raise UsageError(
            "selftest: exactly one thing to test must be named",
            hint="--controls, --mutants, --generate or --calibrate",
        )
    if device not in DEVICES:
        from pabench.device.ptx.architectures import is_ptx, read_name

        if not is_ptx(device):
            raise UnknownName("device", device, (*DEVICES, "ptx:sm_80"))
        read_name(device)
    for option, file in (("--json", json_file), ("--out", out)):
        if file is not None:
            check_output(option, file)
    if hasty and generate is None:
        raise UsageError("--hasty: is for --generate")
    if out is not None and mutants is None and generate is None:
        raise UsageError("--out: is for --mutants and --generate")
    if kernels is not None:
        from pabench.device.registry import check_kernels

        check_kernels(kernels)
    if not controls:
        for option, given in (("--device", device != "emulated"), ("--kernels", kernels is not None)):
            if given:
                raise UsageError(f"{option}: is for --controls")
        if calibrate is not None:
            return judge_right_kernels(calibrate, seed=seed, json_file=json_file)
        return judge_mutants(
            mutants,
            generate=generate,
            seed=seed,
            seeds=seeds or MUTANT_SEEDS,
            only=only,
            json_file=json_file,
            hasty=hasty,
            out=out,
        )
    seeds = seeds or CONTROL_SEEDS

    from pabench.controls.run import counts, run_controls
    from pabench.controls.table import controls_dir, load_controls
    from pabench.run.files import atomic_write_text, pretty

    folder = controls_dir()
    chosen = choose("control", load_controls(folder), only)
    program = None
    if device == "cuda":
        from pabench.controls.sanitizer import find_sanitizer

        program = find_sanitizer()
    begin = time.monotonic()
    rows: list[Verdict | Compared] = []
    record: dict[str, Any] = {"seeds": seeds, "device": device}
    width = max(len(control.id) for control in chosen)
    if program is None:
        say(f"{'control':<{width}}  {'expected':<8}  {'found':<11}  place  seeds")

    def show(verdict: Verdict) -> None:
        if program is None:
            say(_line(verdict, width))

    verdicts = run_controls(
        chosen,
        folder,
        seeds=range(seeds),
        kernels=kernels,
        device_name="emulated" if program else device,
        on_verdict=show,
    )
    if program is None:
        rows += verdicts
    else:
        compared = _beside_the_sanitizer(verdicts, folder, program, width)
        rows += compared
        record["compute_sanitizer"] = _sanitizer_counts(compared)
    for row in rows:
        if row.problem:
            say(f"WRONG {row.control.id} ({row.control.about}): {row.problem}")
    record |= counts(verdicts) | {"duration_s": round(time.monotonic() - begin, 3)}
    say(
        f"{record['right']}/{record['controls']} flagged, {record['false_alarms']} false alarms "
        f"in {record['twins']} twins, {seeds} schedules each, {record['duration_s']:.0f} s"
    )
    if json_file is not None:
        atomic_write_text(json_file, pretty({**record, "results": [row.to_json() for row in rows]}))
    return EXIT_FAILURE if any(row.problem for row in rows) else EXIT_OK


def _beside_the_sanitizer(
    verdicts: Sequence[Verdict], folder: Path, program: Path, width: int
) -> list[Compared]:
    """Run each control under compute-sanitizer too, and print both verdicts line by line."""
    from pabench.controls.compare import compare

    head = f"{'control':<{width}}  {'expected':<8}  {'checked device':<14}  place"
    say(f"{head}  {'tool':<10}  {'sanitizer':<9}  place")
    compared = []
    for verdict in verdicts:
        compared.append(compare(verdict, folder, program))
        say(_compared_line(compared[-1], width))
    return compared


def _sanitizer_counts(compared: Sequence[Compared]) -> dict[str, int]:
    from pabench.controls.compare import tool_counts

    counted = tool_counts(compared)
    say(
        f"compute-sanitizer: {counted['flagged']}/{counted['looked_for']} flagged where a tool looks, "
        f"{counted['twins_flagged']} twins flagged"
    )
    return counted


def _line(verdict: Verdict, width: int) -> str:
    found = "+".join(verdict.found) or "-"
    seeds = f"{verdict.flagged}/{verdict.seeds}"
    control = verdict.control
    wrong = "  WRONG" if verdict.problem else ""
    return (
        f"{control.id:<{width}}  {control.expect:<8}  {found:<11}  "
        f"{_yes_no(verdict.place_right):<5}  {seeds}{wrong}"
    )


def _compared_line(row: Compared, width: int) -> str:
    control, theirs = row.control, row.theirs
    found = "+".join(row.ours.found) or "clean"
    wrong = "  WRONG" if row.problem else ""
    return (
        f"{control.id:<{width}}  {control.expect:<8}  {found:<14}  {_yes_no(row.ours.place_right):<5}  "
        f"{theirs.tool if theirs else '-':<10}  {row.state:<9}  {_yes_no(row.place_right)}{wrong}"
    )


def _yes_no(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"
