"""``pabench scoreboard``: submission packages side by side on one page."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from pabench.console import say
from pabench.errors import EXIT_FAILURE, UsageError
from pabench.run.files import atomic_write_text, check_output
from pabench.text import one_line

FILE = click.Path(path_type=Path)


@click.command(name="scoreboard")
@click.argument("packages", nargs=-1, metavar="PACKAGE...", type=FILE)
@click.option("--out", type=FILE, metavar="FILE", required=True, help="Page to write, without scripts.")
def command(packages: tuple[Path, ...], out: Path) -> int | None:
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
    found = []
    for package in packages:
        with tempfile.TemporaryDirectory(prefix="pabench-verify-") as folder:
            submission, wrong = unpack(package, Path(folder))
        if submission is None:
            say(f"TAMPERED {one_line(str(package))}: {one_line(wrong[0])}")
            return EXIT_FAILURE
        found.append(submission)
    atomic_write_text(out, scoreboard_html(found))
    say(str(out))
    return None
