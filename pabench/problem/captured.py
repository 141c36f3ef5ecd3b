# SPDX-License-Identifier: Apache-2.0
"""Queries, keys and values that a real model made, as an input family: ``captured``.

Random tensors have no outliers and no attention sinks.  A case of this family names a capture by its content;
where captures come from is not this module's business: whoever reads files adds a source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.dtypes import Array, DType, decode, dtype_by_name
from pabench.problem.problem import Problem

CAPTURED = "captured"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capture:
    """Attention inputs of whole sequences, from some layers of a model.

    Attributes:
        name: of the model.
        layers: ``(num_layers,)``, which layers they are.
        q: ``(num_layers, num_tokens, num_qo_heads, head_dim)``, in storage form of ``dtype``.
        k: ``(num_layers, num_tokens, num_kv_heads, head_dim)``, rotary embedding applied as to ``q``.
        v: like ``k``.
        indptr: ``(num_sequences + 1,)``: sequence i has tokens ``indptr[i]:indptr[i+1]``.
        dtype: name of the storage type.
        sm_scale: softmax scale of the model.
        prompt_hash: SHA-256 of the prompts, in hex.

    Raises:
        InvalidCase: shapes, types or numbers that do not fit one another.
    """

    name: str
    layers: tuple[int, ...]
    q: Array
    k: Array
    v: Array
    indptr: tuple[int, ...]
    dtype: str
    sm_scale: float
    prompt_hash: str

    def __post_init__(self) -> None:
        storage = dtype_by_name(self.dtype).storage
        for field in ("q", "k", "v"):
            array = getattr(self, field)
            if array.dtype != storage or array.ndim != 4 or not array.size:
                given = f"{array.dtype}{list(array.shape)}"
                raise InvalidCase(field, given, f"must have 4 axes, none empty, stored as {storage}")
        tokens = self.indptr[-1] if self.indptr else 0
        if len(self.indptr) < 2 or self.indptr[0] != 0 or list(self.indptr) != sorted(set(self.indptr)):
            raise InvalidCase("indptr", self.indptr, "must rise from 0 over at least one sequence")
        wanted = (len(self.layers), tokens)
        if self.q.shape[:2] != wanted or self.k.shape[:2] != wanted or self.v.shape != self.k.shape:
            shapes = (self.q.shape, self.k.shape, self.v.shape)
            raise InvalidCase("q, k and v", shapes, f"must begin with {wanted}, layers and tokens, v like k")
        if self.q.shape[3] != self.k.shape[3]:
            raise InvalidCase("head_dim", self.q.shape[3], f"must be that of k, {self.k.shape[3]}")
        self.problem(page_size=1, dtype=self.dtype)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the contents."""
        digest = hashlib.sha256(repr((self.layers, self.indptr, self.dtype, self.sm_scale)).encode())
        for array in (self.q, self.k, self.v):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence."""
        return tuple(np.diff(self.indptr).tolist())

    def problem(self, *, page_size: int, dtype: str) -> Problem:
        """Return the attention that the capture was made for; raises ``InvalidCase``."""
        return Problem(
            num_qo_heads=self.q.shape[2],
            num_kv_heads=self.k.shape[2],
            head_dim=self.k.shape[3],
            page_size=page_size,
            dtype=dtype,
            sm_scale=self.sm_scale,
        )

    def fits(self, problem: Problem) -> bool:
        """Whether a problem has the heads of the capture."""
        heads = (problem.num_qo_heads, problem.num_kv_heads, problem.head_dim)
        alike = problem.value_dim == problem.head_dim and not problem.latent
        return alike and heads == (*self.q.shape[2:3], *self.k.shape[2:])

    def draw(self, kv_len: int, q_len: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Return float64 queries, keys and values of the first ``kv_len`` tokens of some sequence and layer.

        Queries are those of the last ``q_len`` of these tokens; rows that stand before the first token, and
        so see nothing, have the first token's.

        Raises:
            InvalidCase: no sequence is as long.
        """
        enough = [place for place, length in enumerate(self.lengths) if length >= kv_len]
        if not enough:
            raise InvalidCase("kv_len", kv_len, f"the longest captured sequence has {self.longest} tokens")
        first = self.indptr[enough[int(rng.integers(len(enough)))]]
        layer = int(rng.integers(len(self.layers)))
        rows = first + np.maximum(np.arange(kv_len - q_len, kv_len), 0)
        storage: DType = dtype_by_name(self.dtype)
        keys, values = (array[layer, first : first + kv_len] for array in (self.k, self.v))
        return decode(self.q[layer, rows], storage), decode(keys, storage), decode(values, storage)


Source = Callable[[], Iterable[Capture]]
_sources: list[Source] = []


def add_source(source: Source) -> None:
    """Let ``captured`` find what ``source`` gives; it is asked when a case names a capture."""
    if source not in _sources:
        _sources.append(source)


def captured(name: str) -> Capture:
    """Return the capture with an id; raises ``InvalidCase`` when no file that is read has it."""
    for source in _sources:
        for capture in source():
            if capture.id == name:
                return capture
    raise InvalidCase(
        "inputs", name, "no file of captured activations with this content is read", hint="--inputs FILE"
    )
