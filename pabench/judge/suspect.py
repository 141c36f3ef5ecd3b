"""One wrong row, and the tools to recompute it as a fault would."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pabench.judge.bound import U32, Rounding, logit_error, raw_error
from pabench.judge.gather import gather_pages, to_float64
from pabench.judge.reference import Truth
from pabench.judge.semantics import final_error, final_logits
from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What one fault would have given: the output row, the slack of its rounding, and the LSE."""

    words: str
    out: Array
    slack: Array
    lse: float


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
    page_size: int = field(init=False)
    kv_len: int = field(init=False)
    pages: list[int] = field(init=False)
    query: Array = field(init=False)
    keys: Array = field(init=False)
    values: Array = field(init=False)

    def __post_init__(self) -> None:
        problem = self.tensors.case.problem
        self.page_size = problem.page_size
        self.kv_len = int(self.tensors.kv_lens[self.sequence])
        self.pages = self.tensors.layout.pages(self.sequence, self.kv_len).tolist()
        self.query = to_float64(self.tensors.q[self.row, self.head], problem.storage)
        self.keys, self.values = self.rows(self.pages, self.start, self.seen, self.kv_head)

    @property
    def kv_head(self) -> int:
        """The KV head that this query head must read."""
        return self.head // self.tensors.case.problem.group_size

    def rows(self, pages: list[int], start: int, stop: int, kv_head: int) -> tuple[Array, Array]:
        """Return keys and values ``(stop - start, head_dim)`` read through ``pages``."""
        found = [gather_pages(self.tensors, pages, kind, start, stop, head=kv_head) for kind in "kv"]
        return found[0], found[1]

    @property
    def position(self) -> int:
        """Place of the query row among the keys."""
        q_len = int(self.tensors.qo_indptr[self.sequence + 1] - self.tensors.qo_indptr[self.sequence])
        return self.kv_len - q_len + self.query_index

    def logits(self, keys: Array, *, start: int | None = None, problem: Problem | None = None) -> Array:
        """Return the logits of ``keys``, which stand at ``start`` and after (where the row's own do)."""
        problem = problem or self.tensors.case.problem
        raw = keys @ self.query * problem.scale
        return final_logits(problem, raw, self._bias(keys, start, problem))

    def _bias(self, keys: Array, start: int | None, problem: Problem) -> Array | None:
        if problem.alibi_slopes is None:
            return None
        first = self.start if start is None else start
        return problem.alibi_slopes[self.head] * (np.arange(first, first + len(keys)) - self.position)

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
        """
        problem = problem or self.tensors.case.problem
        logits = self.logits(keys, start=start, problem=problem)
        weights, lse, top = self.softmax(logits, problem)
        if factor is not None:
            weights = weights * factor
        r = self.rounding
        raw = keys @ self.query * problem.scale
        sizes = np.abs(keys) @ np.abs(self.query) * abs(problem.scale)
        underflow = np.abs(self.query).sum()
        error = raw_error(sizes, underflow, r, head_dim=self.query.size)
        error = final_error(problem, raw, self._bias(keys, start, problem), error, r)
        error = logit_error(logits, np.array(top), error)
        out = weights @ values
        chain = r.chain(logits.size, 8) * 2.0 * U32
        relative = np.expm1(np.minimum(error, 100.0)) + r.u_p + r.u_t + r.u_k + r.u_s + chain
        slack = np.abs(weights) * relative @ (np.abs(values) + np.abs(out)) + r.u_o * np.abs(out)
        slack += r.eta_p * np.abs(values).sum(0) + r.eta_o + r.eta_t
        if problem.sinks is not None:
            slack += U32 * (8.0 + 4.0 * abs(problem.sinks[self.head])) * np.abs(out)
        return Fault(words=words, out=out, slack=slack, lse=lse + lse_shift)

    def fits(self, fault: Fault, *, with_lse: bool = True) -> bool:
        """Whether the row found is what ``fault`` gives, within rounding.

        Huge numbers among what the fault would read leave it so much slack that it fits anything; an
        explanation must be nearer to the row found than the truth is.
        """
        with np.errstate(invalid="ignore"):
            distance = float(np.abs(self.got_out - self.reference.out[self.row, self.head]).max())
            if not float(fault.slack.max()) < 0.5 * distance:
                return False
            if not bool((np.abs(self.got_out - fault.out) <= fault.slack).all()):
                return False
            if self.got_lse is None or not with_lse:
                return True
            if math.isinf(fault.lse):
                return self.got_lse == fault.lse
            slack = float(self.reference.lse_bound[self.row, self.head]) + 1e-6 * abs(fault.lse)
            return bool(abs(self.got_lse - fault.lse) <= slack)
