"""``pabench submit``: a conformance run as a package that anybody can verify."""

from __future__ import annotations

from pathlib import Path

import click

from pabench.console import say
from pabench.run.files import atomic_write_bytes, check_output

FILE = click.Path(path_type=Path)


@click.command(name="submit")
@click.argument("run", type=FILE)
@click.option("--out", type=FILE, metavar="FILE", required=True, help="Package to write, a zip file.")
@click.option("--statement", metavar="TEXT", required=True, help="Who submits what, in words.")
@click.option("--waivers", type=FILE, metavar="FILE", help="TOML file of [[waiver]] entries.")
@click.option(
    "--spec", default="1.0", metavar="VERSION", help="Version of the specification.", show_default=True
)
def command(run: Path, out: Path, statement: str, waivers: Path | None, spec: str) -> None:
    """Pack the results of a run, versions, waivers and a statement, with the hash of each file.

    The run must ask everything of the specification: pabench conformance --spec 1.0, profile default or deep.

    \b
    Examples:
      pabench submit runs/conformance --out mine.zip --statement "My kernel 1.2, built with CUDA 13"
    """
    from pabench.submission.package import pack

    check_output("--out", out)
    atomic_write_bytes(out, pack(run, spec=spec, statement=statement, waivers=waivers))
    say(str(out))
