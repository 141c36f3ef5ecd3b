# SPDX-License-Identifier: Apache-2.0
"""Which requests of a trace wait for others, and what the prompts of turns hold."""

from __future__ import annotations

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.lengths import MAX_LENGTH
from pabench.workloads.columns import Columns
from pabench.workloads.fields import TraceError
from pabench.workloads.structure import Segments
from pabench.workloads.trace_blocks import from_zero


def after_of(found: Columns) -> Array:
    """Return the row that each waits for, int64; -1 for none."""
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


def turns_of(found: Columns, after: Array, asked: str | None) -> str:
    """Return whether prompts of turns are ``whole`` or ``added``, as asked, or told by the ids.

    Whole prompts of a session begin alike.  Raises ``TraceError`` where there are no ids to tell it by.
    """
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


def added_prompts(found: Columns, after: Array) -> Array:
    """Return the tokens of prompts that hold what was said before; raises ``TraceError``."""
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


def added_segments(found: Columns, after: Array, size: int) -> Segments:
    """Return the runs of prompts that grow: all of the turn before, its output, and what is added."""
    count = found.prompt.size
    ids = from_zero(found.ids).tolist() if found.ids.size else []
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
