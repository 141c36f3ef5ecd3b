# SPDX-License-Identifier: Apache-2.0
"""Where items run on other machines: a shard whose worker process has its supervisor on another node.

A fleet lends hands: supervisors somewhere, each with a worker process as ``shards.py`` runs them, so that
deadlines, crashes and hangs are the node's own business.  What a hand says is JSON.  A hand that is lost
takes the item in work along; a new one runs it again.  Only the driver writes, so that a record is there once
or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Protocol

from pabench.errors import EnvironmentRefused, PabenchError
from pabench.run.bench_worker import answer_of, answer_to_message
from pabench.run.channel import raise_refusal, refusal
from pabench.run.ending import Ending
from pabench.run.plug import Activity, ActivityBase, Answer, Facts, Item
from pabench.run.record import Record, Status, record_of
from pabench.run.shards import Halted, WorkerShard, facts_of
from pabench.run.workers import WorkerEnded

LOSSES = 3
"""An item that loses so many hands is not tried again: it may be what ends them."""


class HandLost(Exception):
    """The node, or the supervisor on it, is gone; the message says what is known."""


class Hand(Protocol):
    """A supervisor on some node.  Each call waits for its answer, and raises ``HandLost``."""

    def open(self, errand: Mapping[str, Any]) -> Mapping[str, Any]:
        """Start the worker; see ``Supervisor.open``."""

    def run(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run one item; see ``Supervisor.run``."""

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the bench; see ``Supervisor.ask``."""

    def dismiss(self) -> None:
        """End it and all that it has started; from any thread, and more than once."""


class Fleet(Protocol):
    """Machines that lend hands.

    Attributes:
        places: how many hands can work at a time.
        nodes: how many machines there are.
    """

    @property
    def places(self) -> int:
        """See above."""

    @property
    def nodes(self) -> int:
        """See above."""

    def hire(self, halted: Callable[[], bool]) -> Hand:
        """Wait for a free place and return a hand there.

        Raises:
            EnvironmentRefused: no machine is left that has such a place.
            Halted: ``halted`` says that nobody wants it any more.
        """

    def close(self) -> None:
        """Leave the machines."""


class FleetShard:
    """Implements ``Shard`` with a hand of ``fleet``; a context manager that dismisses it.

    Args:
        activity: the plug.
        fleet: lends hands.
        deadline_s: seconds of silence that count as hanging.
        expected: what the first shard found, that this one must find too; None for the first.
    """

    def __init__(
        self, activity: Activity, fleet: Fleet, *, deadline_s: float, expected: Callable[[], Facts | None]
    ) -> None:
        self._activity, self._fleet, self._deadline_s = activity, fleet, deadline_s
        self._expected = expected
        self._hand: Hand | None = None
        self._facts: Facts
        self._halted = threading.Event()

    def __enter__(self) -> FleetShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()

    def open(self) -> Facts:
        """Hire a hand and let it start its worker; raises what the bench refuses."""
        for _ in range(LOSSES):
            hand = self._hand = self._fleet.hire(self._halted.is_set)
            try:
                found = hand.open(errand_of(self._activity, self._deadline_s))
            except HandLost as lost:
                why = str(lost)
                self._check_halted()
                continue
            raise_refusal(dict(found))
            self._facts = facts_of(dict(found["facts"]))
            first = self._expected()
            if first is not None and first.description != self._facts.description:
                both = f"{first.description!r} and {self._facts.description!r}"
                raise EnvironmentRefused(f"the run needs machines that are alike, and got {both}")
            return self._facts
        raise EnvironmentRefused(f"workers are lost before they begin: {why}")

    def run(self, item: Item, note: Callable[[str], None]) -> Answer:
        """Run one item; when its hand is lost, again with another."""
        blank = None
        for loss in range(1, LOSSES + 1):
            try:
                if self._hand is None:
                    self.open()
                hand = self._hand
                assert hand is not None
                blank = item.blank(self._facts.device)
                found = hand.run({"item": item.to_dict(), "label": item.label, "blank": blank.to_line()})
            except HandLost as lost:
                self._check_halted()
                self._hand, why = None, str(lost)
                note(f"worker lost {loss} times: {why}")
                continue
            raise_refusal(dict(found))
            return answer_of(found)
        assert blank is not None
        reason = f"its worker was lost {LOSSES} times, the last time: {why}"
        return Answer(record=replace(blank, status=Status.CRASHED, reason=reason))

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Shard``."""
        if self._hand is None:
            self.open()
        assert self._hand is not None
        try:
            found = self._hand.ask(what)
        except HandLost as lost:
            self._check_halted()
            self._hand = None
            raise EnvironmentRefused(f"the worker was lost: {lost}") from None
        raise_refusal(dict(found))
        if "ended" in found:
            raise WorkerEnded(Ending(**found["ended"]))
        said: Mapping[str, Any] = found["said"]
        return said

    def halt(self) -> None:
        """See ``Shard``."""
        self._halted.set()
        self.rest()

    def rest(self) -> None:
        """See ``Shard``: somebody else may wait for the place."""
        if (hand := self._hand) is not None:
            hand.dismiss()

    def _check_halted(self) -> None:
        if self._halted.is_set():
            raise Halted("interrupted")


