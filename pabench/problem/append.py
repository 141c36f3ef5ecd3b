# SPDX-License-Identifier: Apache-2.0
"""A case of writing new tokens into the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.batch import Batch
from pabench.problem.case import CASE_SCHEMA, GAPS
from pabench.problem.checks import INT32_MAX, one_of, whole_number
from pabench.problem.dtypes import SMALL_TYPES, Array, DType, decode, encode
from pabench.problem.formats import CacheFormat
from pabench.problem.identity import content_id
from pabench.problem.layout import PageLayout
from pabench.problem.pool import KV_LAYOUTS, NONE, Gaps, KvPool, checked_gaps, pool_parts, pool_shape
from pabench.problem.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendCase:
    """Tokens and the slots they go to, given as such or by a block table.

    Attributes:
        problem: heads, head_dim, page_size and dtype of the tokens; with ``kv_dtype`` the cache holds them
            in that format, divided by ``k_scale`` and ``v_scale``, which are then float32 numbers.
        num_pages: pages of the pool.
        slots: slot (page * page_size + offset) of each token, -1 to skip it; no slot twice.  With a block
            table it follows from that and may be left out.
        kv_layout: ``NHD`` or ``HND``.
        interleaved: K and V of a page side by side.
        page_gaps, row_gaps, starts: elements of others between, see ``Case``.
        seed: drives contents only.
        block_table: pages of each sequence, rows of one length; unused entries may be anything.
        kv_lens: with a block table, tokens of each sequence, the new ones included.
        q_lens: with a block table, how many of them are new; these are the last ones.
    """

    problem: Problem
    num_pages: int
    slots: tuple[int, ...] = ()
    kv_layout: str = "NHD"
    interleaved: bool = False
    seed: int = 0
    block_table: tuple[tuple[int, ...], ...] | None = None
    kv_lens: tuple[int, ...] | None = None
    q_lens: tuple[int, ...] | None = None
    page_gaps: tuple[int, int] = NONE
    row_gaps: tuple[int, int] = NONE
    starts: tuple[int, int] = NONE

    def __post_init__(self) -> None:
        for field in ("k_scale", "v_scale"):
            for scale in getattr(self.problem, field) or ():
                if float(np.float32(scale)) != scale:
                    raise InvalidCase(field, scale, "must be a float32 number, which is what kernels take")
        whole_number("num_pages", self.num_pages, low=1)
        one_of("kv_layout", self.kv_layout, KV_LAYOUTS)
        if not isinstance(self.interleaved, bool):
            raise InvalidCase("interleaved", self.interleaved, "must be true or false")
        gaps = checked_gaps(self.problem, self.interleaved, self.gaps)
        for field, pair in zip(GAPS, (gaps.pages, gaps.rows, gaps.starts), strict=True):
            object.__setattr__(self, field, pair)
        if self.is_paged:
            self._check_table()
        top = self.num_pages * self.problem.page_size - 1
        slots = tuple(whole_number(f"slots[{i}]", s, low=-1, high=top) for i, s in enumerate(self.slots))
        object.__setattr__(self, "slots", slots)
        live = [slot for slot in slots if slot >= 0]
        if len(set(live)) != len(live):
            raise InvalidCase("slots", slots, "must not name a slot twice")
        whole_number("seed", self.seed, low=0, high=2**64 - 1)

    @property
    def is_paged(self) -> bool:
        """Whether the slots follow from a block table."""
        return self.block_table is not None or self.kv_lens is not None or self.q_lens is not None

    @property
    def gaps(self) -> Gaps:
        """What lies between the pages and rows of the cache."""
        return Gaps(pages=self.page_gaps, rows=self.row_gaps, starts=self.starts)

    @property
    def batch(self) -> Batch:
        """The lengths of the sequences; of a case with a block table only."""
        return Batch(kv_lens=self.kv_lens or (), q_lens=self.q_lens)

    @property
    def layout(self) -> PageLayout:
        """The block table; of a case with one only."""
        table = np.asarray(self.block_table, dtype=np.int32)
        return PageLayout(page_size=self.problem.page_size, num_pages=self.num_pages, block_table=table)

    def _check_table(self) -> None:
        for field in ("block_table", "kv_lens", "q_lens"):
            if getattr(self, field) is None:
                raise InvalidCase(field, None, "must be given when the slots follow from a block table")
        batch = self.batch
        for i, (q_len, kv_len) in enumerate(zip(batch.query_lens, batch.kv_lens, strict=True)):
            if q_len > kv_len:
                raise InvalidCase(f"q_lens[{i}]", q_len, f"must be at most kv_lens[{i}] = {kv_len}")
        rows = _table_rows(self.block_table)
        object.__setattr__(self, "block_table", rows)
        object.__setattr__(self, "kv_lens", batch.kv_lens)
        object.__setattr__(self, "q_lens", batch.query_lens)
        layout = self.layout
        layout.validate(batch.kv_lens)
        slots = table_slots(layout, batch)
        if self.slots and tuple(self.slots) != slots:
            raise InvalidCase("slots", self.slots, "must be left out, or those of the block table")
        object.__setattr__(self, "slots", slots)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return content_id(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON values; a case without a block table has no field for it."""
        found = {
            "schema": CASE_SCHEMA,
            "problem": self.problem.to_dict(),
            "num_pages": self.num_pages,
            "slots": list(self.slots),
            "kv_layout": self.kv_layout,
            "interleaved": self.interleaved,
            "seed": self.seed,
        }
        if self.block_table is not None:
            found["block_table"] = [list(row) for row in self.block_table]
            found["kv_lens"] = list(self.kv_lens or ())
            found["q_lens"] = list(self.q_lens or ())
        return found | {field: list(getattr(self, field)) for field in GAPS if any(getattr(self, field))}


