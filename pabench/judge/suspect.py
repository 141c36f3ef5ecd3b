# SPDX-License-Identifier: Apache-2.0
"""One wrong row, and the tools to recompute it as a fault would."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

import numpy as np

from pabench.judge.bound import U32, Rounding, logit_error, raw_error
from pabench.judge.cached import row_numbers, to_float64
from pabench.judge.reference import Truth
from pabench.judge.semantics import final_error, final_logits
from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import visible_range

BRACKETS, NUMBERS = re.compile(r"\s*\([^()]*\)"), re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """An explanation that fits a wrong row; see ``Fault`` for its fields."""

    name: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What one fault would have given: the output row, the slack of its rounding, and the LSE.

    Attributes:
        words: what is wrong, with the numbers of this row.
        name: the same without them, to be found again in another case.
    """

    words: str
    out: Array
    slack: Array
    lse: float
    name: str

    @property
    def cause(self) -> Cause:
        """What is said of it when it fits."""
        return Cause(name=self.name, words=self.words)


def name_of(words: str) -> str:
    """Return ``words`` without what stands in brackets and without numbers."""
    return NUMBERS.sub("#", BRACKETS.sub("", words))


@dataclass(slots=True, kw_only=True, eq=False)
class Suspect:
    """One wrong row of one query head, with everything needed to recompute it.

    Attributes:
        start: first key the row sees, above 0 only with a window.
        seen: one past the last key it sees.
        query_index: place of the row among the rows of its sequence.
        got_out: ``(head_dim,)`` float64.
        got_lse: the LSE found, or None when the kernel has none.
        output_wrong: False when only the LSE is wrong.
        wrong: which rows and heads are wrong, ``(rows, num_qo_heads)``: what is right speaks against some
            explanations.
        lse_unit: what the kernel's LSEs are multiplied by to be natural logarithms, as ``got_lse`` is.
        keys_seen: ``(kv_len,)``, which keys the row sees; None when it sees all from ``start`` to ``seen``.
    """

    tensors: Tensors
    reference: Truth
    rounding: Rounding
    row: int
    sequence: int
    head: int
    start: int
    seen: int
    query_index: int
    got_out: Array
    got_lse: float | None
    output_wrong: bool
    wrong: Array
    page_size: int = field(init=False)
    kv_len: int = field(init=False)
    pages: list[int] = field(init=False)
    query: Array = field(init=False)
    keys: Array = field(init=False)
    values: Array = field(init=False)
    keys_seen: Array | None = None
    lse_unit: float = 1.0

    def __post_init__(self) -> None:
        problem = self.tensors.case.problem
        self.page_size = problem.page_size
        self.kv_len = int(self.tensors.kv_lens[self.sequence])
        self.pages = self.tensors.layout.pages(self.sequence, self.kv_len).tolist()
        stored = to_float64(self.tensors.q[self.row, self.head], problem.q_storage)
        self.query = stored * self.scale("q")
        self.keys, self.values = self.rows(self.pages, self.start, self.seen, self.kv_head)
        if self.keys_seen is not None:
            kept = self.keys_seen[self.start : self.seen]
            self.keys, self.values = self.keys[kept], self.values[kept]

    def of_row(self, row: int, head: int) -> Suspect | None:
        """Return the same of another row and head of the batch; None where that row sees no key."""
        indptr, problem = self.tensors.qo_indptr, self.tensors.case.problem
        sequence = int(np.searchsorted(indptr, row, side="right")) - 1
        q_len = int(indptr[sequence + 1] - indptr[sequence])
        index = row - int(indptr[sequence])
        first, last = visible_range(problem, q_len, int(self.tensors.kv_lens[sequence]))
        start, seen = int(first[index]), int(last[index])
        if start >= seen:
            return None
        return replace(self, row=row, sequence=sequence, head=head, start=start, seen=seen, query_index=index)

    @property
    def places(self) -> Array:
        """The keys that the row sees, int64."""
        every = np.arange(self.start, self.seen)
        return every if self.keys_seen is None else every[self.keys_seen[self.start : self.seen]]

    @property
    def q_len(self) -> int:
        """Query rows of the sequence."""
        return int(self.tensors.qo_indptr[self.sequence + 1] - self.tensors.qo_indptr[self.sequence])

    @property
    def kv_head(self) -> int:
        """The KV head that this query head must read."""
        return self.head // self.tensors.case.problem.group_size

    def scale(self, kind: str, kv_head: int | None = None) -> float:
        """Return the scale of queries (``q``), keys (``k``) or values (``v``) of a KV head."""
        head = self.kv_head if kv_head is None else kv_head
        return self.tensors.case.scales_of(kind, self.sequence)[head]

    def rows(self, pages: list[int], start: int, stop: int, kv_head: int) -> tuple[Array, Array]:
        """Return keys and values ``(stop - start, head_dim)`` read through ``pages``, which exist."""
        at = np.arange(start, stop)
        of_logical = np.asarray(pages, dtype=np.int64)
        return self.slots(of_logical[at // self.page_size], at % self.page_size, kv_head)

    @property
    def position(self) -> int:
        """Place of the query row among the keys."""
        return self.kv_len - self.q_len + self.query_index

    def slots(self, pages: Array, offsets: Array, kv_head: int | None = None) -> tuple[Array, Array]:
        """Return keys and values ``(n, head_dim)``, scaled, of slots given by physical page and offset."""
        problem, pool = self.tensors.case.problem, self.tensors.pool
        head = self.kv_head if kv_head is None else kv_head
        found = []
        for kind, view in (("k", pool.k), ("v", pool.v)):
            place = (pages, offsets, head) if pool.kv_layout == "NHD" else (pages, head, offsets)
            numbers = row_numbers(problem, view[place], kind)
            found.append(numbers * self.scale(kind, head) if problem.kv_dtype else numbers)
        return found[0], found[1]

    def tokens(self, at: Array) -> tuple[Array, Array]:
        """Return keys and values of the tokens ``at``, in that order; one may be there twice."""
        low, high = int(at.min(initial=0)), int(at.max(initial=-1)) + 1
        keys, values = self.rows(self.pages, low, high, self.kv_head)
        return keys[at - low], values[at - low]

    def logits(
        self,
        keys: Array,
        *,
        start: int | None = None,
        problem: Problem | None = None,
        at: Array | None = None,
    ) -> Array:
        """Return the logits of ``keys``, which stand ``at`` these positions, or at ``start`` and after.

        Where neither is said they stand where the row's own keys do.
        """
        problem = problem or self.tensors.case.problem
        return final_logits(problem, self.raw(keys, problem), self._bias(keys, start, problem, at))

    def raw(self, keys: Array, problem: Problem | None = None) -> Array:
        """Return the scaled products of the query with ``keys``, before cap and bias."""
        problem = problem or self.tensors.case.problem
        products: Array = keys @ self.query * problem.scale
        return products

    def _bias(
        self, keys: Array, start: int | None, problem: Problem, at: Array | None = None
    ) -> Array | None:
        if problem.alibi_slopes is None:
            return None
        if at is None and start is None and self.keys_seen is not None:
            at = self.places
        elif at is None:
            first = self.start if start is None else start
            at = np.arange(first, first + len(keys))
        return problem.alibi_slopes[self.head] * (at - self.position)

    def softmax(self, logits: Array, problem: Problem | None = None) -> tuple[Array, float, float]:
        """Return weights, natural-log LSE and maximum, with the sink of the row's head."""
        problem = problem or self.tensors.case.problem
        sink = -math.inf if problem.sinks is None else problem.sinks[self.head]
        top = max(float(logits.max()), sink)
        weights = np.exp(logits - top)
        total = float(weights.sum()) + math.exp(sink - top)
        return weights / total, top + math.log(total), top

    def weights(self) -> Array:
        """Return the softmax weights of the keys the row sees."""
        weights, _, _ = self.softmax(self.logits(self.keys))
        return weights

    def weighted(
        self,
        words: str,
        keys: Array,
        values: Array,
        *,
        start: int | None = None,
        problem: Problem | None = None,
        factor: Array | None = None,
        lse_shift: float = 0.0,
        at: Array | None = None,
        name: str | None = None,
    ) -> Fault:
        """Return the fault that gives softmax over ``keys``, each weight multiplied by ``factor``.

        Args:
            words: what the fault is called.
            keys: ``(n, head_dim)``, the first at position ``start`` (the row's own first key).
            values: like ``keys``.
            start: position of the first key.
            problem: the problem that the fault solves, when it is not the one asked.
            factor: ``(n,)``.
            lse_shift: added to the LSE.
            at: positions of the keys, where they do not follow one another.
            name: see ``Fault``; by default that of ``words``.
        """
        problem = problem or self.tensors.case.problem
        logits = self.logits(keys, start=start, problem=problem, at=at)
        weights, lse, top = self.softmax(logits, problem)
        if factor is not None:
            weights = weights * factor
        r = self.rounding
        raw = self.raw(keys, problem)
        sizes = np.abs(keys) @ np.abs(self.query) * abs(problem.scale)
        underflow = np.abs(self.query).sum()
        error = raw_error(sizes, underflow, r, head_dim=self.query.size)
        error = final_error(problem, raw, self._bias(keys, start, problem, at), error, r)
        error = logit_error(logits, np.array(top), error)
        out = weights @ values
        chain = r.chain(logits.size, 8) * 2.0 * U32
        relative = np.expm1(np.minimum(error, 100.0)) + r.u_p + r.u_t + r.u_k + r.u_s + chain
        slack = np.abs(weights) * relative @ (np.abs(values) + np.abs(out)) + r.u_o * np.abs(out)
        slack += r.eta_p * np.abs(values).sum(0) + r.eta_o + r.eta_t
        if problem.sinks is not None:
            slack += U32 * (8.0 + 4.0 * abs(problem.sinks[self.head])) * np.abs(out)
        return Fault(words=words, out=out, slack=slack, lse=lse + lse_shift, name=name or name_of(words))

    def fits_lse(self, fault: Fault) -> bool:
        """Whether the fault gives the LSE found, which alone is wrong, and an output that is right."""
        right, bound = (
            float(found[self.row, self.head]) for found in (self.reference.lse, self.reference.lse_bound)
        )
        if self.got_lse is None or not math.isfinite(self.got_lse) or not math.isfinite(fault.lse):
            return False
        slack = bound + 1e-6 * abs(fault.lse)
        near = abs(self.got_lse - fault.lse) <= slack < 0.5 * abs(self.got_lse - right)
        room = fault.slack + self.reference.out_bound[self.row, self.head]
        return near and bool((np.abs(self.got_out - fault.out) <= room).all())

    def fits(self, fault: Fault, *, with_lse: bool = True) -> bool:
        """Whether the row found is what ``fault`` gives, within rounding.

        Huge numbers among what the fault would read leave it so much slack that it fits anything; an
        explanation must be nearer to some number of the row found than the truth is.
        """
        with np.errstate(invalid="ignore"):
            distance = np.abs(self.got_out - self.reference.out[self.row, self.head])
            if not bool((fault.slack < 0.5 * distance).any()):
                return False
            if not bool((np.abs(self.got_out - fault.out) <= fault.slack).all()):
                return False
            if self.got_lse is None or not with_lse:
                return True
            if math.isinf(fault.lse):
                return self.got_lse == fault.lse
            slack = float(self.reference.lse_bound[self.row, self.head]) + 1e-6 * abs(fault.lse)
            return bool(abs(self.got_lse - fault.lse) <= slack)
