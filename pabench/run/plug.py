# SPDX-License-Identifier: Apache-2.0
"""What an activity is to the engine: items on this side, a bench that runs them on the other.

An activity is a plug.  It says which items there are and what a worker is made from; everything else, from
worker processes to the exit code, is the engine's.  ``docs/examples/toy_activity.py`` is the smallest one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pabench.run.record import Record
from pabench.text import one_line

BRIEF_LIMIT = 120


class Item(Protocol):
    """One question: a check of a subject, a cell of a grid, a server."""

    @property
    def id(self) -> str:
        """What names it in the journal; a resumed run leaves out the ids that are there."""

    @property
    def label(self) -> str:
        """What tells it from the others, in one line."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the bench is given, as JSON values."""

    def blank(self, device: str) -> Record:
        """Return its record as long as nothing has run; what a crash, a hang or an interrupt leaves of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingCase:
    """A case that failed, as it is saved for ``pabench replay``.

    Attributes:
        check: id of the check that it failed.
        kind: of case, as ``case.json`` names it.
        case: JSON values.
        id: content hash of the case.
    """

    check: str
    kind: str
    case: Mapping[str, Any]
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a bench gives back for an item.

    Attributes:
        record: what became of it.
        failing: the case to save, where there is one.
        lost: nothing that this process does after it can be trusted, so that it is replaced.
        more: records of other questions that came up beside it.
    """

    record: Record
    failing: FailingCase | None = None
    lost: bool = False
    more: tuple[Record, ...] = ()


class Env(Protocol):
    """What a bench may tell while it works; each word also says that it is alive."""

    def loading(self, what: str) -> None:
        """Say what is about to be loaded; it is named when that ends the process."""

    def case(self, case: FailingCase) -> None:
        """Say which case is about to run; it is the one saved when that ends the process."""

    def note(self, text: str) -> None:
        """Say how far the item is."""


class Bench(Protocol):
    """The worker's side of an activity."""

    def open(self) -> Mapping[str, Any]:
        """Open the device and load what is judged.

        Returns:
            ``device`` and ``description``, and whatever else the activity wants to know, as JSON values.

        Raises:
            PabenchError: this machine or the request does not allow it.
        """

    def run(self, item: Mapping[str, Any]) -> Answer:
        """Run one item; ``item`` is its ``to_dict``.

        Raises:
            PabenchError: the machine has given out, so that no further item makes sense.
        """

    def close(self) -> None:
        """End what it has opened: the worker goes on with another bench."""

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer what the activity asks beside its items, as JSON values; see ``Engine.ask``.

        Raises:
            PabenchError: as for ``open``.
        """


MakeBench = Callable[[Mapping[str, Any], Env], Bench]
"""What ``Activity.bench`` names: makes a bench from ``Activity.setup()``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the first worker found.

    Attributes:
        device, description: of the device.
        more: all that ``Bench.open`` returned.
    """

    device: str
    description: str
    more: Mapping[str, Any] = field(default_factory=dict)


class Activity(Protocol):
    """A plug: what is asked, and who can answer it.

    Attributes:
        kind: its name, in ``run.json`` and in each record.
        noun: what an item of it is called.
        bench: ``module:name`` or ``file.py:name`` of what makes its bench, see ``MakeBench``.
        hang_is_result: whether an item that hits the deadline is a finding and no failure.
    """

    kind: str
    noun: str
    bench: str
    hang_is_result: bool

    def setup(self) -> Mapping[str, Any]:
        """Return what a bench is made from, as JSON values."""

    def items(self, facts: Facts) -> Sequence[Item]:
        """Return all items, in the order of the journal."""

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """Return the resolved options, for ``run.json``."""

    def differs(self, key: str, was: Any, now: Any) -> str:
        """Return why a run cannot be resumed whose configuration had another value."""

    def spare(self, item: Any, done: Sequence[Record]) -> Record | None:
        """Return the record of an item that need not run, by what has been found; None to run it."""

    def finish(self, item: Any, record: Record) -> Record:
        """Return a record with what only this side knows."""

    def brief(self, record: Record) -> str | None:
        """Return in a few words why a record is not passed, for the line of progress; None where it is."""

    def silence_s(self, deadline_s: float) -> float:
        """Return how long a worker may be silent, in seconds, when one call may take ``deadline_s``."""

    def beside(self, folder: Path, failing: FailingCase) -> None:
        """Write what belongs beside a failing case into its folder."""

    def replay_words(self, record: Record) -> Iterable[str]:
        """Return the options that ``pabench replay`` needs for a failure of this run."""


class BenchBase:
    """What most benches do."""

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """Say nothing: there is nothing to ask beside the items."""
        return {}

    def close(self) -> None:
        """Leave everything to the end of the process."""


class ActivityBase:
    """What most activities do; derive from it and say the rest."""

    kind = ""
    noun = "item"
    bench = ""
    hang_is_result = False

    def setup(self) -> Mapping[str, Any]:
        """Return nothing: the bench needs no more than the items."""
        return {}

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """Return no options."""
        return {}

    def differs(self, key: str, was: Any, now: Any) -> str:
        """Return both values."""
        return f"{key} = {json.dumps(now)}: must be {json.dumps(was)}"

    def spare(self, item: Any, done: Sequence[Record]) -> Record | None:
        """Run every item."""
        return None

    def finish(self, item: Any, record: Record) -> Record:
        """Leave the record as it is."""
        return record

    def brief(self, record: Record) -> str | None:
        """Return the reason, its middle left out where it is long."""
        return None if record.reason is None else one_line(record.reason, BRIEF_LIMIT)

    def silence_s(self, deadline_s: float) -> float:
        """Return the deadline itself: the worker makes the calls."""
        return deadline_s

    def beside(self, folder: Path, failing: FailingCase) -> None:
        """Write nothing more."""

    def replay_words(self, record: Record) -> Iterable[str]:
        """Return no options."""
        return ()
