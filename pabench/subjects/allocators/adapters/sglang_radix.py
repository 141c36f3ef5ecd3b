# SPDX-License-Identifier: Apache-2.0
"""SGLang: its radix cache over its page allocator, as its scheduler drives the two.

Its tree evicts whole nodes, by when they were used last.  A prompt that is committed goes on with the pages
that the tree has for it, and its own are given back, as its ``checkpoint`` does.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.subjects.allocators.adapters import sglang
from pabench.subjects.allocators.adapters.sglang import PAGED, TOKEN, SglangPool
from pabench.subjects.allocators.capabilities import Capabilities
from pabench.subjects.allocators.results import Hit, Prompt
from pabench.subjects.peers.package import ThirdPartyPackage
from pabench.subjects.peers.stubs import functions_of

ROOM = "sglang.srt.mem_cache"
RADIX, BASE, PARAMS, EVICTION = (
    f"{ROOM}.{name}" for name in ("radix_cache", "base_prefix_cache", "cache_init_params", "evict_policy")
)


def _replaced(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """Beside what its allocators do not need: events, metrics and pools of requests."""
    import typing

    given = sglang.PEER.replaced(folder)
    utils = folder / "sglang" / "srt" / "mem_cache" / "utils.py"
    split = functions_of(utils, ("split_node_hash_value",), vars(typing))
    common = folder / "sglang" / "srt" / "utils" / "common.py"
    aligned = functions_of(common, ("ceil_align", "ceil_div"), {})

    def strategy(policy: str, config: object = None) -> object:
        return PEER.load()[EVICTION].LRUStrategy()

    nothing = SimpleNamespace(record_store=_ignore, record_remove=_ignore, record_all_cleared=_ignore)
    metrics = ("STAT_LOGGER_ROLE_RADIX_CACHE", "RadixCacheMetricsCollector")
    more = ("radix_cache_metric_labels", "resolve_collector_class")
    return {
        **given,
        f"{ROOM}.events": {
            "KVCacheEventRecorder": lambda **_: nothing,
            "LoRANameTable": dict,
            "KvEventLoraNames": dict,
        },
        f"{ROOM}.utils": {**split, "get_eviction_strategy": strategy},
        f"{ROOM}.memory_pool": {"ReqToTokenPool": None},
        "sglang.srt.utils.common": aligned,
        "sglang.srt.observability.metrics_collector": dict.fromkeys((*metrics, *more)),
        "sglang.srt.runtime_context": {"get_observability": None, "get_parallel": None},
    }


def _ignore(*_: object) -> None:
    """Nobody listens to events."""


PEER = ThirdPartyPackage(
    package="sglang",
    version="0.5.23",
    modules=(PAGED, TOKEN, RADIX, BASE, PARAMS, EVICTION),
    bare=(*sglang.PEER.bare, f"{ROOM}.unified_cache", "sglang.srt.observability"),
    replaced=_replaced,
)


class Known(NamedTuple):
    """What of a sequence the tree has: whole pages."""

    tokens: tuple[int, ...]
    adapter: str
    salt: str

    def upto(self, tokens: int) -> Known:
        """Return the beginning."""
        return self._replace(tokens=self.tokens[:tokens])


NOTHING = Known((), "", "")


class SglangRadixCache(SglangPool):
    """SGLang's tree of prefixes; a sequence is a request.

    Conventions: a request that has ended is refused, as is a hit that is not found again; as many pages are
    evicted as are missing, where its scheduler estimates; an adapter is its ``extra_key``.
    """

    name = "sglang-radix-cache"
    capabilities = Capabilities(
        operations=frozenset(
            {"alloc", "append", "append_batch", "free", "commit", "lookup", "adopt", "reset"}
        ),
        order="set",
        reserved_pages=frozenset({0}),
        hits="some",
        commits="shared",
    )

    def start(self) -> None:
        """See ``CallerAllocator``."""
        super().start()
        self._modules = PEER.load()
        params = self._modules[PARAMS].CacheInitParams(
            disable=False,
            req_to_token_pool=None,
            token_to_kv_pool_allocator=self._pool,
            page_size=self.shape.page_size,
        )
        self._tree = self._modules[RADIX].RadixCache(params)
        self._nodes: dict[int, Any] = {}  # locked for a sequence
        self._known: dict[int, Known] = {}

    @property
    def evictable_pages(self) -> int:
        """See ``PageAllocator``."""
        return int(self._tree.evictable_size()) // self.shape.page_size

    def commit(self, sequence: int, prompt: Prompt) -> None:
        """See ``PageAllocator``: ``insert``, and what a request does behind it."""
        sequence, size = self.live(sequence), self.shape.page_size
        whole_number("tokens of the prompt", len(prompt.tokens), low=0, high=int(self._lengths[sequence]))
        row, pages = self._rows[sequence], len(prompt.tokens) // size
        known, told = self._known.get(sequence, NOTHING), _known(prompt, pages * size)
        both = min(len(known.tokens), len(told.tokens))
        if both and known.upto(both) != told.upto(both):
            raise InvalidCase("prompt", prompt, "must be that of the pages committed before")
        if not pages:
            return
        insert = self._modules[BASE].InsertParams(key=self._key(prompt), value=self._slots(row[:pages]))
        node = self.asked(lambda: self._tree.insert(insert), "the prompt").last_device_node
        there = self._pages(node)
        super().give([sequence], [[mine for mine, cached in zip(row, there, strict=False) if mine != cached]])
        self._rows[sequence] = [*there, *row[pages:]]
        if len(told.tokens) > both:
            self._lock(sequence, node, told)

    def lookup(self, prompt: Prompt) -> Hit:
        """See ``PageAllocator``: ``match_prefix`` of all but the last token."""
        node = self._matched(prompt, max(0, len(prompt.tokens) - 1))
        return Hit(prompt=prompt, pages=tuple(self._pages(node)))

    def adopt(self, sequence: int, hit: Hit) -> None:
        """See ``PageAllocator``: the nodes of the hit are locked."""
        sequence, tokens = self.check_index(sequence), len(hit.pages) * self.shape.page_size
        if self._lengths[sequence] >= 0:
            raise InvalidCase("sequence", sequence, "must not be live")
        if tokens >= max(1, len(hit.prompt.tokens)) or hit.part:
            raise InvalidCase("hit", hit.pages, "must leave the last token of its prompt")
        node = self._matched(hit.prompt, tokens)
        if tuple(self._pages(node)) != hit.pages:
            raise InvalidCase("hit", hit.pages, "must be cached still; look it up again")
        self.check_length(sequence, tokens)
        self._rows[sequence], self._lengths[sequence] = list(hit.pages), tokens
        if tokens:
            self._lock(sequence, node, _known(hit.prompt, tokens))

    def free(self, sequences: Sequence[int]) -> None:
        """See ``PageAllocator``."""
        named = [self.live(sequence) for sequence in sequences]
        if len({*named}) < len(named):
            raise InvalidCase("sequences", named, "must not be named twice")
        super().free(named)

    def give(self, sequences: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
        """See ``CallerAllocator``: what the tree has stays in it."""
        own = []
        for sequence, row in zip(sequences, rows, strict=True):
            known = self._known.pop(sequence, NOTHING)
            own.append(row[len(known.tokens) // self.shape.page_size :])
            if sequence in self._nodes:
                self._tree.dec_lock_ref(self._nodes.pop(sequence))
        super().give(sequences, own)

    # --- parts ----------------------------------------------------------------------------------------

    def _extend(self, requests: Mapping[int, int]) -> Array | None:
        """See ``SglangPool``: what is missing is evicted first."""
        size, lengths = self.shape.page_size, {s: max(int(self._lengths[s]), 0) for s in requests}
        if min(requests.values()) < 0:
            # what the pool makes of it is judged without the tree
            raise InvalidCase("tokens", min(requests.values()), "must be at least 0")
        held = sum(pages_needed(length, size) for length in lengths.values())
        missing = (
            sum(pages_needed(lengths[s] + n, size) for s, n in requests.items()) - held - self.free_pages
        )
        if missing > self.evictable_pages:
            return None
        if missing > 0:
            self._tree.evict(self._modules[BASE].EvictParams(num_tokens=missing * size))
        return super()._extend(requests)

    def _key(self, prompt: Prompt, tokens: int | None = None) -> Any:
        return self._modules[RADIX].RadixKey(
            array("q", prompt.tokens[:tokens]), prompt.adapter or None, cache_salt=prompt.salt or None
        )

    def _matched(self, prompt: Prompt, tokens: int) -> Any:
        """The node that ends the longest cached beginning of the first ``tokens``."""
        asked = self._modules[BASE].MatchPrefixParams(key=self._key(prompt, tokens))
        return self.asked(lambda: self._tree.match_prefix(asked), "the prompt").last_device_node

    def _pages(self, node: Any) -> list[int]:
        slots = self._tree.path_device_indices(node)[:: self.shape.page_size]
        return [int(slot) // self.shape.page_size for slot in slots]

    def _slots(self, pages: Sequence[int]) -> Any:
        slots = [page * self.shape.page_size + at for page in pages for at in range(self.shape.page_size)]
        return self._torch.tensor(slots, dtype=self._torch.int64)

    def _lock(self, sequence: int, node: Any, known: Known) -> None:
        self._tree.inc_lock_ref(node)
        if sequence in self._nodes:
            self._tree.dec_lock_ref(self._nodes[sequence])
        self._nodes[sequence], self._known[sequence] = node, known


def _known(prompt: Prompt, tokens: int) -> Known:
    return Known(prompt.tokens[:tokens], prompt.adapter, prompt.salt)
