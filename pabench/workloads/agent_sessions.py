# SPDX-License-Identifier: Apache-2.0
"""Sessions of coding agents as kv-cache-tester publishes them: one JSON object a session.

A request of a session holds its whole prompt, and waits for the one before; ``think_time`` is the delay after
that one's end, and where it is not told, ``t`` is the earliest time.  Times are in seconds.  ``block_size``
is the file's own, and an id stands for a full block.  Requests of a sub-agent are a chain beside that of
their session: its first waits for the request that comes before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.workloads.columns import Columns, columns, joined
from pabench.workloads.fields import MISSING, BlockIds, TraceError, fault, number_column, token_column
from pabench.workloads.json_source import Batch


class AgentSessions:
    """Implements ``JsonReader``."""

    def __init__(self) -> None:
        self._ids, self._base = BlockIds(), 0
        self._known: dict[str, Any] = {}

    @property
    def block_tokens(self) -> int:
        """Tokens that an id stands for, as the sessions read say."""
        return int(self._known["block_size"])

    def read(self, batch: Batch) -> Columns:
        """See ``JsonReader``."""
        sessions = zip(batch.numbers, batch.places, batch.values, strict=True)
        read = [self._session(number, place, session, batch.word) for number, place, session in sessions]
        return joined(iter(read)) or read[0]

    def _session(self, number: int, place: str, session: dict[str, Any], word: str) -> Columns:
        self._same("block_size", place, session.get("block_size", MISSING))
        self._same("hash_id_scope", place, session.get("hash_id_scope", "local"))
        requests, after, places = list[Any](), list[int](), list[str]()
        _chain(session.get("requests"), place, -1, requests, after, places)
        if not requests:
            raise TraceError(f"{place}, column 'requests': must hold a request")

        def values(name: str) -> list[Any]:
            return [request.get(name, MISSING) for request in requests]

        seconds = "a number of seconds"
        think, t = (number_column(values(name), places, name, seconds) for name in ("think_time", "t"))
        for column, name in ((think, "think_time"), (t, "t")):
            if (column < 0).any():
                at = int((column < 0).argmax())
                raise fault(places[at], name, float(column[at]), "must be at least 0")
        ids, counts = self._ids.column(values("hash_ids"), places)
        if self._known["hash_id_scope"] == "local":
            names, ids = np.unique(ids, return_inverse=True)
            ids, self._base = ids + self._base, self._base + names.size
        before = np.array(after, np.int64)
        back = np.where(before >= 0, np.arange(before.size) - before, 0)
        # what nobody comes before begins at its time, and waits for nothing
        delay = np.where(back > 0, think, np.nan)
        return columns(
            np.full(back.size, number),
            token_column(values("in"), places, "in"),
            token_column(values("out"), places, "out"),
            word=word,
            stamp=np.where(np.isnan(delay), np.nan_to_num(t), np.nan),
            delay=delay,
            after=back,
            ids=(ids, counts),
        )

    def _same(self, name: str, place: str, value: Any) -> None:
        """Check what is told of a session once, and has to be the same for all of a file."""
        if name == "hash_id_scope":
            right, rule = value in ("local", "global"), "must be 'local' or 'global'"
        else:
            right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 2**20
            rule = "must be a number of tokens from 1 to 2^20"
        if not right:
            raise fault(place, name, value, rule)
        if self._known.setdefault(name, value) != value:
            raise fault(place, name, value, f"must be {self._known[name]!r}, as in the sessions before")


def _chain(
    listed: Any, place: str, before: int, requests: list[Any], after: list[int], places: list[str]
) -> None:
    """Add the requests of a session or of a sub-agent, each with the index of the one that it waits for."""
    if not isinstance(listed, list):
        raise TraceError(f"{place}, column 'requests': must be a list of requests")
    for at, request in enumerate(listed, start=1):
        where = f"{place}, request {at}"
        if not isinstance(request, dict):
            raise TraceError(f"{where}: must be a JSON object: {str(request)[:40]!r}")
        if "requests" in request:
            if places and places[-1].count(", request") > 8:
                raise TraceError(f"{where}: sub-agents lie too deep")
            _chain(request["requests"], where, before, requests, after, places)
            continue
        requests.append(request)
        after.append(before)
        places.append(where)
        before = len(requests) - 1
