# SPDX-License-Identifier: Apache-2.0
"""Holds the layer table: who may import whom, read from the sources."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pabench"
MAX_LINES = 400

# from the bottom up; a room imports itself and rooms of lower rows, never a neighbour in its own row
ROWS: list[tuple[str, ...]] = [
    ("__init__",),
    ("text",),
    ("errors",),
    ("console",),
    ("resources", "tables", "progress", "cores", "tracebacks"),
    ("problem",),
    ("workloads", "exchange"),
    ("device", "timing"),
    ("run",),
    ("kernels", "controls", "analysis"),
    ("subjects.peers",),
    ("subjects.backends", "subjects.allocators"),
    ("subjects",),
    ("subjects.process",),
    ("judge",),
    ("strategies",),
    ("checks",),
    ("activities",),
    ("activities.conformance", "activities.sweep", "activities.serving", "activities.stress"),
    ("activities.model", "selftest"),
    ("comparison", "submission"),
    ("report",),
    ("run.command",),
    ("cli",),
    ("trial",),
    ("__main__",),
]

# what the rows alone would allow and must not be
NEVER: dict[str, set[str]] = {
    "problem": {"console", "resources", "tables", "cores", "tracebacks"},
    "device": {"workloads"},
    "run": {"problem", "workloads", "resources", "device", "timing"},
    "kernels": {"workloads", "run"},
    "controls": {"workloads", "timing"},
    "subjects.backends": {"workloads", "run"},
    "subjects.allocators": {"workloads", "run"},
    "subjects.process": {"workloads", "controls", "timing"},
    "judge": {"workloads", "run", "controls", "timing", "subjects.peers", "subjects.process"},
    "strategies": {"subjects.backends", "subjects.allocators", "kernels", "device", "judge"},
    "checks": {"timing"},
    "activities.conformance": {"timing"},
    "comparison": {"activities", "selftest", "subjects", "strategies", "judge", "device", "timing"},
    "activities.model": {
        "activities.conformance",
        "activities.sweep",
        "activities.stress",
        "strategies",
        "timing",
    },
}

# what the package itself offers by name, imported when it is asked for
DOORS = {("__init__", "analysis"), ("__init__", "comparison"), ("__init__", "trial")}

# libraries a room is limited to, beside the standard library
ONLY: dict[str, set[str]] = {
    "__init__": {"pandas"},
    "__main__": set(),
    "text": set(),
    "errors": set(),
    "console": set(),
    "resources": set(),
    "tables": set(),
    "cores": set(),
    "tracebacks": set(),
    "subjects.peers": set(),
    "problem": {"numpy"},
    "workloads": {"numpy", "zstandard"},
    "judge": {"numpy"},
    "run": {"numpy", "click", "ray"},
    "analysis": {"numpy", "pandas", "scipy"},
    "comparison": {"pandas", "platformdirs"},
}

# no files, processes or network where only the question is stated
NO_IO = {"io", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "urllib"}

RANK = {unit: rank for rank, row in enumerate(ROWS) for unit in row}


def _unit(parts: tuple[str, ...]) -> str:
    """Room of a file: ``judge`` of ``("judge", "verdict.py")``, ``subjects.backends`` of its files."""
    names = [part.removesuffix(".py") for part in parts] or ["__init__"]
    two = ".".join(names[:2])
    return two if two in RANK else names[0]


def imported_modules(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that ``source``, a module of ``package``, imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            for name in node.names:
                # ``from pabench import errors`` names the module only in its last part
                yield node.lineno, f"{module}.{name.name}" if module == "pabench" else module
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def breaches(package: Path) -> list[str]:
    """What breaks the table in the package folder ``package``, one line each."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        unit, where = _unit(parts), f"pabench/{'/'.join(parts)}"
        if unit not in RANK:
            found.append(f"{where}: {unit} is not in the layer table")
            continue
        for line, module in imported_modules(path.read_text(encoding="utf-8"), ("pabench", *parts[:-1])):
            top, _, rest = module.partition(".")
            if top != "pabench":
                if unit in ONLY and top not in ONLY[unit] and top not in sys.stdlib_module_names:
                    found.append(f"{where}:{line}: {unit} must not import the library {top}")
                if unit == "problem" and top in NO_IO:
                    found.append(f"{where}:{line}: {unit} states the question and must not import {top}")
                continue
            # a name that is no unit, such as __version__, lives in the package itself
            inside = tuple(rest.split(".")) if rest else ()
            target = _unit(inside) if _unit(inside) in RANK else "__init__"
            if (unit, target) in DOORS:
                continue
            if target != unit and (RANK[target] >= RANK[unit] or target in NEVER.get(unit, set())):
                found.append(f"{where}:{line}: {unit} must not import {target}")
    return found


