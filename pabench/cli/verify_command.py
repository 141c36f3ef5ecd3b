# SPDX-License-Identifier: Apache-2.0
"""``pabench verify``: is a submission package whole, and what does it show?  Nothing is fetched or run."""

from __future__ import annotations

import datetime
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.stamp import check_json, json_option, write_json
from pabench.console import say
from pabench.errors import EXIT_FAILURE, EXIT_OK
from pabench.text import one_line

if TYPE_CHECKING:
    from pabench.submission.package import Submission
    from pabench.submission.waivers import Waiver


@click.command(name="verify")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--profile", "profiles", multiple=True, metavar="NAME", help="Profile that must pass; may be repeated."
)
@json_option("what was found")
def command(package: Path, profiles: tuple[str, ...], json_file: Path | None) -> int:
    """Check the hashes of PACKAGE, its waivers and what its results show; exit 0 when all is well.

    \b
    Exit code 1 when a file is not the one that was packed, a waiver has expired, or a profile that --profile
    names does not pass.

    \b
    Examples:
      pabench verify mine.zip
      pabench verify mine.zip --profile core --profile gqa
      pabench verify mine.zip --json verified.json
    """
    from pabench.checks.spec_version import read_spec
    from pabench.errors import UnknownName
    from pabench.submission.package import unpack
    from pabench.submission.waivers import expired

    check_json(json_file)
    with tempfile.TemporaryDirectory(prefix="pabench-verify-") as folder:
        submission, wrong = unpack(package, Path(folder))
    for line in wrong:
        say(f"TAMPERED {one_line(line)}")
    if submission is None:
        write_json(json_file, "verify", {"passed": False, "tampered": wrong})
        return EXIT_FAILURE
    known = read_spec(submission.spec).profiles
    for name in profiles:
        if name not in known:
            raise UnknownName("profile", name, known)
    late = expired(submission.waivers, datetime.datetime.now(datetime.UTC).date())
    for waiver in late:
        say(f"EXPIRED waiver of {one_line(waiver.check)}, since {waiver.until}: {one_line(waiver.url)}")
    missing = []
    for subject, claims in submission.claims.items():
        held = [claim.name for claim in claims if claim.held]
        say(f"{one_line(subject)}: profiles {', '.join(held) or 'none'} of spec {submission.spec}")
        for check, waiver in submission.waived[subject].items():
            say(f"  waived {one_line(check)}: {one_line(waiver.reason)} ({one_line(waiver.url)})")
        for claim in claims:
            if claim.name in profiles and not claim.held:
                missing.append({"subject": subject, "profile": claim.name, "why": claim.why})
                say(f"  FAILED {claim.name}: {one_line(claim.why)}")
    say(f"package {submission.id}")
    passed = not late and not missing
    found = {"passed": passed, "tampered": [], "failed": missing, "expired": [_waiver(one) for one in late]}
    write_json(json_file, "verify", {**found, **_contents(submission)})
    return EXIT_OK if passed else EXIT_FAILURE


def _contents(submission: Submission) -> dict[str, Any]:
    return {
        "package": submission.id,
        "spec": submission.spec,
        "statement": submission.statement,
        "versions": dict(submission.versions),
        "subjects": {
            subject: {
                "profiles": [asdict(claim) for claim in claims],
                "waived": {check: _waiver(one) for check, one in submission.waived[subject].items()},
            }
            for subject, claims in submission.claims.items()
        },
    }


def _waiver(waiver: Waiver) -> dict[str, str]:
    return {**asdict(waiver), "until": waiver.until.isoformat()}
