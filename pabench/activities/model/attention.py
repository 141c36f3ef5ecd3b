# SPDX-License-Identifier: Apache-2.0
"""Attention of a packed batch, layer by layer: append to the pages, attend over them, judge.

Each layer is judged on what it was given, so that a fault does not make the layers behind it look wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pabench.activities.model.memory import PagedMemory
from pabench.device.base import Device
from pabench.judge.verdict import judge
from pabench.kernels.append import append_to_sequences
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import Array, decode, encode
from pabench.problem.layout import PageLayout
from pabench.problem.problem import Problem
from pabench.problem.tensors import SequenceRows, Tensors, lay_out
from pabench.subjects.backends.base import AttentionOutput, Backend, attend


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A sequence of a step.

    Attributes:
        slot: its place in the allocator.
        name: for people, such as ``prompt 0 answer 1``.
        tokens: the new ones.
        length: tokens with the new ones.
    """

    slot: int
    name: str
    tokens: tuple[int, ...]
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """The first output outside of its bound.

    Attributes:
        layer: where.
        name: whose.
        position: of the token in its sequence.
        text: what is wrong, in words.
    """

    layer: int
    name: str
    position: int
    text: str

    @property
    def said(self) -> str:
        """One line."""
        return f"layer {self.layer}, position {self.position} of {self.name}: {self.text}"


@dataclass(slots=True)
class Judgement:
    """What was found over all steps.

    Attributes:
        ratios: largest err/T of each layer.
        outputs: rows of attention that were judged.
        wrong: the first fault.
    """

    ratios: list[float]
    outputs: int = 0
    wrong: Wrong | None = None


@dataclass(slots=True, kw_only=True)
class PagedAttention:
    """Attention over the pages of ``memory``; ``begin`` names the sequences of a step, then call it by layer.

    Attributes:
        backend: attends.
        device: where the cache lies.
        memory: allocator and cache.
        problem: of each layer.
        judged: compare with the oracle.
        alive: called after each layer.
        judgement: what was found so far.
    """

    backend: Backend
    device: Device
    memory: PagedMemory
    problem: Problem
    judged: bool = True
    alive: Callable[[], None] = lambda: None
    judgement: Judgement = field(init=False)
    _members: tuple[Member, ...] = ()
    _case: Case = field(init=False)
    _table: Array = field(init=False)

    def __post_init__(self) -> None:
        self.judgement = Judgement([0.0] * len(self.memory.pools))

    def begin(self, members: tuple[Member, ...]) -> None:
        """Name the sequences whose tokens come next; the allocator has given them their pages."""
        self._members = members
        batch = Batch(
            kv_lens=tuple(member.length for member in members),
            q_lens=tuple(len(member.tokens) for member in members),
        )
        self._case = Case(problem=self.problem, batch=batch, placement="identity", poison="nan")
        rows = [member.slot for member in members]
        self._table = np.ascontiguousarray(self.memory.block_table()[rows])

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        """Attention of one layer; see ``pabench.activities.model.language.Attend``."""
        storage = self.problem.storage
        queries, keys, values = (encode(array, storage) for array in (q, k, v))
        batch, device = self._case.batch, self.device
        pool, lengths = self.memory.pools[layer], np.asarray(batch.kv_lens, np.int32)
        append_to_sequences(
            device,
            storage,
            pool=pool,
            keys=device.to_device(keys),
            values=device.to_device(values),
            block_table=device.to_device(self._table),
            kv_lens=device.to_device(lengths),
            qo_indptr=device.to_device(batch.qo_indptr),
            page_size=self.problem.page_size,
        )
        resident = getattr(self.backend, "takes_resident", False)
        tensors = Tensors(
            case=self._case,
            q=queries,
            pool=pool if resident else pool.with_storage(device.to_host(pool.storage)),
            layout=PageLayout(
                page_size=self.problem.page_size, num_pages=pool.num_pages, block_table=self._table
            ),
            kv_lens=lengths,
            qo_indptr=batch.qo_indptr,
        )
        output = attend(self.backend, tensors)
        if self.judged:
            self._judge(layer, tensors, output, keys, values)
        self.alive()
        out: Array = decode(output.out, storage).astype(np.float32)
        return out

    def _judge(
        self, layer: int, tensors: Tensors, output: AttentionOutput, keys: Array, values: Array
    ) -> None:
        """Compare with the oracle over what the sequences must hold, in pages of their own."""
        sequences, indptr = [], tensors.qo_indptr.tolist()
        for place, member in enumerate(self._members):
            new = slice(indptr[place], indptr[place + 1])
            rows = self.memory.contents.add(layer, member.slot, keys[new], values[new])
            sequences.append(SequenceRows(queries=tensors.q[new], keys=rows[0], values=rows[1]))
        meant = lay_out(self._case, sequences)
        missing = not self.backend.capabilities.lse
        verdict = judge(meant, output.out, output.lse, self.backend.profile, allow_missing_lse=missing)
        found = self.judgement
        found.outputs += len(tensors.q)
        found.ratios[layer] = max(found.ratios[layer], verdict.max_ratio)
        if verdict.passed or found.wrong is not None:
            return
        # once more over the pages as they are, which tells a wrong kernel from a wrong page, with real ids
        host = tensors.pool.with_storage(self.device.to_host(tensors.pool.storage))
        seen = Tensors(
            case=tensors.case,
            q=tensors.q,
            pool=host,
            layout=tensors.layout,
            kv_lens=tensors.kv_lens,
            qo_indptr=tensors.qo_indptr,
        )
        again = judge(seen, output.out, output.lse, self.backend.profile, allow_missing_lse=missing)
        text = f"its pages do not hold its tokens: {verdict.text}" if again.passed else again.text
        row = verdict.row or 0
        place = self._case.batch.sequence_of_row(row)
        member = self._members[place]
        position = member.length - len(member.tokens) + row - indptr[place]
        found.wrong = Wrong(layer=layer, name=member.name, position=position, text=text)