def test_layers_are_held() -> None:
    assert breaches(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "source", "breach"),
    [
        ("problem/x.py", "import torch", "problem must not import the library torch"),
        ("judge/x.py", "import torch", "judge must not import the library torch"),
        ("problem/x.py", "from pathlib import Path", "must not import pathlib"),
        ("problem/x.py", "def f():\n    from pabench.judge import verdict", "problem must not import judge"),
        ("subjects/backends/x.py", "from pabench.judge.verdict import judge", "must not import judge"),
        ("subjects/backends/x.py", "from pabench import judge", "subjects.backends must not import judge"),
        ("subjects/backends/x.py", "from ...judge import verdict", "must not import judge"),
        ("subjects/backends/x.py", "import pabench.judge.verdict as v", "must not import judge"),
        (
            "subjects/allocators/x.py",
            "from pabench.judge.allocators.model import ModelAllocator",
            "subjects.allocators must not import judge",
        ),
        (
            "subjects/backends/x.py",
            "import importlib\nimportlib.import_module('pabench.judge')",
            "must not import judge",
        ),
        (
            "subjects/backends/x.py",
            "from pabench.subjects.allocators import x",
            "subjects.backends must not import subjects.allocators",
        ),
        ("activities/sweep/x.py", "import pabench.activities.conformance", "must not import activities.conf"),
        (
            "activities/conformance/x.py",
            "from pabench.activities.sweep.x import y",
            "import activities.sweep",
        ),
        ("activities/serving/x.py", "from pabench.activities.sweep import go", "import activities.sweep"),
        ("activities/conformance/x.py", "import pabench.timing.host", "must not import timing"),
        ("run/x.py", "from pabench.activities.sweep import go", "run must not import activities.sweep"),
        ("report/x.py", "from pabench.cli.main import run", "report must not import cli"),
        ("errors.py", "from pabench.problem import Case", "errors must not import problem"),
        ("newcomer/x.py", "", "newcomer is not in the layer table"),
    ],
)
def test_layers_see_a_planted_import(tmp_path: Path, file: str, source: str, breach: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    found = breaches(tmp_path)
    assert len(found) == 1
    assert breach in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "subjects/backends/x.py",
            "from pabench import __version__\nfrom pabench.subjects.backends import base\nimport torch",
        ),
        (
            "subjects/backends/x.py",
            "from . import base\nfrom .base import Backend\nfrom ...problem import Case",
        ),
        ("problem/x.py", "import numpy\nimport json\nfrom pabench.errors import InvalidCase"),
        ("judge/x.py", "from pabench.subjects.allocators.base import PageAllocator"),
        ("cli/x.py", "from pabench.activities.sweep import run\nfrom pabench.run import read as other"),
        ("__init__.py", "__version__ = '0'"),
    ],
)
def test_layers_allow_what_goes_down(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert breaches(tmp_path) == []


MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_layers_modules_are_short_and_say_what_they_are(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MAX_LINES
    assert ast.get_docstring(ast.parse(source))


KERNELS, EMULATOR = PACKAGE.parent / "kernels_cuda", PACKAGE / "device" / "emulator"
CUDA = [
    path
    for folder in (KERNELS, EMULATOR)
    for path in sorted(folder.rglob("*"))
    if path.suffix in {".cu", ".cuh", ".h", ".cpp"}
]


@pytest.mark.parametrize("path", CUDA, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_layers_kernel_files_are_short_and_say_what_they_are(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MAX_LINES
    assert source.startswith("// ")


def test_layers_kernels_and_emulator_lie_apart() -> None:
    """A folder of kernels holds kernels and their headers, so that anybody's can stand in its place."""
    assert {path.suffix for path in KERNELS.iterdir() if path.is_file()} == {".cu"}
    assert [path.name for path in KERNELS.iterdir() if path.is_dir()] == ["pab"]
    assert {path.suffix for path in CUDA if path.is_relative_to(EMULATOR)} == {".h", ".cpp"}


def undocumented(source: str) -> list[str]:
    """Public functions, methods and classes without docstring or a full annotation."""
    found: list[str] = []

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                found.append(f"line {node.lineno}: {node.name} has no docstring")
            if isinstance(node, ast.ClassDef):
                visit(node.body)
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            arguments += [a for a in (node.args.vararg, node.args.kwarg) if a]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            if bare or node.returns is None:
                found.append(
                    f"line {node.lineno}: {node.name} lacks annotations ({', '.join(bare) or 'return'})"
                )

    visit(ast.parse(source).body)
    return found


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_layers_public_names_are_documented_and_typed(path: Path) -> None:
    assert undocumented(path.read_text(encoding="utf-8")) == []


def test_layers_see_what_is_not_documented_or_typed() -> None:
    source = 'def f(x):\n    "d"\nclass C:\n    "d"\n    def g(self) -> int: ...\n    def _h(self): ...\n'
    assert [line.split(": ")[1] for line in undocumented(source)] == [
        "f lacks annotations (x)",
        "g has no docstring",
    ]
