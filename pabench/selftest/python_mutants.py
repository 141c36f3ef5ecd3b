# SPDX-License-Identifier: Apache-2.0
"""Runs a mutant of a Python file: the mutated module and those that import it, as private copies.

The copies live in no table of modules.  They are run with an import function of their own, which hands them
each other and the rest of the package as it is; when the last reference goes, so do they.
"""

from __future__ import annotations

import ast
import builtins
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from pabench.selftest.mutants import PACKAGE, Mutant, mutated


def load_mutated(mutant: Mutant, entry: str) -> ModuleType:
    """Return a copy of the module ``entry`` that works with the mutant, itself or in what it imports.

    Args:
        mutant: of a Python file of the package.
        entry: full name of a module in the same folder.

    Raises:
        UsageError: the mutant does not fit its file.
    """
    folder = (PACKAGE / mutant.file).parent
    prefix = ".".join((PACKAGE.name, *folder.relative_to(PACKAGE).parts))
    target = f"{prefix}.{Path(mutant.file).stem}"
    sources = {f"{prefix}.{path.stem}": path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    sources[target] = mutated(mutant, PACKAGE)
    return _Copies(sources, _importers(sources, target)).load(entry)


class _Copies:
    """Private copies of modules."""

    def __init__(self, sources: dict[str, str], private: set[str]) -> None:
        self._sources = sources
        self._private = private
        self._loaded: dict[str, ModuleType] = {}

    def load(self, name: str) -> ModuleType:
        if name not in self._loaded:
            # dataclasses look for the module of a class by its name, and must find one
            importlib.import_module(name)
            module = self._loaded[name] = ModuleType(name)
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
            exec(compile(self._sources[name], f"<{name} with a mutant>", "exec"), module.__dict__)
        return self._loaded[name]

    def _import(self, name: str, *arguments: Any, **options: Any) -> Any:
        # every import within the package is ``from module import name``, so the module itself is wanted
        return self.load(name) if name in self._private else __import__(name, *arguments, **options)


def _importers(sources: dict[str, str], target: str) -> set[str]:
    """``target`` and all modules among ``sources`` that import it, directly or not."""
    imports = {
        name: {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
        for name, text in sources.items()
    }
    found = {target}
    while more := {name for name, modules in imports.items() if modules & found} - found:
        found |= more
    return found