# --- on the node ------------------------------------------------------------------------------------


def errand_of(activity: Activity, deadline_s: float) -> dict[str, Any]:
    """Return what a supervisor needs to know, as JSON values."""
    return {
        "kind": activity.kind,
        "bench": activity.bench,
        "setup": dict(activity.setup()),
        "deadline_s": deadline_s,
    }


class Supervisor:
    """What a hand is on its node: one worker process, as the engine would have it on its own machine.

    Every answer is JSON: what a bench refuses is one too, and raised on the driver's side.
    """

    def __init__(self) -> None:
        self._shard: WorkerShard | None = None

    def open(self, errand: Mapping[str, Any]) -> Mapping[str, Any]:
        """Start the worker; return ``facts``."""
        activity = _Carried(kind=errand["kind"], bench=errand["bench"], given=errand["setup"])
        self._shard = WorkerShard(activity, deadline_s=errand["deadline_s"])
        shard = self._shard
        return _said(lambda: {"facts": dict(shard.open().more)})

    def run(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run one item, of which ``item`` has the dictionary, label and blank record."""
        carried = CarriedItem(given=item["item"], label=item["label"], record=record_of(item["blank"]))
        shard = self._opened()
        return _said(lambda: answer_to_message(shard.run(carried, lambda text: None)))

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the bench; return ``said``, or ``ended`` where the question ended the worker."""
        shard = self._opened()
        return _said(lambda: {"said": dict(shard.ask(what))})

    def close(self) -> None:
        """End the worker."""
        if self._shard is not None:
            self._shard.close()

    def _opened(self) -> WorkerShard:
        assert self._shard is not None
        return self._shard


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedItem:
    """An item as it came over the wire."""

    given: Mapping[str, Any]
    label: str
    record: Record

    @property
    def id(self) -> str:
        """See ``Item``."""
        return self.record.id

    def to_dict(self) -> dict[str, Any]:
        """See ``Item``."""
        return dict(self.given)

    def blank(self, device: str) -> Record:
        """See ``Item``."""
        return self.record


class _Carried(ActivityBase):
    """As much of an activity as a worker is made from."""

    def __init__(self, *, kind: str, bench: str, given: Mapping[str, Any]) -> None:
        self.kind, self.bench, self._given = kind, bench, given

    def setup(self) -> Mapping[str, Any]:
        return self._given

    def items(self, facts: Facts) -> list[Item]:
        return []


def _said(work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return work()
    except PabenchError as error:
        return refusal(error)
    except WorkerEnded as ended:
        return {"ended": asdict(ended.ending)}
