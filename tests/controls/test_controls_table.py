# SPDX-License-Identifier: Apache-2.0
"""The table of controls: strict, complete, and in step with its kernel files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pabench.controls.model import CLASSES, RIGHT, Buffer, Control
from pabench.controls.table import KERNEL, MARK, controls_dir, load_controls, marked_lines
from pabench.device.base import KernelSource
from pabench.device.checked import _parameters
from pabench.errors import InvalidCase, UsageError
from pabench.resources import resource_dir

CONTROLS = load_controls()
FILES = sorted(controls_dir().glob("*.cu"))

KERNELS = """extern "C" __global__ void bad(pab::u32* out) {
  out[1] = 0;  // FAULT: there
}
extern "C" __global__ void good(pab::u32* out) { out[0] = 0; }
"""
BAD = """[[control]]
id = "bad"
file = "k.cu"
about = "a fault"
expect = "memory"
tool = "memcheck"
block = [32]
args = [{ name = "out", dtype = "u32", size = 1, fill = 0 }]
"""
GOOD = """[[control]]
id = "good"
file = "k.cu"
about = "no fault"
expect = "none"
tool = "none"
block = [1, 2, 3]
args = [{ name = "out", dtype = "u32", size = 3, fill = "unwritten", equals = [5, -1] }]
"""


def written(folder: Path, text: str) -> Path:
    (folder / "k.cu").write_text(KERNELS, encoding="utf-8")
    (folder / "controls.toml").write_text(text, encoding="utf-8")
    return folder


def test_controls_table_is_large_and_balanced() -> None:
    faulty = [c for c in CONTROLS if c.faulty]
    assert len(faulty) >= 36
    assert len(CONTROLS) - len(faulty) >= len(faulty)
    for name in CLASSES:
        assert sum(c.expect == name for c in faulty) >= 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_controls_table_has_every_kernel_and_every_mark(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    listed = {c.id: c for c in CONTROLS if c.file == path.name}
    assert listed.keys() == {name for name in KERNEL.findall(text)}
    # no mark lies outside a kernel, where it would belong to none
    assert sum(len(c.marks) for c in listed.values()) == len(MARK.findall(text))
    assert re.findall(r"#include\s+(\S+)", text) == ['"pab/intrinsics.cuh"']


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.id)
def test_controls_table_names_the_kernels_parameters(control: Control) -> None:
    source = KernelSource(path=controls_dir() / control.file, include_dir=resource_dir("kernels_cuda"))
    passed = [arg.name for arg in control.args if not (isinstance(arg, Buffer) and arg.freed)]
    assert _parameters(source, control.id) == passed


def test_controls_table_has_quick_ones_of_each_class_in_one_file() -> None:
    quick = [c for c in CONTROLS if c.quick]
    assert {c.expect for c in quick} == {*CLASSES, RIGHT}
    assert len({c.file for c in quick}) == 1  # compiled before each checked run


def test_controls_table_marks_belong_to_their_kernel() -> None:
    assert marked_lines(KERNELS) == {"bad": {2}, "good": frozenset()}


def test_controls_table_reads_what_is_written(tmp_path: Path) -> None:
    bad, good = load_controls(written(tmp_path, BAD + GOOD))
    assert (bad.faulty, bad.grid, bad.marks) == (True, (1, 1, 1), frozenset({2}))
    assert (good.faulty, good.block, good.marks) == (False, (1, 2, 3), frozenset())
    assert isinstance(good.args[0], Buffer)
    assert good.args[0].equals == (5, 4, 3)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('id = "bad"', 'id = "Bad"', "id = 'Bad': must be a kernel of k.cu"),
        ('id = "bad"', "id = 3", "id = 3: must be a kernel"),
        ('id = "bad"\n', "", "id = None: is missing"),
        ('id = "bad"', 'id = "good"', "its kernel needs a line marked // FAULT"),
        ('file = "k.cu"', 'file = "../k.cu"', "must be the name of a .cu file"),
        ('about = "a fault"', 'about = " "', "about = ' ': must be text"),
        ('expect = "memory"', 'expect = "leak"', "expect = 'leak': must be one of memory, init"),
        ('tool = "memcheck"', 'tool = "valgrind"', "tool = 'valgrind': must be one of"),
        ('tool = "memcheck"', 'tool = "memcheck"\nalso = ["memory"]', "also = 'memory': must be one of"),
        ('tool = "memcheck"', 'tool = "memcheck"\nalso = "init"', "also = 'init': must be a list"),
        ('tool = "memcheck"', 'tool = "memcheck"\nquick = 1', "quick = 1: must be true or false"),
        ('tool = "memcheck"', 'tool = "memcheck"\nextra = 1', "extra = 1: is unknown; the fields are about"),
        ("block = [32]", "block = []", "must be a list of 1 to 3 numbers"),
        ("block = [32]", "block = [0]", "must be whole numbers of at least 1"),
        ("block = [32]", "block = [32]\ngrid = [true]", "grid = .*must be whole numbers"),
        ("block = [32]", "block = [32]\nshared_bytes = -1", "shared_bytes = -1: must be at least 0"),
        ("args = [{", "args = 3 #", "args = 3: must be a list"),
        ("size = 1", "size = 0", "size = 0: must be at least 1"),
        ("size = 1", 'size = "1"', "size = '1': must be a whole number"),
        ('dtype = "u32"', 'dtype = "f8"', "dtype = 'f8': must be one of u8"),
        ("fill = 0", "fill = -1", "fill = -1: must be at least 0"),
        ("fill = 0", 'fill = "ones"', "fill = 'ones': must be one of unwritten, arange"),
        ("fill = 0", "fill = [1, 2]", "must have as many elements as the buffer, 1"),
        (", fill = 0", "", "fill = None: is missing"),
        ("fill = 0", "fill = 0, equals = [1, 0]", "a control has no right result"),
        ("fill = 0", "fill = 0, equals = 3", r"equals = 3: must be \[start, step\]"),
        ("fill = 0", 'address_of = "out"', "needs dtype u64 and size 1"),
        ("size = 1, fill = 0", "value = 4294967296", "value = 4294967296: must be at most 4294967295"),
        ("size = 1, fill = 0", "value = 1, size = 1", "size = 1: is unknown"),
    ],
)
def test_controls_table_names_the_wrong_field(before: str, after: str, words: str, tmp_path: Path) -> None:
    assert before in BAD
    with pytest.raises((InvalidCase, UsageError), match=words) as caught:
        load_controls(written(tmp_path, BAD.replace(before, after)))
    assert "control 1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[control]", "is not TOML"),
        ("", "must hold"),
        ("control = 3", "must hold"),
        ("[other]\nx = 1\n" + BAD, "must hold"),
        ("control = [3]", "entry = 3: must be a table"),
        (BAD + BAD, "id = 'bad': must be unique"),
        (GOOD.replace(", equals = [5, -1]", ""), "must say what its kernel leaves"),
        (BAD.replace("k.cu", "absent.cu"), "cannot be read"),
    ],
)
def test_controls_table_that_is_none_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        load_controls(written(tmp_path, text))


def test_controls_table_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_controls(tmp_path)
