"""The changelog: one section per version, newest first, no entry twice, none cut in two by a merge."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from pabench import __version__

TEXT = (Path(__file__).resolve().parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
HEADING = re.compile(r"## \[(\d+\.\d+\.\d+)\] - (unreleased|\d{4}-\d\d-\d\d)")
KINDS = ("### Changed", "### Fixed", "### Added", "### Removed")


def test_changelog_opens_with_this_version() -> None:
    headings = [line for line in TEXT.splitlines() if line.startswith("## ")]
    found = [HEADING.fullmatch(line) for line in headings]
    assert all(found), headings
    versions = [tuple(map(int, one[1].split("."))) for one in found if one]
    assert versions == sorted(versions, reverse=True)
    assert ".".join(map(str, versions[0])) == __version__
    # what is released stays as it is
    assert all(one and one[2] != "unreleased" for one in found[1:])


def test_changelog_has_each_kind_once_and_each_entry_once() -> None:
    for section in re.split(r"^## .*$", TEXT, flags=re.M)[1:]:
        kinds = [line for line in section.splitlines() if line.startswith("### ")]
        assert set(kinds) <= set(KINDS)
        assert len(kinds) == len(set(kinds)), kinds
    entries = re.findall(r"^- .*(?:\n  .*)*", TEXT, flags=re.M)
    heads = [" ".join(entry.split())[:90] for entry in entries]
    assert {head for head in heads if heads.count(head) > 1} == set()


def test_changelog_entries_are_whole() -> None:
    for entry in re.findall(r"^- .*(?:\n  .*)*", TEXT, flags=re.M):
        lines = entry.splitlines()
        # half of another entry, as a merge leaves it, begins with a small letter behind a full stop
        broken = [
            second
            for first, second in itertools.pairwise(lines)
            if first.endswith(".") and second.strip()[:1].islower()
        ]
        assert not broken, broken
