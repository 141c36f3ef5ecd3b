# SPDX-License-Identifier: Apache-2.0
"""``pabench submit``: a conformance run as a package that anybody can verify."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import click

from pabench.cli.stamp import check_json, json_option, write_json
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
@json_option("where the package is, and its SHA-256,")
def command(
    run: Path, out: Path, statement: str, waivers: Path | None, spec: str, json_file: Path | None
) -> None:
    """Pack the results of a run, versions, waivers and a statement, with the hash of each file.

    The run must ask everything of the specification: pabench conformance --spec 1.0, profile default or deep.

    \b
    Examples:
      pabench submit runs/conformance --out mine.zip --statement "My kernel 1.2, built with CUDA 13"
    """
    from pabench.submission.package import pack

    check_output("--out", out)
    check_json(json_file)
    data = pack(run, spec=spec, statement=statement, waivers=waivers)
    atomic_write_bytes(out, data)
    say(str(out))
    made = {"file": str(out), "bytes": len(data), "sha256": sha256(data).hexdigest()}
    write_json(json_file, "submit", {**made, "spec": spec, "statement": statement.strip()})
