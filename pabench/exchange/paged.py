# SPDX-License-Identifier: Apache-2.0
"""Paged attention as a Definition states it: which of its inputs are queries, caches and tables.

Taken are ``gqa`` and ``mla``, decode and prefill, told by the names of the inputs: ``q, k_cache, v_cache``
or ``q_nope, q_pe, ckv_cache, kpe_cache``; ``qo_indptr`` for prefill; ``sm_scale``; as a CSR table
``kv_indptr, kv_indices, kv_last_page_len``, or in its place ``sparse_indices``, the slots that each row sees,
-1 for none.  A cache of e4m3 has a scale a tensor: ``k_scale, v_scale``, or ``ckv_scale, kpe_scale``.
The LSE is in base 2.  Prefill is causal, aligned at the bottom right, unless the definition's name says
``noncausal``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.exchange.definition import Definition
from pabench.exchange.lists import layout_of_lists, slots_of_lists, spread_list
from pabench.exchange.random_inputs import random_inputs
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.checks import finite_number
from pabench.problem.dtypes import DTYPES, E4M3, Array, DType
from pabench.problem.layout import CsrTable, PageLayout, layout_from_csr
from pabench.problem.masks.sets import NONE as NOTHING
from pabench.problem.masks.sets import TOKENS
from pabench.problem.pool import pool_shape
from pabench.problem.problem import Problem
from pabench.problem.recorded import RECORDED, Recording
from pabench.problem.shape import Shape
from pabench.problem.tensors import Tensors, build_tensors

GQA = ("q", "k_cache", "v_cache")
MLA = ("q_nope", "q_pe", "ckv_cache", "kpe_cache")
TABLE = ("kv_indptr", "kv_indices")
LIST = "sparse_indices"
LAST, ROWS, SCALE = "kv_last_page_len", "qo_indptr", "sm_scale"
GQA_SCALES, MLA_SCALES = ("k_scale", "v_scale"), ("ckv_scale", "kpe_scale")
"""Of a cache of e4m3, what its numbers are multiplied by."""
OUTPUT, LSE, ASKS_LSE = "output", "lse", "return_lse"
CACHE = "_cache"
"""How the names of caches end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedAttention:
    """A definition of paged attention.

    Attributes:
        definition: as read.
        shape: its constants.
        dtype: storage type of queries and output, and of the cache where that has no other.
        kv_dtype: ``e4m3`` for a cache of that, else None.
        prefill: sequences have any number of query rows.
        listed: entries of a row of ``sparse_indices``; None where rows see the keys of their sequence.
        whole_pages: nothing says how full the last pages are, so they are full.
    """

    definition: Definition
    shape: Shape
    dtype: str
    prefill: bool
    kv_dtype: str | None = None
    listed: int | None = None
    whole_pages: bool = False

    @property
    def lse(self) -> bool:
        """Whether the log-sum-exp is an output."""
        return LSE in self.definition.outputs

    @property
    def caches(self) -> tuple[str, ...]:
        """Names of the caches."""
        return MLA[2:] if self.shape.latent else GQA[1:]

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the scales that the cache has."""
        named = MLA_SCALES if self.shape.latent else GQA_SCALES
        return tuple(name for name in named if name in self.definition.inputs)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the inputs that say where tokens lie."""
        return tuple(name for name in (*TABLE, LAST, ROWS, LIST) if name in self.definition.inputs)

    def stored(self, name: str) -> DType:
        """Return the storage type of queries or a cache."""
        return E4M3 if self.kv_dtype and name.endswith(CACHE) else DTYPES[self.dtype]

    def arguments(self, tensors: Tensors) -> dict[str, Any]:
        """Return the inputs by name, in the order of the definition: arrays in storage form, and numbers.

        One that the definition calls optional and that means nothing here is None.
        """
        problem, pool = tensors.case.problem, tensors.pool
        given: dict[str, Any] = {ROWS: tensors.qo_indptr, SCALE: problem.scale, ASKS_LSE: self.lse}
        if self.listed is None:
            table = tensors.layout.to_csr(tensors.case.batch.kv_lens)
            given |= dict(
                zip((*TABLE, LAST), (table.indptr, table.indices, table.last_page_len), strict=True)
            )
        else:
            given[LIST] = slots_of_lists(tensors, self.listed)
        kinds = "kk" if problem.latent else "kv"
        named = MLA_SCALES if problem.latent else GQA_SCALES
        given |= {name: problem.kv_scales(kind)[0] for name, kind in zip(named, kinds, strict=True)}
        if problem.latent:
            content = problem.value_dim
            rows = pool.k[:, :, 0]
            given |= {"q_nope": tensors.q[..., :content], "q_pe": tensors.q[..., content:]}
            given |= {"ckv_cache": rows[..., :content], "kpe_cache": rows[..., content:]}
        else:
            given |= {"q": tensors.q, "k_cache": pool.k, "v_cache": pool.v}
        found = {name: given.get(name) for name in self.definition.inputs}
        return {
            name: np.ascontiguousarray(one) if isinstance(one, np.ndarray) else one
            for name, one in found.items()
        }

    def outputs(self, rows: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and storage type of the outputs for so many query rows, in their order."""
        heads, size = self.shape.num_qo_heads, self.shape.head_dim_v or self.shape.head_dim
        found = {OUTPUT: ((rows, heads, size), self.dtype), LSE: ((rows, heads), "float32")}
        return {name: found[name] for name in self.definition.outputs}

    def problem(self, sm_scale: float | None = None, scales: tuple[float, ...] = ()) -> Problem:
        """Return the problem of a call with this scale, and these of the cache."""
        shape = self.shape
        k_scale, v_scale = ((scale,) for scale in scales) if scales else (None, None)
        plain = Problem(
            num_qo_heads=shape.num_qo_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            page_size=shape.page_size,
            dtype=self.dtype,
            sm_scale=sm_scale,
            kv_dtype=self.kv_dtype,
            k_scale=k_scale,
            v_scale=None if shape.latent else v_scale,
        )
        return shape.of(plain)

    def own_calls(self) -> list[tuple[Case, dict[str, int]]]:
        """Return cases for a definition without workloads, with the sizes of their variable axes.

        Lengths lie at the edges of pages, are long, and 0.
        """
        page = self.shape.page_size
        lengths: tuple[tuple[int, ...], ...] = (
            *((1,), (max(1, page - 1), page, page + 1), (3 * page, 0, 2 * page + 1)),
            *((257, 64, 1, 500), (1025,), tuple(range(1, 34))),
        )
        found = []
        for seed, drawn in enumerate(lengths):
            kv_lens = tuple(-(-length // page) * page for length in drawn) if self.whole_pages else drawn
            q_lens = tuple(min(length, 1 + 7 * (at % 3)) for at, length in enumerate(kv_lens))
            lists = tuple(spread_list(length, self.listed or 0) for length in kv_lens)
            found.append(
                Case(
                    problem=self.problem(
                        scales=(0.5, 0.5 if self.shape.latent else 2.0) if self.scales else ()
                    ),
                    batch=Batch(kv_lens=kv_lens, q_lens=q_lens if self.prefill else None),
                    family="normal",
                    poison="nan",
                    seed=seed,
                    masks=((TOKENS, lists),) if self.listed is not None else (),
                )
            )
        return [(case, self.axes(build_tensors(case))) for case in found]

    def drawn(
        self, given: Mapping[str, Any], random: Sequence[str], axes: Mapping[str, int], seed: int
    ) -> tuple[Case, Recording]:
        """Return the case of a call of which some inputs are random.

        Args:
            given: the other inputs, None for an optional one that is not given.
            random: names of those that are to be drawn.
            axes: sizes of the variable axes.
            seed: of the draw.

        Raises:
            InvalidCase: as ``recorded``.
        """
        found = dict(given)
        if random:
            found |= random_inputs(self, given, random, axes, np.random.default_rng(seed))
        return self.recorded(found)

    def axes(self, tensors: Tensors) -> dict[str, int]:
        """Return the sizes of the variable axes of a call."""
        arguments = self.arguments(tensors)
        shapes = {name: one.shape for name, one in arguments.items() if isinstance(one, np.ndarray)}
        return self.definition.sizes(shapes)

    def why_not(self, case: Case) -> str | None:
        """Return why the definition has no words for a case, or None."""
        problem = case.problem
        if SCALE not in self.definition.inputs and problem.sm_scale is not None:
            return f"no input {SCALE}"
        for kind in "kv" if self.kv_dtype else "":
            scales = problem.kv_scales(kind)
            if len(set(scales)) > 1:
                return "scales per head: a definition has one for the whole cache"
            if not self.scales and scales[0] != 1.0:
                return f"no inputs {' and '.join(MLA_SCALES if problem.latent else GQA_SCALES)}"
        if self.whole_pages and any(length % problem.page_size for length in case.batch.kv_lens):
            return f"pages that are not full: no input {LAST}"
        lists = dict(case.masks).get(TOKENS, ())
        if self.listed is not None and any(len(one) > self.listed for one in lists):
            return f"lists of more than {self.listed} tokens"
        return None

    def recorded(self, given: Mapping[str, Any]) -> tuple[Case, Recording]:
        """Return inputs in storage form as a case, with the recording that it names.

        Raises:
            InvalidCase: an input is missing, or does not fit the definition or the others.
        """
        for name, spec in self.definition.inputs.items():
            needed = not spec.optional or name in (*self.tables, *(MLA if self.shape.latent else GQA))
            if given.get(name) is None and needed:
                raise InvalidCase(f"{self.definition.name}: {name}", None, "is missing")
        given = {name: one for name, one in given.items() if one is not None}
        shapes = {name: np.shape(given[name]) for name in given if self.definition.inputs[name].shape}
        self.definition.sizes(shapes)
        latent = self.shape.latent
        queries = [given[name] for name in (MLA[:2] if latent else GQA[:1])]
        caches = [given[name] for name in self.caches]
        for name in MLA if latent else GQA:
            if (dtype := given[name].dtype) != (stored := self.stored(name).storage):
                raise InvalidCase(f"{self.definition.name}: {name}", str(dtype), f"must be {stored}")
        q, num_pages = np.concatenate(queries, axis=-1), len(caches[0])
        layout, kv_lens, masks = self._layout(given, num_pages)
        q_lens = self._q_lens(given, len(q), len(kv_lens))
        problem = self.problem(float(given[SCALE]) if SCALE in given else None, self._scales_of(given))
        shape = pool_shape(problem, num_pages, kv_layout="NHD", interleaved=False)
        storage = np.concatenate(caches, axis=-1) if latent else np.stack(caches)
        recording = Recording(
            q=q, storage=storage.reshape(shape), block_table=layout.block_table, num_pages=num_pages
        )
        batch = Batch(kv_lens=kv_lens, q_lens=q_lens)
        return (
            Case(problem=problem, batch=batch, family=RECORDED, inputs=recording.id, masks=masks),
            recording,
        )

    def live_slots(self, given: Mapping[str, Any], num_pages: int) -> Array:
        """Return which slots a sequence has a token in, bool ``(num_pages, page_size)``."""
        size = self.shape.page_size
        live = np.zeros((num_pages, size), dtype=bool)
        layout, kv_lens, _ = self._layout(given, num_pages)
        for sequence, kv_len in enumerate(kv_lens):
            at = np.arange(kv_len)
            live[layout.pages(sequence, kv_len)[at // size], at % size] = True
        return live

    def used(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Return caches of the pages in use alone, with the table that names them so, and how many these are.

        Pages keep their order; caches that are not among ``given`` are left out.
        """
        size = 1 if self.listed is None else self.shape.page_size
        name = TABLE[1] if self.listed is None else LIST
        named = np.asarray(given[name])
        live = named != NOTHING if self.listed is not None else np.ones(named.shape, bool)
        pages, places = np.unique(named[live] // size, return_inverse=True)
        found = np.full(named.shape, NOTHING, np.int32)
        found[live] = places.reshape(-1) * size + named[live] % size
        caches = {cache: given[cache][pages] for cache in self.caches if given.get(cache) is not None}
        return {**caches, name: found}, len(pages)

    def _layout(
        self, given: Mapping[str, Any], num_pages: int
    ) -> tuple[PageLayout, tuple[int, ...], tuple[tuple[str, Any], ...]]:
        """Block table, lengths and masks that a CSR table or a list means."""
        if self.listed is not None:
            where = f"{self.definition.name}: {LIST}"
            return layout_of_lists(where, given[LIST], self.shape.page_size, num_pages)
        if LAST in self.definition.inputs:
            last = np.asarray(given[LAST])
        else:
            last = np.asarray(np.diff(given[TABLE[0]]) > 0, dtype=np.int32) * self.shape.page_size
        table = CsrTable(indptr=given[TABLE[0]], indices=given[TABLE[1]], last_page_len=last)
        layout, kv_lens = layout_from_csr(table, page_size=self.shape.page_size, num_pages=num_pages)
        return layout, kv_lens, ()

    def _scales_of(self, given: Mapping[str, Any]) -> tuple[float, ...]:
        if not self.kv_dtype:
            return ()
        named = MLA_SCALES if self.shape.latent else GQA_SCALES
        found = tuple(
            finite_number(f"{self.definition.name}: {name}", float(given.get(name, 1.0))) for name in named
        )
        if self.shape.latent and found[0] != found[1]:
            rule = f"must be {MLA_SCALES[0]}, {found[0]:g}: taken are caches with one scale"
            raise InvalidCase(f"{self.definition.name}: {MLA_SCALES[1]}", found[1], rule)
        return found

    def _q_lens(self, given: Mapping[str, Any], rows: int, num_seqs: int) -> tuple[int, ...]:
        if not self.prefill or self.listed is not None:
            if rows != num_seqs:
                rule = f"must have a row for each of the {num_seqs} sequences"
                raise InvalidCase(f"{self.definition.name}: rows of queries", rows, rule)
            return (1,) * rows
        starts = np.asarray(given[ROWS]).astype(np.int64)
        lens = np.diff(starts)
        if starts[0] != 0 or (lens < 0).any() or starts[-1] != rows or lens.size != num_seqs:
            rule = f"must rise from 0 to {rows}, the rows of queries, over {num_seqs} sequences"
            raise InvalidCase(f"{self.definition.name}: {ROWS}", starts.tolist(), rule)
        return tuple(lens.tolist())
