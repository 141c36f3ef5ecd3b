"""A case of writing new tokens into the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.case import CASE_SCHEMA
from pabench.problem.checks import one_of, whole_number
from pabench.problem.dtypes import Array
from pabench.problem.identity import content_id
from pabench.problem.pool import KV_LAYOUTS, KvPool, pool_shape
from pabench.problem.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendCase:
    """Tokens and the slots they go to.

    Attributes:
        problem: heads, head_dim, page_size and dtype of the cache.
        num_pages: pages of the pool.
        slots: slot (page * page_size + offset) of each token, -1 to skip it; no slot twice.
        kv_layout: ``NHD`` or ``HND``.
        interleaved: K and V of a page side by side.
        seed: drives contents only.
    """

    problem: Problem
    num_pages: int
    slots: tuple[int, ...]
    kv_layout: str = "NHD"
    interleaved: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.problem.kv_dtype is not None:
            raise InvalidCase(
                "kv_dtype", self.problem.kv_dtype, "must be left out: tokens are written bit for bit"
            )
        whole_number("num_pages", self.num_pages, low=1)
        one_of("kv_layout", self.kv_layout, KV_LAYOUTS)
        if not isinstance(self.interleaved, bool):
            raise InvalidCase("interleaved", self.interleaved, "must be true or false")
        top = self.num_pages * self.problem.page_size - 1
        slots = tuple(whole_number(f"slots[{i}]", s, low=-1, high=top) for i, s in enumerate(self.slots))
        object.__setattr__(self, "slots", slots)
        live = [slot for slot in slots if slot >= 0]
        if len(set(live)) != len(live):
            raise InvalidCase("slots", slots, "must not name a slot twice")
        whole_number("seed", self.seed, low=0, high=2**64 - 1)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return content_id(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        return {
            "schema": CASE_SCHEMA,
            "problem": self.problem.to_dict(),
            "num_pages": self.num_pages,
            "slots": list(self.slots),
            "kv_layout": self.kv_layout,
            "interleaved": self.interleaved,
            "seed": self.seed,
        }


def append_case_from_dict(data: Any) -> AppendCase:
    """Read ``AppendCase.to_dict`` back; raises ``InvalidCase``."""
    if not isinstance(data, dict) or data.get("schema") != CASE_SCHEMA:
        raise InvalidCase("case", data, f"must be a JSON object of schema {CASE_SCHEMA}")
    fields = {key: value for key, value in data.items() if key != "schema"}
    try:
        return AppendCase(problem=Problem(**fields.pop("problem")), **fields)
    except KeyError as missing:
        raise InvalidCase("case", sorted(data), f"has no field {missing}") from None
    except TypeError as error:
        raise InvalidCase("case", sorted(data), str(error)) from None


def build_append(case: AppendCase) -> tuple[KvPool, Array, Array, Array]:
    """Return ``(pool, keys, values, slot_mapping)``: random bits everywhere.

    ``keys`` and ``values`` are ``(num_tokens, num_kv_heads, head_dim)`` in storage form.
    """
    problem = case.problem
    rng = np.random.default_rng(case.seed)
    storage = problem.storage.storage

    def noise(shape: tuple[int, ...]) -> Array:
        return rng.integers(0, 256, (*shape, storage.itemsize), dtype=np.uint8).view(storage)[..., 0]

    shape = pool_shape(problem, case.num_pages, kv_layout=case.kv_layout, interleaved=case.interleaved)
    pool = KvPool(storage=noise(shape), kv_layout=case.kv_layout, interleaved=case.interleaved)
    tokens = (len(case.slots), problem.num_kv_heads, problem.head_dim)
    return pool, noise(tokens), noise(tokens), np.asarray(case.slots, dtype=np.int64)
