# SPDX-License-Identifier: Apache-2.0
"""Finds and loads what is judged, backends and allocators alike.

A subject is asked for by a name (our own, an adapter, an entry point of ``GROUPS``) or by its place:
``file.py:attribute``, ``package.module:attribute`` or, for a backend, a bare ``kernel.cu`` or ``.ptx``, the
``.json`` of a Solution, an operator ``torch.ops.ns.name`` or a hub's kernel, ``hub:owner/name@revision``,
or a plugin of an engine behind the name of its contract, ``vllm:file.py:Backend``.
``resolve`` finds it and runs no code of it; ``load_backend`` and ``load_allocator`` import it where they run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, UnknownName, Unsupported, UsageError
from pabench.problem.profile import NumericsProfile
from pabench.subjects.allocators.entry import AllocatorEntry, misfit
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.backends.base import OPTIONAL, Backend, Capabilities
from pabench.subjects.backends.cuda_source import CudaSourceBackend
from pabench.subjects.backends.function import FunctionBackend
from pabench.subjects.backends.own import OWN
from pabench.subjects.backends.solution import solution_backend
from pabench.subjects.candidates import WANTED, candidates
from pabench.subjects.contracts import contract_of, load_plugin
from pabench.subjects.hub import PREFIX, resolve_hub
from pabench.subjects.importing import guarded, import_place
from pabench.subjects.peers.named import NamedSubject
from pabench.subjects.peers.package import TORCH_INSTALL, lacks_torch
from pabench.subjects.reference import ALLOCATOR, BACKEND, Reference
from pabench.subjects.torch_ops import operator_of
from pabench.tracebacks import described

GROUPS = {BACKEND: "pabench.backends", ALLOCATOR: "pabench.allocators"}
"""Groups of entry points."""
SOLUTION = ".json"
SOURCE = (".cu", ".ptx", SOLUTION)
PYTHON = ".py"


def known(kind: str) -> Mapping[str, NamedSubject]:
    """Return what pabench brings of a kind, by name: our own and the adapters."""
    return {**OWN, **ADAPTERS} if kind == BACKEND else ALLOCATORS


def installed(kind: str) -> dict[str, str]:
    """Return the entry points of other packages: name to place."""
    return {point.name: point.value for point in _points(kind)}


def places(kind: str) -> dict[str, str]:
    """Return every known name with its place, ours first."""
    ours = {name: subject.place for name, subject in known(kind).items()}
    return {**ours, **{name: place for name, place in installed(kind).items() if name not in ours}}


def is_place(kind: str, text: str) -> bool:
    """Whether ``text`` names code by its place, which is run for nobody who did not ask."""
    as_backend = kind == BACKEND and (text.endswith(SOURCE) or operator_of(text) is not None)
    return (":" in text or as_backend) and text not in places(kind)


def resolve(kind: str, text: str) -> Reference:
    """Find a subject without running any of its code.

    Raises:
        UnknownName: no such name.
        UsageError: no such file or module, no attribute, or a name that two subjects have.
    """
    claims = [
        (f"entry point of {_distribution(point)}", point.value)
        for point in _points(kind)
        if point.name == text
    ]
    if text in known(kind):
        claims.insert(0, ("pabench", known(kind)[text].place))
    if claims:
        if len({place for _, place in claims}) > 1:
            said = " and ".join(f"{place} ({whose})" for whose, place in claims)
            raise UsageError(f"{kind} {text!r} is the name of two: {said}; name one by its place")
        return Reference(kind=kind, name=text, place=claims[0][1])
    if kind == BACKEND and text.endswith(SOURCE):
        return Reference(kind=kind, name=text, place=str(_file(kind, text, text)), at_place=True)
    if kind == BACKEND and text.startswith(PREFIX):
        return resolve_hub(kind, text)
    if kind == BACKEND and (contract := contract_of(text)):
        prefix, place = contract
        return Reference(kind=kind, name=text, place=f"{prefix}:{resolve(kind, place).place}", at_place=True)
    where, colon, attribute = text.rpartition(":")
    if kind == BACKEND and operator_of(text):
        if where.endswith(PYTHON):
            where = str(_file(kind, text, where))
        elif colon:
            _find_module(kind, text, where)
        return Reference(
            kind=kind, name=text, place=text if not where else f"{where}:{attribute}", at_place=True
        )
    if not colon:
        if text.endswith(PYTHON):
            raise UsageError(f"{kind} {text!r}: {_what_to_name(kind, text, _file(kind, text, text))}")
        raise UnknownName(kind, text, places(kind))
    return resolve_place(kind, text)


def resolve_place(kind: str, text: str) -> Reference:
    """Find what stands at ``file.py:name`` or ``module:name`` without running any of its code.

    Raises:
        UsageError: no such file or module, or no attribute.
    """
    where, _, attribute = text.rpartition(":")
    if not attribute.isidentifier():
        raise UsageError(
            f"{kind} {text!r}: {attribute!r} is no name in Python; must be file.py:name or module:name"
        )
    if where.endswith(PYTHON):
        place = f"{_file(kind, text, where)}:{attribute}"
    else:
        _find_module(kind, text, where)
        place = text
    return Reference(kind=kind, name=text, place=place, at_place=True)


def resolve_all(kind: str, texts: Iterable[str]) -> tuple[Reference, ...]:
    """Find the subjects of one run, in their order.

    Raises:
        UnknownName: as ``resolve``.
        UsageError: as ``resolve``, or two of them are the same.
    """
    found: dict[str, Reference] = {}
    for text in texts:
        reference = resolve(kind, text)
        if (other := found.setdefault(reference.place, reference)) is not reference:
            twice = "named twice" if other.name == text else f"{other.name!r} again"
            raise UsageError(f"{kind} {text!r} is {twice}; must be there once")
    return tuple(found.values())


def load_backend(asked: str | Reference, device: Device) -> Backend:
    """Import a backend and make it on ``device``.

    Raises:
        UnknownName: no such backend.
        UsageError: a place without code, or code that raises or is no backend.
        Unsupported: an adapter whose package is absent, too old or broken, or that needs a GPU where none is.
        EnvironmentRefused: its code ends the process, or belongs to an installed package and raises.
    """
    reference = asked if isinstance(asked, Reference) else resolve(BACKEND, asked)
    if reference.place.endswith(SOLUTION):
        path = Path(reference.place)
        return guarded(reference, lambda: solution_backend(reference.name, path, device))
    if reference.place.endswith(SOURCE):
        source = CudaSourceBackend(Path(reference.place), device)
        source.name = reference.name
        return source
    if contract_of(reference.place):
        return load_plugin(reference, device)  # type: ignore[no-any-return]
    adapter = known(BACKEND).get(reference.name)
    if adapter is not None:
        adapter.check(reference.name, device.name)
        reference = replace(reference, place=adapter.place_on(device.name))

    def make() -> Any:
        found: Any = import_place(reference)
        if isinstance(found, type):
            make_on: Any = found
            return make_on(device)
        is_function = callable(found) and not hasattr(found, "plan")
        return FunctionBackend(reference.name, found, device) if is_function else found

    try:
        backend = guarded(reference, make)
    except Exception as error:
        if adapter is None or not adapter.peers or isinstance(error, Unsupported):
            raise
        if isinstance(error, EnvironmentRefused) and error.hint and error.__cause__ is None:
            raise  # what the adapter itself has found out
        install = TORCH_INSTALL if lacks_torch(error.__cause__ or error) else adapter.install
        raise Unsupported(f"{error}; {install}") from error
    wrong = _no_backend(backend)
    if wrong:
        raise UsageError(f"{reference}: {wrong}")
    if reference.at_place:
        guarded(reference, lambda: setattr(backend, "name", reference.name))
    return backend  # type: ignore[no-any-return]


def load_allocator(asked: str | Reference) -> AllocatorEntry:
    """Import an allocator's class, and what it runs.

    Raises:
        UnknownName: no such allocator.
        UsageError: a place without code, or code that raises or is no allocator.
        Unsupported: its package is absent, too old, or fails to import.
        EnvironmentRefused: its code ends the process, or belongs to an installed package and raises.
    """
    reference = asked if isinstance(asked, Reference) else resolve(ALLOCATOR, asked)
    entry = declared(reference)
    if subject := known(ALLOCATOR).get(reference.name):
        subject.load()
    return entry


def declared(reference: Reference) -> AllocatorEntry:
    """Import the class of an allocator alone, which says what it can, and no package that it runs.

    Raises as ``load_allocator`` does, but for the package.
    """
    found = import_place(reference)
    if wrong := guarded(reference, lambda: misfit(found)):
        raise UsageError(f"{reference}: {wrong}")
    return AllocatorEntry.of(found, name=reference.name)


def _points(kind: str) -> list[EntryPoint]:
    # ours are in the tables above; an older pabench may have left some behind
    return [point for point in entry_points(group=GROUPS[kind]) if _distribution(point) != "pabench"]


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def _file(kind: str, text: str, where: str) -> Path:
    """Return the absolute path of a file that is there; raises ``UsageError``."""
    path = Path(where).absolute()
    try:
        there = path.is_file()
        if there:
            with path.open("rb"):
                pass
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{kind} {text!r}: {where}: {said}") from None
    if not there:
        what = "is a directory" if path.is_dir() else "no such file"
        raise UsageError(f"{kind} {text!r}: {where}: {what}")
    return path


def _find_module(kind: str, text: str, where: str) -> None:
    """Look for the package of a module without importing it; raises ``UsageError``."""
    top = where.partition(".")[0]
    if not all(part.isidentifier() for part in where.split(".")):
        raise UsageError(f"{kind} {text!r}: {where!r} is no module; must be file.py:name or module:name")
    try:
        there = importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        there = False
    if not there:
        raise UsageError(
            f"{kind} {text!r}: no module named {top!r} (a file is named with its ending: {where}.py)"
        )


def _what_to_name(kind: str, text: str, file: Path) -> str:
    try:
        found = candidates(kind, file)
    except SyntaxError as error:
        return described(error)
    except (OSError, ValueError) as error:
        return f"cannot be read: {described(error)}"
    if not found:
        return f"nothing in it fits: must be {WANTED[kind]}"
    ways = [f"{text}:{name}" for name in found]
    return f"which one? {ways[0]}" if len(ways) == 1 else f"which one? {' or '.join(ways)}"


def _no_backend(backend: Any) -> str | None:
    """Return why an object is no backend, or None."""
    kind = type(backend).__name__
    needed = ("capabilities", "profile", "plan", "run", "fetch")
    if missing := [field for field in needed if not hasattr(backend, field)]:
        return f"{kind} has no {', '.join(map(repr, missing))}; must be {WANTED[BACKEND]}"
    for field, wanted in (("capabilities", Capabilities), ("profile", NumericsProfile)):
        found = getattr(backend, field)
        if not isinstance(found, wanted):
            return f"{field} is {type(found).__name__}, must be {wanted.__name__}"
    for method in ("plan", "run", "fetch"):
        if not callable(getattr(backend, method)):
            return f"{method} is {type(getattr(backend, method)).__name__}, must be a method"
    for operation, method in OPTIONAL.items():
        if operation in backend.capabilities.operations and not hasattr(backend, method):
            return f"declares {operation} and has no {method!r}"
    return None
