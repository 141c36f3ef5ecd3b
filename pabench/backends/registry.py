"""Finds backends: the entry points of group ``pabench.backends``, and our own when run from a checkout."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from pabench.backends.base import Backend, BackendFactory, Capabilities
from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, PabenchError, UnknownName, UsageError
from pabench.problem.profile import ComputeProfile

GROUP = "pabench.backends"
OWN = {
    "rawkernel": "pabench.backends.rawkernel:RawKernelBackend",
    "torch-sdpa": "pabench.backends.torch_sdpa:TorchSdpaBackend",
}


def backend_names() -> dict[str, str]:
    """Return backend name to ``module:attribute``; installed entry points come on top of our own."""
    return {**OWN, **{point.name: point.value for point in entry_points(group=GROUP)}}


def load_backend(name: str, device: Device) -> Backend:
    """Return the backend called ``name`` on ``device``.

    Raises:
        UnknownName: no such backend.
        EnvironmentRefused: it cannot be imported or made here; the message says why.
        UsageError: what was made is no backend.
    """
    names = backend_names()
    if name not in names:
        raise UnknownName("backend", name, names)
    module, _, attribute = names[name].partition(":")
    try:
        factory: BackendFactory = getattr(importlib.import_module(module), attribute)
        backend = factory(device)
    except PabenchError:
        raise
    except Exception as error:
        # anybody's module: whatever it raises is about it, not about us
        text = f"backend {name!r} cannot be loaded: {type(error).__name__}: {error}"
        raise EnvironmentRefused(text) from error
    for field, kind in (("capabilities", Capabilities), ("profile", ComputeProfile)):
        found = getattr(backend, field, None)
        if not isinstance(found, kind):
            raise UsageError(f"backend {name!r}: {field} is {type(found).__name__}, must be {kind.__name__}")
    return backend
