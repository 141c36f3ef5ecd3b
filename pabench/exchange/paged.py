"""Paged attention as a Definition states it: which of its inputs are queries, caches and tables.

Taken are ``gqa`` and ``mla``, decode and prefill, told by the names of the inputs: ``q, k_cache, v_cache``
or ``q_nope, q_pe, ckv_cache, kpe_cache``; ``qo_indptr`` for prefill; ``sm_scale``; and as a CSR table
``kv_indptr, kv_indices, kv_last_page_len``.  The LSE is in base 2.  Prefill is causal, aligned at the bottom
right, unless the definition's name says ``noncausal``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, Unsupported
from pabench.exchange.definition import Definition
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import DTYPES, Array
from pabench.problem.layout import CsrTable, layout_from_csr
from pabench.problem.pool import pool_shape
from pabench.problem.problem import Problem
from pabench.problem.recorded import RECORDED, Recording
from pabench.problem.shape import Shape
from pabench.problem.tensors import Tensors

GQA = ("q", "k_cache", "v_cache")
MLA = ("q_nope", "q_pe", "ckv_cache", "kpe_cache")
TABLE = ("kv_indptr", "kv_indices")
LAST, ROWS, SCALE = "kv_last_page_len", "qo_indptr", "sm_scale"
OUTPUT, LSE = "output", "lse"


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedAttention:
    """A definition of paged attention.

    Attributes:
        definition: as read.
        shape: its constants.
        dtype: storage type of queries, cache and output.
        prefill: sequences have any number of query rows.
    """

    definition: Definition
    shape: Shape
    dtype: str
    prefill: bool

    @property
    def lse(self) -> bool:
        """Whether the log-sum-exp is an output."""
        return LSE in self.definition.outputs

    def arguments(self, tensors: Tensors) -> dict[str, Any]:
        """Return the inputs by name, in the order of the definition: arrays in storage form, and a float."""
        problem, pool = tensors.case.problem, tensors.pool
        table = tensors.layout.to_csr(tensors.case.batch.kv_lens)
        given: dict[str, Any] = {
            "kv_indptr": table.indptr,
            "kv_indices": table.indices,
            LAST: table.last_page_len,
            ROWS: tensors.qo_indptr,
            SCALE: problem.scale,
        }
        if problem.latent:
            content = problem.value_dim
            rows = pool.k[:, :, 0]
            given |= {"q_nope": tensors.q[..., :content], "q_pe": tensors.q[..., content:]}
            given |= {"ckv_cache": rows[..., :content], "kpe_cache": rows[..., content:]}
        else:
            given |= {"q": tensors.q, "k_cache": pool.k, "v_cache": pool.v}
        return {
            name: given[name] if name == SCALE else np.ascontiguousarray(given[name])
            for name in self.definition.inputs
        }

    def outputs(self, rows: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and storage type of the outputs for so many query rows, in their order."""
        heads, size = self.shape.num_qo_heads, self.shape.head_dim_v or self.shape.head_dim
        found = {OUTPUT: ((rows, heads, size), self.dtype), LSE: ((rows, heads), "float32")}
        return {name: found[name] for name in self.definition.outputs}

    def problem(self, sm_scale: float | None = None) -> Problem:
        """Return the problem of a call with this scale."""
        shape = self.shape
        plain = Problem(
            num_qo_heads=shape.num_qo_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            page_size=shape.page_size,
            dtype=self.dtype,
            sm_scale=sm_scale,
        )
        return shape.of(plain)

    def axes(self, tensors: Tensors) -> dict[str, int]:
        """Return the sizes of the variable axes of a call."""
        arguments = self.arguments(tensors)
        shapes = {name: array.shape for name, array in arguments.items() if name != SCALE}
        return self.definition.sizes(shapes)

    def recorded(self, given: Mapping[str, Any]) -> tuple[Case, Recording]:
        """Return inputs in storage form as a case, with the recording that it names.

        Raises:
            InvalidCase: an input is missing, or does not fit the definition or the others.
        """
        for name in self.definition.inputs:
            if name not in given:
                raise InvalidCase(f"{self.definition.name}: {name}", None, "is missing")
        shapes = {name: np.shape(given[name]) for name in self.definition.inputs if name != SCALE}
        self.definition.sizes(shapes)
        latent, page_size = self.shape.latent, self.shape.page_size
        queries = [given[name] for name in (MLA[:2] if latent else GQA[:1])]
        caches = [given[name] for name in (MLA[2:] if latent else GQA[1:])]
        stored = DTYPES[self.dtype].storage
        for name in MLA if latent else GQA:
            if (dtype := given[name].dtype) != stored:
                raise InvalidCase(f"{self.definition.name}: {name}", str(dtype), f"must be {stored}")
        q, num_pages = np.concatenate(queries, axis=-1), len(caches[0])
        table = CsrTable(
            indptr=given["kv_indptr"], indices=given["kv_indices"], last_page_len=self.last_page_lens(given)
        )
        layout, kv_lens = layout_from_csr(table, page_size=page_size, num_pages=num_pages)
        q_lens = self._q_lens(given, len(q), len(kv_lens))
        problem = self.problem(float(given[SCALE]) if SCALE in given else None)
        shape = pool_shape(problem, num_pages, kv_layout="NHD", interleaved=False)
        storage = np.concatenate(caches, axis=-1) if latent else np.stack(caches)
        recording = Recording(
            q=q, storage=storage.reshape(shape), block_table=layout.block_table, num_pages=num_pages
        )
        batch = Batch(kv_lens=kv_lens, q_lens=q_lens)
        return Case(problem=problem, batch=batch, family=RECORDED, inputs=recording.id), recording

    def last_page_lens(self, given: Mapping[str, Any]) -> Array:
        """Return how full the last pages are; with pages of one token they are full where there are any."""
        if LAST in self.definition.inputs:
            return np.asarray(given[LAST])
        return np.asarray(np.diff(given["kv_indptr"]) > 0, dtype=np.int32)

    def _q_lens(self, given: Mapping[str, Any], rows: int, num_seqs: int) -> tuple[int, ...]:
        if not self.prefill:
            if rows != num_seqs:
                rule = f"must have a row for each of the {num_seqs} sequences of kv_indptr"
                raise InvalidCase(f"{self.definition.name}: rows of queries", rows, rule)
            return (1,) * rows
        starts = np.asarray(given[ROWS]).astype(np.int64)
        lens = np.diff(starts)
        if starts[0] != 0 or (lens < 0).any() or starts[-1] != rows or lens.size != num_seqs:
            rule = f"must rise from 0 to {rows}, the rows of queries, over {num_seqs} sequences"
            raise InvalidCase(f"{self.definition.name}: {ROWS}", starts.tolist(), rule)
        return tuple(lens.tolist())


