# SPDX-License-Identifier: Apache-2.0
"""The protocol of an attention backend, and what it declares about itself.

A backend plans (uploads, converts, chooses a grid) and runs; the two are apart so that a benchmark can time
the second alone.  Results stay on the backend's device until ``fetch``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from pabench.device.base import Device
from pabench.errors import InvalidCase, UnknownName, Unsupported
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.features import all_features
from pabench.problem.placement import HUGE_POOL
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.shape import Shape
from pabench.problem.tensors import Tensors

OPTIONAL = {
    "append-e4m3": "append_e4m3",
    "append-stored": "append_stored",
    "append-paged": "append_paged",
    "copy-pages": "copy_pages",
    "gather": "gather",
    "merge": "merge_states",
    "merge-in-place": "merge_states_in_place",
}
"""Operation to the method that a backend must have when it declares it; see ``CacheBackend``."""
LAYERS = "layers"
"""Operation of a backend of which one plan serves all layers of a model; see ``LayeredBackend``."""
DUMMY_LENGTHS = "dummy-lengths"
"""Operation of a backend whose plans serve any lengths that the block table has room for, not only those up
to the planned ones: servers capture graphs of decode at dummy lengths."""
PADDED_ROWS = "padded-rows"
"""Operation of a backend that takes more query rows than ``qo_indptr`` ends with; what comes out for these
may be anything."""
ZEROED_ROWS = "zeroed-rows"
"""Operation of one that takes them and gives output 0 and LSE -inf there."""
HUGE_POOL_WRITES = "huge-pool-writes"
"""Operation of a backend whose appends and copies of pages take caches larger than memory: what they return
is then a copy of which only what is in use takes room, see ``sparse_copy``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do.  ``why_not`` turns it into a reason for a case it cannot.

    Attributes:
        dtypes: storage types it takes.
        devices: device names it runs on; empty for a backend that does not launch through a pabench device.
        operations: subset of ``decode``, ``speculative`` (up to 8 query tokens a sequence), ``prefill`` (any
            number), ``append``, ``replay`` (a plan stays right when its arrays on the device change in place,
            lengths up to those planned included, so that a captured graph can be replayed), ``LAYERS``,
            ``DUMMY_LENGTHS``, ``PADDED_ROWS``, ``ZEROED_ROWS``, ``HUGE_POOL_WRITES``, and those of
            ``OPTIONAL``.
        kv_layouts: subset of ``NHD``, ``HND``.
        interleaved: whether it takes strided views of K and V in one pool.
        lse: whether it returns the log-sum-exp.
        max_head_dim: largest head dimension.
        features: subset of ``pabench.problem.features.all_features()``: what it can beyond plain attention.
        requires: features that every case must have; empty for a backend that computes plain attention too.
        huge_pools: whether it reads the cache where it lies, and only what it needs of it, so that it can be
            given one larger than memory; one that converts or copies the cache must not say so.
        validates: whether it refuses corrupt problems by itself; False where a caller must see to it.
        merges_prefixes: whether it finds pages that sequences share and reads them once; results are then
            right as ever, but not those of private copies to the last bit.
        only: the one shape that it is compiled for; None where it takes others.
        num_states: how many states it merges at a time; None for any number.
        rule: any further condition on a case; returns the reason why not, or None.
    """

    dtypes: frozenset[str]
    devices: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset({"decode"})
    kv_layouts: frozenset[str] = frozenset({"NHD", "HND"})
    interleaved: bool = True
    lse: bool = True
    max_head_dim: int = 1024
    features: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    huge_pools: bool = False
    validates: bool = True
    merges_prefixes: bool = False
    only: Shape | None = None
    num_states: int | None = None
    rule: Callable[[Case], str | None] | None = None

    def __post_init__(self) -> None:
        for name in self.features:
            if name not in all_features():
                raise UnknownName("feature", str(name), all_features())
        for name in self.requires - self.features:
            raise InvalidCase("requires", name, "must be among the features that the backend declares")

    def why_not(self, case: Case) -> str | None:
        """Return why ``case`` is unsupported, or None when it is supported."""
        problem, batch = case.problem, case.batch
        operation = "decode" if batch.is_decode else "speculative" if batch.is_speculative else "prefill"
        if operation not in self.operations and not (
            operation == "speculative" and "prefill" in self.operations
        ):
            return f"no {operation}"
        if problem.dtype not in self.dtypes:
            return f"no dtype {problem.dtype}"
        if case.kv_layout not in self.kv_layouts:
            return f"no {case.kv_layout} layout"
        if case.interleaved and not self.interleaved:
            return "no strided views of K and V"
        if self.only is not None and (why := self.only.why_not(problem)):
            return why
        if problem.head_dim > self.max_head_dim:
            return f"head_dim {problem.head_dim} is above {self.max_head_dim}"
        if case.placement == HUGE_POOL and not self.huge_pools:
            return "no pools larger than memory"
        asked = case.features
        if missing := asked - self.features:
            return f"no {', no '.join(name for name in all_features() if name in missing)}"
        if lacking := sorted(self.requires - asked):
            return f"nothing without {', '.join(lacking)}"
        return self.rule(case) if self.rule else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionOutput:
    """Result on the host.

    Attributes:
        out: ``(num_query_tokens, num_qo_heads, head_dim_v)``, storage dtype of the case.
        lse: ``(num_query_tokens, num_qo_heads)`` float32, natural log, or None when not offered.
    """

    out: Array
    lse: Array | None


class Backend(Protocol):
    """Something that computes attention over a paged cache.

    Four attributes are optional.  ``attend_at_once(tensors)`` plans, runs and fetches: a backend in another
    process then answers in one trip.  ``captures`` is true when ``run`` queues all its work on CuPy's current
    stream and never waits: a sweep on a GPU then times it as a CUDA graph.  ``takes_resident`` is true when
    ``plan`` takes a cache that is an array of the device already, as ``Device.to_device`` does: gigabytes
    then need not be copied.  ``outputs(plan)`` returns the arrays that ``run`` writes and ``fetch`` reads, of
    CuPy or torch, none before the first ``run``: a sweep on a GPU then fills them with NaN before each
    sample, and sees what is not written.
    """

    name: str
    capabilities: Capabilities
    profile: NumericsProfile

    def plan(self, tensors: Tensors) -> Any:
        """Upload and convert ``tensors``, choose the launch; everything that is not the computation."""

    def run(self, plan: Any) -> None:
        """Compute; may be called again with the same plan."""

    def fetch(self, plan: Any) -> AttentionOutput:
        """Wait for ``run`` and return its result."""

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into the cache and return the new storage array, on the host.

        Args:
            pool: cache before; must stay as it is.
            dtype: name of the storage type.
            keys: ``(num_tokens, num_kv_heads, head_dim)``, storage dtype.
            values: like ``keys``.
            slot_mapping: ``(num_tokens,) int64``, slot of each token (page * page_size + offset), -1 to skip.
        """


