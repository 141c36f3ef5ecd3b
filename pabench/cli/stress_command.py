"""``pabench stress``: page allocators under many requests, in full pools, over time."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pabench.errors import EXIT_INTERRUPTED, PabenchError, UnknownName, UsageError

DEFAULT_DEADLINE_S = 20.0


@click.command(name="stress")
@click.option(
    "--allocator",
    "allocators",
    multiple=True,
    metavar="NAME",
    help="Of `pabench list allocators`; may be repeated.  [default: host]",
)
@click.option(
    "--scenario", "scenarios", multiple=True, metavar="NAME", help="May be repeated.  Default: all."
)
@click.option("--device", default="auto", metavar="NAME", help="auto, cuda or emulated.", show_default=True)
@click.option(
    "--max-requests", default=2**20, metavar="N", show_default=True, help="Largest size, at most 2^20."
)
@click.option(
    "--pages", default=2**14, metavar="N", show_default=True, help="Of the pool, where no size says."
)
@click.option("--page-size", default=16, metavar="N", show_default=True, help="Tokens of a page.")
@click.option("--rounds", default=40, metavar="N", show_default=True, help="Of churn and fill.")
@click.option("--seed", default=0, metavar="N", show_default=True, help="Of what is drawn.")
@click.option(
    "--deadline", default=DEFAULT_DEADLINE_S, metavar="SECONDS", show_default=True, help="Of one call."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all lines.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="New folder.  Default: runs/stress-TIME."
)
def command(
    allocators: tuple[str, ...],
    scenarios: tuple[str, ...],
    device: str,
    max_requests: int,
    pages: int,
    page_size: int,
    rounds: int,
    seed: int,
    deadline: float,
    json_file: Path | None,
    out: Path | None,
) -> int:
    """Stress page allocators: what a call costs, first and later, and how memory holds out.

    Scenarios: requests and pages (sizes 1 to --max-requests), churn, oversubscription, fill.  Times are of
    this machine's clock around one call; on the emulated device they say how long the emulation took.  A call
    that takes longer than --deadline is a timeout, which is a result.

    \b
    Examples:
      pabench stress --allocator host --max-requests 4096
      pabench stress --allocator buddy --allocator contiguous --scenario churn --scenario fill
    """
    from pabench.activities.stress.cell import SCENARIOS, stress_cells
    from pabench.activities.stress.runner import StressRunner
    from pabench.cli.isolation_options import deadline_seconds, poll_seconds
    from pabench.cli.text_table import text_table
    from pabench.device.registry import DeviceRequest
    from pabench.report.render import render_report
    from pabench.run.directory import REPORT_FILE, RunDirectory, check_new
    from pabench.run.files import atomic_write_text, pretty
    from pabench.run.provenance import collect
    from pabench.subjects.allocators.registry import ALLOCATORS

    for kind, asked, known in (("allocator", allocators, ALLOCATORS), ("scenario", scenarios, SCENARIOS)):
        for name in asked:
            if name not in known:
                raise UnknownName(kind, name, known)
    deadline_s = deadline_seconds(deadline, in_process=False)
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise UsageError(f"--json {str(json_file)!r}: must be a file in an existing folder")
    chosen = tuple(dict.fromkeys(allocators)) or ("host",)
    options: dict[str, Any] = {
        "scenarios": tuple(name for name in SCENARIOS if name in scenarios) or SCENARIOS,
        "max_requests": max_requests,
        "num_pages": pages,
        "page_size": page_size,
        "rounds": rounds,
        "seed": seed,
    }
    cells = list(stress_cells(chosen, **options))
    folder = out or Path("runs") / f"stress-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    check_new(folder)
    wanted = DeviceRequest(name=device, poll_seconds=poll_seconds(deadline_s))
    wanted.check()
    with StressRunner(wanted, deadline_s=deadline_s) as runner:
        facts = runner.open()
        directory = RunDirectory.create(
            folder,
            kind="stress",
            command=shlex.join(["pabench", *sys.argv[1:]]),
            config={"allocators": chosen, "device": facts.name, "deadline_s": deadline_s, **options},
            provenance=collect(device_name=facts.name, device_description=facts.description),
        )
        click.echo(f"pabench stress: {', '.join(chosen)} on {facts.description}", err=True)
        with directory:
            try:
                code = runner.run(cells, directory, _show)
            except PabenchError as error:
                directory.finish(status="interrupted", exit_code=error.exit_code)
                raise
            status = "interrupted" if code == EXIT_INTERRUPTED else "finished"
            directory.finish(status=status, exit_code=code)
    if json_file is not None:
        atomic_write_text(json_file, pretty({"exit_code": code, "lines": directory.done}))
    click.echo(text_table([_row(line) for line in directory.done]))
    click.echo(f"report: {render_report([folder], folder / REPORT_FILE)}")
    return code


def _show(line: dict[str, Any]) -> None:
    said = f": {line['reason']}" if line["reason"] else ""
    click.echo(f"{line['subject']} {line['check']}  {line['status']}{said}", err=True)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    """What fits on a screen; the report and the journal have the rest."""
    from pabench.report.stress import figures_of

    shown = figures_of(line)
    return {
        "allocator": line["subject"],
        "scenario": line["check"],
        "status": line["status"],
        "first (host)": shown.first,
        "steady (host)": shown.steady,
        "memory (counted)": shown.memory,
    }
