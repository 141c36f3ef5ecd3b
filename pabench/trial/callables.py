# SPDX-License-Identifier: Apache-2.0
"""A callable of this program as a subject: under a name that the registry finds."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from pabench.errors import UnknownName, UsageError
from pabench.subjects.backends.declared import DECLARATIONS
from pabench.subjects.backends.function import DeclaredFunction

ARITHMETIC = "arithmetic"
"""``profile`` of a function, as an argument of ``check``: there ``profile`` is how many cases are drawn."""
_numbers = itertools.count()


@contextmanager
def registered(function: Any, declared: Mapping[str, Any]) -> Iterator[str]:
    """Make a callable findable for the registry; gives the place, ``module:name``.

    Raises:
        UsageError: it cannot be called.
        UnknownName: a declaration that means nothing here.
    """
    known = [ARITHMETIC if name == "profile" else name for name in DECLARATIONS]
    for name in declared:
        if name not in known:
            raise UnknownName("declaration", name, known)
    if not callable(function):
        raise UsageError(
            f"a {type(function).__name__} is no kernel: must be a function, or a class with plan and run"
        )
    if inspect.isclass(function) and declared:
        raise UsageError(f"{', '.join(declared)}: a class declares its own capabilities")
    told = {"profile" if name == ARITHMETIC else name: value for name, value in declared.items()}
    subject = function if inspect.isclass(function) else DeclaredFunction(function=function, declared=told)
    module = ModuleType(f"pabench_checked_{next(_numbers)}")
    module.__spec__ = ModuleSpec(module.__name__, None)
    name = name_of(function)
    setattr(module, name, subject)
    sys.modules[module.__name__] = module
    try:
        yield f"{module.__name__}:{name}"
    finally:
        del sys.modules[module.__name__]


def name_of(function: Any) -> str:
    """Return what a callable is called; ``kernel`` where it has no name that Python could write."""
    name = str(getattr(function, "__name__", ""))
    return name if name.isidentifier() else "kernel"


def place_of(function: Any) -> str:
    """Return where ``pabench replay --backend`` finds a callable, ``file.py:name``.

    ``FILE.py`` stands for the file of one that has none, or is no attribute of its module.
    """
    name, file = name_of(function), "FILE.py"
    if getattr(function, "__qualname__", "") == name:
        with suppress(TypeError, OSError):
            found = Path(inspect.getfile(function))
            file = str(found) if found.is_file() else file
    return f"{file}:{name}"
