# SPDX-License-Identifier: Apache-2.0
"""``pabench scoreboard``: submission packages side by side on one page."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from pabench.cli.stamp import check_json, json_option, write_json
from pabench.console import say
from pabench.errors import EXIT_FAILURE, UsageError
from pabench.run.files import atomic_write_text, check_output
from pabench.text import one_line

FILE = click.Path(path_type=Path)


@click.command(name="scoreboard")
@click.argument("packages", nargs=-1, metavar="PACKAGE...", type=FILE)
@click.option("--out", type=FILE, metavar="FILE", required=True, help="Page to write, without scripts.")
@json_option("the packages and the profiles of their subjects")
def command(packages: tuple[Path, ...], out: Path, json_file: Path | None) -> int | None:
    """Write a static page of all subjects of PACKAGE...: profiles, waivers, versions, statements.

    \b
    Examples:
      pabench scoreboard *.zip --out scoreboard.html
    """
    from pabench.report.scoreboard import scoreboard_html
    from pabench.submission.package import unpack

    if not packages:
        raise UsageError("no package given", hint="pabench scoreboard PACKAGE... --out FILE")
    check_output("--out", out)
    check_json(json_file)
    found = []
    for package in packages:
        with tempfile.TemporaryDirectory(prefix="pabench-verify-") as folder:
            submission, wrong = unpack(package, Path(folder))
        if submission is None:
            say(f"TAMPERED {one_line(str(package))}: {one_line(wrong[0])}")
            write_json(json_file, "scoreboard", {"file": None, "tampered": {str(package): wrong}})
            return EXIT_FAILURE
        found.append(submission)
    atomic_write_text(out, scoreboard_html(found))
    say(str(out))
    rows = [
        {
            "name": one.name,
            "package": one.id,
            "spec": one.spec,
            "statement": one.statement,
            "subjects": {
                subject: [claim.name for claim in claims if claim.held]
                for subject, claims in one.claims.items()
            },
        }
        for one in found
    ]
    write_json(json_file, "scoreboard", {"file": str(out), "tampered": {}, "packages": rows})
    return None
