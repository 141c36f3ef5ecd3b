# SPDX-License-Identifier: Apache-2.0
"""The documents: every command in them runs, every link leads somewhere, figures agree with the code."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from pabench.activities.model.smollm2 import INSTALL
from pabench.device.disassembler import NVDISASM, find_tool
from pabench.problem.memory import memory_figures
from tests.activities.conformance.test_conformance_command import WHOLE
from tests.activities.model.test_model_command import MISSING
from tests.device.test_nvrtc import installed as nvrtc_installed

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEXTS = [*PAGES, ROOT / "Makefile", *(ROOT / ".github" / "workflows").glob("*.yml")]
PATH = re.compile(r"(?<![\w./-])(?:pabench|tests|suites|docs|templates|kernels_cuda)/[\w./*-]*\w(?:\.\w+)?")
FILE = re.compile(r"``([a-z_]\w*\.(?:py|cu|cuh|h|toml))``")
PLACEHOLDERS = {"file.py", "my_kernel.py", "kernel.cu", "tests/test_my_kernels.py", "suites/findings/NAME"}
FOREIGN = {"cuda_occupancy.h", "fcntl.h", "utils.cuh"}
"""Files of other projects, and of the system."""
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
    if (
        any(line.startswith("pabench kernels") or "ptx:" in line for line in commands(page))
        and not nvrtc_installed()
    ):
        pytest.skip("NVRTC is not installed: pip install pabench[nvrtc]")
    if any("--account" in line for line in commands(page)) and find_tool(NVDISASM) is None:
        pytest.skip("nvdisasm is not installed: pip install pabench[nvrtc]")
    if any(line.startswith("pabench model") for line in commands(page)) and MISSING:
        pytest.skip(f"no {', '.join(MISSING)}: {INSTALL}")
    (tmp_path / "my_kernel.py").write_text(own_kernel(), encoding="utf-8")
    for example in (path for path in (ROOT / "docs" / "examples").iterdir() if path.is_file()):
        shutil.copy(example, tmp_path)
    shutil.copytree(ROOT / "docs" / "examples" / "trace_set", tmp_path / "trace_set")
    for line in commands(page):
        words = shlex.split(line)
        assert words[0] == "pabench", line
        if line in WHOLE:  # half a minute each: their own test runs them once
            continue
        done = subprocess.run(
            [sys.executable, "-m", "pabench", *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PABENCH_BASELINES": str(tmp_path / "baselines")},
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
def test_docs_paths_exist() -> None:
    found = {name for text in TEXTS for name in PATH.findall(text.read_text(encoding="utf-8"))}
    assert {"tests/house/test_layers.py", "tests/subjects", "docs/examples/kernel_repository"} <= found
    assert not sorted(name for name in found - PLACEHOLDERS if not any(ROOT.glob(name)))


SYMBOL = re.compile(r"((?:pabench|tests)/[\w/]+\.py):([A-Za-z_]\w*)")


def defined(path: Path) -> set[str]:
    """Names that a module defines at its top level, imports left out."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_docs_symbols_exist() -> None:
    found = {place for page in PAGES for place in SYMBOL.findall(page.read_text(encoding="utf-8"))}
    assert len(found) > 30
    assert not sorted((file, name) for file, name in found if name not in defined(ROOT / file))


def test_docs_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.name for path in (ROOT / "pabench").iterdir() if (path / "__init__.py").is_file()}
    assert {"run", "judge", "problem"} <= rooms
    assert not sorted(
        room for room in rooms if f"| `pabench/{room}`" not in text and f", `pabench/{room}`" not in text
    )


def test_docs_say_who_is_judged_apart() -> None:
    """No activity that the page calls judged apart loads a subject where it judges."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    apart, inside = (
        re.search(rf"^- {words}: (.*?)\. ", text, re.M) for words in ("Judged apart", "Driven in the worker")
    )
    assert apart is not None
    assert inside is not None
    activities = ROOT / "pabench" / "activities"
    named = {
        kind: set(re.findall(r"\*\*(\w+)\*\*", found[0]))
        for kind, found in (("apart", apart), ("inside", inside))
    }
    for name in named["apart"]:
        files = [path for path in (activities / name).glob("*.py") if path.name != "pytest_plugin.py"]
        assert files
        lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
        loads = [
            place for place, line in enumerate(lines) if re.search(r"\bload_(backend|allocator)\(", line)
        ]
        here = "if self._deadline_s is None:"
        assert all(any(here in line for line in lines[place - 4 : place]) for place in loads), name
    assert named["apart"] | named["inside"] >= {
        path.name for path in activities.iterdir() if (path / "__init__.py").is_file()
    }


def test_docs_files_that_docstrings_name_exist() -> None:
    folders = ("pabench", "suites", "templates", "tests", "kernels_cuda")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    known = {path.name for path in sources} | PLACEHOLDERS | FOREIGN
    python = [path for path in sources if path.suffix == ".py" and "mutants" not in path.parts]
    found = {name: path for path in python for name in FILE.findall(path.read_text(encoding="utf-8"))}
    assert len(found) > 20
    assert not {name: path.relative_to(ROOT) for name, path in found.items() if name not in known}


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
