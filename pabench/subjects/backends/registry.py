"""Finds backends: our own, adapters, entry points of group ``pabench.backends``, Python code by its place.

A place reads ``file.py:attribute`` or ``package.module:attribute``.  The attribute is a function (see
``function.py``) or anything that, called with a device, returns a ``Backend``.  A place that ends in ``.cu``
is a kernel (see ``cuda_source.py``).
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

from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, PabenchError, UnknownName, Unsupported, UsageError
from pabench.problem.profile import ComputeProfile
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.backends.base import OPTIONAL, Backend, BackendFactory, Capabilities
from pabench.subjects.backends.cuda_source import CudaSourceBackend
from pabench.subjects.backends.function import FunctionBackend

GROUP = "pabench.backends"
SOURCE = ".cu"
OWN = {
    "rawkernel": "pabench.subjects.backends.rawkernel:RawKernelBackend",
    "rawkernel-mma": "pabench.subjects.backends.rawkernel_mma:RawKernelMmaBackend",
    "rawkernel-mma-fixed": "pabench.subjects.backends.rawkernel_mma_fixed:RawKernelMmaFixedBackend",
    "rawkernel-cascade": "pabench.subjects.backends.rawkernel_cascade:RawKernelCascadeBackend",
    "torch-sdpa": "pabench.subjects.backends.torch_sdpa:TorchSdpaBackend",
}


def backend_names() -> dict[str, str]:
    """Return backend name to ``module:attribute``: our own, adapters, and installed entry points."""
    adapters = {name: adapter.place for name, adapter in ADAPTERS.items()}
    return {**OWN, **adapters, **{point.name: point.value for point in entry_points(group=GROUP)}}


def load_backend(name: str, device: Device) -> Backend:
    """Return the backend called ``name``, or found at the place ``name``, on ``device``.

    Raises:
        UnknownName: no such backend.
        UsageError: a place that holds no code, or code that is no backend.
        Unsupported: an adapter whose package is absent, too old or broken, or that needs a GPU where none is.
        EnvironmentRefused: it cannot be imported or made here; the message says why.
    """
    names = backend_names()
    if name not in names:
        if name.endswith(SOURCE):
            return CudaSourceBackend(Path(name), device)
        if ":" in name:
            return _at_place(name, device)
        raise UnknownName("backend", name, names)
    adapter = ADAPTERS.get(name)
    if adapter is not None:
        adapter.check(name, device.name)
    module, _, attribute = names[name].partition(":")
    try:
        factory: BackendFactory = getattr(importlib.import_module(module), attribute)
        backend = factory(device)
    except PabenchError:
        raise
    except Exception as error:
        # anybody's module: whatever it raises is about it, not about us
        text = f"backend {name!r} cannot be loaded: {type(error).__name__}: {error}"
        if adapter is not None:
            raise Unsupported(f"{' '.join(text.split())}; {adapter.install}") from error
        raise EnvironmentRefused(text) from error
    return _checked(name, backend)


def is_place(name: str) -> bool:
    """Whether ``load_backend`` would run code from a place for ``name``."""
    return (":" in name or name.endswith(SOURCE)) and name not in backend_names()


def _checked(name: str, backend: Any) -> Backend:
    for field in ("capabilities", "profile", "plan", "run", "fetch"):
        if not hasattr(backend, field):
            raise UsageError(f"backend {name!r}: {type(backend).__name__} has no {field!r}")
    for field, kind in (("capabilities", Capabilities), ("profile", ComputeProfile)):
        found = getattr(backend, field)
        if not isinstance(found, kind):
            raise UsageError(f"backend {name!r}: {field} is {type(found).__name__}, must be {kind.__name__}")
    for operation, method in OPTIONAL.items():
        if operation in backend.capabilities.operations and not hasattr(backend, method):
            raise UsageError(f"backend {name!r}: declares {operation} and has no {method!r}")
    return backend  # type: ignore[no-any-return]


def _at_place(place: str, device: Device) -> Backend:
    where, _, attribute = place.rpartition(":")
    try:
        module = _module_of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        found: Any = getattr(module, attribute)
        if inspect.isfunction(found):
            return FunctionBackend(place, found, device)
        backend: Any = found(device) if callable(found) else found
    except PabenchError:
        raise
    except AttributeError as error:
        text = f"{where} has no {attribute!r}" if error.name == attribute else f"AttributeError: {error}"
        raise UsageError(f"backend {place!r}: {text}") from None
    except (ImportError, ValueError) as error:
        raise UsageError(f"backend {place!r}: {error}") from error
    except Exception as error:
        raise UsageError(f"backend {place!r} cannot be loaded: {type(error).__name__}: {error}") from error
    checked = _checked(place, backend)
    checked.name = place
    return checked


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