def used_pages(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs whose caches hold the pages that the table names, and no others, renumbered in order."""
    pages, places = np.unique(np.asarray(given["kv_indices"]), return_inverse=True)
    caches = {name: given[name][pages] for name in given if name.endswith("_cache")}
    return {**given, **caches, "kv_indices": places.reshape(-1).astype(np.int32)}


def paged_attention(definition: Definition) -> PagedAttention:
    """Return what a definition of paged attention states.

    Raises:
        Unsupported: it is of something else, or of attention that is not taken; the message says which
            input or axis.
    """
    inputs, outputs = definition.inputs, definition.outputs

    def declined(why: str) -> Unsupported:
        return Unsupported(f"definition {definition.name!r}: {why}")

    latent = set(MLA) <= set(inputs)
    arrays = MLA if latent else GQA
    if not {*arrays, *TABLE} <= set(inputs):
        raise declined(f"{definition.op_type} is no paged attention")
    known = sorted({*arrays, *TABLE, LAST, ROWS, SCALE})
    if unknown := [name for name in inputs if name not in known]:
        raise declined(f"input {unknown[0]!r} is none of {', '.join(known)}")
    if OUTPUT not in outputs or set(outputs) - {OUTPUT, LSE}:
        raise declined(f"outputs {', '.join(outputs)}: must be {OUTPUT}, or {OUTPUT} and {LSE}")
    if SCALE in inputs and inputs[SCALE].shape:
        raise declined(f"{SCALE} must be a scalar")
    if latent and SCALE not in inputs:
        raise declined(f"no {SCALE}, which does not follow from a latent cache")
    dtypes = sorted({inputs[name].dtype for name in arrays} | {outputs[OUTPUT].dtype})
    if len(dtypes) > 1 or dtypes[0] not in DTYPES:
        rule = f"must be one of {', '.join(DTYPES)} for all"
        raise declined(f"queries, cache and output of {', '.join(dtypes)}: {rule}")
    shape = _latent_shape(definition) if latent else _shape(definition)
    if shape.page_size > 1 and LAST not in inputs:
        raise declined(f"pages of {shape.page_size} tokens and no {LAST}, which says how full the last is")
    causal = re.search(r"non.?causal", definition.name) is None
    prefill = ROWS in inputs
    return PagedAttention(
        definition=definition,
        shape=shape if causal or not prefill else replace(shape, causal=False),
        dtype=dtypes[0],
        prefill=prefill,
    )


def _constants(definition: Definition, name: str, axes: int) -> tuple[int, ...]:
    """Sizes of the axes of an input behind the first one, which must be constants."""
    shape = definition.inputs[name].shape or ()
    if len(shape) != axes:
        raise Unsupported(f"definition {definition.name!r}: {name} has axes {list(shape)}, taken are {axes}")
    found = []
    for axis in shape[1:]:
        size = definition.axes[axis]
        if size is None:
            raise Unsupported(f"definition {definition.name!r}: axis {axis} of {name} must be const")
        found.append(size)
    return tuple(found)


def _shape(definition: Definition) -> Shape:
    heads, head_dim = _constants(definition, "q", 3)
    page_size, kv_heads, key_dim = _constants(definition, "k_cache", 4)
    values = _constants(definition, "v_cache", 4)
    if key_dim != head_dim or values[:2] != (page_size, kv_heads):
        raise Unsupported(f"definition {definition.name!r}: q, k_cache and v_cache have unlike axes")
    head_dim_v = None if values[2] == head_dim else values[2]
    return Shape(
        num_qo_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        page_size=page_size,
        head_dim_v=head_dim_v,
    )


def _latent_shape(definition: Definition) -> Shape:
    heads, content = _constants(definition, "q_nope", 3)
    rope_heads, rope = _constants(definition, "q_pe", 3)
    page_size, width = _constants(definition, "ckv_cache", 3)
    if (rope_heads, width) != (heads, content) or _constants(definition, "kpe_cache", 3) != (page_size, rope):
        raise Unsupported(f"definition {definition.name!r}: its queries and caches have unlike axes")
    return Shape(
        num_qo_heads=heads,
        num_kv_heads=1,
        head_dim=content + rope,
        page_size=page_size,
        head_dim_v=content,
        latent=True,
    )
