# SPDX-License-Identifier: Apache-2.0
"""Appending to a paged cache as a Definition states it: new rows, their sequences and positions, a CSR table.

Source: FlashInfer, ``append_paged_kv_cache`` and ``append_paged_mla_kv_cache``, and their trace templates.
Inputs are ``append_key, append_value`` and ``paged_kv_cache``, a pair of caches of the definition's shape or
one array with both; or ``append_ckv, append_kpe`` and ``ckv_cache, kpe_cache``; then ``batch_indices,
positions, kv_indices, kv_indptr, kv_last_page_len``.  Caches are written in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, Unsupported
from pabench.exchange.definition import Definition
from pabench.problem.append import AppendCase, build_append
from pabench.problem.batch import Batch
from pabench.problem.dtypes import DTYPES, Array
from pabench.problem.layout import CsrTable, PageLayout, layout_from_csr, pages_needed
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.shape import Shape

KEYS = ("append_key", "append_ckv")
"""Inputs by which a definition of appending is known."""
ROWS = {False: ("append_key", "append_value"), True: ("append_ckv", "append_kpe")}
CACHES = {False: ("paged_kv_cache",), True: ("ckv_cache", "kpe_cache")}
"""By whether the cache is latent."""
PAGE_SIZE = 16
"""Of drawn cases where the definition leaves it open."""
TABLES = ("batch_indices", "positions", "kv_indices", "kv_indptr", "kv_last_page_len")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAppend:
    """A definition of appending.

    Attributes:
        definition: as read.
        shape: its constants.
        dtype: storage type of rows and cache.
        paired: the cache of keys and the cache of values are one input, a pair; else one array has both.
        free_page: the axis of the page size where that comes with the data; ``shape`` has one of our choice.
    """

    definition: Definition
    shape: Shape
    dtype: str
    paired: bool
    free_page: str | None = None

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the inputs that say where tokens go."""
        return TABLES

    @property
    def caches(self) -> tuple[str, ...]:
        """Names of the inputs that are written in place."""
        return CACHES[self.shape.latent]

    def arguments(
        self, pool: KvPool, keys: Array, values: Array, table: Mapping[str, Array]
    ) -> dict[str, Any]:
        """Return the inputs by name, in the order of the definition; caches are copies, to be written.

        Args:
            pool: the cache before.
            keys, values: as of ``Backend.append``.
            table: the inputs named ``TABLES``.
        """
        given: dict[str, Any] = dict(table)
        if self.shape.latent:
            content = self.shape.head_dim_v
            given |= {"append_ckv": keys[:, 0, :content], "append_kpe": keys[:, 0, content:]}
            given |= {"ckv_cache": pool.k[:, :, 0, :content], "kpe_cache": pool.k[:, :, 0, content:]}
        else:
            given |= {"append_key": keys, "append_value": values}
            caches = (np.array(pool.k), np.array(pool.v))
            given["paged_kv_cache"] = caches if self.paired else np.stack(caches, axis=1)
        found = {name: given.get(name) for name in self.definition.inputs}
        return {
            name: np.array(one, order="C") if isinstance(one, np.ndarray) else one
            for name, one in found.items()
        }

    def storage(self, pool: KvPool, caches: Sequence[Array]) -> Array:
        """Return written caches, as the inputs that they were, in the form of ``pool.storage``."""
        if self.shape.latent:
            return np.concatenate(caches, axis=-1).reshape(pool.storage.shape)
        [both] = caches
        return np.stack(tuple(both) if self.paired else (both[:, 0], both[:, 1]))

    def own_calls(self) -> list[tuple[AppendCase, dict[str, int]]]:
        """Return cases for a definition without workloads, with the sizes of their variable axes."""
        page = self.shape.page_size
        lengths = (
            ((1,), (1,)),
            ((page + 1, page, 2 * page), (1, 1, 1)),
            ((3 * page + 1, 5, 2 * page), (2 * page + 1, 0, page)),
            (tuple(range(1, 18)), tuple(1 + at % 3 if at > 2 else 1 for at in range(17))),
        )
        cases = [self._case(*one, seed=seed) for seed, one in enumerate(lengths)]
        return [(case, self.axes(case)) for case in cases]

    def axes(self, case: AppendCase) -> dict[str, int]:
        """Return the sizes of the variable axes of a call."""
        pool, keys, values, _ = build_append(case)
        given = self.arguments(pool, keys, values, append_tables(case.layout, case.batch))
        arrays = {name: one[0] if isinstance(one, tuple) else one for name, one in given.items()}
        return self.definition.sizes({name: one.shape for name, one in arrays.items() if one is not None})

    def drawn(
        self, given: Mapping[str, Any], random: Sequence[str], axes: Mapping[str, int], seed: int
    ) -> tuple[AppendCase, None]:
        """Return the case of a call whose rows and caches are random bits.

        Args:
            given: the tables.
            random: names of the other inputs.
            axes: sizes of the variable axes.
            seed: of the draw.

        Raises:
            InvalidCase: rows or caches that are given, a table that does not fit, or new tokens that are not
                the last ones of their sequences.
        """
        where = self.definition.name
        for name in (*ROWS[self.shape.latent], *self.caches):
            if name not in random:
                raise InvalidCase(
                    f"{where}: {name}", "safetensors", "must be random: an append is judged by bits"
                )
        table = CsrTable(
            indptr=given["kv_indptr"], indices=given["kv_indices"], last_page_len=given["kv_last_page_len"]
        )
        size = axes[self.free_page] if self.free_page else self.shape.page_size
        axis = (self.definition.inputs[self.caches[0]].shape or ())[0]
        num_pages = int(self.definition.axes[axis] or axes[axis])
        layout, kv_lens = layout_from_csr(table, page_size=size, num_pages=num_pages)
        sequences, positions = (np.asarray(given[name]).astype(np.int64) for name in TABLES[:2])
        count = len(kv_lens)
        if ((sequences < 0) | (sequences >= count)).any():
            rule = f"must be a sequence, 0 to {count - 1}"
            wrong = int(sequences[(sequences < 0) | (sequences >= count)][0])
            raise InvalidCase(f"{where}: batch_indices", wrong, rule)
        q_lens = tuple(np.bincount(sequences, minlength=count).tolist())
        if any(q_len > kv_len for q_len, kv_len in zip(q_lens, kv_lens, strict=True)):
            raise InvalidCase(
                f"{where}: batch_indices", list(q_lens), "must not name more tokens than there are"
            )
        wanted = new_tokens(kv_lens, q_lens)
        if (sequences != wanted[0]).any() or (positions != wanted[1]).any():
            rule = "must be those of the last tokens of each sequence, in order"
            raise InvalidCase(f"{where}: positions", positions.tolist()[:20], rule)
        return self._made(layout, kv_lens, q_lens, seed), None

    def _case(self, kv_lens: tuple[int, ...], q_lens: tuple[int, ...], *, seed: int) -> AppendCase:
        """A case over pages in any order, one of them spare."""
        size = self.shape.page_size
        counts = [pages_needed(length, size) for length in kv_lens]
        pages = np.random.default_rng(seed).permutation(sum(counts) + 1).astype(np.int32)
        table = np.full((len(kv_lens), max(counts)), -1, np.int32)
        for row, first, count in zip(table, np.cumsum([0, *counts]), counts, strict=False):
            row[:count] = pages[first : first + count]
        layout = PageLayout(page_size=size, num_pages=len(pages), block_table=table)
        return self._made(layout, kv_lens, q_lens, seed)

    def _made(
        self, layout: PageLayout, kv_lens: tuple[int, ...], q_lens: tuple[int, ...], seed: int
    ) -> AppendCase:
        plain = Problem(
            num_qo_heads=self.shape.num_qo_heads,
            num_kv_heads=self.shape.num_kv_heads,
            head_dim=self.shape.head_dim,
            page_size=layout.page_size,
            dtype=self.dtype,
        )
        return AppendCase(
            problem=replace(self.shape.of(plain), page_size=layout.page_size),
            num_pages=layout.num_pages,
            seed=seed,
            block_table=tuple(tuple(row) for row in layout.block_table.tolist()),
            kv_lens=kv_lens,
            q_lens=q_lens,
        )


