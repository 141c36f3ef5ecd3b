# SPDX-License-Identifier: Apache-2.0
"""``pabench sweep``: page sizes x length distributions x batches, from the options to the report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.console import say
from pabench.errors import UsageError
from pabench.run.deadlines import poll_seconds
from pabench.run.options import activity_options, options_of

if TYPE_CHECKING:
    from pabench.activities.sweep.cell import Cell
    from pabench.activities.sweep.config import SweepConfig
    from pabench.activities.sweep.plug import Sweep
    from pabench.run.record import Record

COMMON = ("device", "seed", "kernels", "inputs", "checked")
"""Options of every activity that are keys of a sweep's configuration too."""
EPILOG = """\b
Examples:
  pabench sweep --page-sizes 8,16,32
  pabench sweep --page-sizes 1:256:x2 --lengths azure-conv --lengths one-long:long=8192 --batch 1,32
  pabench sweep --page-sizes 16,64 --lengths list:100,250,17,1024,16,1 --backend torch-sdpa
  pabench sweep --grid core --budget 9m
  pabench sweep --resume --out runs/sweep-20260801-120000

Numbers are lists (8,16,32) or ranges (16:64:16, 1:64:x2). An option overrides --config."""


@click.command(epilog=EPILOG)
@click.option("--page-sizes", metavar="LIST", help="Tokens per page, for example 8,16,32.")
@click.option(
    "--lengths",
    metavar="SPEC",
    multiple=True,
    help="Sequence lengths, see `pabench list lengths`; may be repeated.",
)
@click.option(
    "--trace", metavar="FILE", multiple=True, help="Request trace to draw lengths from; may be repeated."
)
@click.option("--batch", metavar="LIST", help="Sequences per batch.  [default: 1,8,64]")
@click.option(
    "--heads", metavar="Q:KV", multiple=True, help="Query and KV heads; may be repeated.  [default: 32:8]"
)
@click.option("--head-dim", metavar="N", help="Elements per head.  [default: 128]")
@click.option(
    "--dtypes", metavar="LIST", help="Storage types: float32, float16, bfloat16.  [default: float16]"
)
@click.option(
    "--layouts", metavar="LIST", help="Cache layouts: NHD, HND, NHD-strided, HND-strided.  [default: NHD]"
)
@click.option(
    "--backend", metavar="NAME", multiple=True, help="Backend to run; may be repeated.  [default: rawkernel]"
)
@click.option("--gpu", metavar="NAME", help="GPU for modelled figures.  [default: H200]")
@click.option(
    "--l2",
    metavar="LIST",
    help="L2 cache while timing on a GPU: cold-rotate, cold-flush, hot.  [default: cold-rotate]",
)
@click.option(
    "--replicates", metavar="N", help="Fresh processes that time each cell.  [default: 5 on a GPU, else 1]"
)
@click.option(
    "--grid", metavar="NAME", help="Grid of shapes: core-small, core, core-full, kinds or a TOML file."
)
@click.option("--config", metavar="FILE", help="TOML file with these options as keys.")
@activity_options()
def command(*, config: str | None, **given: Any) -> int:
    """Measure memory and speed over page sizes, length distributions and batches, and write a report.

    Each cell is checked against the oracle before it is timed.  Each backend runs in its own process: a crash
    or hang is recorded, and the sweep continues.
    """
    from pabench.activities.sweep.plug import Sweep
    from pabench.run.command import Words, run_activity
    from pabench.workloads.captured import inputs_in_use

    flags = {name.replace("_", "-"): given[name] for name in COMMON}
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    from_file = _file(config)
    given["out"] = from_file.pop("out", None) if given["out"] is None else given["out"]
    options = options_of("sweep", given)
    flags |= {name.replace("_", "-"): value for name, value in given.items()}
    flags = {name: value for name, value in flags.items() if value not in (None, (), False)}
    stored = _stored_config(options.out) if options.resume and options.out is not None else {}
    resolved = _configuration(flags, from_file, stored, config)
    if "backend" not in flags and not options.resume:
        _say_what_is_left_out(resolved)
    with inputs_in_use(None if resolved.inputs is None else Path(resolved.inputs)):
        plug = Sweep(
            resolved,
            poll_seconds=poll_seconds(options.deadline_s),
            deadline_s=None if options.in_process else options.deadline_s,
        )
        words = Words(
            who=", ".join(resolved.backends),
            summary=lambda records: _print(plug, resolved, records),
            items=lambda cells: _cell_lines(plug, cells),
            warm_up=plug.warm_up,
            opened=plug.opened,
        )
        # figures are times: one cell at a time, unless somebody asks for more
        return run_activity(plug, options, words, one_job=True)


def _say_what_is_left_out(config: SweepConfig) -> None:
    from pabench.activities.sweep.config import absent_adapters

    if config.grid is not None and config.device == "cuda" and (absent := absent_adapters()):
        say(f"left out, not installed (pabench doctor --peers): {', '.join(absent)}", err=True)


def _file(config: str | None) -> dict[str, Any]:
    from pabench.activities.sweep.config import KEYS
    from pabench.activities.sweep.config_file import read_config_file

    return {} if config is None else read_config_file(Path(config), (*KEYS, "out"))


def _configuration(
    given: Mapping[str, Any], from_file: Mapping[str, Any], stored: Mapping[str, Any], config: str | None
) -> SweepConfig:
    """Merge flags, file, the configuration of a run to resume, and defaults, in this order of precedence."""
    from pabench.activities.sweep.config import KEYS, resolve_config
    from pabench.subjects.reference import BACKEND
    from pabench.subjects.registry import places

    # --out of the file has been taken
    from_file = {key: value for key, value in from_file.items() if key in KEYS}
    options = {key: value for key, value in stored.items() if key in KEYS} | from_file | dict(given)
    origin = {key: f"{key} in {config}" for key in from_file if key not in given}
    return resolve_config(options, backends=list(places(BACKEND)), origin=origin)


def _stored_config(path: Path) -> Mapping[str, Any]:
    """Configuration of the run in ``path``; none when no run has begun there: then all cells are missing."""
    from pabench.run.directory import read_run

    with contextlib.suppress(OSError):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return {}
    run = read_run(path)
    if run.kind != "sweep":
        raise UsageError(f"--out {path}: holds a {run.kind} run, not a sweep")
    return {"replicates": 1, **run.record["config"]}


def _print(plug: Sweep, config: SweepConfig, records: Sequence[Record]) -> None:
    from pabench.activities.sweep.grid_table import print_grid_table
    from pabench.activities.sweep.table import print_table

    lines = [record.flat() for record in records]
    if config.grid is None:
        print_table(lines)
    else:
        print_grid_table(lines, plug.hardware)


def _cell_lines(plug: Sweep, cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        yield f"{cell.id}  {cell.label}{_expected(plug.expected.get(cell.question))}"


def _expected(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return ""
    predicted = figures["predicted_ns"]
    said = "" if predicted is None else f", predicted {predicted / 1e3:.1f} us"
    return f"  {figures['model']}: floor {figures['expected_floor_ns'] / 1e3:.1f} us{said} (modelled)"
