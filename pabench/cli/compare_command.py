# SPDX-License-Identifier: Apache-2.0
"""``pabench compare``: what became better or worse between two runs."""

from __future__ import annotations

from pathlib import Path

import click

from pabench.console import say
from pabench.errors import EXIT_OK, UsageError
from pabench.run.files import atomic_write_text, check_output, pretty

FILE = click.Path(path_type=Path)


@click.command(name="compare")
@click.argument("runs", nargs=-1, metavar="[BASE] NEW", type=FILE)
@click.option("--baseline", metavar="NAME", help="Compare with this baseline instead of BASE.")
@click.option("--save", metavar="NAME", help="Keep the run as a baseline of this name; compare nothing.")
@click.option("--overwrite", is_flag=True, help="Replace the baseline of --save.")
@click.option(
    "--only", metavar="CLASSES", help="Compare only these classes: verdicts,counted,timed.  [default: all]"
)
@click.option(
    "--threshold",
    metavar="PERCENT",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=2.0,
    help="Time differences below this count as equal.  [default: 2]",
)
@click.option(
    "--accept",
    type=FILE,
    metavar="FILE",
    help="File of accepted regressions, each with a reason and an expiry date.",
)
@click.option("--all", "everything", is_flag=True, help="Print every difference instead of the first 40.")
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write all comparisons as JSON.")
@click.option(
    "--markdown", "markdown_file", type=FILE, metavar="FILE", help="Write a pull-request comment in Markdown."
)
@click.option("--html", type=FILE, metavar="FILE", help="Write an HTML page.")
@click.option("--junit", type=FILE, metavar="FILE", help="Write JUnit XML.")
def command(
    runs: tuple[Path, ...],
    baseline: str | None,
    save: str | None,
    overwrite: bool,
    only: str | None,
    threshold: float,
    accept: Path | None,
    everything: bool,
    json_file: Path | None,
    markdown_file: Path | None,
    html: Path | None,
    junit: Path | None,
) -> int:
    """Compare run NEW with run BASE, item by item.

    Verdicts and counted figures (bytes, sectors, pages) compare exactly, on any machine.  Times compare
    within their noise, on one machine.  Exit code 1 when something is worse, 6 when something could not be
    told and nothing is worse.

    \b
    Examples:
      pabench compare runs/main runs/branch
      pabench compare runs/main runs/branch --only verdicts,counted --markdown comment.md
      pabench compare runs/main --save main
      pabench compare runs/branch --baseline main
    """
    from pabench.comparison.baselines import find_baseline, save_baseline

    if save is not None and baseline is not None:
        raise UsageError("--save compares nothing, so --baseline must not be given with it")
    if overwrite and save is None:
        raise UsageError("--overwrite replaces the baseline of --save: give that too")
    wanted = 2 if save is None and baseline is None else 1
    if len(runs) != wanted:
        said = "two runs, BASE and NEW" if wanted == 2 else "one run"
        raise UsageError(f"{len(runs)} runs given: must be {said}", hint="pabench list baselines shows names")
    if save is not None:
        say(f"kept as baseline {save}: {save_baseline(runs[0], save, overwrite=overwrite)}")
        return EXIT_OK
    base, new = (runs[0], runs[1]) if baseline is None else (find_baseline(baseline), runs[0])
    from pabench.comparison.accept import read_accepted
    from pabench.comparison.compare import compare_runs
    from pabench.comparison.delta import CLASSES
    from pabench.comparison.words import markdown, text_lines
    from pabench.run.read import read_run

    outputs = {"--json": json_file, "--markdown": markdown_file, "--html": html, "--junit": junit}
    for option, path in outputs.items():
        if path is not None:
            check_output(option, path)
    found = compare_runs(
        read_run(base),
        read_run(new),
        parts=CLASSES if only is None else [part.strip() for part in only.split(",")],
        threshold=threshold / 100,
        accepted=() if accept is None else read_accepted(accept),
    )
    for line in text_lines(found, limit=None if everything else 40):
        say(line)
    if json_file is not None:
        atomic_write_text(json_file, pretty(found.to_json()))
    if markdown_file is not None:
        atomic_write_text(markdown_file, markdown(found))
    if html is not None or junit is not None:
        from pabench.comparison.records import records_of
        from pabench.report.comparison_page import page_of
        from pabench.run.junit import junit_text

        if html is not None:
            atomic_write_text(html, page_of(found))
        if junit is not None:
            atomic_write_text(
                junit, junit_text("compare", records_of(found), {"base": found.base, "new": found.new})
            )
    return found.exit_code
