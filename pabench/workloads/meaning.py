"""What the columns of a trace mean: the unit of times, the tokens of a block, who waits for whom.

Formats of one look differ in these: Mooncake has 512 tokens a block and milliseconds, vLLM's ``timed_trace``
16 and seconds, by default.  The format's own are taken only where nothing in the file speaks against them,
and what an option says only where it does not contradict the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.lengths import MAX_LENGTH
from pabench.workloads.columns import Columns
from pabench.workloads.fields import TraceError
from pabench.workloads.formats import UNITS, TraceFormat
from pabench.workloads.structure import Segments, Turns

TURNS = ("whole", "added")
LEAST_GAP = 50.0
"""Milliseconds between distinct times, on average, below which they may as well be seconds."""
UNIT_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EPOCH = (10**9, 10**10)
"""Seconds since 1970, from 2001 to 2286: other units of the same moments lie elsewhere."""
USUAL_BLOCKS = (16, 32, 64, 128, 256, 512, 1024)


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
        0 if options.lengths_only else _block_tokens(found, form, says.block_tokens, options.block_tokens)
    )
    if blocks and blocks != (says.block_tokens or form.block_tokens):
        notes.append(f"{blocks} tokens a block")
    after = _after(found)
    waits = bool((after >= 0).any())
    unit = "s" if options.lengths_only else _unit(found, form, says.moments, options.time_unit, waits)
    if (
        form.unit.endswith("?")
        and unit
        and not options.lengths_only
        and not (says.moments or _all_equal(found.stamp))
    ):
        notes.append(f"times in {unit}")
    added = waits and (found.session >= 0).any() and _turns(found, after, options.turns) == "added"
    if options.turns is not None and not waits:
        raise TraceError(f"--turns {options.turns}: it has no turns")
    if options.turns == "added" and not added:
        raise TraceError("--turns added: prompts of this format are whole")
    if added:
        notes.append("a turn's prompt is added to what was said")
    arrival, delay = _times(found, after, UNITS[unit or "s"])
    prompt = _added_prompts(found, after) if added else found.prompt
    segments = None
    if added:
        segments = _added_segments(found, after, blocks)
    elif blocks and found.ids.size:
        segments = _segments(found, blocks)
    return Meaning(
        prompt=prompt,
        output=found.output,
        arrival_s=arrival,
        timed=bool(unit) and (waits or not np.isnan(found.stamp).all()),
        segments=segments,
        turns=Turns(after=after, delay_s=delay) if waits else None,
        notes=tuple(notes),
    )


# --- blocks ----------------------------------------------------------------------------------------------


def _block_tokens(found: Columns, form: TraceFormat, file_block: int, asked: int | None) -> int:
    """Tokens of a block: one id for each, and one for a last that is not full, or for full ones only."""
    if not found.ids.size:
        if asked is not None:
            raise TraceError(f"--block-tokens {asked}: it has no block ids")
        return 0
    size = asked or file_block or form.block_tokens
    told = found.counts > 0
    prompt, counts, number = found.prompt[told], found.counts[told], found.number[told]
    if file_block and asked not in (None, file_block):
        raise TraceError(f"--block-tokens {asked}: the file says that a block has {file_block}")
    up, down = -(-prompt // size) == counts, prompt // size == counts
    if up.all() or down.all():
        return size
    at = int(np.argmin(up if up.sum() >= down.sum() else down))
    # n ids: more than n - 1 blocks of tokens, fewer than n + 1
    low, high = int((prompt // (counts + 1)).max()) + 1, int(_below(prompt, counts - 1).min())
    fits = [usual for usual in USUAL_BLOCKS if low <= usual <= high]
    if low > high:
        hint = "no size fits all rows"
    elif fits:
        hint = f"{' or '.join(map(str, fits))} would fit all rows (--block-tokens)"
    else:
        hint = f"from {low} to {high} would fit all rows (--block-tokens)"
    whose = "--block-tokens says" if asked else "the file says" if file_block else f"{form.name} has it"
    ids, tokens = f"{counts[at]} hash_ids", f"{prompt[at]} tokens"
    raise TraceError(
        f"row {number[at]}: {ids} for {tokens} are not {size} tokens a block, as {whose}; {hint}"
    )


def _below(prompt: Array, blocks: Array) -> Array:
    """The largest size of which ``blocks`` blocks are fewer tokens than the prompt."""
    return np.where(blocks > 0, (prompt - 1) // np.maximum(blocks, 1), MAX_LENGTH)


def _segments(found: Columns, size: int) -> Segments:
    indptr = np.concatenate(([0], np.cumsum(found.counts)))
    place = np.arange(indptr[-1]) - np.repeat(indptr[:-1], found.counts)
    left = np.repeat(found.prompt, found.counts) - place * size
    return Segments(
        ids=_from_zero(found.ids),
        tokens=np.minimum(left, size),
        indptr=indptr,
        output_ids=np.full(found.prompt.size, -1, np.int64),
    )


def _from_zero(ids: Array) -> Array:
    """Ids none of which is below 0."""
    if int(ids.min()) >= 0:
        return ids
    return np.asarray(np.unique(ids, return_inverse=True)[1], np.int64)


# --- times -----------------------------------------------------------------------------------------------


def _unit(found: Columns, form: TraceFormat, moments: bool, asked: str | None, waits: bool) -> str:
    """The unit of the times; empty where there are none."""
    stamps = found.stamp[~np.isnan(found.stamp)]
    default = form.unit.rstrip("?")
    if not stamps.size and not waits:
        if asked is not None:
            raise TraceError(f"--time-unit {asked}: it has no times")
        return ""
    if stamps.size < found.stamp.size and not waits:
        lacking = int(np.isnan(found.stamp).argmax())
        raise TraceError(f"row {found.number[lacking]}: has no time, as other rows have")
    if moments:
        if asked is not None:
            raise TraceError(f"--time-unit {asked}: its times are dates and times of day")
        return "s"
    if not form.unit.endswith("?"):
        return asked or default
    since = _since_1970(stamps)
    if form.csv is not None and since is not None and asked not in (None, since):
        raise TraceError(f"--time-unit {asked}: its times are {UNIT_WORDS[since]} since 1970")
    if asked is not None or _all_equal(stamps):
        return asked or default
    if since is not None:
        return since
    # sessions are AIPerf's and Dynamo's, which have milliseconds
    if default == "ms" and (waits or (_mean_gap(stamps) >= LEAST_GAP and not (stamps % 1).any())):
        return default
    shown = f"{stamps.min():g} to {stamps.max():g}"
    raise TraceError(f"its times, {shown}, may be seconds or milliseconds: give --time-unit")


def _since_1970(stamps: Array) -> str | None:
    """The unit in which all stamps are moments from 2001 on; None where they are none in any."""
    for unit, seconds in UNITS.items():
        if (stamps * seconds >= EPOCH[0]).all() and (stamps * seconds < EPOCH[1]).all():
            return unit
    return None


def _all_equal(stamps: Array) -> bool:
    there = stamps[~np.isnan(stamps)]
    return not there.size or bool((there == there[0]).all())


def _mean_gap(stamps: Array) -> float:
    distinct = np.unique(stamps)
    return float((distinct[-1] - distinct[0]) / max(distinct.size - 1, 1))


def _times(found: Columns, after: Array, scale: float) -> tuple[Array, Array]:
    """Earliest arrival and delay of each row, in seconds."""
    delay = np.nan_to_num(found.delay) * scale
    # those since 1970 lose less when they begin at 0 before they are scaled
    first = float(np.nanmin(found.stamp)) if not np.isnan(found.stamp).all() else 0.0
    since = (found.stamp - first) * scale
    if not (after >= 0).any():
        return np.nan_to_num(since), delay
    arrival = since.tolist()
    waits = delay.tolist()
    for at, before in enumerate(after.tolist()):
        least = 0.0 if before < 0 else arrival[before] + waits[at]
        # NaN compares as false
        arrival[at] = max(arrival[at], least) if arrival[at] == arrival[at] else least
    return np.array(arrival), delay


# --- turns -----------------------------------------------------------------------------------------------


def _after(found: Columns) -> Array:
    """The row that each waits for; -1 for none."""
    index = np.arange(found.number.size)
    if found.after.any():
        return np.where(found.after > 0, index - found.after, -1)
    after, last = np.full(index.size, -1, np.int64), dict[int, int]()
    if (found.session >= 0).any():
        for at, session in enumerate(found.session.tolist()):
            if session >= 0:
                after[at] = last.get(session, -1)
                last[session] = at
    return after


def _turns(found: Columns, after: Array, asked: str | None) -> str:
    """Whether a turn's prompt is ``whole`` or ``added``: told by ids, since whole prompts begin alike."""
    if asked is not None:
        return asked
    begin = np.concatenate(([0], np.cumsum(found.counts)))[:-1]
    later = np.flatnonzero((after >= 0) & (found.counts > 0))
    later = later[found.counts[after[later]] > 0]
    if not later.size:
        raise TraceError(
            "its turns have no block ids, which would tell whether a prompt holds all that was said before, "
            "or what is added: give --turns whole or --turns added"
        )
    alike = found.ids[begin[later]] == found.ids[begin[after[later]]]
    return "whole" if alike.any() else "added"


