# SPDX-License-Identifier: Apache-2.0
"""Requests that are JSON objects of their own, in the family of Mooncake's format."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from pabench.problem.dtypes import Array
from pabench.workloads.columns import Columns, columns
from pabench.workloads.fields import MISSING, BlockIds, TraceError, fault, number_column, token_column
from pabench.workloads.json_source import Batch


class JsonReader(Protocol):
    """Reads the values of one file, batch by batch."""

    def read(self, batch: Batch) -> Columns:
        """Return requests; raises ``TraceError``."""


class Rows:
    """``input_length``, ``output_length``, and where a row has them ``timestamp``, ``hash_ids``,
    ``session_id`` and ``delay``; implements ``JsonReader``."""

    def __init__(self) -> None:
        self._ids, self._sessions = BlockIds(), dict[Any, int]()

    def read(self, batch: Batch) -> Columns:
        """See ``JsonReader``."""
        rows, places = batch.values, batch.places

        def values(name: str) -> list[Any]:
            return [row.get(name, MISSING) for row in rows]

        prompt, output = (
            token_column(values(name), places, name) for name in ("input_length", "output_length")
        )
        stamp = number_column(values("timestamp"), places, "timestamp")
        delay = number_column(values("delay"), places, "delay")
        session = self._session_numbers(values("session_id"), places)
        for at in np.flatnonzero(~np.isnan(delay)).tolist():
            if session[at] < 0:
                raise TraceError(f"{places[at]}: has a delay, and no 'session_id' to say after what")
            if delay[at] < 0:
                raise fault(places[at], "delay", float(delay[at]), "must be at least 0")
        return columns(
            batch.numbers,
            prompt,
            output,
            word=batch.word,
            stamp=stamp,
            delay=delay,
            session=session,
            ids=self._ids.column(values("hash_ids"), places),
        )

    def _session_numbers(self, names: list[Any], places: list[str]) -> Array:
        found, known = np.full(len(names), -1, np.int64), self._sessions
        for at, name in enumerate(names):
            if name is None or name is MISSING:
                continue
            if not isinstance(name, str | int):
                raise fault(places[at], "session_id", name, "must be a text or a number")
            found[at] = known.setdefault(name, len(known))
        return found
