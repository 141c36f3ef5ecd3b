# SPDX-License-Identifier: Apache-2.0
"""``pabench weather``: other projects' kernels and allocators by version and clause, on one page."""

from __future__ import annotations

from pathlib import Path

import click

from pabench.cli.stamp import check_json, json_option, write_json
from pabench.console import say
from pabench.errors import UsageError
from pabench.run.files import atomic_write_text, check_output

FILE = click.Path(path_type=Path)


@click.command(name="weather")
@click.argument("runs", nargs=-1, metavar="RUN...", type=FILE)
@click.option("--out", type=FILE, metavar="FILE", required=True, help="Page to write, without scripts.")
@json_option("the rows, for the next --since,")
@click.option("--since", type=FILE, metavar="FILE", help="JSON of an earlier page: show what has changed.")
def command(runs: tuple[Path, ...], out: Path, json_file: Path | None, since: Path | None) -> None:
    """Write a page over conformance runs of other projects' packages: subject x clause x version.

    \b
    Examples:
      pabench weather runs/peers --out weather.html --json weather.json
      pabench weather runs/peers --out weather.html --since weather.json
    """
    from pabench.exchange.json_files import parse, read_text
    from pabench.report.weather import changes, rows_of, unjudged, weather_html, weather_json, weather_rows
    from pabench.run.read import read_runs

    check_output("--out", out)
    check_json(json_file)
    before = None
    if since is not None:
        before = rows_of(parse(read_text(since, "--since"), f"--since {since}"), f"--since {since}")
    read = read_runs(runs)
    rows, absent = weather_rows(read), unjudged(read)
    if not rows:
        raise UsageError("no run judges a package of another project", hint="make weather")
    changed = [] if before is None else list(changes(rows, before))
    for line in changed:
        say(line)
    for line in absent:
        say(f"not judged: {line}")
    write_json(json_file, "weather", weather_json(rows))
    atomic_write_text(out, weather_html(rows, changed, compared=before is not None, absent=absent))
    say(str(out))
