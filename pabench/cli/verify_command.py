"""``pabench verify``: is a submission package whole, and what does it show?  Nothing is fetched or run."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

import click

from pabench.console import say
from pabench.errors import EXIT_FAILURE, EXIT_OK
from pabench.text import one_line


@click.command(name="verify")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--profile", "profiles", multiple=True, metavar="NAME", help="Profile that must pass; may be repeated."
)
def command(package: Path, profiles: tuple[str, ...]) -> int:
    """Check the hashes of PACKAGE, its waivers and what its results show; exit 0 when all is well.

    \b
    Exit code 1 when a file is not the one that was packed, a waiver has expired, or a profile that --profile
    names does not pass.

    \b
    Examples:
      pabench verify mine.zip
      pabench verify mine.zip --profile core --profile gqa
    """
    from pabench.checks.spec_version import read_spec
    from pabench.errors import UnknownName
    from pabench.submission.package import unpack
    from pabench.submission.waivers import expired

    with tempfile.TemporaryDirectory(prefix="pabench-verify-") as folder:
        submission, wrong = unpack(package, Path(folder))
    for line in wrong:
        say(f"TAMPERED {one_line(line)}")
    if submission is None:
        return EXIT_FAILURE
    known = read_spec(submission.spec).profiles
    for name in profiles:
        if name not in known:
            raise UnknownName("profile", name, known)
    late = expired(submission.waivers, datetime.datetime.now(datetime.UTC).date())
    for waiver in late:
        say(f"EXPIRED waiver of {one_line(waiver.check)}, since {waiver.until}: {one_line(waiver.url)}")
    missing = False
    for subject, claims in submission.claims.items():
        held = [claim.name for claim in claims if claim.held]
        say(f"{one_line(subject)}: profiles {', '.join(held) or 'none'} of spec {submission.spec}")
        for check, waiver in submission.waived[subject].items():
            say(f"  waived {one_line(check)}: {one_line(waiver.reason)} ({one_line(waiver.url)})")
        for claim in claims:
            if claim.name in profiles and not claim.held:
                missing = True
                say(f"  FAILED {claim.name}: {one_line(claim.why)}")
    say(f"package {submission.id}")
    return EXIT_FAILURE if late or missing else EXIT_OK
