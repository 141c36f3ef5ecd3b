"""``pabench report``: render the report of one or more runs."""

from __future__ import annotations

from pathlib import Path

import click

from pabench.console import say
from pabench.errors import UsageError
from pabench.run.files import check_output


@click.command(name="report")
@click.argument("runs", nargs=-1, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write.  [default: RUN/report.html for one run, ./report.html for several]",
)
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Run to compare with: what became worse is on the page.",
)
def command(runs: tuple[Path, ...], out: Path | None, base: Path | None) -> None:
    """Render one HTML file from one or more run directories and print its path.

    \b
    Examples:
      pabench report runs/sweep-20260301T120000Z
      pabench report runs/conformance runs/sweep --out report.html
      pabench report runs/branch --base runs/main
    """
    if not runs:
        raise UsageError("no run given: name at least one run directory", hint="pabench report RUN...")
    if out is None:
        out = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    else:
        check_output("--out", out)
    from pabench.report.render import render_report

    say(str(render_report(runs, out, base=base)))
