"""Finds backends: our own, the entry points of group ``pabench.backends``, and Python code by its place.

A place reads ``file.py:attribute`` or ``package.module:attribute``.  The attribute is a function (see
``function.py``) or anything that, called with a device, returns a ``Backend``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pabench.backends.base import Backend, BackendFactory
from pabench.backends.function import FunctionBackend
from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, UnknownName, UsageError

GROUP = "pabench.backends"
OWN = {
    "rawkernel": "pabench.backends.rawkernel:RawKernelBackend",
    "torch-sdpa": "pabench.backends.torch_sdpa:TorchSdpaBackend",
}


def backend_names() -> dict[str, str]:
    """Return backend name to ``module:attribute``; installed entry points come on top of our own."""
    return {**OWN, **{point.name: point.value for point in entry_points(group=GROUP)}}


def load_backend(name: str, device: Device) -> Backend:
    """Return the backend called ``name``, or found at the place ``name``, on ``device``.

    Raises:
        UnknownName: no such backend.
        UsageError: a place that holds no code, or code that is no backend.
        EnvironmentRefused: its module cannot be imported here; the message says why.
    """
    names = backend_names()
    if name not in names:
        if ":" in name:
            return _at_place(name, device)
        raise UnknownName("backend", name, names)
    module, _, attribute = names[name].partition(":")
    try:
        factory: BackendFactory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise EnvironmentRefused(f"backend {name!r} cannot be loaded: {error}") from error
    return factory(device)


def _at_place(place: str, device: Device) -> Backend:
    where, _, attribute = place.rpartition(":")
    try:
        module = _module_of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        found: Any = getattr(module, attribute)
    except AttributeError:
        raise UsageError(f"backend {place!r}: {where} has no {attribute!r}") from None
    except (ImportError, ValueError) as error:
        raise UsageError(f"backend {place!r}: {error}") from error
    except Exception as error:
        raise UsageError(f"backend {place!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if inspect.isfunction(found):
        return FunctionBackend(place, found, device)
    backend: Any = found(device) if callable(found) else found
    for needed in ("capabilities", "profile", "plan", "run", "fetch"):
        if not hasattr(backend, needed):
            raise UsageError(f"backend {place!r}: {type(backend).__name__} has no {needed!r}")
    backend.name = place
    return backend  # type: ignore[no-any-return]


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ImportError(f"no file {path}")
    name = f"pabench_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickling look the module up by its name
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
