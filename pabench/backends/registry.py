"""Finds backends: the entry points of group ``pabench.backends``, and our own when run from a checkout."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from pabench.backends.base import Backend, BackendFactory
from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, UnknownName

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
        EnvironmentRefused: its module cannot be imported here; the message says why.
    """
    names = backend_names()
    if name not in names:
        raise UnknownName("backend", name, names)
    module, _, attribute = names[name].partition(":")
    try:
        factory: BackendFactory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise EnvironmentRefused(f"backend {name!r} cannot be loaded: {error}") from error
    return factory(device)
