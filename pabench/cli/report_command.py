"""``pabench report``: render the report of one or more runs."""

from __future__ import annotations

from pathlib import Path

import click

from pabench.errors import UsageError


@click.command(name="report")
@click.argument("runs", nargs=-1, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write. Default: RUN/report.html for one run, ./report.html for several.",
)
def command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Render one HTML file from one or more run directories and print its path.

    \b
    Examples:
      pabench report runs/sweep-20260301T120000Z
      pabench report runs/conformance runs/sweep --out report.html
    """
    if not runs:
        raise UsageError("no run given: name at least one run directory", hint="pabench report RUN...")
    if out is None:
        out = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    elif out.is_dir():
        raise UsageError(f"--out {out} is a folder: name a file", hint=f"--out {out / 'report.html'}")
    elif not out.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} does not exist")
    from pabench.report.render import render_report

    click.echo(str(render_report(runs, out)))
