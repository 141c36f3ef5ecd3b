# SPDX-License-Identifier: Apache-2.0
"""The changelog: one section per version, newest first, no entry twice, none cut in two by a merge."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from pabench import __version__
from tests.support.changelog import ROOT, collected, fragments

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


def test_changelog_fragments_are_entries() -> None:
    fragments(ROOT)


def test_changelog_takes_each_fragment_once_under_its_kind(tmp_path: Path) -> None:
    folder = tmp_path / "changelog.d"
    folder.mkdir()
    (folder / "README.md").write_text("# How\n")
    (folder / "speed.changed.md").write_text("Sweeps are\ntwice as fast.\n")
    (folder / "old.removed.md").write_text("`--artifacts` is gone.\n")
    older = "## [1.0.0] - 2026-01-01\n\n### Changed\n\n- Old.\n"
    before = "# Changelog\n\n## [2.0.0] - unreleased\n\n### Changed\n\n- One.\n\n" + older
    head, _, _ = before.partition("### Changed\n\n- One.\n\n")
    wanted = (
        "### Changed\n\n- Sweeps are twice as fast.\n- One.\n\n### Removed\n\n- `--artifacts` is gone.\n\n"
    )
    assert collected(before, fragments(tmp_path)) == head + wanted + older


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("speed.md", "Faster.", "must be called NAME.KIND.md"),
        ("speed.better.md", "Faster.", "KIND is one of changed, fixed, added, removed"),
        ("speed.changed.md", "- Faster.", "without a dash"),
        ("speed.changed.md", "", "the text of one entry"),
    ],
)
def test_changelog_refuses_what_is_no_fragment(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d" / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        fragments(tmp_path)
