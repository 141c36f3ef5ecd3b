# SPDX-License-Identifier: Apache-2.0
"""Backends that are wrong about themselves or give back what is not theirs; named by place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pabench.problem import Tensors
from pabench.problem.dtypes import FLOAT16, decode, encode
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.base import AttentionOutput
from tests.support.isolation_backends import Babbles, Exits, Forks, Loops, Segfaults
from tests.support.stub_backends import (
    ChangesCache,
    ChangesQueries,
    Good,
    Nan,
    NoLse,
    NoOutput,
    Raises,
    ReturnsNothing,
    ReturnsTuple,
    Undecided,
    WrongShape,
    WrongType,
)

__all__ = [
    "Babbles",
    "ChangesCache",
    "ChangesQueries",
    "Exits",
    "Forks",
    "Good",
    "Loops",
    "Nan",
    "NoLse",
    "NoOutput",
    "Raises",
    "ReturnsNothing",
    "ReturnsTuple",
    "Segfaults",
    "Undecided",
    "WrongShape",
    "WrongType",
]


class ReturnsView(Good):
    """The output is written over the queries, in memory that the caller gave."""

    def fetch(self, plan: Any) -> Any:
        output: AttentionOutput = super().fetch(plan)
        view = plan.tensors.q[...]
        return replace(output, out=view)


class ChangesTable(Good):
    def fetch(self, plan: Any) -> Any:
        output = super().fetch(plan)
        plan.tensors.layout.block_table[0, -1] += 1
        return output


class ReadsPastTheTable(Good):
    """Prefetches one table entry too many; what it reads is not used."""

    def run(self, plan: Any) -> None:
        table = plan.tensors.layout.block_table
        past = np.lib.stride_tricks.as_strided(table.reshape(-1), (table.size + 1,), (table.itemsize,))
        self.seen = int(past[-1])
        super().run(plan)


class WritesPastTheOutput(Good):
    """One element more than the output has."""

    def run(self, plan: Any) -> None:
        super().run(plan)
        out = plan.plan.out
        past = np.lib.stride_tricks.as_strided(out.reshape(-1), (out.size + 1,), (out.itemsize,))
        past[-1] = 1.0


class EatsMemory(Good):
    """Asks for more than any machine has."""

    def run(self, plan: Any) -> None:
        self.workspace = np.ones(2**50, np.uint8)


class KeepsItsAnswer(Good):
    """Declares that a plan may run again after its arrays changed, and gives the first answer for ever."""

    capabilities = replace(Good.capabilities, operations=frozenset({"decode", "replay"}))
    kept: tuple[Any, Any] = (None, None)

    def fetch(self, plan: Any) -> Any:
        if self.kept[0] is not plan:
            self.kept = (plan, super().fetch(plan))
        return self.kept[1]


class AcceptsAnything(Good):
    """Checks nothing: corrupt problems are computed as if they were good ones."""

    def plan(self, tensors: Tensors) -> Any:
        try:
            return super().plan(tensors)
        except Exception:
            return None

    def run(self, plan: Any) -> None:
        if plan is not None:
            super().run(plan)

    def fetch(self, plan: Any) -> Any:
        if plan is None:
            return AttentionOutput(out=np.zeros((1, 1, 16), np.float32), lse=np.zeros((1, 1), np.float32))
        return super().fetch(plan)


class SharesWorkspace(Good):
    """All plans write to one output: the last one made."""

    def plan(self, tensors: Tensors) -> Any:
        self.latest = super().plan(tensors)
        return self.latest

    def run(self, plan: Any) -> None:
        super().run(self.latest)


class ClaimsFloat32Weights(Good):
    """Declares float32 softmax weights, and rounds them to 16 bits as tensor cores do."""

    profile = NumericsProfile(p_dtype="float32")

    def fetch(self, plan: Any) -> Any:
        output: AttentionOutput = super().fetch(plan)
        tensors = plan.tensors
        problem, out = tensors.case.problem, output.out.copy()
        for row, kv_len in enumerate(tensors.case.batch.kv_lens):
            if kv_len == 0:
                continue
            pages = tensors.layout.pages(row, kv_len)
            keys, values = (_dense(tensors, view, pages, kv_len) for view in (tensors.pool.k, tensors.pool.v))
            for head in range(problem.num_qo_heads):
                kv = head // problem.group_size
                logits = keys[:, kv] @ tensors.q[row, head].astype(np.float64) * problem.scale
                weights = np.exp(logits - logits.max())
                rounded = decode(encode(weights, FLOAT16), FLOAT16)
                out[row, head] = rounded @ values[:, kv] / weights.sum()
        return replace(output, out=out)


class ClaimsSinks(Good):
    """Declares sinks, and leaves them out."""

    capabilities = replace(Good.capabilities, features=frozenset({"sinks"}))

    def plan(self, tensors: Tensors) -> Any:
        case = tensors.case
        plain = replace(case, problem=replace(case.problem, sinks=None))
        return super().plan(replace(tensors, case=plain))


def _dense(tensors: Tensors, view: Any, pages: Any, kv_len: int) -> Any:
    found = view[pages]
    if tensors.pool.kv_layout == "HND":
        found = found.transpose(0, 2, 1, 3)
    return found.reshape(-1, *found.shape[2:])[:kv_len].astype(np.float64)
