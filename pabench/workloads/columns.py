# SPDX-License-Identifier: Apache-2.0
"""Requests as a file has them: columns in the order of the file, times in the file's unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.lengths import MAX_LENGTH
from pabench.workloads.fields import TraceError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """A run of rows.

    Attributes:
        number: int64 ``(n,)``, of the line or item that a row stands on.
        prompt, output: int64 ``(n,)``, tokens.
        stamp: float64 ``(n,)``, time of arrival; NaN for none.
        delay: float64 ``(n,)``, time from the end of the turn before; NaN for none.
        session: int64 ``(n,)``, equal for the turns of a conversation; -1 for none.
        after: int64 ``(n,)``, rows back to the one that must have ended; 0 for none.
        ids: int64, block ids of all rows one behind the other.
        counts: int64 ``(n,)``, how many ids each row has.
    """

    number: Array
    prompt: Array
    output: Array
    stamp: Array
    delay: Array
    session: Array
    after: Array
    ids: Array
    counts: Array


def columns(
    number: Sequence[int] | Array,
    prompt: Array,
    output: Array,
    *,
    word: str = "row",
    stamp: Array | None = None,
    delay: Array | None = None,
    session: Array | None = None,
    after: Array | None = None,
    ids: tuple[Array, Array] | None = None,
) -> Columns:
    """Return columns in which nothing stands where nothing is given.

    Raises:
        TraceError: prompt and output of a row are too long together.
    """
    count, where = prompt.size, np.asarray(number, np.int64)
    if (total := prompt + output).max(initial=0) > MAX_LENGTH:
        at = int((total > MAX_LENGTH).argmax())
        has = f"has {prompt[at]} + {output[at]} tokens"
        raise TraceError(f"{word} {where[at]}: {has}, more than the {MAX_LENGTH} allowed")
    return Columns(
        number=where,
        prompt=prompt,
        output=output,
        stamp=np.full(count, np.nan) if stamp is None else stamp,
        delay=np.full(count, np.nan) if delay is None else delay,
        session=np.full(count, -1, np.int64) if session is None else session,
        after=np.zeros(count, np.int64) if after is None else after,
        ids=np.empty(0, np.int64) if ids is None else ids[0],
        counts=np.zeros(count, np.int64) if ids is None else ids[1],
    )


def joined(parts: Iterator[Columns]) -> Columns | None:
    """Return all rows as one run; None where there is no row."""
    runs = list(parts)
    if not sum(run.number.size for run in runs):
        return None
    return Columns(
        **{
            field.name: np.concatenate([getattr(run, field.name) for run in runs])
            for field in fields(Columns)
        }
    )
