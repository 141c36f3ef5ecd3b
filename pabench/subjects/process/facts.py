# SPDX-License-Identifier: Apache-2.0
"""What is known of a subject once it is loaded, as plain values."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.problem.shape import Shape
from pabench.subjects.allocators.capabilities import Capabilities as AllocatorCapabilities
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.backends.base import Backend, Capabilities
from pabench.subjects.backends.function import FunctionBackend
from pabench.subjects.backends.solution_call import SolutionBackend
from pabench.subjects.reference import ALLOCATOR, BACKEND
from pabench.subjects.registry import known, load_allocator, load_backend

RULE = "rule"


def load(kind: str, name: str, device: Device) -> tuple[Backend | AllocatorEntry | None, dict[str, Any]]:
    """Load a subject and return it with its facts.

    The facts have ``package``, ``version``, ``mode`` and ``lacking`` as in a run's record, and what the
    subject declares, where nothing lacks.

    Raises:
        PabenchError: a name or code that is no subject; what a package lacks is in the facts instead, and
            there is no subject then.
    """
    return _backend(name, device) if kind == BACKEND else _allocator(name)


CUDA = "cuda"
"""The device whose arrays a Python function gets too."""
ON_HOST = "the CPU, in a process of its own"


def launches(subject: Backend | AllocatorEntry | None) -> bool:
    """Return whether a subject may run kernels on its device; Python functions never do."""
    if isinstance(subject, AllocatorEntry):
        return subject.on_device
    python = isinstance(subject, FunctionBackend | SolutionBackend) or getattr(subject, "on_host", False)
    return subject is not None and not python


def place_of(subject: Backend | AllocatorEntry | None, device: Device) -> str:
    """Return where a subject runs, in words: ``device`` describes itself alone."""
    if subject is None or launches(subject) or device.name == CUDA:
        return device.description
    return ON_HOST


def declared(capabilities: Capabilities | AllocatorCapabilities) -> dict[str, Any]:
    """Return the plain fields of ``capabilities``; of a rule, or an own ``why_not``, that it is there."""
    found: dict[str, Any] = {}
    for field in fields(capabilities):
        if field.name != RULE:
            value = getattr(capabilities, field.name)
            value = asdict(value) if isinstance(value, Shape) else value
            found[field.name] = sorted(value) if isinstance(value, frozenset | set) else value
    if isinstance(capabilities, Capabilities):
        replaced = type(capabilities).why_not is not Capabilities.why_not
        found[RULE] = capabilities.rule is not None or replaced
    return found


def backend_facts(backend: Backend) -> dict[str, Any]:
    """Return what a backend declares."""
    return {
        "name": str(getattr(backend, "name", "")),
        "capabilities": declared(backend.capabilities),
        "profile": asdict(backend.profile),
        "captures": bool(getattr(backend, "captures", False)),
        "takes_resident": bool(getattr(backend, "takes_resident", False)),
    }


def _backend(name: str, device: Device) -> tuple[Backend | None, dict[str, Any]]:
    subject = known(BACKEND).get(name)
    package = subject.package if subject else None
    try:
        backend = load_backend(name, device)
    except Unsupported as lacking:
        if subject is not None and not subject.peers:
            raise
        return None, _record(package=package, lacking=str(lacking))
    mode = getattr(backend, "mode", None)
    version = subject.version() if subject else None
    record = _record(package=package, version=version, mode=None if mode is None else str(mode))
    return backend, record | backend_facts(backend)


def _allocator(name: str) -> tuple[AllocatorEntry | None, dict[str, Any]]:
    subject = known(ALLOCATOR).get(name)
    package = subject.package if subject else None
    try:
        version = subject.version() if subject else None
        entry = load_allocator(name)
    except Unsupported as lacking:
        return None, _record(package=package, lacking=str(lacking))
    record = _record(package=package, version=version)
    return entry, record | {"name": name, "capabilities": declared(entry.capabilities)}


def _record(**known: str | None) -> dict[str, Any]:
    return {"package": None, "version": None, "mode": None, "lacking": None, **known}
