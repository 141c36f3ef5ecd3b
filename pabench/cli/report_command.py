# SPDX-License-Identifier: Apache-2.0
"""``pabench report``: render the report of one or more runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pabench.cli.stamp import check_json, json_option, write_json
from pabench.console import say
from pabench.errors import UsageError
from pabench.run.files import check_output


@click.command(name="report")
@click.argument("runs", nargs=-1, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write.  [default: RUN/report.html, ./report.html for several, DIR/index.html]",
)
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Run to compare with: what became worse is on the page.",
)
@click.option(
    "--index",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="In place of runs: one page over all runs in a folder, with what changed from run to run.",
)
@click.option(
    "--interactive",
    is_flag=True,
    help="Write a page with charts to explore too, beside the report: NAME-interactive.html.",
)
@json_option("which pages were written")
def command(
    runs: tuple[Path, ...],
    out: Path | None,
    base: Path | None,
    folder: Path | None,
    interactive: bool,
    json_file: Path | None,
) -> None:
    """Render one HTML file from one or more run directories and print its path.

    \b
    Examples:
      pabench report runs/sweep-20260301T120000Z
      pabench report runs/conformance runs/sweep --out report.html
      pabench report runs/branch --base runs/main
      pabench report runs/sweep --interactive
      pabench report --index runs
    """
    check_json(json_file)
    if folder is not None:
        if runs or base is not None or interactive:
            raise UsageError("--index takes a folder in place of runs, of --base and of --interactive")
        from pabench.report.index import render_index

        if out is not None:
            check_output("--out", out)
        _written([render_index(folder, out or folder / "index.html")], [], json_file)
        return
    if not runs:
        raise UsageError("no run given: name at least one run directory", hint="pabench report RUN...")
    if out is None:
        out = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    else:
        check_output("--out", out)
    from pabench.report.render import render_report

    files = [render_report(runs, out, base=base)]
    if interactive:
        from pabench.report.interactive import render_interactive

        files.append(render_interactive(runs, out.with_name(f"{out.stem}-interactive.html")))
    _written(files, runs, json_file)


def _written(files: Sequence[Path], runs: Sequence[Path], json_file: Path | None) -> None:
    for file in files:
        say(str(file))
    write_json(
        json_file, "report", {"files": [str(file) for file in files], "runs": [str(run) for run in runs]}
    )
