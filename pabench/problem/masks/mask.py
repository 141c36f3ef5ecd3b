# SPDX-License-Identifier: Apache-2.0
"""What a mask is: one row of a table that says all that the rest of pabench has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.batch import Batch
from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem

Value = Any
"""What a case says of a mask: numbers, booleans and tuples of such, so that JSON holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The query rows of one sequence.

    Attributes:
        sequence: its number.
        q_len: rows.
        kv_len: keys.
        page_size: tokens of a page.
    """

    sequence: int
    q_len: int
    kv_len: int
    page_size: int

    @property
    def position(self) -> Array:
        """Where each row stands among the keys, int64 ``(q_len, 1)``; negative before the first."""
        return self.kv_len - self.q_len + np.arange(self.q_len, dtype=np.int64)[:, None]

    @property
    def key(self) -> Array:
        """The keys, int64 ``(1, kv_len)``."""
        return np.arange(self.kv_len, dtype=np.int64)[None]


class Choose(Protocol):
    """Makes the choices of a draw; Hypothesis stands behind it, so that values shrink."""

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""

    def among(self, options: Sequence[Any]) -> Any:
        """Return one of ``options``."""


Sees = Callable[[Array, Rows, Value], Array]
"""From which keys the rows see without the mask, bool ``(q_len, kv_len)``, to which they see with it."""
Admits = Callable[[bool, int, int, Rows, Value], bool]
"""The same for one row's position and one key, spelled once more for the second truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """One kind of mask.

    Attributes:
        name: feature that a backend declares, and name in JSON.
        clause: of docs/specification.md.
        about: what is asked, in a sentence.
        read: makes a value of what a case was given, or raises ``InvalidCase``.
        sees, admits: the keys that rows see.
        draw: a value for a problem and a batch.
        neutral: a value that changes nothing, for a problem and a batch.
        mistakes: what kernels get wrong, in words, with what their rows see then.
        widens: whether it may show a row keys that it would not see without; the window of the problem then
            comes after it.
        several_rows: whether it shows with several query rows a sequence alone.
        rows_in_keys: whether a sequence may have no more rows than keys.
        fields: of a problem that it is drawn with.
        without: features that it is not defined with.
    """

    name: str
    clause: str
    about: str
    read: Callable[[Value, Problem, Batch], Value]
    sees: Sees
    admits: Admits
    draw: Callable[[Choose, Problem, Batch], Value]
    neutral: Callable[[Problem, Batch], Value]
    mistakes: dict[str, Sees]
    widens: bool = False
    several_rows: bool = False
    rows_in_keys: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    without: frozenset[str] = frozenset()


def per_sequence(name: str, value: Value, batch: Batch) -> list[Any]:
    """Return the entries of ``value``, one a sequence; raises ``InvalidCase``."""
    try:
        entries = [] if isinstance(value, str | bytes) else list(value)
    except TypeError:
        raise InvalidCase(name, value, "must be a list") from None
    if len(entries) != batch.num_seqs:
        raise InvalidCase(name, value, f"must have one entry per sequence, {batch.num_seqs}")
    return entries
