"""``pabench sweep``: page sizes x length distributions x batches, from the options to the report."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.isolation_options import deadline_seconds, isolation_options, parse_seconds, poll_seconds
from pabench.cli.run_folder import default_out, stop_on_sigterm
from pabench.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from pabench.activities.sweep.bench import Bench
    from pabench.activities.sweep.config import SweepConfig
    from pabench.activities.sweep.prepare import Prepared
    from pabench.device.registry import DeviceRequest
    from pabench.run.directory import RunDirectory
    from pabench.timing.gpus import Gpu

EPILOG = """\b
Examples:
  pabench sweep --page-sizes 8,16,32
  pabench sweep --page-sizes 1:256:x2 --lengths azure-conv --lengths one-long:long=8192 --batch 1,32
  pabench sweep --page-sizes 16,64 --lengths list:100,250,17,1024,16,1 --backend torch-sdpa
  pabench sweep --grid core --budget 9m
  pabench sweep --resume --out runs/sweep-20260801-120000

Numbers are lists such as 8,16,32, ranges such as 16:64:16, or 1:64:x2. A flag wins over --config."""


@click.command(epilog=EPILOG)
@click.option("--page-sizes", metavar="LIST", help="Tokens of a page, for example 8,16,32.")
@click.option("--lengths", metavar="SPEC", multiple=True, help="Length spec; see `pabench list lengths`.")
@click.option("--trace", metavar="FILE", multiple=True, help="A request trace; its lengths are drawn from.")
@click.option("--batch", metavar="LIST", help="Sequences of a batch.  [default: 1,8,64]")
@click.option("--heads", metavar="Q:KV", multiple=True, help="Query and KV heads.  [default: 32:8]")
@click.option("--head-dim", metavar="N", help="Elements of one head.  [default: 128]")
@click.option("--dtypes", metavar="LIST", help="float32, float16, bfloat16.  [default: float16]")
@click.option("--layouts", metavar="LIST", help="NHD, HND, NHD-strided, HND-strided.  [default: NHD]")
@click.option("--backend", metavar="NAME", multiple=True, help="What runs.  [default: rawkernel]")
@click.option("--device", metavar="NAME", help="auto, cuda or emulated.  [default: auto]")
@click.option("--gpu", metavar="NAME", help="GPU of the modelled figures.  [default: H200]")
@click.option("--seed", metavar="N", help="Drives lengths and tensors.  [default: 0]")
@click.option("--kernels", metavar="DIR", help="Use this copy of the kernel sources.")
@click.option("--inputs", metavar="FILE", help="Check cells of its heads with captured activations too.")
@click.option(
    "--checked", is_flag=True, default=None, help="Check every access and count traffic; emulated device."
)
@click.option("--grid", metavar="NAME", help="Shapes of core-small, core, core-full, or of a TOML file.")
@click.option("--budget", metavar="TIME", help="Begin no cell after 540s or 9m; the rest is not run.")
@click.option("--config", metavar="FILE", help="TOML file with these options as keys.")
@click.option("--out", metavar="DIR", help="New folder of the run.  [default: runs/sweep-TIME]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; options may be left out.")
@click.option("--dry-run", is_flag=True, help="Print the cells and write nothing.")
@isolation_options
def command(
    *,
    config: str | None,
    out: str | None,
    resume: bool,
    dry_run: bool,
    budget: str | None,
    deadline: float | None,
    in_process: bool,
    **flags: Any,
) -> int:
    """Run page sizes x length distributions x batches and write a report.

    Each cell is checked against the oracle first: a kernel that is wrong gets no figure of speed.  Cells run
    in a worker process: one that crashes or hangs is a crashed cell, and the sweep goes on.
    """
    began = time.monotonic()
    deadline_s = deadline_seconds(deadline, in_process=in_process)
    ends_at = None if budget is None else began + parse_seconds("--budget", budget)
    from pabench.run.directory import check_new

    given = {name.replace("_", "-"): value for name, value in flags.items() if value not in (None, ())}
    resolved, out_path, stored = _configuration(given, config=config, out=out, resume=resume)
    if stored is None and out_path is not None:
        check_new(out_path)
    if stored is None and "backend" not in given:
        _say_what_is_left_out(resolved)
    from pabench.activities.sweep.prepare import prepare
    from pabench.workloads.captured import inputs_in_use

    with contextlib.ExitStack() as stack:
        stack.enter_context(inputs_in_use(None if resolved.inputs is None else Path(resolved.inputs)))
        # a grid runs on whatever is installed: a backend that cannot be loaded makes unsupported cells
        optional = resolved.grid is not None
        make_bench = partial(_bench, stack, None if in_process else deadline_s, optional)
        prepared = prepare(resolved, make_bench, poll_seconds=poll_seconds(deadline_s))
        if dry_run:
            _print_cells(prepared)
            return EXIT_OK
        if stored is not None:
            _refuse_other_run(prepared.record(), stored, out_path)
        path = out_path or default_out("sweep")
        if stored is None:
            check_new(path)
        prepared.warm_up()
        command_line = _command_line(given, config, out)
        return _run(prepared, path, resumed=stored is not None, command_line=command_line, ends_at=ends_at)


def _say_what_is_left_out(config: SweepConfig) -> None:
    from pabench.activities.sweep.config import absent_adapters

    if config.grid is not None and config.device == "cuda" and (absent := absent_adapters()):
        click.echo(f"left out, not installed (pabench doctor --peers): {', '.join(absent)}", err=True)


def _bench(
    stack: contextlib.ExitStack,
    deadline_s: float | None,
    optional: bool,
    device: DeviceRequest,
    backends: Sequence[str],
    gpu: Gpu,
) -> Bench:
    """Worker processes that ``stack`` ends, or this process when there is no deadline."""
    if deadline_s is None:
        from pabench.activities.sweep.in_process import InProcessBench

        return InProcessBench(device, backends, gpu, optional=optional)
    from pabench.activities.sweep.isolated import ENTRY, IsolatedBench
    from pabench.run.workers import Nursery

    nursery = stack.enter_context(Nursery(ENTRY))
    return IsolatedBench(device, backends, gpu, optional=optional, nursery=nursery, deadline_s=deadline_s)


def _configuration(
    given: Mapping[str, Any], *, config: str | None, out: str | None, resume: bool
) -> tuple[SweepConfig, Path | None, Mapping[str, Any] | None]:
    """Merge flags, file, the configuration of a run to resume, and defaults, in this order of precedence."""
    from pabench.activities.sweep.config import KEYS, resolve_config
    from pabench.activities.sweep.config_file import read_config_file
    from pabench.subjects.backends.registry import backend_names

    from_file = read_config_file(Path(config), (*KEYS, "out")) if config else {}
    folder = out if out is not None else from_file.pop("out", None)
    from_file.pop("out", None)
    if folder is not None and (not isinstance(folder, str) or not folder):
        raise UsageError(f"--out: {folder!r} must be the name of a folder")
    if resume and folder is None:
        raise UsageError("--resume: needs the folder of the run", hint="add --out DIR")
    path = Path(folder) if folder is not None else None
    stored = _stored_config(path) if resume and path is not None else None
    options = {key: value for key, value in (stored or {}).items() if key in KEYS} | from_file | dict(given)
    origin = {key: f"{key} in {config}" for key in from_file if key not in given}
    return resolve_config(options, backends=list(backend_names()), origin=origin), path, stored


def _stored_config(path: Path) -> Mapping[str, Any] | None:
    """Configuration of the run in ``path``, or None when none has begun there: then all cells are missing."""
    from pabench.run.directory import read_run

    with contextlib.suppress(OSError):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return None
    run = read_run(path)
    if run.kind != "sweep":
        raise UsageError(f"--out {path}: holds a {run.kind} run, not a sweep")
    stored: Mapping[str, Any] = run.record["config"]
    return stored


def _refuse_other_run(record: Mapping[str, Any], stored: Mapping[str, Any], path: Path | None) -> None:
    for key, value in record.items():
        if stored.get(key) == value:
            continue
        if key == "digests":
            before = stored.get(key) or {}
            what = "the kernel sources" if before.get("cells") == value["cells"] else "the lengths drawn"
            raise UsageError(
                f"--resume: {what} differ from those of the run in {path}", hint="use a new --out"
            )
        was = stored.get(key)
        raise UsageError(f"--resume: {key} = {value!r}: must be {was!r} as in the run in {path}")


def _run(prepared: Prepared, path: Path, *, resumed: bool, command_line: str, ends_at: float | None) -> int:
    from pabench.activities.sweep.finish import Finisher, note_hardware
    from pabench.activities.sweep.grid_table import print_grid_table
    from pabench.activities.sweep.runner import run_sweep
    from pabench.activities.sweep.table import print_table
    from pabench.report.render import render_report
    from pabench.run.directory import REPORT_FILE

    with _open(prepared, path, resumed=resumed, command_line=command_line) as directory, stop_on_sigterm():
        note_hardware(directory, prepared)
        result = run_sweep(
            prepared.cells,
            directory=directory,
            bench=prepared.bench,
            finish=Finisher(prepared, directory.run.get("hardware")),
            ends_at=ends_at,
        )
        hardware = directory.run.get("hardware")
    if result.interrupted:
        again = shlex.join(["pabench", "sweep", "--resume", "--out", str(path)])
        finished = f"{len(result.lines)} of {len(prepared.cells)} cells are in {path}"
        click.echo(f"pabench: interrupted: {finished}; go on with: {again}", err=True)
        return result.exit_code
    if prepared.config.grid is None:
        print_table(result.lines)
    else:
        print_grid_table(result.lines, hardware)
    if result.not_run:
        again = shlex.join(["pabench", "sweep", "--resume", "--out", str(path)])
        click.echo(f"{result.not_run} cells not run: the budget is spent; go on with: {again}")
    report = render_report([path], path / REPORT_FILE)
    click.echo(f"report: {report}")
    return result.exit_code


def _open(prepared: Prepared, path: Path, *, resumed: bool, command_line: str) -> RunDirectory:
    from pabench.run.directory import RunDirectory
    from pabench.run.provenance import collect

    if resumed:
        return RunDirectory.open(path, kind="sweep")
    device = prepared.device
    return RunDirectory.create(
        path,
        kind="sweep",
        command=command_line,
        config=prepared.record(),
        provenance=collect(device_name=device.name, device_description=device.description),
    )


def _command_line(given: Mapping[str, Any], config: str | None, out: str | None) -> str:
    words = ["pabench", "sweep"]
    for key, value in [*given.items(), ("config", config), ("out", out)]:
        for item in value if isinstance(value, tuple) else (value,):
            words += [f"--{key}", *([] if item is True else [str(item)])] if item is not None else []
    return shlex.join(words)


def _print_cells(prepared: Prepared) -> None:
    for cell in prepared.cells:
        click.echo(f"{cell.id}  {cell.label}{_expected(prepared.expected.get(cell.id))}")
    click.echo(f"{len(prepared.cells)} cells on device {prepared.device.name}; nothing was written")


def _expected(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return ""
    predicted = figures["predicted_ns"]
    said = "" if predicted is None else f", predicted {predicted / 1e3:.1f} us"
    return f"  {figures['model']}: floor {figures['expected_floor_ns'] / 1e3:.1f} us{said} (modelled)"
