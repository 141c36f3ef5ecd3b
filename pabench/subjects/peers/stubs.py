# SPDX-License-Identifier: Apache-2.0
"""Imports a part of a large package without what that part does not use.

A serving engine's allocator is plain Python, but importing it pulls in drivers, servers and model code.  Here
the ``__init__`` of listed packages is not run and listed modules are replaced by stubs while the import
lasts; every other file of the package runs unmodified.  Afterwards the table of modules is as it was.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds bare packages and stubs before anything else does."""

    def __init__(self, folder: Path, bare: Sequence[str], replaced: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder, self.bare, self.replaced = folder, bare, replaced

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.bare and fullname not in self.replaced:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if fullname in self.bare:
            spec.submodule_search_locations = [str(self.folder.joinpath(*fullname.split(".")))]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        vars(module).update(self.replaced.get(spec.name, {}))
        return module

    def exec_module(self, module: ModuleType) -> None:
        """A stub holds what it was made with."""


@contextmanager
def found_in(package: str, folder: Path) -> Iterator[None]:
    """While this lasts, the top-level ``package`` is looked for in ``folder`` first, and nothing else is.

    Its own modules are found through it afterwards too, whatever it imports later.
    """

    class Here(importlib.abc.MetaPathFinder):
        def find_spec(
            self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
        ) -> importlib.machinery.ModuleSpec | None:
            if fullname != package:
                return None
            return importlib.machinery.PathFinder.find_spec(fullname, [str(folder)])

    finder = Here()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def stubs(
    package: str, folder: Path, *, bare: Sequence[str], replaced: Mapping[str, Mapping[str, Any]]
) -> Iterator[None]:
    """While this lasts, ``package`` is imported from ``folder`` with stubs; afterwards it is not there.

    Args:
        package: top-level name.
        folder: that holds the package.
        bare: packages, the top level among them, whose ``__init__`` is not run.
        replaced: module name to the attributes of its stub.  A module outside of ``package`` that is
            installed is never replaced.
    """
    outside = {name for name in replaced if name.split(".")[0] != package}
    kept = {name: what for name, what in replaced.items() if name not in outside or not _installed(name)}
    names = {package} | {name.split(".")[0] for name in kept if name in outside}
    aside = {name: module for name, module in sys.modules.items() if name.split(".")[0] in names}
    for name in aside:
        del sys.modules[name]
    finder = _Finder(folder, bare, kept)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(aside)


def functions_of(file: Path, names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return top-level functions of a source file, compiled as they stand there, without running the rest.

    Args:
        file: Python source.
        names: of the functions.
        given: the globals that they use.

    Raises:
        ImportError: one of them is not there.
    """
    tree = ast.parse(file.read_text("utf-8"), str(file))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    if missing := sorted(set(names) - {node.name for node in found}):
        raise ImportError(f"{file.name} has no function {', '.join(missing)}")
    space: dict[str, Any] = dict(given)
    exec(compile(ast.Module(body=list(found), type_ignores=[]), str(file), "exec"), space)
    return {name: space[name] for name in names}


def _installed(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
