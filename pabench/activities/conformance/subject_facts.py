"""What a run writes down of its subjects: version and mode of another project's, or why it is not here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.subjects.allocators.registry import allocator_entry
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.backends.base import Backend
from pabench.subjects.backends.registry import OWN, load_backend


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectFacts:
    """A subject of a run.

    Attributes:
        name: of the backend or allocator.
        kind: ``backend`` or ``allocator``.
        package: of another project, that it runs; None for our own and for code at a place.
        version: of that package.
        mode: how the backend runs it: ``interpreted``, ``native``, ``eager``; None where there is one way.
        lacking: why it cannot be had here; every check of it is then unsupported.
    """

    name: str
    kind: str
    package: str | None = None
    version: str | None = None
    mode: str | None = None
    lacking: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``SubjectFacts(**data)`` reads them back."""
        return asdict(self)


def backend_facts(name: str, backend: Backend) -> SubjectFacts:
    """Return what is known of a backend that is loaded."""
    mode = getattr(backend, "mode", None)
    mode = None if mode is None else str(mode)
    if name not in ADAPTERS:
        return SubjectFacts(name=name, kind="backend", mode=mode)
    peer = ADAPTERS[name].peers[0]
    return SubjectFacts(name=name, kind="backend", package=peer.title, version=peer.find().version, mode=mode)


def load_subject(kind: str, name: str, device: Device) -> SubjectFacts:
    """Load a backend, or look for the package of an allocator, and return what is known of it.

    Raises:
        PabenchError: a name or code that is no subject; what a package lacks is in the facts instead.
    """
    if kind == "backend":
        try:
            return backend_facts(name, load_backend(name, device))
        except Unsupported as lacking:
            if name in OWN:
                raise
            peers = ADAPTERS[name].peers if name in ADAPTERS else ()
            first = peers[0].title if peers else None
            return SubjectFacts(name=name, kind=kind, package=first, lacking=str(lacking))
    entry = allocator_entry(name)
    package = None if entry.peer is None else entry.peer.title
    try:
        return SubjectFacts(name=name, kind=kind, package=package, version=entry.version())
    except Unsupported as lacking:
        return SubjectFacts(name=name, kind=kind, package=package, lacking=str(lacking))
