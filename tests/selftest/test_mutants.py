# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pabench.errors import InvalidCase, UsageError
from pabench.resources import resource_dir
from pabench.selftest.mutants import PACKAGE, Mutant, load_mutants, mutated, overlay
from pabench.selftest.python_mutants import load_mutated
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Granted

FILES = sorted((Path(__file__).resolve().parents[1] / "mutants").glob("*.toml"))
PLANTED = [mutant for path in FILES for mutant in load_mutants(path)]
SHAPE = PoolShape(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=4)
GOOD: dict[str, Any] = {
    "id": "one",
    "file": "a.cu",
    "before": "x < n",
    "after": "x < n - 1",
    "bugs": ["B050"],
    "trigger": "any",
    "killed_by": "decode[normal]",
}


def as_toml(*entries: dict[str, Any]) -> str:
    return "\n".join(
        "[[mutant]]\n" + "\n".join(f"{name} = {value!r}" for name, value in entry.items())
        for entry in entries
    )


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    folder = tmp_path / "kernels"
    (folder / "pab").mkdir(parents=True)
    (folder / "a.cu").write_text("while (x < n) {}\n", encoding="utf-8")
    (folder / "pab" / "h.cuh").write_text("header\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda mutant: mutant.id)
def test_mutants_of_the_project_fit_its_kernels(mutant: Mutant) -> None:
    text = mutated(mutant, PACKAGE if mutant.file.endswith(".py") else resource_dir("kernels_cuda"))
    assert mutant.after in text
    assert text.count(mutant.before) == mutant.after.count(mutant.before)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("allocators/host.py", "subjects/allocators/host.py"),
        ("allocators/adapters/vllm.py", "subjects/allocators/adapters/vllm.py"),
        ("allocators/model.py", "judge/allocators/model.py"),
        ("backends/rawkernel.py", "subjects/backends/rawkernel.py"),
        ("conformance/outcome.py", "checks/outcome.py"),
        ("conformance/mutants.py", "selftest/mutants.py"),
        ("conformance/drawing.py", "strategies/drawing.py"),
        ("isolation/channel.py", "run/channel.py"),
        ("model/dense.py", "activities/model/dense.py"),
        ("oracle/reference.py", "judge/reference.py"),
        ("peers/package.py", "subjects/peers/package.py"),
        ("serving/metrics.py", "activities/serving/metrics.py"),
        ("store/files.py", "run/files.py"),
        ("stress/cell.py", "activities/stress/cell.py"),
        ("sweep/cell.py", "activities/sweep/cell.py"),
        ("subjects/allocators/host.py", "subjects/allocators/host.py"),
        ("problem/prefix.py", "problem/prefix.py"),
        ("paged_decode.cu", "paged_decode.cu"),
        ("pab/features.cuh", "pab/features.cuh"),
        ("oracle/absent.py", "oracle/absent.py"),
        ("oracle", "oracle"),
    ],
)
def test_mutants_name_files_where_they_stood_before(old: str, now: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(as_toml({**GOOD, "file": old}), encoding="utf-8")
    (mutant,) = load_mutants(path)
    assert mutant.file == now
    if now.endswith(".py") and "absent" not in now:
        line = "from __future__ import annotations"
        assert mutated(replace(mutant, before=line, after="# gone"), PACKAGE).count("# gone") == 1


def test_mutants_cover_every_kernel_file() -> None:
    files = {path.name for path in resource_dir("kernels_cuda").glob("*.cu")}
    # one hands its arguments on, no more; the others measure and are no subject of the suite
    files -= {"page_alloc_pool.cu", "ceilings.cu", "instruments.cu"}
    files |= {f"pab/{name}.cuh" for name in ("pool_ticket", "pool_stack", "page_requests")}
    files |= {
        f"subjects/allocators/{path.name}" for path in (PACKAGE / "subjects" / "allocators").glob("host*.py")
    }
    assert {mutant.file for mutant in PLANTED} >= files


def test_mutants_ids_are_unique_over_all_files() -> None:
    assert len({mutant.id for mutant in PLANTED}) == len(PLANTED)


PYTHON = Mutant(
    id="leaks",
    file="subjects/allocators/host_pool.py",
    before="self.count -= count",
    after="self.count -= count + 1",
    bugs=(),
    trigger="any",
    killed_by="allocator-invariants",
)


def test_mutants_in_python_leave_the_package_alone() -> None:
    importlib.import_module("pabench.subjects.allocators.host")
    before = {name: module for name, module in sys.modules.items() if name.startswith("pabench")}
    copy: Any = load_mutated(PYTHON, "pabench.subjects.allocators.host")
    made = copy.HostAllocator(SHAPE)
    assert isinstance(made, PageAllocator)  # the protocol is the package's own
    assert not isinstance(made, HostAllocator)
    granted = made.alloc(0, 1)
    assert isinstance(granted, Granted)
    assert made.free_pages == SHAPE.num_pages - 2
    right = HostAllocator(SHAPE)
    right.alloc(0, 1)
    assert right.free_pages == SHAPE.num_pages - 1
    assert {name: module for name, module in sys.modules.items() if name.startswith("pabench")} == before
    again: Any = load_mutated(PYTHON, "pabench.subjects.allocators.host")
    assert again.HostAllocator is not made.__class__


def test_mutants_in_python_have_to_fit() -> None:
    with pytest.raises(
        UsageError, match=r"stand in subjects/allocators/host_pool\.py exactly once, found 0 times"
    ):
        load_mutated(replace(PYTHON, before="nothing"), "pabench.subjects.allocators.host")
    with pytest.raises(UsageError, match=r"absent\.py cannot be read"):
        load_mutated(
            replace(PYTHON, file="subjects/allocators/absent.py"), "pabench.subjects.allocators.host"
        )


def test_mutants_overlay_changes_a_copy_alone(kernels: Path, tmp_path: Path) -> None:
    target = overlay(Mutant(**{**GOOD, "bugs": ()}), kernels, tmp_path / "copy")
    assert (target / "a.cu").read_text() == "while (x < n - 1) {}\n"
    assert (target / "pab" / "h.cuh").read_text() == "header\n"
    assert (kernels / "a.cu").read_text() == "while (x < n) {}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("while (y < n) {}", "exactly once, found 0 times"),
        ("x < n; x < n", "exactly once, found 2 times"),
    ],
)
def test_mutants_overlay_refuses_what_does_not_fit(
    text: str, words: str, kernels: Path, tmp_path: Path
) -> None:
    (kernels / "a.cu").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        overlay(Mutant(**{**GOOD, "bugs": ()}), kernels, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_mutants_overlay_refuses_a_missing_file_and_a_used_target(kernels: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"b\.cu cannot be read"):
        overlay(Mutant(**{**GOOD, "bugs": (), "file": "b.cu"}), kernels, tmp_path / "copy")
    with pytest.raises(UsageError, match="exists already"):
        overlay(Mutant(**{**GOOD, "bugs": ()}), kernels, tmp_path)


def test_mutants_with_a_second_place_change_both(kernels: Path, tmp_path: Path) -> None:
    mutant = Mutant(**{**GOOD, "bugs": (), "also": (("x > n", "x >= n"),)})
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / GOOD["file"]).write_text(GOOD["before"] + "; x > n;", encoding="utf-8")
    assert mutated(mutant, folder) == GOOD["after"] + "; x >= n;"
    (folder / GOOD["file"]).write_text(GOOD["before"], encoding="utf-8")
    with pytest.raises(UsageError, match="exactly once, found 0 times"):
        mutated(mutant, folder)


