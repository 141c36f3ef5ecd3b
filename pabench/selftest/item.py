# SPDX-License-Identifier: Apache-2.0
"""One item of a self-test: a planted fault, a control, or some right kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pabench.run.record import Record, Status, Subject

KIND = "selftest"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestItem:
    """Implements ``Item``.

    Attributes:
        id: what names it in the journal.
        label: what it is, in one line.
        test: ``mutant``, ``control`` or ``right kernels``.
        name: of the fault or control.
        asked: what the bench is told, as JSON values.
    """

    id: str
    label: str
    test: str
    name: str
    asked: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """See ``Item``."""
        return asdict(self)

    def blank(self, device: str) -> Record:
        """See ``Item``."""
        return Record(
            kind=KIND,
            id=self.id,
            label=self.label,
            subject=Subject(kind=self.test, name=self.name),
            device=device,
            status=Status.INTERRUPTED,
        )