def new_tokens(kv_lens: Sequence[int], q_lens: Sequence[int]) -> tuple[Array, Array]:
    """Return sequence and position of the last tokens of each sequence, in order, int32."""
    pairs = [
        (sequence, position)
        for sequence, (kv_len, q_len) in enumerate(zip(kv_lens, q_lens, strict=True))
        for position in range(kv_len - q_len, kv_len)
    ]
    found = np.asarray(pairs, np.int32).reshape(-1, 2)
    return found[:, 0].copy(), found[:, 1].copy()


def append_tables(layout: PageLayout, batch: Batch) -> dict[str, Array]:
    """Return the inputs named ``TABLES`` for the last tokens of each sequence."""
    csr = layout.to_csr(batch.kv_lens)
    sequences, positions = new_tokens(batch.kv_lens, batch.query_lens)
    arrays = (sequences, positions, csr.indices, csr.indptr, csr.last_page_len)
    return dict(zip(TABLES, arrays, strict=True))


def slot_tables(slots: Array, num_pages: int, page_size: int) -> dict[str, Array]:
    """Return them for tokens in any slots: those of one sequence that has all pages of the cache."""
    arrays = (
        np.zeros(len(slots), np.int32),
        slots.astype(np.int32),
        np.arange(num_pages, dtype=np.int32),
        np.asarray([0, num_pages], np.int32),
        np.asarray([page_size], np.int32),
    )
    return dict(zip(TABLES, arrays, strict=True))


