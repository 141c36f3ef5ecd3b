# SPDX-License-Identifier: Apache-2.0
"""transformers: the attention functions of its continuous batching, ``sdpa_paged`` and ``eager_paged``.

Conventions: the keys and values that a batch reads are gathered by ``PagedAttentionCache.update``, which
first writes those of the new tokens (here the bits that are there); all sequences are one row of queries over
one row of keys, told apart by an additive mask of the smallest finite number, which ``build_attention_mask``
makes and aligns at the bottom right; a window ends at the row's own position, and one of 1 stands for none; a
block holds at least 4 tokens; scale is an argument; neither function returns a log-sum-exp.

``update`` and the mask are the package's own; see ``transformers_caches.py`` for the two forms of its cache.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from pabench.device.base import Device
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import first_visible_key
from pabench.subjects.backends.adapters.transformers_caches import PagedPlan, cache_of
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_place import torch_place
from pabench.subjects.backends.torch_tensors import TORCH_DTYPES, to_numpy, upload
from pabench.subjects.backends.validate import check_attention
from pabench.subjects.peers.transformers import EAGER, SDPA, TRANSFORMERS, UTILS

SMALLEST_BLOCK = 4


class TransformersPagedBackend:
    """``sdpa_attention_paged_forward``."""

    name = "transformers-paged"
    features = frozenset({"window"})
    place: tuple[str, ...] = (SDPA, "sdpa_attention_forward", "sdpa_attention_paged_forward")
    # torch's fused kernels round the softmax weights to the storage type; the other function does so itself
    profile = NumericsProfile(p_dtype="storage", partial_dtype="float32", kv_dtype=None)

    def __init__(self, device: Device) -> None:
        """Import the functions alone and choose where the tensors live.

        Raises:
            Unsupported: transformers is absent, too old, or fails to import.
            EnvironmentRefused: the device is ``cuda`` and this torch has no CUDA.
        """
        modules = TRANSFORMERS.load()
        module, *names = self.place
        self._attend = next(
            getattr(modules[module], name) for name in names if hasattr(modules[module], name)
        )
        self._build_mask = modules[UTILS].build_attention_mask
        self._where = torch_place(self.name, device)
        self.on_host = self._where.type == "cpu"
        self._cache = cache_of(modules, self._where)
        self.mode = "native" if self._where.type == "cuda" else "cpu"
        self.capabilities = Capabilities(
            dtypes=frozenset(TORCH_DTYPES),
            operations=frozenset({"decode", "speculative", "prefill"}),
            features=self.features,
            lse=False,
            rule=_rule,
        )

    def plan(self, tensors: Tensors) -> PagedPlan:
        """Lay the cache out, find the slots to read and write, and let the package build its mask.

        Raises:
            InvalidCase: the arrays do not agree with the case, or the table names pages outside the pool.
            Unsupported: the case is outside the declared capabilities.
        """
        check_attention(self.name, self.capabilities, tensors)
        problem = tensors.case.problem
        read, write, counts = _slots(tensors)
        cache = self._cache.made(tensors)
        rows = [self._cache.rows(cache, torch.from_numpy(slots).to(self._where)) for slots in (read, write)]
        new = (stored.transpose(0, 1)[None] for stored in self._cache.stored(cache, rows[1]))
        module = SimpleNamespace(layer_idx=0, num_key_value_groups=problem.group_size)
        if problem.sinks is not None:
            module.sinks = torch.tensor(problem.sinks, device=self._where)
        return PagedPlan(
            module=module,
            query=upload(tensors.q, problem.dtype, self._where).transpose(0, 1)[None],
            new=dict(zip(("key", "value"), new, strict=True)),
            rest={"attention_mask": self._mask(tensors, counts), "scaling": problem.scale},
            cache=cache,
            read=rows[0],
            write=rows[1],
            shape=tensors.q.shape,
            found=[],
        )

    def run(self, plan: PagedPlan) -> None:
        """Write the new tokens, gather, attend."""
        plan.found[:] = [self._cache.attend(self._attend, plan)]

    def fetch(self, plan: PagedPlan) -> AttentionOutput:
        """Return the output; there is no LSE."""
        return AttentionOutput(out=to_numpy(plan.found[0].reshape(plan.shape)), lse=None)

    def _mask(self, tensors: Tensors, counts: list[int]) -> torch.Tensor:
        """Mask ``(1, 1, rows, keys)`` in the type of the queries."""
        problem = tensors.case.problem
        dtype = TORCH_DTYPES[problem.dtype]
        shape = (1, 1, tensors.q.shape[0], sum(counts))
        mask = torch.full(shape, torch.finfo(dtype).min, dtype=dtype, device=self._where)
        keys = [0, *np.cumsum(counts).tolist()]
        self._build_mask(mask, tensors.qo_indptr.tolist(), keys, problem.window or 1)
        return mask


class TransformersPagedEagerBackend(TransformersPagedBackend):
    """``eager_paged_attention_forward``, which has sinks too."""

    name = "transformers-paged-eager"
    features = frozenset({"window", "sinks"})
    place = (EAGER, "eager_paged_attention_forward")


def _slots(tensors: Tensors) -> tuple[Array, Array, list[int]]:
    """Return the slots to read, those of the new tokens, and the keys read of each sequence.

    As in the package, a sequence with a window reads no key before the first that a row of it sees.
    """
    case, page_size = tensors.case, tensors.layout.page_size
    read, write, counts = [], [], []
    for i, (q_len, kv_len) in enumerate(zip(case.batch.query_lens, case.batch.kv_lens, strict=True)):
        pages = tensors.layout.pages(i, kv_len).astype(np.int64)
        slots = (pages[:, None] * page_size + np.arange(page_size)).ravel()[:kv_len]
        first = first_visible_key(case.problem, q_len, kv_len) if q_len else kv_len
        read.append(slots[first:])
        write.append(slots[kv_len - min(q_len, kv_len) :])
        counts.append(kv_len - first)
    return np.concatenate(read), np.concatenate(write), counts


def _rule(case: Case) -> str | None:
    if case.problem.page_size < SMALLEST_BLOCK:
        return f"a block holds at least {SMALLEST_BLOCK} tokens"
    if case.problem.window == 1:
        return "a window of 1 stands for none"
    return None
