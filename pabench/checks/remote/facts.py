# SPDX-License-Identifier: Apache-2.0
"""What a subject declares of itself, read from what its process says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pabench.errors import PabenchError, UsageError
from pabench.problem.case import Case
from pabench.problem.profile import NumericsProfile
from pabench.problem.shape import Shape
from pabench.subjects.allocators.capabilities import Capabilities as AllocatorCapabilities
from pabench.subjects.backends.base import Capabilities


class Caller(Protocol):
    """What proxies take of a ``RemoteSubject``."""

    lives: int

    def call(self, name: str, *given: Any, **named: Any) -> Any:
        """Call and return the answer."""

    def ready(self) -> None:
        """Start the process when it has ended before."""

    def later(self, name: str, *given: Any) -> None:
        """Call with the next one that waits for an answer."""

    def number(self) -> int:
        """Return a number that was not used before."""

    @property
    def facts(self) -> RemoteFacts:
        """What is known of the subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFacts:
    """What a backend declares.

    Attributes:
        name, capabilities, profile, captures, takes_resident: as of ``Backend``; a rule is asked over there.
    """

    name: str
    capabilities: Capabilities
    profile: NumericsProfile
    captures: bool
    takes_resident: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFacts:
    """A subject that was loaded, or why it was not.

    Attributes:
        device_name, device_description: of the device in its process.
        package, version, mode, lacking: as of ``SubjectFacts``.
        declares: what a backend declares; None for an allocator, and where something is lacking.
        capabilities: of an allocator, likewise.
    """

    device_name: str
    device_description: str
    package: str | None
    version: str | None
    mode: str | None
    lacking: str | None
    declares: BackendFacts | None = None
    capabilities: AllocatorCapabilities | None = None

    @property
    def backend(self) -> BackendFacts:
        """What the backend declares; raises ``TypeError`` for an allocator."""
        if self.declares is None:
            raise TypeError("declares nothing of a backend")
        return self.declares


def read_facts(subject: Caller, kind: str, name: str, told: Any) -> RemoteFacts:
    """Return what a subject's process has said of itself.

    Raises:
        UsageError: a subject declares what it cannot.
    """
    try:
        device = told["device"]
        texts = {key: _text(told[key]) for key in ("package", "version", "mode", "lacking")}
        about: dict[str, Any] = {
            "device_name": str(device["name"]),
            "device_description": str(device["description"]),
            **texts,
        }
        if texts["lacking"] is not None:
            return RemoteFacts(**about)
        if kind == "allocator":
            return RemoteFacts(**about, capabilities=allocator_capabilities(told["capabilities"]))
        return RemoteFacts(**about, declares=_backend(subject, told))
    except (PabenchError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{kind} {name!r} declares what cannot be: {error}") from None


def allocator_capabilities(told: dict[str, Any]) -> AllocatorCapabilities:
    """Return the capabilities that a subject's process has told of."""
    known = dict(told)
    for field in ("operations", "reserved_pages", "groups"):
        known[field] = frozenset(known[field])
    return AllocatorCapabilities(**known)


def _backend(subject: Caller, told: dict[str, Any]) -> BackendFacts:
    known = dict(told["capabilities"])
    for field in ("dtypes", "devices", "operations", "kv_layouts", "features", "requires"):
        known[field] = frozenset(str(one) for one in known[field])
    known["max_head_dim"] = int(known["max_head_dim"])
    for field in ("interleaved", "lse", "huge_pools", "validates", "merges_prefixes"):
        known[field] = bool(known[field])
    known["num_states"] = None if known["num_states"] is None else int(known["num_states"])
    known["only"] = None if known["only"] is None else Shape(**known["only"])
    known["rule"] = _asked_there(subject) if known["rule"] else None
    return BackendFacts(
        name=str(told["name"]),
        capabilities=Capabilities(**known),
        profile=NumericsProfile(**told["profile"]),
        captures=bool(told["captures"]),
        takes_resident=bool(told["takes_resident"]),
    )


def _asked_there(subject: Caller) -> Callable[[Case], str | None]:
    def rule(case: Case) -> str | None:
        said = subject.call("why_not", case)
        return None if said is None else str(said)

    return rule


def _text(told: Any) -> str | None:
    return None if told is None else str(told)
