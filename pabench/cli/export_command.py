# SPDX-License-Identifier: Apache-2.0
"""``pabench export``: a run in the form that another tool reads."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pabench.cli.stamp import check_json, json_option, write_json
from pabench.console import say
from pabench.errors import UnknownName, UsageError
from pabench.run.files import atomic_write_bytes, check_output

FILE = click.Path(path_type=Path)


@click.command(name="export")
@click.argument("runs", nargs=-1, metavar="RUN...", type=FILE)
@click.option(
    "--to",
    "form",
    metavar="FORMAT",
    help="Format: csv, parquet, json, junit, md, bmf (Bencher), flashinfer-trace, summary, annotations "
    "or badge.  [default: csv]",
)
@click.option("--out", type=FILE, metavar="FILE", help="File to write.  [default: standard output]")
@json_option("what was exported, and where to,")
def command(runs: tuple[Path, ...], form: str | None, out: Path | None, json_file: Path | None) -> None:
    """Write the records of one or more runs in another form.

    \b
    Examples:
      pabench export runs/sweep --to csv --out sweep.csv
      pabench export runs/sweep --to bmf
      pabench export runs/conformance --to flashinfer-trace --out traces.jsonl
    """
    from pabench.comparison.export import FORMATS
    from pabench.report.ci import CI_FORMATS
    from pabench.run.read import read_runs

    form = "csv" if form is None else form
    forms = FORMATS | CI_FORMATS
    if form not in forms:
        raise UnknownName("format", form, forms)
    if not runs:
        raise UsageError("no run given: name at least one run directory", hint="pabench export RUN...")
    if out is None and form == "parquet":
        raise UsageError("--to parquet: is no text: needs --out FILE")
    if out is not None:
        check_output("--out", out)
    check_json(json_file)
    data = forms[form](read_runs(runs))
    if out is None:
        sys.stdout.write(data.decode())
    else:
        atomic_write_bytes(out, data)
        say(str(out))
    file = None if out is None else str(out)
    made = {"file": file, "format": form, "bytes": len(data), "runs": [str(run) for run in runs]}
    write_json(json_file, "export", made)
