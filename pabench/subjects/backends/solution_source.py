# SPDX-License-Identifier: Apache-2.0
"""Imports the sources of a Solution from memory: no file is written, and tracebacks show their lines."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import PurePosixPath
from types import CodeType, ModuleType
from typing import Any

from pabench.errors import UnknownName
from pabench.exchange.solution import Solution


def entry_point(solution: Solution, where: str) -> Any:
    """Return the function that a solution names as its entry point.

    Args:
        solution: with Python sources.
        where: what its files are called in tracebacks, before their own name.

    Raises:
        UnknownName: the file has no such function.
        Exception: whatever the sources raise.
    """
    sources = {path: text for path, text in solution.sources.items() if path.endswith(".py")}
    _forget_others()
    # before all else: a source named like an installed module is the one meant
    sys.meta_path.insert(0, _Sources(sources, where))
    module = importlib.import_module(_module_name(solution.file))
    found = getattr(module, solution.function, None)
    if not callable(found):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UnknownName(f"function of {where}:{solution.file}", solution.function, names)
    return found


def _forget_others() -> None:
    """Let the modules of another solution in this process go: most have a ``main``."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Sources)]
    for name, module in list(sys.modules.items()):
        if isinstance(getattr(module, "__loader__", None), _Sources):
            del sys.modules[name]


def _module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


class _Sources(MetaPathFinder, Loader):
    """Finds and loads modules in a mapping of paths to text; folders are packages."""

    def __init__(self, sources: Mapping[str, str], where: str) -> None:
        self._paths = {_module_name(path): path for path in sources}
        self._sources, self._where = sources, where
        self._folders = {
            ".".join(PurePosixPath(path).parts[:depth])
            for path in sources
            for depth in range(1, len(PurePosixPath(path).parts))
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See ``MetaPathFinder``."""
        if fullname not in self._paths and fullname not in self._folders:
            return None
        package = fullname in self._folders
        file = self._file(fullname)
        return importlib.util.spec_from_loader(fullname, self, origin=file, is_package=package)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See ``Loader``."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """See ``Loader``."""
        module.__file__ = self._file(module.__name__)
        exec(self.get_code(module.__name__), vars(module))

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled source of a module; a folder without one is empty."""
        return compile(self.get_source(fullname), self._file(fullname), "exec")

    def get_source(self, fullname: str) -> str:
        """Return the text of a module, as ``linecache`` and Triton ask for it."""
        path = self._paths.get(fullname)
        return "" if path is None else self._sources[path]

    def _file(self, fullname: str) -> str:
        return f"{self._where}:{self._paths.get(fullname, fullname)}"