def _added_prompts(found: Columns, after: Array) -> Array:
    """Prompts that hold what was said before."""
    prompt, output = found.prompt.tolist(), found.output.tolist()
    for at, before in enumerate(after.tolist()):
        if before >= 0:
            prompt[at] += prompt[before] + output[before]
            if prompt[at] + output[at] > MAX_LENGTH:
                rule = (
                    f"{prompt[at]} tokens with all that was said before, more than the {MAX_LENGTH} allowed"
                )
                raise TraceError(f"row {found.number[at]}: has {rule}")
    return np.array(prompt, np.int64)


def _added_segments(found: Columns, after: Array, size: int) -> Segments:
    """Runs of prompts that grow: all of the turn before, its output, and what is added."""
    count = found.prompt.size
    ids = _from_zero(found.ids).tolist() if found.ids.size else []
    base = max(ids, default=-1) + 1
    begin = np.concatenate(([0], np.cumsum(found.counts))).tolist()
    runs = list[list[tuple[int, int]]]()
    prompt, output = found.prompt.tolist(), found.output.tolist()
    for at, before in enumerate(after.tolist()):
        held = [] if before < 0 else [*runs[before], (base + before, output[before])]
        left = prompt[at]
        for name in ids[begin[at] : begin[at + 1]] if size else []:
            held.append((name, min(size, left)))
            left -= held[-1][1]
        if left:
            # what no id stands for is this turn's own
            held.append((base + count + at, left))
        runs.append(held)
    flat = [run for held in runs for run in held]
    names, tokens = np.array(flat, np.int64).reshape(-1, 2).T
    indptr = np.concatenate(([0], np.cumsum([len(held) for held in runs])))
    return Segments(ids=names, tokens=tokens, indptr=indptr, output_ids=base + np.arange(count))
