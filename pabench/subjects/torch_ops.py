# SPDX-License-Identifier: Apache-2.0
"""Finds an operator of torch: ``torch.ops.ns.name``, with the file or module that registers it before it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pabench.errors import UsageError

OPERATOR = re.compile(r"(?:(?P<where>.+):)?torch\.ops\.(?P<space>\w+)\.(?P<name>\w+)(?:\.(?P<overload>\w+))?")


def operator_of(text: str) -> re.Match[str] | None:
    """Return the parts of the name of an operator, or None."""
    return OPERATOR.fullmatch(text)


def load_operator(found: re.Match[str], load: Callable[[str], ModuleType]) -> Any:
    """Return an operator.

    Args:
        found: parts of its name.
        load: imports the file or module that registers it.

    Raises:
        UsageError: nothing registers it.
    """
    space = found["space"]
    if found["where"]:
        load(found["where"])
    elif importlib.util.find_spec(space) is not None:
        # a package of the same name registers it, by convention
        importlib.import_module(space)
    import torch

    operator = getattr(getattr(torch.ops, space), found["name"], None)
    if operator is not None and found["overload"]:
        operator = getattr(operator, found["overload"], None)
    if operator is None:
        where = found["where"]
        said = f"{where} registers none" if where else f"name what registers it: file.py:torch.ops.{space}..."
        names = sorted(
            name.partition("::")[2]
            for name in torch._C._dispatch_get_all_op_names()
            if name.startswith(f"{space}::")
        )
        said += f"; torch.ops.{space} has {', '.join(names)}" if names else ""
        raise UsageError(f"there is no torch.ops.{space}.{found['name']}: {said}")
    return operator
