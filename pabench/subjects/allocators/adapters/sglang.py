# SPDX-License-Identifier: Apache-2.0
"""SGLang: its token-to-KV allocators, on the host with the routines it has for platforms without Triton.

As in SGLang, that of tokens at page size 1, that of pages at any other.  Ids start at 1, since slot 0 takes
padded writes; freed pages go to the front of the free list, freed tokens to its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pabench.errors import OutOfPages
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.adapters.caller import CallerAllocator, CuttingAllocator
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.results import Granted
from pabench.subjects.peers.package import ThirdPartyPackage
from pabench.subjects.peers.stubs import functions_of

PAGED = "sglang.srt.mem_cache.allocator.paged"
TOKEN = "sglang.srt.mem_cache.allocator.token"


def _replaced(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    import typing

    import torch

    given = {"torch": torch, "Optional": typing.Optional, "__name__": "sglang.srt.utils.common"}
    common = folder / "sglang" / "srt" / "utils" / "common.py"
    names = ("get_num_new_pages", "next_power_of_2")
    utils = functions_of(common, names, given)
    platform = SimpleNamespace(capabilities=SimpleNamespace(supports_triton=False))
    return {
        "sglang.kernels.ops.memory.allocator": {"alloc_decode_kernel": None, "alloc_extend_kernel": None},
        "sglang.srt.platforms": {"current_platform": platform},
        "sglang.srt.utils": {
            **utils,
            "get_bool_env_var": lambda name, default="false": False,
            "is_hip": lambda: False,
        },
    }


PEER = ThirdPartyPackage(
    package="sglang",
    version="0.5.23",
    modules=(PAGED, TOKEN),
    bare=(
        *("sglang", "sglang.kernels", "sglang.kernels.ops", "sglang.kernels.ops.memory"),
        *("sglang.srt", "sglang.srt.mem_cache"),
    ),
    replaced=_replaced,
)


class SglangPool(CallerAllocator):
    """SGLang's allocators: ``alloc_extend`` (of tokens ``alloc``) for all growth, ``free`` of token slots."""

    def start(self) -> None:
        """See ``CallerAllocator``."""
        shape = self.shape
        import torch

        self._torch = torch
        modules, slots, rest = (
            PEER.load(),
            shape.num_pages * shape.page_size,
            (torch.float16, "cpu", None, False),
        )
        if shape.page_size == 1:
            self._pool = modules[TOKEN].TokenToKVPoolAllocator(slots, *rest)
        else:
            self._pool = modules[PAGED].PagedTokenToKVPoolAllocator(slots, shape.page_size, *rest)

    @property
    def free_pages(self) -> int:
        """See ``PageAllocator``."""
        return int(self._pool.available_size()) // self.shape.page_size

    def append_batch(self, sequences: Sequence[int] | Array, tokens: int | Sequence[int] | Array) -> Granted:
        """See ``PageAllocator``: one call of ``alloc_extend``."""
        requests = self.check_batch(sequences, tokens, self._lengths)
        size, available = self.shape.page_size, self.free_pages
        growing = {sequence: count for sequence, count in requests.items() if count}
        if not growing:
            return Granted(new_slots=np.empty(0, np.int64))
        got = self.asked(lambda: self._extend(growing), "the batch")
        if got is None:
            ends = {s: int(self._lengths[s]) for s in growing}
            needed = sum(
                pages_needed(ends[s] + n, size) - pages_needed(ends[s], size) for s, n in growing.items()
            )
            raise OutOfPages(needed, available)
        at = 0
        for sequence, count in growing.items():
            self._note(sequence, got[at : at + count])
            at += count
        return Granted(new_slots=got)

    def take(self, sequence: int, pages: int, length: int) -> list[int] | None:
        """See ``CallerAllocator``."""
        held = max(int(self._lengths[sequence]), 0)
        got = self._extend({sequence: length - held})
        if got is None:
            return None
        new = got[-held % self.shape.page_size :] if held % self.shape.page_size else got
        return [int(slot) // self.shape.page_size for slot in new[:: self.shape.page_size]]

    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """See ``CallerAllocator``; all slots of all pages in one call."""
        size = self.shape.page_size
        slots = [page * size + offset for row in rows for page in row for offset in range(size)]
        self._pool.free(self._torch.tensor(slots, dtype=self._torch.int64))

    def _extend(self, requests: Mapping[int, int]) -> Array | None:
        """Grow by the counts; the slots of the new tokens, request by request, or None."""
        torch, size = self._torch, self.shape.page_size
        if size == 1:
            got = self._pool.alloc(sum(requests.values()))
            return None if got is None else np.asarray(got.numpy(), np.int64)
        held = {sequence: max(int(self._lengths[sequence]), 0) for sequence in requests}
        last = [self._rows[s][-1] * size + (held[s] - 1) % size if held[s] else -1 for s in requests]
        before = torch.tensor([held[s] for s in requests], dtype=torch.int64)
        after = torch.tensor([held[s] + n for s, n in requests.items()], dtype=torch.int64)
        places = torch.tensor(last, dtype=torch.int64)
        got = self._pool.alloc_extend(before, before, after, after, places, sum(requests.values()))
        return None if got is None else np.asarray(got.numpy(), np.int64)

    def _note(self, sequence: int, slots: Array) -> None:
        size, held = self.shape.page_size, int(self._lengths[sequence])
        row = list(self._rows[sequence])
        for position, slot in enumerate(slots.tolist(), start=held):
            if position % size == 0:
                row.append(slot // size)
        self._rows[sequence], self._lengths[sequence] = row, held + len(slots)


class SglangPaged(SglangPool, CuttingAllocator):
    """The same, of whose sequences the end can be cut off."""

    name = "sglang-paged"
    capabilities = Capabilities(
        operations=frozenset({"alloc", "append", "append_batch", "truncate", "free", "reset"}),
        order="set",
        reserved_pages=frozenset({0}),
    )