def table_slots(layout: PageLayout, batch: Batch) -> tuple[int, ...]:
    """Return the slots of the last ``q_lens`` tokens of each sequence, in order."""
    found: list[int] = []
    for sequence, (q_len, kv_len) in enumerate(zip(batch.query_lens, batch.kv_lens, strict=True)):
        for position in range(kv_len - q_len, kv_len):
            page, offset = divmod(position, layout.page_size)
            found.append(int(layout.block_table[sequence, page]) * layout.page_size + offset)
    return tuple(found)


def _table_rows(table: Any) -> tuple[tuple[int, ...], ...]:
    """``table`` as tuples of int32 numbers, all of one length."""
    if not isinstance(table, Sequence) or any(
        isinstance(row, str) or not isinstance(row, Sequence) for row in table
    ):
        raise InvalidCase("block_table", table, "must be a list of lists of pages")
    rows = tuple(
        tuple(
            whole_number(f"block_table[{i}][{j}]", page, low=-INT32_MAX - 1, high=INT32_MAX)
            for j, page in enumerate(row)
        )
        for i, row in enumerate(table)
    )
    if len({len(row) for row in rows}) != 1:
        raise InvalidCase("block_table", table, "must have rows of one length")
    return rows


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

    ``keys`` is ``(num_tokens, num_kv_heads, head_dim)`` in storage form, ``values`` of ``head_dim_v``; those
    of a latent cache are the beginnings of the keys.  For a cache with a format of its own most numbers lie
    at and beside its numbers, and half way between two, times the scale.
    """
    problem = case.problem
    rng = np.random.default_rng(case.seed)

    def noise(shape: tuple[int, ...], storage: np.dtype[Any]) -> Array:
        return rng.integers(0, 256, (*shape, storage.itemsize), dtype=np.uint8).view(storage)[..., 0]

    shape = pool_shape(
        problem, case.num_pages, kv_layout=case.kv_layout, interleaved=case.interleaved, gaps=case.gaps
    )
    pool = KvPool(
        storage=noise(shape, problem.kv_storage.storage),
        kv_layout=case.kv_layout,
        interleaved=case.interleaved,
        parts=pool_parts(problem, case.gaps),
    )
    tokens = (len(case.slots), problem.num_kv_heads)
    rows = [noise((*tokens, dim), problem.storage.storage) for dim in (problem.head_dim, problem.value_dim)]
    form = problem.kv_format
    for kind, row in zip("kv", rows, strict=True):
        if form is not None and form.scale is None:
            near = _around(
                rng, row.shape, problem, form.numbers, np.asarray(problem.kv_scales(kind))[:, None]
            )
            kept = rng.random(row.shape) < 0.125
            row[~kept] = near[~kept]
            if SMALL_TYPES[form.numbers.name].nan is None:
                # the type has no place for what is no number
                row[np.isnan(decode(row, problem.storage))] = 0
        elif form is not None:
            row[...] = _in_blocks(rng, row.shape, problem, form, kind)
    if problem.latent:
        rows[1] = np.ascontiguousarray(rows[0][..., : problem.value_dim])
    return pool, rows[0], rows[1], np.asarray(case.slots, dtype=np.int64)


def _around(
    rng: np.random.Generator, shape: tuple[int, ...], problem: Problem, numbers: DType, scales: Array
) -> Array:
    """Numbers of ``problem.dtype`` that divided by ``scales`` lie at, between and beside those of a type."""
    small = SMALL_TYPES[numbers.name].magnitudes
    finite = small[np.isfinite(small)]
    step = finite[-1] - finite[-2]
    # one more, as if there were
    grid = np.append(finite, finite[-1] + step)
    at = rng.integers(0, grid.size - 1, shape)
    half_way = rng.integers(0, 2, shape) / 2.0
    wanted = (grid[at] + (grid[at + 1] - grid[at]) * half_way) * rng.choice([-1.0, 1.0], shape)
    stored = encode(wanted * scales, problem.storage)
    # the neighbours of a tie show where it is
    bits = stored.view(np.dtype(f"i{stored.dtype.itemsize}"))
    bits += rng.integers(-1, 2, shape).astype(bits.dtype)
    return stored


def _in_blocks(
    rng: np.random.Generator, shape: tuple[int, ...], problem: Problem, form: CacheFormat, kind: str
) -> Array:
    """The same for a format whose scales follow from the largest number of a block; some blocks are all 0."""
    dim, size = shape[-1], form.block_of(shape[-1])
    blocks = (*shape[:-1], form.blocks(dim))
    scales = rng.choice([1.0, 1.25, 3.0, 0.1], blocks) * 2.0 ** rng.integers(-4, 4, blocks)
    scales *= rng.random(blocks) > 0.05
    scales = scales * np.asarray(problem.kv_scales(kind))[:, None]
    spread = np.repeat(scales, size, axis=-1)[..., :dim]
    rows = _around(rng, shape, problem, form.numbers, spread)
    largest = encode(scales * form.numbers.maximum, problem.storage)
    rows[..., ::size] = np.where(rng.random(blocks) < 0.75, largest, rows[..., ::size])
    rows[spread == 0.0] = 0
    # the neighbour of the largest finite number, or of 0, may be none
    wide = decode(rows, problem.storage)
    return np.where(np.isfinite(wide), rows, np.zeros_like(rows))
