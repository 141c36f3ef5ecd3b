# SPDX-License-Identifier: Apache-2.0
"""What the columns of a trace mean: the unit of times, the tokens of a block, who waits for whom.

Formats of one look differ in these: Mooncake has 512 tokens a block and milliseconds, vLLM's ``timed_trace``
16 and seconds, by default.  The format's own are taken only where nothing in the file speaks against them,
and what an option says only where it does not contradict the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pabench.problem.dtypes import Array
from pabench.workloads.columns import Columns
from pabench.workloads.fields import TraceError
from pabench.workloads.formats import UNITS, TraceFormat
from pabench.workloads.structure import Segments, Turns
from pabench.workloads.trace_blocks import block_tokens_of, segments_of
from pabench.workloads.trace_times import all_equal, times_of, unit_of
from pabench.workloads.trace_turns import added_prompts, added_segments, after_of, turns_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """What somebody says of a file.

    Attributes:
        block_tokens: tokens that a block id stands for; None for what the format has.
        time_unit: a key of ``UNITS``; None for what the format has.
        turns: ``whole`` where the prompt of a turn holds all that was said before, ``added`` where it holds
            what is added; None to tell it by the ids.
        lengths_only: times and blocks do not matter, so that nothing has to be known of them.
    """

    block_tokens: int | None = None
    time_unit: str | None = None
    turns: str | None = None
    lengths_only: bool = False


LENGTHS = TraceOptions(lengths_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSays:
    """What a file says of itself.

    Attributes:
        block_tokens: tokens that a block id stands for; 0 where it does not say.
        moments: its times are dates and times of day.
    """

    block_tokens: int = 0
    moments: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Meaning:
    """Requests in the order of the file; see ``Trace``."""

    prompt: Array
    output: Array
    arrival_s: Array
    timed: bool
    segments: Segments | None
    turns: Turns | None
    notes: tuple[str, ...]

    def ordered(self, order: Array) -> Meaning:
        """Return requests ``order``, in that order."""
        return replace(
            self,
            prompt=self.prompt[order],
            output=self.output[order],
            arrival_s=self.arrival_s[order],
            segments=None if self.segments is None else self.segments.ordered(order),
            turns=None if self.turns is None else self.turns.ordered(order),
        )


def meaning_of(found: Columns, form: TraceFormat, says: FileSays, options: TraceOptions) -> Meaning:
    """Return what the rows mean.

    Args:
        found: the rows.
        form: their format.
        says: what the file says itself.
        options: what else is known.

    Raises:
        TraceError: a row contradicts others, or an option the file; or an option is needed.
    """
    notes = list[str]()
    blocks = (
        0 if options.lengths_only else block_tokens_of(found, form, says.block_tokens, options.block_tokens)
    )
    if blocks and blocks != (says.block_tokens or form.block_tokens):
        notes.append(f"{blocks} tokens a block")
    after = after_of(found)
    waits = bool((after >= 0).any())
    unit = "s" if options.lengths_only else unit_of(found, form, says.moments, options.time_unit, waits)
    if (
        form.unit.endswith("?")
        and unit
        and not options.lengths_only
        and not (says.moments or all_equal(found.stamp))
    ):
        notes.append(f"times in {unit}")
    added = waits and (found.session >= 0).any() and turns_of(found, after, options.turns) == "added"
    if options.turns is not None and not waits:
        raise TraceError(f"--turns {options.turns}: it has no turns")
    if options.turns == "added" and not added:
        raise TraceError("--turns added: prompts of this format are whole")
    if added:
        notes.append("a turn's prompt is added to what was said")
    arrival, delay = times_of(found, after, UNITS[unit or "s"])
    prompt = added_prompts(found, after) if added else found.prompt
    segments = None
    if added:
        segments = added_segments(found, after, blocks)
    elif blocks and found.ids.size:
        segments = segments_of(found, blocks)
    return Meaning(
        prompt=prompt,
        output=found.output,
        arrival_s=arrival,
        timed=bool(unit) and (waits or not np.isnan(found.stamp).all()),
        segments=segments,
        turns=Turns(after=after, delay_s=delay) if waits else None,
        notes=tuple(notes),
    )
