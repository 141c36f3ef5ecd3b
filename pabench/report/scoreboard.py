# SPDX-License-Identifier: Apache-2.0
"""The scoreboard: submission packages side by side, as one HTML file without a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pabench import __version__
from pabench.checks.summary import Claim
from pabench.report.templates import template
from pabench.submission.package import Submission
from pabench.submission.waivers import Waiver

SHOWN_VERSIONS = ("pabench", "numpy", "torch", "cupy-cuda12x", "cupy-cuda13x")


class Row(NamedTuple):
    """A subject of a package: its profiles in the order of the columns, None where the spec has none."""

    package: Submission
    subject: str
    version: str
    device: str
    cells: tuple[Claim | None, ...]
    waivers: tuple[tuple[str, Waiver], ...]
    versions: str


def scoreboard_html(packages: Sequence[Submission]) -> str:
    """Return the page; the same packages give the same bytes."""
    profiles = dict.fromkeys(
        claim.name for package in packages for claims in package.claims.values() for claim in claims
    )
    return template("scoreboard.html.j2").render(
        profiles=list(profiles),
        rows=[row for package in packages for row in _rows(package, list(profiles))],
        packages=packages,
        version=__version__,
    )


def _rows(package: Submission, profiles: Sequence[str]) -> Iterator[Row]:
    told = {name: version for name, version in package.versions.items() if name in SHOWN_VERSIONS}
    for subject, claims in package.claims.items():
        by_name = {claim.name: claim for claim in claims}
        line = next(one for one in package.run.lines if one["subject"] == subject)
        yield Row(
            package=package,
            subject=subject,
            version=str(line.get("version") or ""),
            device=str(line["device"]),
            cells=tuple(by_name.get(name) for name in profiles),
            waivers=tuple(package.waived[subject].items()),
            versions=", ".join(f"{name} {version}" for name, version in told.items()),
        )
