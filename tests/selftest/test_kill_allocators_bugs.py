# SPDX-License-Identifier: Apache-2.0
"""The planted faults cover what is known to go wrong in allocators: a list names each, or says why not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pabench.selftest.mutants import load_mutants

FOLDER = Path(__file__).resolve().parents[1] / "mutants"
BUGS = tomllib.loads((FOLDER / "bugs" / "allocators.toml").read_text(encoding="utf-8"))["bug"]
FILES = ("allocators.toml", "allocators_device.toml", "allocators_device_checked.toml")
LISTED = re.compile(r"[LS]\d\d|(vllm|vllm-ascend|sglang|kvcached|nano-vllm) .+")


def planted(*files: str) -> set[str]:
    return {bug for file in files for mutant in load_mutants(FOLDER / file) for bug in mutant.bugs}


def test_kill_allocators_bugs_are_listed_once_and_whole() -> None:
    ids = [bug["id"] for bug in BUGS]
    assert len(ids) == len(set(ids))
    assert all(LISTED.fullmatch(name) for name in ids)
    assert {f"S{number:02}" for number in range(1, 13)} <= set(ids)
    missing_numbers = {5, 11, 13, 14, 17}  # never given
    assert {f"L{number:02}" for number in range(1, 20) if number not in missing_numbers} <= set(ids)
    assert all(bug["what"] and bug.get("not_applicable", "reason") for bug in BUGS)


def test_kill_allocators_bugs_are_planted_or_not_applicable() -> None:
    """In the host allocator, which offers everything; what runs on a device has some of them once more."""
    there = planted("allocators.toml")
    lacking = [bug["id"] for bug in BUGS if "not_applicable" not in bug and bug["id"] not in there]
    assert lacking == []
    assert [bug["id"] for bug in BUGS if "not_applicable" in bug and bug["id"] in planted(*FILES)] == []


def test_kill_allocators_bugs_named_by_faults_are_listed() -> None:
    named = {bug for bug in planted(*FILES) if LISTED.fullmatch(bug)}
    assert named - {bug["id"] for bug in BUGS} == set()
