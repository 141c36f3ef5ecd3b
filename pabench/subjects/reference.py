# SPDX-License-Identifier: Apache-2.0
"""What a subject is called, and where its code is: enough to load it anywhere, and nothing loaded yet."""

from __future__ import annotations

from dataclasses import dataclass

BACKEND = "backend"
ALLOCATOR = "allocator"
KINDS = (BACKEND, ALLOCATOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A subject that was found and is not loaded; plain texts, so that it can go to another process.

    Attributes:
        kind: of ``KINDS``.
        name: as it was asked for, and as results call it.
        place: ``module:attribute``, ``/folder/file.py:attribute`` or ``/folder/kernel.cu``; the same in any
            working directory.
        at_place: it was asked for by its place and not by a name that is known.
    """

    kind: str
    name: str
    place: str
    at_place: bool = False

    @property
    def where(self) -> str:
        """The file or module as it was written, for messages."""
        text = self.name if self.at_place else self.place
        return text.rpartition(":")[0] or text

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"
