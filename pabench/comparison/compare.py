# SPDX-License-Identifier: Apache-2.0
"""Two runs to one comparison: lines, what speaks against comparing, exit code, table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pabench import __version__
from pabench.comparison.accept import Accepted, with_accepted
from pabench.comparison.counted import counted_deltas
from pabench.comparison.delta import CLASSES, Change, Delta
from pabench.comparison.pairs import Difference, differences, pairs_of, unlike_machines
from pabench.comparison.timed import THRESHOLD, has_times, timed_deltas
from pabench.comparison.verdicts import summary_deltas, verdict_deltas
from pabench.errors import EXIT_FAILURE, EXIT_INCONCLUSIVE, EXIT_OK, UnknownName, UsageError
from pabench.run.read import Run, read_run

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
"""Of the JSON form of a comparison."""
COLUMNS = (
    *("part", "label", "subject", "device", "figure", "base", "new", "ratio", "low", "high"),
    *("change", "reason", "accepted", "id"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two runs say beside one another.

    Attributes:
        base, new: the folders.
        kind: the activity.
        deltas: all lines, of verdicts, counted and timed figures.
        differences: facts in which the runs differ.
        notes: what else a reader has to know.
    """

    base: str
    new: str
    kind: str
    deltas: tuple[Delta, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[Change, int]:
        """How many lines of each change there are, those accepted apart from none."""
        return dict(Counter(delta.change for delta in self.deltas))

    @property
    def worse(self) -> tuple[Delta, ...]:
        """The regressions that nothing accepts."""
        return tuple(delta for delta in self.deltas if delta.worse)

    @property
    def exit_code(self) -> int:
        """1 on a regression, 6 when something could not be told and nothing is worse, else 0."""
        if self.worse:
            return EXIT_FAILURE
        return EXIT_INCONCLUSIVE if Change.UNSURE in self.counts else EXIT_OK

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "schema": SCHEMA,
            "pabench": __version__,
            "kind": self.kind,
            "base": self.base,
            "new": self.new,
            "exit_code": self.exit_code,
            "counts": {str(change): count for change, count in self.counts.items()},
            "notes": list(self.notes),
            "differences": [{"name": one.name, "base": one.base, "new": one.new} for one in self.differences],
            "deltas": [delta.to_json() for delta in self.deltas],
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a row a line; ``attrs["exit_code"]`` is that of the command."""
        # a third of a second that every page and every other form does without
        import pandas as pd

        frame = pd.DataFrame([delta.to_json() for delta in self.deltas], columns=list(COLUMNS))
        frame.attrs.update(exit_code=self.exit_code, notes=list(self.notes))
        return frame


def compare_runs(
    base: Run,
    new: Run,
    *,
    parts: Sequence[str] = CLASSES,
    threshold: float = THRESHOLD,
    accepted: Sequence[Accepted] = (),
    today: date | None = None,
) -> Comparison:
    """Compare two runs of one activity, item by item.

    Args:
        base: what is.
        new: what is proposed.
        parts: of ``verdicts``, ``counted`` and ``timed``, those to compare.
        threshold: see ``timed_deltas``.
        accepted: regressions that are let pass.
        today: the day that these are held to; None for the clock's.

    Raises:
        UsageError: runs that have nothing in common, or times of unlike machines.
        NothingToCompare: an empty run.
        EnvironmentRefused: times, and no scipy.
    """
    for part in parts:
        if part not in CLASSES:
            raise UnknownName("class of figures", part, CLASSES)
    if not 0 < threshold < 1:
        raise UsageError(f"threshold = {threshold:g}: must be above 0 and below 1")
    pairs = pairs_of(base, new)
    deltas: list[Delta] = []
    if "verdicts" in parts:
        if base.kind == "conformance":
            deltas += summary_deltas(base, new)
        deltas += verdict_deltas(pairs)
    if "counted" in parts:
        deltas += counted_deltas(pairs)
    if "timed" in parts:
        unlike = unlike_machines(base, new)
        if unlike and has_times(pairs):
            said = "; ".join(f"{one.name}: {one.base} and {one.new}" for one in unlike)
            hint = "--only verdicts,counted compares what does not depend on the machine"
            raise UsageError(
                f"the runs were made on unlike machines ({said}): no times to compare", hint=hint
            )
        deltas += timed_deltas(pairs, threshold=threshold)
    found, notes = with_accepted(deltas, accepted, today or datetime.now(UTC).date())
    torn = [f"the last line of {run.path} was cut short" for run in (base, new) if run.torn]
    return Comparison(
        base=str(base.path),
        new=str(new.path),
        kind=base.kind,
        deltas=found,
        differences=differences(base, new),
        notes=(*notes, *torn, *_doubled(base), *_doubled(new)),
    )


def _doubled(run: Run) -> list[str]:
    """A note where a journal says two things of one item, of which one is compared."""
    several = [name for name, count in Counter(record.id for record in run.records).items() if count > 1]
    if not several:
        return []
    items = "1 item stands" if len(several) == 1 else f"{len(several)} items stand"
    return [f"{items} in several lines of {run.path}, of which the last is compared (first: {several[0]})"]


def compare(
    base: str | Path, new: str | Path, *, parts: Sequence[str] = CLASSES, threshold: float = THRESHOLD
) -> pd.DataFrame:
    """Compare two run directories, a row a verdict or figure.

    Args:
        base: the run that is held to.
        new: the run that is judged.
        parts: of ``verdicts``, ``counted`` and ``timed``, those to compare.
        threshold: relative difference below which times count as the same.

    Returns:
        Columns ``part, label, subject, device, figure, base, new, ratio, low, high, change, reason,
        accepted, id``; ``attrs["exit_code"]`` is that of ``pabench compare``.

    Raises:
        UsageError, NothingToCompare, EnvironmentRefused: see ``compare_runs``; also a folder that is no run.
    """
    runs = (read_run(Path(base)), read_run(Path(new)))
    return compare_runs(*runs, parts=parts, threshold=threshold).to_frame()
