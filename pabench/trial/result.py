# SPDX-License-Identifier: Apache-2.0
"""What ``pabench.check`` returns."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pabench.checks.faults import FoundFault
from pabench.run.record import Record, Status
from pabench.text import one_line

if TYPE_CHECKING:
    import pandas as pd

MOST_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class CheckResult:
    """The verdict on a callable.

    Attributes:
        subject: its name.
        place: where a replay finds it, ``file.py:name``.
        exit_code: that of ``pabench conformance``: 0 right, 1 wrong, 5 nothing was judged.
        ended: how the process that called it ended before its time; empty where it did not.
        causes: what is wrong, what fails most checks first; one fault is one cause.
        records: of each check.
        run: the run directory, with the failing cases; a temporary one without any goes with this object.
        output: what was printed, its own output included.
    """

    subject: str
    place: str
    exit_code: int
    ended: str
    causes: tuple[FoundFault, ...]
    records: tuple[Record, ...]
    run: Path
    output: str

    @property
    def passed(self) -> bool:
        """Whether all that it offers is right."""
        return self.exit_code == 0

    @property
    def failures(self) -> tuple[Path, ...]:
        """Folders of the failing cases, which ``pabench replay`` takes."""
        return tuple(self.run / record.failure.path for record in self.records if record.failure is not None)

    def __bool__(self) -> bool:
        return self.passed

    def to_frame(self) -> pd.DataFrame:
        """Return a row a check; see ``pabench.read``."""
        from pabench.analysis.frame import read

        return read(self.run)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        first, *rest = map(escape, self._lines())
        items = "".join(f"<li>{line.strip()}</li>" for line in rest)
        return f"<div><strong>{first}</strong>{f'<ul>{items}</ul>' if items else ''}</div>"

    def _lines(self) -> Iterator[str]:
        counts = Counter(record.status for record in self.records)
        cases = sum(int(figure.value or 0) for one in self.records if (figure := one.figures.get("cases")))
        if self.passed:
            yield f"PASS {self.subject}: {counts[Status.PASSED]} checks, {cases} cases"
        elif self.causes:
            cause = self.causes[0]
            yield f"FAIL {cause.words}: {_checks(cause)} of {self.subject}"
            if cause.place:
                where, _, numbers = cause.place.partition(": ")
                yield f"  {cause.first['check']}, {where}"
                yield f"    {numbers}"
            for other in self.causes[1:MOST_SHOWN]:
                yield f"  also: {other.words}: {_checks(other)}"
            if len(self.causes) > MOST_SHOWN:
                yield f"  and {len(self.causes) - MOST_SHOWN} causes more"
        else:
            yield f"NOT JUDGED {self.subject}: {self.ended or self._why()}"
        if self.ended and self.causes:
            yield f"  {self.ended}"
        if self.failures:
            words = ["pabench", "replay", str(self.failures[0]), "--backend", self.place]
            yield f"  again: {shlex.join(words)}"
        if counts[Status.UNSUPPORTED]:
            yield f"  not offered, not judged: {counts[Status.UNSUPPORTED]} checks"

    def _why(self) -> str:
        said = one_line(self.output.strip().splitlines()[-1]) if self.output.strip() else ""
        return said or "no check was asked"


def _checks(cause: FoundFault) -> str:
    shown = ", ".join(cause.checks[:3])
    return shown if len(cause.checks) <= 3 else f"{len(cause.checks)} checks ({shown}, ...)"
