# SPDX-License-Identifier: Apache-2.0
"""Copies between the tiers that are in flight, and pins: what neither may be moved nor granted meanwhile."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pabench.judge.allocators.contents import Contents
from pabench.judge.allocators.grants import rows_of
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.results import NULL_PAGE, Hit


class Flight(NamedTuple):
    """A copy in flight, as rows of source, target and slots.  It reads and writes as late as it may."""

    rows: list[list[int]]
    down: bool

    def ids(self, *, upper: bool) -> list[int]:
        """Return the pages that it reads or writes in one of the tiers."""
        return [row[self.down != upper] for row in self.rows]


@dataclass(slots=True)
class Tiers:
    """Both tiers, as the operations that were done have left them.

    Attributes:
        contents: of both.
        flights: oldest first.
        pinned: a hit as the subject gave it, as the model did, and what its pages held.
    """

    contents: Contents
    flights: deque[Flight] = field(default_factory=deque)
    pinned: list[tuple[Hit, Hit, dict[int, Array]]] = field(default_factory=list)

    def done(
        self, name: str, given: dict[str, Any], results: tuple[Any, Any], hits: tuple[Hit, Hit]
    ) -> str | None:
        """Follow an operation that was done; return what is wrong in it, or None.

        Args:
            name, given: of the operation.
            results: of the subject and of the model.
            hits: that it is about, likewise.
        """
        if name == "pin":
            self.pinned.append((*hits, {page: self.contents.page(page) for page in hits[0].pages}))
        elif name == "unpin":
            # whichever of the pins of a hit it was: they are alike
            del self.pinned[[hit for hit, _, _ in self.pinned].index(hits[0])]
        elif name == "end_copy":
            flight = self.flights.popleft()
            self.contents.land(flight.rows, down=flight.down)
        elif name in ("move_down", "load"):
            flight, wanted = Flight(rows_of(results[0]), name == "move_down"), len(rows_of(results[1]))
            if len(flight.rows) != wanted:
                return f"{name} {given} moves {len(flight.rows)} pages, must move {wanted}"
            if wrong := self._clash(flight):
                return f"invariant 19: {name} {wrong}"
            if flight.rows:
                self.flights.append(flight)
        return None

    def broken(self, table: Array, gone: set[int]) -> str | None:
        """Return which page was granted, or written to, that a copy or a pin holds; or None.

        Args:
            table: as it is now.
            gone: pages that the operation has freed.
        """
        held = {*table.ravel().tolist()} if self.flights else set[int]()
        for flight in self.flights:
            if early := held.intersection(flight.ids(upper=True)):
                return f"invariant 19: page {min(early)} is granted, which a copy in flight reads or writes"
        for hit, _, before in self.pinned:
            if early := gone.intersection(hit.pages):
                return f"invariant 19: page {min(early)} is freed, which is pinned"
            for page, held_then in before.items():
                if (self.contents.page(page) != held_then).any():
                    return f"invariant 19: page {page} is written to, which is pinned"
        return None

    def _clash(self, flight: Flight) -> str | None:
        contents = self.contents
        for upper, most in ((True, contents.num_pages), (False, contents.host_pages)):
            ids, what = flight.ids(upper=upper), "page" if upper else "host page"
            busy = {one for other in self.flights for one in other.ids(upper=upper)}
            for one in ids:
                if not 0 <= one < most or ids.count(one) > 1:
                    return f"names {what} {one} twice or outside of its tier"
                if one in busy:
                    return f"names {what} {one}, which another copy in flight reads or writes"
        pinned = {page for hit, _, _ in self.pinned for page in hit.pages} - {NULL_PAGE}
        if moved := pinned.intersection(flight.ids(upper=True)):
            return f"names page {min(moved)}, which is pinned"
        if short := [row for row in flight.rows if row[2] != contents.page_size]:
            return f"copies {short[0][2]} slots of a page of {contents.page_size}"
        return None
