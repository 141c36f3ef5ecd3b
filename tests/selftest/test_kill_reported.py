# SPDX-License-Identifier: Apache-2.0
"""Faults of public reports die in profile quick, and the smallest case found still says what they are."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.runner import CheckRunner
from pabench.checks.subject_facts import Judged
from pabench.checks.suite import question_by_id
from pabench.device.emulated import EmulatedDevice
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors
from tests.support import planted_numpy as planted
from tests.support.numpy_backend import NumpyBackend, Row


class WindowOffByOne(NumpyBackend):
    def span(self, row: Row) -> tuple[int, int]:
        first, last = super().span(row)
        return (first if row.problem.window is None else first - 1), last


class WindowByTile(NumpyBackend):
    """A window begins where a tile of 32 keys does."""

    def span(self, row: Row) -> tuple[int, int]:
        first, last = super().span(row)
        return max(0, first) // 32 * 32, last


class SinkOfHead0(NumpyBackend):
    def sinks(self, row: Row) -> list[float]:
        return super().sinks(row) and [row.problem.sinks[0]]  # type: ignore[index]


class NoScale(NumpyBackend):
    def scale(self, row: Row) -> float:
        return 1.0


class LastKeysTwice(NumpyBackend):
    """Splits of 256 keys that overlap by one."""

    def keys(self, row: Row) -> Array:
        at = super().keys(row)
        return np.sort(np.concatenate([at, at[(at % 256 == 255) & (at < row.kv_len - 1)]]))


class TopLeft(NumpyBackend):
    def span(self, row: Row) -> tuple[int, int]:
        first, last = super().span(row)
        return first, (min(row.index + 1, row.kv_len) if row.problem.causal and row.q_len > 1 else last)


class OneSequenceOf33(NumpyBackend):
    """A warp looks for its sequence among 32."""

    def one(self, row: Row) -> tuple[Array, float]:
        if row.sequence >= 32:
            row = Row(
                tensors=row.tensors,
                sequence=31,
                row=row.row,
                index=0,
                q_len=row.q_len,
                kv_len=int(row.tensors.kv_lens[31]),
                head=row.head,
            )
        return super().one(row)


class WideTables(NumpyBackend):
    """Sums go by the width of the table, which is another order of the same terms."""

    def attend(self, tensors: Tensors) -> tuple[Array, Array]:
        out, lse = super().attend(tensors)
        wide = tensors.layout.block_table.shape[1] > 60
        return (out * (1.0 + 2.0**-22), lse) if wide else (out, lse)


FAULTS: dict[str, tuple[type[NumpyBackend], str, str]] = {
    "group-24": (planted.TileOfHeads, "decode[groups]", r"that of the first head of its tile of .*16"),
    "head-dim-72": (planted.WholeSteps, "decode[head-dims]", r"products without elements 64 to 71"),
    "head-dim-512": (planted.HalfOfAWideHead, "decode[wide-heads]", r"0 in dims 256 to (511|575)"),
    "pages-of-128": (planted.PagesOf128, "decode[large-pages]", r"last 16 slots of each page left out"),
    "tile-of-160": (planted.TileOf160, "decode[large-pages]", r"tiles of 160 keys taken from one page"),
    "int16": (planted.ShortPositions, "decode[far]", r"in 16 bits"),
    "rows-of-256": (planted.RowsOf256, "prefill[many-rows]", r"its index modulo 256"),
    "sink-twice": (planted.SinkTwice, "decode[long-windows]", r"its sink counted twice"),
    "empty-split": (planted.EmptySplit, "decode[long-windows]", r"split of keys before the window"),
    "no-window": (planted.NoWindowInDecode, "decode[window]", r"no window \("),
    "window-off-by-one": (WindowOffByOne, "decode[window]", r"one key before its window"),
    "window-by-tile": (WindowByTile, "decode[window]", r"its window rounded down to a tile of 32 keys"),
    "scale-of-head-0": (planted.ScaleOfHead0, "decode[fp8-kv]", r"of KV head 0 in place of \d"),
    "sink-of-head-0": (SinkOfHead0, "decode[sinks]", r"the sink of query head \d"),
    "no-scale": (NoScale, "decode[normal]", r"no softmax scale"),
    "keys-twice": (LastKeysTwice, "decode[long]", r"the last key of each split of 256 counted twice"),
    "top-left": (TopLeft, "prefill[causal]", r"a causal mask aligned at the top left"),
    "next-page": (planted.NextPage, "decode[needle]", r"the next table entry for each page but the last"),
    "soft-cap": (planted.TanhByExponentials, "decode[huge]", r"times the soft cap, where exp in a tanh"),
    "stale": (planted.StaleAccumulator, "decode[window]", r"what the query row before left"),
    "output-base": (planted.OutputBase, "decode[normal]", r"it was never written"),
    "sequence-33": (OneSequenceOf33, "decode[crowd]", r"the block table row of sequence 31|right output of"),
    "wide-tables": (WideTables, "table-tail", r"more columns"),
}
"""Fault, the question of profile quick that kills it, and what must be said."""


def asked(backend: NumpyBackend, question: str, seed: int) -> Any:
    judged = Judged(name="numpy", kind="backend", backend=backend, known=())
    runner = CheckRunner(device=EmulatedDevice(), case_budget=CASE_BUDGETS["quick"], seed=seed)
    return runner.ask(question_by_id(question), judged)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FAULTS))
def test_kill_reported_fault_dies_and_is_named(name: str) -> None:
    fault, question, words = FAULTS[name]
    record = asked(fault(), question, seed=0)
    assert record.outcome is not None, f"{name} lives in {question}"
    assert re.search(words, record.outcome.text), record.outcome.text
