"""The documents: every command in them runs, every link leads somewhere, figures agree with the code."""

import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from pabench.activities.model.smollm2 import INSTALL
from pabench.problem.memory import memory_figures
from tests.activities.conformance.test_conformance_command import WHOLE
from tests.activities.model.test_model_command import MISSING
from tests.device.test_nvrtc import installed as nvrtc_installed

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)")


def commands(page: Path) -> list[str]:
    """Lines after ``$`` in the page's console blocks."""
    blocks = CONSOLE.findall(page.read_text(encoding="utf-8"))
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def own_kernel() -> str:
    """The README's Python example."""
    found = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    assert len(found) == 1
    return str(found[0])


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_docs_commands_run(page: Path, tmp_path: Path) -> None:
    if any(line.startswith("pabench kernels") for line in commands(page)) and not nvrtc_installed():
        pytest.skip("NVRTC is not installed: pip install pabench[nvrtc]")
    if any(line.startswith("pabench model") for line in commands(page)) and MISSING:
        pytest.skip(f"no {', '.join(MISSING)}: {INSTALL}")
    (tmp_path / "my_kernel.py").write_text(own_kernel(), encoding="utf-8")
    for example in (path for path in (ROOT / "docs" / "examples").iterdir() if path.is_file()):
        shutil.copy(example, tmp_path)
    for line in commands(page):
        words = line.split()
        assert words[0] == "pabench", line
        if line in WHOLE:  # half a minute each: their own test runs them once
            continue
        done = subprocess.run(
            [sys.executable, "-m", "pabench", *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_docs_commands_run_elsewhere_are_shown() -> None:
    assert set(WHOLE) <= {line for page in PAGES for line in commands(page)}


def test_docs_have_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 10


def test_docs_example_is_ten_lines() -> None:
    body = own_kernel().split("def decode", 1)[1].splitlines()[1:]
    assert len([line for line in body if line.strip()]) <= 11


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_docs_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_docs_make_targets_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    wanted = set(re.findall(r"(?:^|`|\$ )make ([a-z][a-z-]*)(?=[\s`])", text, re.M))
    assert {"sweep", "test"} <= wanted
    for target in sorted(wanted):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"make {target}: {done.stderr}"


def test_docs_memory_table_is_what_the_code_gives() -> None:
    text = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\S+) \| (\S+) \|$", text, re.M)
    assert len(rows) == 5
    for page_size, pages, slots, waste, fragmentation, gain in rows:
        figures = memory_figures((100, 250, 17, 1024, 16, 1), int(page_size))
        shown = (figures.num_pages, figures.slots, figures.waste_tokens)
        assert shown == (int(pages), int(slots), int(waste))
        assert (figures.internal_fragmentation, figures.efficiency_gain) == (
            Fraction(fragmentation),
            Fraction(gain),
        )
