# SPDX-License-Identifier: Apache-2.0
"""Solutions that append to a paged cache, and that merge attention states, as backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.exchange.merge import StateMerge
from pabench.exchange.page_append import PageAppend, append_tables, slot_tables
from pabench.problem.batch import Batch
from pabench.problem.dtypes import Array
from pabench.problem.layout import PageLayout
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.shape import Shape
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.solution_call import PROFILE, SolutionBackend, SolutionFunction


class AppendSolution(SolutionBackend):
    """Appending by calling a solution's entry point."""

    def __init__(self, name: str, meant: PageAppend, function: SolutionFunction, device: Device) -> None:
        super().__init__(name, function)
        self._meant = meant
        features = frozenset({"latent-cache"} if meant.shape.latent else ())
        self.capabilities = Capabilities(
            dtypes=frozenset({meant.dtype}),
            devices=frozenset({device.name}),
            operations=frozenset({"append", "append-paged"}),
            kv_layouts=frozenset({"NHD"}),
            interleaved=False,
            features=features,
            requires=features,
            lse=False,
            only=meant.shape,
            validates=False,
        )
        self.profile = PROFILE

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens to any slots, as those of one sequence that has all pages; see ``Backend``."""
        kept = slot_mapping >= 0
        size = pool.k.shape[1]
        table = slot_tables(slot_mapping[kept], pool.num_pages, size)
        return self._written(pool, keys[kept], values[kept], table)

    def append_paged(
        self,
        pool: KvPool,
        problem: Problem,
        keys: Array,
        values: Array,
        *,
        block_table: Array,
        kv_lens: Array,
        qo_indptr: Array,
    ) -> Array:
        """Write the last tokens of each sequence; see ``CacheBackend``."""
        layout = PageLayout(page_size=problem.page_size, num_pages=pool.num_pages, block_table=block_table)
        batch = Batch(kv_lens=tuple(kv_lens.tolist()), q_lens=tuple(np.diff(qo_indptr).tolist()))
        return self._written(pool, keys, values, append_tables(layout, batch))

    def _written(self, pool: KvPool, keys: Array, values: Array, table: Mapping[str, Array]) -> Array:
        meant = self._meant
        given = meant.arguments(pool, keys, values, table)
        dtypes = {name: meant.dtype for name in given if name not in meant.tables}
        call = self._function.prepared(given, dtypes, {})
        self._function.call(call)
        found = self._function.result(call)
        return meant.storage(pool, [found[name] for name in meant.caches])


class MergeSolution(SolutionBackend):
    """Merging by calling a solution's entry point; LSEs stay in base 2, as declared."""

    def __init__(self, name: str, meant: StateMerge, function: SolutionFunction, device: Device) -> None:
        super().__init__(name, function)
        self._meant = meant
        heads = meant.num_heads
        self.capabilities = Capabilities(
            dtypes=frozenset({meant.dtype}),
            devices=frozenset({device.name}),
            operations=frozenset({"merge"}),
            only=Shape(num_qo_heads=heads, num_kv_heads=heads, head_dim=meant.head_dim, page_size=1),
            num_states=meant.num_states,
            validates=False,
        )
        self.profile = replace(PROFILE, lse_base="2")

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """See ``CacheBackend``.

        Raises:
            Unsupported: the definition is of two states, and these are more or fewer.
        """
        meant = self._meant
        if meant.num_states not in (None, len(outs)):
            raise Unsupported(f"{self.name}: merges {meant.num_states} states, not {len(outs)}")
        out, lse = meant.outputs
        rows = outs.shape[1:]
        new = {} if out in meant.form else {out: (rows, meant.dtype), lse: (rows[:-1], "float32")}
        call = self._function.prepared(
            meant.arguments(outs, lses), {name: meant.dtype for name in meant.form[0::2]}, new
        )
        self._function.call(call)
        found = self._function.result(call)
        return AttentionOutput(out=found[out], lse=found[lse])