def page_append(definition: Definition) -> PageAppend:
    """Return what a definition of appending states.

    Raises:
        Unsupported: it has an input, axis or type that is not taken; the message says which.
    """
    inputs = definition.inputs

    def declined(why: str) -> Unsupported:
        return Unsupported(f"definition {definition.name!r}: {why}")

    latent = KEYS[1] in inputs
    rows, caches = ROWS[latent], CACHES[latent]
    known = (*rows, *caches, *TABLES)
    for name in known:
        if name not in inputs:
            raise declined(f"no input {name}, which appending takes")
    if unknown := [name for name, spec in inputs.items() if name not in known and not spec.optional]:
        raise declined(f"input {unknown[0]!r} is none of {', '.join(known)}")
    if set(definition.outputs) != set(caches):
        raise declined(f"outputs {', '.join(definition.outputs)}: must be {' and '.join(caches)}, in place")
    dtypes = sorted({inputs[name].dtype for name in (*rows, *caches)})
    if len(dtypes) > 1 or dtypes[0] not in DTYPES:
        raise declined(f"rows and caches of {', '.join(dtypes)}: must be one of {', '.join(DTYPES)} for all")
    sizes = {name: _sizes(definition, name) for name in (*rows, *caches)}
    if latent:
        (page, content), (other, rope) = sizes["ckv_cache"][1:], sizes["kpe_cache"][1:]
        if sizes["append_ckv"][1:] != (content,) or sizes["append_kpe"][1:] != (rope,) or page != other:
            raise declined("its rows and caches have unlike axes")
        axis = (inputs["ckv_cache"].shape or ())[1]
        free = axis if definition.axes[axis] is None else None
        shape = Shape(
            num_qo_heads=1,
            num_kv_heads=1,
            head_dim=content + rope,
            head_dim_v=content,
            page_size=page,
            latent=True,
        )
        return PageAppend(definition=definition, shape=shape, dtype=dtypes[0], paired=False, free_page=free)
    cache = sizes["paged_kv_cache"][1:]
    paired = len(cache) == 3
    if not paired and cache[:1] != (2,):
        raise declined(
            "paged_kv_cache must have the axes of one cache, as a pair of them, or a second axis of 2"
        )
    page, heads, head_dim = cache if paired else cache[1:]
    if any(sizes[name][1:] != (heads, head_dim) for name in rows):
        raise declined("its rows and caches have unlike axes")
    shape = Shape(num_qo_heads=heads, num_kv_heads=heads, head_dim=head_dim, page_size=page)
    return PageAppend(definition=definition, shape=shape, dtype=dtypes[0], paired=paired)


def _sizes(definition: Definition, name: str) -> tuple[int, ...]:
    """Sizes of the axes of an input, 0 for the first one; the others must be constants.

    FlashInfer's definition of appending to a latent cache leaves the page size open.
    """
    shape = definition.inputs[name].shape or ()
    found = [0]
    for at, axis in enumerate(shape[1:], 1):
        size = definition.axes[axis]
        if size is None and (at > 1 or name not in CACHES[True]):
            raise Unsupported(f"definition {definition.name!r}: axis {axis} of {name} must be const")
        found.append(size or PAGE_SIZE)
    return tuple(found)
