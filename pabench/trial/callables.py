"""A callable of this program as a subject: under a name that the registry finds, with arrays it knows."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, UnknownName, UsageError

ARRAYS = ("numpy", "torch")
ATTRIBUTES = ("dtypes", "lse", "arithmetic", "arrays")
"""What can be declared of a callable: as arguments of ``check``, or as attributes on it."""
_numbers = itertools.count()


@contextmanager
def registered(function: Any, declared: Mapping[str, Any]) -> Iterator[str]:
    """Make a callable findable for the registry; gives the place, ``module:name``.

    Raises:
        UsageError: it cannot be called.
        UnknownName: a declaration that means nothing here.
    """
    for name in declared:
        if name not in ATTRIBUTES:
            raise UnknownName("declaration", name, ATTRIBUTES)
    if not callable(function):
        raise UsageError(
            f"a {type(function).__name__} is no kernel: must be a function, or a class with plan and run"
        )
    subject = function if inspect.isclass(function) else _wrapped(function, declared)
    if inspect.isclass(function) and declared:
        raise UsageError(f"{', '.join(declared)}: a class declares its own capabilities")
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


def _wrapped(function: Callable[..., Any], declared: Mapping[str, Any]) -> Callable[..., Any]:
    told = {**{name: getattr(function, name) for name in ATTRIBUTES if hasattr(function, name)}, **declared}
    arrays = told.pop("arrays", None) or _annotated(function)
    if arrays not in ARRAYS:
        raise InvalidCase("arrays", arrays, f"must be one of {', '.join(ARRAYS)}")

    @functools.wraps(function, assigned=("__name__", "__doc__"), updated=())
    def kernel(*arguments: Any) -> Any:
        return _on_torch(function, arguments) if arrays == "torch" else function(*arguments)

    for name, value in told.items():
        setattr(kernel, "profile" if name == "arithmetic" else name, value)
    return kernel


def _annotated(function: Callable[..., Any]) -> str:
    """Which arrays a callable asks for, by the annotation of its first parameter; numpy without one."""
    if type(function).__module__.startswith("torch."):
        return "torch"
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return "numpy"
    said = "" if first is None else str(first.annotation)
    return "torch" if "torch" in said or "Tensor" in said else "numpy"


def _on_torch(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call with tensors over the arrays' memory; what may not be written is copied, torch knows no such."""
    import torch

    tensors = [
        torch.from_numpy(one if one.flags.writeable else one.copy()) if isinstance(one, np.ndarray) else one
        for one in arguments
    ]
    with torch.no_grad():
        result = function(*tensors)
    return tuple(map(_to_numpy, result)) if isinstance(result, tuple | list) else _to_numpy(result)


def _to_numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value
