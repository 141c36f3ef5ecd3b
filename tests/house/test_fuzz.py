# SPDX-License-Identifier: Apache-2.0
"""``make test`` draws the same examples every time, ``make fuzz`` others, whose failures can be repeated."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import fuzz

ROOT = Path(__file__).resolve().parents[2]
PROPERTY = """
import zlib
from hypothesis import Phase, given, settings, strategies as st

@settings(max_examples=5, phases=[Phase.generate])
@given(st.binary(min_size=8, max_size=8))
def test_of_checksums(data):
    print("drew", data.hex())
    assert zlib.crc32(data) % 4

def test_of_none():
    assert False, "no property test, so not run"
"""


@pytest.fixture
def property_test(tmp_path: Path) -> Path:
    """A property test that fails with most seeds but not all, under what holds for every test here."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    path = tmp_path / "test_drawn.py"
    path.write_text(PROPERTY, encoding="utf-8")
    return path


def drew(command: list[str]) -> list[str]:
    done = subprocess.run([*command, "-s"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return re.findall(r"drew (\w+)", done.stdout)


def test_fuzz_examples_of_a_plain_run_never_change() -> None:
    assert settings.get_current_profile_name() == "test"
    drawn = settings()
    assert (drawn.derandomize, drawn.deadline, drawn.print_blob, drawn.database) == (True, None, True, None)


@pytest.mark.slow
def test_fuzz_repeats_what_failed(property_test: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failing, passing = 3, 2
    code = fuzz.fuzz([failing, passing], [str(property_test)], workers="0", seconds=600)
    said = capfd.readouterr().out
    assert code == 1, said
    assert re.search(rf"^seed {failing}: failed, \d+ s$", said, re.MULTILINE)
    assert re.search(rf"^seed {passing}: passed, \d+ s$", said, re.MULTILINE)
    assert said.endswith("2 of 2 seeds finished, 1 property tests failed\n")
    assert "no property test" not in said
    (again,) = re.findall(r"^  again: (.*)$", said, re.MULTILINE)
    drawn = drew(shlex.split(again))
    assert any(zlib.crc32(bytes.fromhex(text)) % 4 == 0 for text in drawn)
    assert set(drawn) <= set(re.findall(r"drew (\w+)", said))


@pytest.mark.slow
def test_fuzz_ends_in_time_and_says_when_nothing_ran(
    property_test: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with property_test.open("a") as file:
        file.write("import time; time.sleep(60)\n")
    assert fuzz.fuzz([1, 2], [str(property_test)], workers="0", seconds=0.5) == 5
    assert re.search(
        r"^seed 1: time is over, \d+ s\n0 of 2 seeds finished", capfd.readouterr().out, re.MULTILINE
    )
    property_test.write_text("def test_of_none(): ...")
    assert fuzz.fuzz([1], [str(property_test)], workers="0", seconds=600) == 5
    assert "seed 1: pytest ended with code 5" in capfd.readouterr().out


def test_fuzz_knows_the_files_with_property_tests() -> None:
    files = fuzz.property_files()
    assert {"tests/problem/test_prefix.py", "tests/judge/test_reference.py"} <= set(files)
    assert "tests/house/test_layers.py" not in files
