# SPDX-License-Identifier: Apache-2.0
"""The device of a subject's process, as far as checks ask for it."""

from __future__ import annotations

from collections.abc import Mapping

from pabench.checks.remote.backend import RemoteBackend, own_backend
from pabench.checks.remote.facts import BackendFacts, Caller
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.rawkernel import RawKernelBackend


class RemoteRooms:
    """Rooms of a device in another process; see ``PlainRooms`` and ``CanaryRooms``."""

    def __init__(self, subject: Caller, kind: str) -> None:
        self.number = subject.number()
        self._subject = subject
        subject.ready()
        subject.later("make_rooms", self.number, kind)

    @property
    def used(self) -> bool:
        """Whether anything was uploaded."""
        return bool(self._subject.call("rooms_used", self.number))

    def given(self, tensors: Tensors) -> Tensors:
        """Return ``tensors``: where guarded copies are to be had, they are made over there."""
        return tensors

    def found(self, inputs: Mapping[str, Array]) -> tuple[str | None, list[str]]:
        """Return what was written beside arrays, and which of ``inputs`` were changed."""
        stray, changed = self._subject.call("rooms_found", self.number, inputs)
        return (None if stray is None else str(stray)), [name for name in inputs if name in changed]

    def rewrite(self, pairs: Mapping[str, tuple[Array, Array]]) -> list[str]:
        """Write the second array of each pair over all copies of the first; return names without a copy."""
        missing = self._subject.call("rewrite", self.number, pairs)
        return [name for name in pairs if name in missing]


class RemoteDevice:
    """What checks ask of a device; it launches nothing itself.

    Attributes:
        name, description: as of the device over there.
    """

    def __init__(self, subject: Caller) -> None:
        self.name = subject.facts.device_name
        self.description = subject.facts.device_description
        self._subject = subject
        self._rooms: RemoteRooms | None = None

    @property
    def rooms(self) -> RemoteRooms | None:
        """Where the device puts new memory; see ``Device``."""
        return self._rooms

    @rooms.setter
    def rooms(self, rooms: RemoteRooms | None) -> None:
        """Let the device use ``rooms`` from the next call on."""
        self._rooms = rooms
        self._subject.later("use_rooms", None if rooms is None else rooms.number)

    def make_rooms(self, kind: str) -> RemoteRooms:
        """Return rooms of one of ``ROOM_KINDS``."""
        return RemoteRooms(self._subject, kind)

    def reschedule(self, seed: int) -> None:
        """See ``Device``."""
        self._subject.later("reschedule", seed)

    def synchronize(self) -> None:
        """See ``Device``."""
        if self.name == "cuda":  # on the host launches run to their end
            self._subject.call("synchronize")

    def take_asked(self) -> list[str]:
        """Return the kernel files that were loaded or launched since this was last asked."""
        return [str(name) for name in self._subject.call("asked")]

    def own_backend(self) -> RemoteBackend:
        """Return our readable kernel on this device."""
        facts = BackendFacts(
            name=RawKernelBackend.name,
            capabilities=RawKernelBackend.capabilities,
            profile=RawKernelBackend.profile,
            captures=False,
            takes_resident=False,
        )
        return own_backend(self._subject, facts)