def test_mutants_file_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(as_toml(GOOD, {**GOOD, "id": "two", "after": ""}), encoding="utf-8")
    first, second = load_mutants(path)
    assert asdict(first) == {**GOOD, "bugs": ("B050",), "also": (), "subject": ""}
    assert (second.id, second.after) == ("two", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "a b"}, "id = 'a b': must be letters"),
        ({"id": ""}, "id = '': must be text that is not empty"),
        ({"file": "../a.cu"}, "file = '../a.cu': must be a path inside"),
        ({"file": "/etc/passwd"}, "file = '/etc/passwd': must be a path inside"),
        ({"before": ""}, "before = '': must be text"),
        ({"after": "x < n"}, "after = 'x < n': must differ"),
        ({"after": 3}, "after = 3: must be text"),
        ({"bugs": "B050"}, "bugs = 'B050': must be a list of text"),
        ({"bugs": [1]}, r"bugs = \(1,\): must be a list of text"),
        ({"extra": 1}, "extra = 1: is unknown; the fields are after, also, before"),
        ({"also": [["a"]]}, r"also = \(\('a',\),\): must be a list of pairs of text"),
        ({"trigger": None}, "trigger = None: is missing"),
    ],
)
def test_mutants_file_names_the_wrong_field(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    entry = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    path.write_text(as_toml(GOOD | {"id": "zero"}, entry), encoding="utf-8")
    with pytest.raises(InvalidCase, match=f"mutant 2: {words}") as caught:
        load_mutants(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[mutant]", "is not TOML"),
        ("", "must hold"),
        ("mutant = 3", "must hold"),
        ("[other]\nx = 1\n" + as_toml(GOOD), "must hold"),
        (as_toml(GOOD, GOOD), "id = 'one': must be unique"),
        ("mutant = [3]", "entry = 3: must be a table"),
    ],
)
def test_mutants_file_that_is_none_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        load_mutants(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_mutants(tmp_path / "absent.toml")