class LayeredBackend(Backend, Protocol):
    """A backend that plans once for all layers of a model, and declares ``LAYERS``.

    A step of a server is ``prepare`` once and ``run_layer`` for each layer; ``run`` is both for one.
    """

    def layer(self, plan: Any, q: Array, pool: KvPool) -> Any:
        """Return the plan of another layer: its own queries, cache and output, the batch of ``plan``.

        Args:
            plan: of the first layer; block table, lengths and workspace are shared with it.
            q: like the first layer's.
            pool: like the first layer's: its pages lie where that one's do.
        """

    def prepare(self, plan: Any) -> None:
        """Do what depends on lengths and block table alone, for all layers; again when these have changed."""

    def run_layer(self, plan: Any) -> None:
        """Compute the layer of a plan, one layer after the other."""


class CacheBackend(Backend, Protocol):
    """A backend with all of ``OPTIONAL``.  Arrays are on the host; those given stay as they are."""

    def append_e4m3(
        self, pool: KvPool, problem: Problem, keys: Array, values: Array, slot_mapping: Array
    ) -> Array:
        """Write tokens, divided by the scales of ``problem``, into a cache of e4m3; see ``Backend.append``.

        Stored is the number of e4m3 nearest to the exact quotient (ties to even), +-448 for what is too
        large, and a NaN for a NaN.
        """

    def append_stored(
        self, pool: KvPool, problem: Problem, keys: Array, values: Array, slot_mapping: Array
    ) -> Array:
        """Write finite tokens into a cache of any format that the backend declares; see ``Backend.append``.

        Where rows have scales of their own these follow from the tokens, see ``CacheFormat.encode``; what
        fills a row up may become anything.  The values of a latent cache are the beginnings of the keys.
        """

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
        """Write tokens where the block table has their places, and return the new storage array.

        Args:
            pool: cache before, stored as ``problem`` says; must stay as it is.
            problem: with ``kv_dtype`` only when ``append-e4m3``, or ``append-stored``, is declared too.
            keys: ``(num_tokens, num_kv_heads, head_dim)``, sequence by sequence.
            values: like ``keys``, of ``head_dim_v``.
            block_table: ``(num_seqs, max_pages) int32``.
            kv_lens: ``(num_seqs,) int32``, new tokens included: they are the last ones.
            qo_indptr: ``(num_seqs + 1,) int32``, first token of each sequence.
        """

    def copy_pages(self, pools: Sequence[KvPool], copies: Array, *, count: int) -> list[Array]:
        """Copy the beginnings of pages in the caches of all layers, and return the new storage arrays.

        Args:
            pools: caches before, one a layer, alike; must stay as they are.
            copies: ``(n, 3) int32``: source page, target page, and how many slots from the first on.
            count: of ``copies``, how many there are; those behind mean nothing.  No target is named twice, or
                also a source.
        """

    def gather(
        self, pool: KvPool, problem: Problem, *, block_table: Array, kv_lens: Array, raw: bool
    ) -> tuple[Array, Array]:
        """Return keys and values of all tokens as rows ``(sum(kv_lens), num_kv_heads, head_dim)``, or longer.

        Args:
            pool: cache, stored as ``problem`` says.
            problem: shapes, types and scales.
            block_table: ``(num_seqs, max_pages) int32``.
            kv_lens: ``(num_seqs,) int32``; rows are sequence by sequence.
            raw: rows are as stored; else the numbers that those of another format stand for are rounded once,
                to the type of the problem, scales included.
        """

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Merge outputs and LSEs of the same rows over different keys.

        Args:
            outs: ``(num_states, num_rows, num_heads, head_dim)``, storage form of ``dtype``.
            lses: ``(num_states, num_rows, num_heads)`` float32, natural log; -inf for a state that saw no
                key, whose output may then hold anything.
            dtype: name of the storage type.
        """

    def merge_states_in_place(self, outs: Array, lses: Array, dtype: str) -> AttentionOutput:
        """Do the same where output and LSE of the result lie over those of the first state.

        Arguments are as above and stay as they are: the states that are written over are copies of the
        backend's.
        """


def offered(backend: Backend, operation: str) -> Callable[..., Any]:
    """Return the method for one of ``OPTIONAL``; raises ``Unsupported`` where it is not declared."""
    if operation not in backend.capabilities.operations:
        raise Unsupported(f"{backend.name}: no {operation}")
    method: Callable[..., Any] = getattr(backend, OPTIONAL[operation])
    return method


def layered(backend: Backend) -> LayeredBackend:
    """Return ``backend`` as one with layers; raises ``Unsupported`` where it does not declare them."""
    if LAYERS not in backend.capabilities.operations:
        raise Unsupported(f"{backend.name}: no {LAYERS}")
    return cast(LayeredBackend, backend)


BackendFactory = Callable[[Device], Backend]


def attend(backend: Backend, tensors: Tensors) -> AttentionOutput:
    """Plan, run and fetch in one call; raises ``TypeError`` when that gives no ``AttentionOutput``."""
    at_once = getattr(backend, "attend_at_once", None)
    if at_once is not None:
        output = at_once(tensors)
    else:
        plan = backend.plan(tensors)
        backend.run(plan)
        output = backend.fetch(plan)
    if not isinstance(output, AttentionOutput):
        raise TypeError(f"fetch returned {type(output).__name__}, must return AttentionOutput")
    return output
