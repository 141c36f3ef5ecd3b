# SPDX-License-Identifier: Apache-2.0
"""A subject loaded to be judged, and what a run writes down of it: version, mode, or why it is not here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pabench.checks.ledger import Deviation, known_deviations
from pabench.device.base import Device
from pabench.device.registry import require_kernels
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.backends.base import Backend
from pabench.subjects.process.facts import launches, load

RECORDED = ("package", "version", "mode", "lacking")
"""Fields that a run writes down of a subject."""


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


def load_subject(kind: str, name: str, device: Device) -> SubjectFacts:
    """Load a backend or an allocator in this process, and return what is known of it.

    Raises:
        EnvironmentRefused: it launches kernels, and ``device`` can run none here.
        PabenchError: a name or code that is no subject; what a package lacks is in the facts instead.
    """
    subject, told = load(kind, name, device)
    if launches(subject):
        require_kernels(device, device.name)
    return SubjectFacts(name=name, kind=kind, **{field: told[field] for field in RECORDED})


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
    subject, told = load(kind, name, device)
    if subject is None:
        return Judged(name=name, kind=kind, lacking=told["lacking"])
    deviations = known_deviations(kind, name, told["version"], told["mode"])
    if isinstance(subject, AllocatorEntry):
        return Judged(name=name, kind=kind, allocator=subject, known=deviations)
    return Judged(name=name, kind=kind, backend=subject, known=deviations)
