# SPDX-License-Identifier: Apache-2.0
"""An operation beside attention as an item of a sweep: append, merge, gather or copies, by our kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pabench.problem.dtypes import BFLOAT16
from pabench.problem.identity import content_id
from pabench.run.figures import record_of_flat
from pabench.run.plug import Answer
from pabench.run.record import Record, Status

KIND = "operation"
"""Of its records, in the journal of the sweep."""
OPERATION_SCHEMA = 1
"""Goes up when the way an operation is set up or judged changes, so that old results are not taken over."""
HEADS, QUERY_HEADS, HEAD_DIM, PAGE_SIZE = 8, 32, 128, 16
"""Of Llama-3-8B, in bfloat16."""
STATES = 2
TOKEN_BYTES = 2 * HEADS * HEAD_DIM * BFLOAT16.itemsize
ROW_BYTES = QUERY_HEADS * (HEAD_DIM * BFLOAT16.itemsize + 4)
UNITS = {"append": "tokens", "merge": "rows", "gather": "tokens", "copy-pages": "pages"}
"""Operations, and what their sizes count."""

Figures = tuple[Mapping[str, Any], Mapping[str, str]]
"""Figures by name, and the word of provenance of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of one size.

    Attributes:
        name: of ``UNITS``.
        size: tokens, rows or pages.
        device: name of the device it runs on.
        replicate: which of several fresh processes is asked, from 1; None where there is one.
    """

    name: str
    size: int
    device: str
    replicate: int | None = None

    @property
    def id(self) -> str:
        """That of the question, and the replicate behind it where there are several."""
        return self.question if self.replicate is None else f"{self.question}-{self.replicate}"

    @property
    def question(self) -> str:
        """Content id of what is asked."""
        shape = (HEADS, QUERY_HEADS, HEAD_DIM, PAGE_SIZE, STATES)
        asked = {"operation": self.name, "size": self.size, "device": self.device, "shape": shape}
        return content_id({"schema": OPERATION_SCHEMA, **asked})

    @property
    def label(self) -> str:
        """One short line for people."""
        return self._words + ("" if self.replicate is None else f"  process {self.replicate}")

    @property
    def _words(self) -> str:
        return f"{self.name} of {self.size:,} {UNITS[self.name]}"

    @property
    def moved_bytes(self) -> int:
        """Bytes that it must read and write."""
        if self.name == "append":
            return self.size * (2 * TOKEN_BYTES + 8)
        if self.name == "merge":
            return (STATES + 1) * self.size * ROW_BYTES + STATES * self.size * 4
        if self.name == "gather":
            return 2 * self.size * TOKEN_BYTES + 4 * -(-self.size // PAGE_SIZE)
        return 2 * self.size * PAGE_SIZE * TOKEN_BYTES + 12 * self.size

    def line(self) -> dict[str, Any]:
        """Return its flat record before anything has run."""
        return {
            "kind": KIND,
            "id": self.id,
            "label": self._words,
            "subject": self.name,
            "subject_kind": KIND,
            "device": self.device,
            "status": Status.INTERRUPTED,
            "operation": self.name,
            "size": self.size,
            **({} if self.replicate is None else {"item": self.question, "replicate": self.replicate}),
            "moved_bytes": self.moved_bytes,
            "provenance": {"moved_bytes": "counted"},
        }

    def answered(self, status: Status, reason: str | None = None, *, figures: Figures = ({}, {})) -> Answer:
        """Return what a bench gives back for it."""
        line, (values, words) = self.line(), figures
        told = {"status": status, "reason": reason, "provenance": {**line["provenance"], **words}}
        return Answer(record=record_of_flat({**line, **values, **told}))

    def blank(self, device: str) -> Record:
        """See ``Item``."""
        return record_of_flat(self.line())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``operation_from_dict`` reads them back."""
        return {KIND: asdict(self)}


def operation_from_dict(data: Mapping[str, Any]) -> Operation | None:
    """Read ``Operation.to_dict`` back; None of another item."""
    return Operation(**data[KIND]) if KIND in data else None
