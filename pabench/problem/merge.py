# SPDX-License-Identifier: Apache-2.0
"""A case of merging attention states: outputs and LSEs of the same rows over different keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.case import CASE_SCHEMA, POISONS
from pabench.problem.checks import one_of, whole_number
from pabench.problem.dtypes import Array, dtype_by_name, encode
from pabench.problem.identity import content_id
from pabench.problem.poison import poison_value
from pabench.problem.problem import MAX_HEAD_DIM

SPREADS = {
    "close": "LSEs within a few of one another, at any height",
    "equal": "all LSEs of a row alike",
    "far": "up to 200 apart, so that some weights vanish",
    "huge": "around 10,000 or -10,000",
}
"""How the LSEs of a row lie."""
EMPTIES = {"none": 0.0, "some": 0.25, "most": 0.75, "all": 1.0}
"""What share of the states saw no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeCase:
    """States to be merged.

    Attributes:
        num_states: states of each row.
        num_rows: query rows.
        num_heads: query heads.
        head_dim: elements of one output.
        dtype: storage type of states and result.
        spread: of ``SPREADS``.
        empty: of ``EMPTIES``; an empty state has LSE -inf, drawn by row and head.
        poison: what stands in the outputs of empty states: ``zero``, ``nan``, ``inf`` or ``huge``.
        seed: drives contents only.
    """

    num_states: int
    num_rows: int
    num_heads: int
    head_dim: int
    dtype: str = "float32"
    spread: str = "close"
    empty: str = "none"
    poison: str = "zero"
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number("num_states", self.num_states, low=1, high=1024)
        whole_number("num_rows", self.num_rows, low=0, high=2**16)
        whole_number("num_heads", self.num_heads, low=1, high=2**10)
        whole_number("head_dim", self.head_dim, low=1, high=MAX_HEAD_DIM)
        dtype_by_name(self.dtype)
        one_of("spread", self.spread, SPREADS)
        one_of("empty", self.empty, EMPTIES)
        one_of("poison", self.poison, POISONS)
        whole_number("seed", self.seed, low=0, high=2**64 - 1)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return content_id(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        return {"schema": CASE_SCHEMA, **asdict(self)}


def merge_case_from_dict(data: Any) -> MergeCase:
    """Read ``MergeCase.to_dict`` back; raises ``InvalidCase``."""
    if not isinstance(data, dict) or data.get("schema") != CASE_SCHEMA:
        raise InvalidCase("case", data, f"must be a JSON object of schema {CASE_SCHEMA}")
    given = {key: value for key, value in data.items() if key != "schema"}
    names = {field.name for field in fields(MergeCase)}
    if given.keys() != names:
        raise InvalidCase("case", sorted(given), f"must have the fields {', '.join(sorted(names))}")
    return MergeCase(**given)


def build_merge(case: MergeCase) -> tuple[Array, Array]:
    """Return ``outs (num_states, num_rows, num_heads, head_dim)`` and ``lses``, without the last axis.

    ``outs`` is in storage form, ``lses`` float32.  Outputs of states differ in sign and size, so that a wrong
    weight shows.
    """
    rng = np.random.default_rng(case.seed)
    rows = (case.num_rows, case.num_heads)
    shape = (case.num_states, *rows)
    lses = {
        "close": lambda: rng.uniform(-30.0, 30.0, rows) + rng.normal(0.0, 2.0, shape),
        "equal": lambda: np.broadcast_to(rng.uniform(-30.0, 30.0, rows), shape).copy(),
        "far": lambda: rng.uniform(-100.0, 100.0, shape),
        "huge": lambda: rng.choice([-1e4, 1e4], rows) + rng.normal(0.0, 2.0, shape),
    }[case.spread]()
    outs = rng.normal(0.0, 1.0, (*shape, case.head_dim)) * rng.choice([0.1, 1.0, 30.0], (*shape, 1))
    empty = rng.random(shape) < EMPTIES[case.empty]
    dtype = dtype_by_name(case.dtype)
    stored = encode(outs, dtype)
    stored[empty] = poison_value(case.poison, dtype)
    lses[empty] = -np.inf
    return stored, lses.astype(np.float32)
