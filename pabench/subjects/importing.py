# SPDX-License-Identifier: Apache-2.0
"""Imports the code at a place; what it raises, ends or lacks becomes one line.

While a file is imported, the modules beside it are found as they are for a script, those of the standard
library excepted: pabench and what it imports need the real ones.  Later they are found behind all else.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pabench.errors import EnvironmentRefused, PabenchError, UsageError
from pabench.subjects.candidates import near
from pabench.subjects.peers.package import TORCH_INSTALL, lacks_torch
from pabench.subjects.reference import Reference
from pabench.subjects.torch_ops import load_operator, operator_of
from pabench.tracebacks import described

Made = TypeVar("Made")


def import_place(reference: Reference) -> Any:
    """Return the object that a reference names, not called yet.

    Raises:
        UsageError: its code raises, or lacks the attribute.
        EnvironmentRefused: its code ends the process, or it belongs to an installed package and raises.
    """
    if operator := operator_of(reference.place):
        return guarded(reference, lambda: load_operator(operator, _module))
    where, _, attribute = reference.place.rpartition(":")
    module = guarded(reference, lambda: _module(where))
    missing = object()
    found = guarded(reference, lambda: getattr(module, attribute, missing))
    if found is missing:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise UsageError(f"{reference}: {reference.where} has no {attribute!r}{near(attribute, names)}")
    return found


def guarded(reference: Reference, make: Callable[[], Made]) -> Made:
    """Return what ``make`` gives; whatever foreign code raises becomes one line that names the subject.

    Raises:
        UsageError: code at a place raises.
        EnvironmentRefused: it ends the process, or an installed package raises.
    """
    try:
        return make()
    except (PabenchError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        ended = f"{reference} ends the process while it is loaded: {described(error)}"
        raise EnvironmentRefused(ended) from None
    except BaseException as error:
        text = f"{reference} cannot be loaded: {described(error)}"
        hint = TORCH_INSTALL if lacks_torch(error) else None
        if reference.at_place:
            raise UsageError(text, hint=hint) from error
        raise EnvironmentRefused(text, hint=hint) from error


def _module(where: str) -> ModuleType:
    return _module_of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)


def _module_of_file(path: Path) -> ModuleType:
    # two files of one name are two modules
    name = f"pabench_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickling look the module up by its name
    sys.modules[name] = module
    with _neighbours(path.parent):
        spec.loader.exec_module(module)
    return module


class _Neighbours(MetaPathFinder):
    """Finds top-level modules in one folder."""

    def __init__(self, folder: Path, *, first: bool) -> None:
        self.folder = folder
        self._first = first

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See ``MetaPathFinder``."""
        if path is not None or fullname in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(fullname, [str(self.folder)])
        # a plain folder is a package only where there is none of its name
        return None if spec is not None and spec.loader is None and self._first else spec


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    known = [finder.folder for finder in sys.meta_path if isinstance(finder, _Neighbours)]
    if folder not in known:
        sys.meta_path.append(_Neighbours(folder, first=False))
    # a helper of the same name beside another subject is another module
    others = {other for other in known if other != folder}
    importlib.invalidate_caches()
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        source = getattr(module, "__file__", None)
        if source and others & set(Path(source).parents) and _is_in(top, folder):
            del sys.modules[name]
    first = _Neighbours(folder, first=True)
    sys.meta_path.insert(0, first)
    try:
        yield
    finally:
        sys.meta_path.remove(first)


def _is_in(top: str, folder: Path) -> bool:
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
