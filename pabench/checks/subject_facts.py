"""A subject loaded to be judged, and what a run writes down of it: version, mode, or why it is not here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pabench.checks.ledger import Deviation, known_deviations
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.backends.base import Backend
from pabench.subjects.reference import BACKEND
from pabench.subjects.registry import known, load_allocator, load_backend


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
        broken: why no case of it can run, as the compiler says it; that is its only verdict then.
    """

    name: str
    kind: str
    package: str | None = None
    version: str | None = None
    mode: str | None = None
    lacking: str | None = None
    broken: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``SubjectFacts(**data)`` reads them back."""
        return asdict(self)


def backend_facts(name: str, backend: Backend) -> SubjectFacts:
    """Return what is known of a backend that is loaded."""
    mode = getattr(backend, "mode", None)
    mode = None if mode is None else str(mode)
    subject = known(BACKEND).get(name)
    if subject is None or not subject.peers:
        return SubjectFacts(name=name, kind=BACKEND, mode=mode)
    return SubjectFacts(
        name=name, kind=BACKEND, package=subject.package, version=subject.version(), mode=mode
    )


def load_subject(kind: str, name: str, device: Device) -> SubjectFacts:
    """Load a backend or an allocator, and return what is known of it.

    Raises:
        PabenchError: a name or code that is no subject; what a package lacks is in the facts instead.
    """
    subject = known(kind).get(name)
    package = subject.package if subject else None
    try:
        if kind == BACKEND:
            return backend_facts(name, load_backend(name, device))
        load_allocator(name)
        version = subject.version() if subject else None
        return SubjectFacts(name=name, kind=kind, package=package, version=version)
    except Unsupported as lacking:
        if kind == BACKEND and subject is not None and not subject.peers:
            raise
        return SubjectFacts(name=name, kind=kind, package=package, lacking=str(lacking))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A subject ready to be asked.

    Attributes:
        name: of it.
        backend: loaded, of a backend that can be had here.
        allocator: entry of an allocator.
        known: what the ledger says of it.
        lacking: why it cannot be had here; every question about it is then unsupported.
    """

    name: str
    kind: str
    backend: Backend | None = None
    allocator: AllocatorEntry | None = None
    known: tuple[Deviation, ...] = ()
    lacking: str | None = None


def load_judged(kind: str, name: str, device: Device) -> Judged:
    """Load a subject afresh, so that one question does not answer for what another left behind.

    Raises:
        PabenchError: a name or code that is no subject; what a package lacks is in ``lacking`` instead.
    """
    try:
        if kind == "backend":
            backend = load_backend(name, device)
            facts = backend_facts(name, backend)
            deviations = known_deviations(kind, name, facts.version, facts.mode)
            return Judged(name=name, kind=kind, backend=backend, known=deviations)
        entry, subject = load_allocator(name), known(kind).get(name)
        version = subject.version() if subject else None
        return Judged(name=name, kind=kind, allocator=entry, known=known_deviations(kind, name, version))
    except Unsupported as lacking:
        return Judged(name=name, kind=kind, lacking=str(lacking))
