# SPDX-License-Identifier: Apache-2.0
"""Modules of an engine that is not installed, as far as its attention plugins import them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def offer(modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Make modules importable, unless their package is installed.

    They stay: a plugin may import them whenever it runs.

    Args:
        modules: full name to its attributes; packages above need not be named.
    """
    package = next(iter(modules)).partition(".")[0]
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return
    for name, attributes in modules.items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            full = ".".join(parts[:depth])
            if full not in sys.modules:
                module = ModuleType(full, "Stands in for a package that is not installed.")
                module.__spec__ = ModuleSpec(full, None, is_package=True)
                module.__path__ = []
                sys.modules[full] = module
                if depth > 1:
                    setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], module)
        vars(sys.modules[name]).update(attributes)
