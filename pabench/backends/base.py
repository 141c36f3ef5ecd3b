"""The protocol of an attention backend, and what it declares about itself.

A backend plans (uploads, converts, chooses a grid) and runs; the two are apart so that a benchmark can time
the second alone.  Results stay on the backend's device until ``fetch``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pabench.device.base import Device
from pabench.errors import UnknownName
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.problem import FEATURES
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do.  ``why_not`` turns it into a reason for a case it cannot.

    Attributes:
        dtypes: storage types it takes.
        devices: device names it runs on; empty for a backend that does not launch through a pabench device.
        operations: subset of ``decode``, ``speculative`` (up to 8 query tokens a sequence), ``prefill`` (any
            number), ``append``.
        kv_layouts: subset of ``NHD``, ``HND``.
        interleaved: whether it takes strided views of K and V in one pool.
        lse: whether it returns the log-sum-exp.
        max_head_dim: largest head dimension.
        features: subset of ``pabench.problem.problem.FEATURES``: what it can beyond plain attention.
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
    rule: Callable[[Case], str | None] | None = None

    def __post_init__(self) -> None:
        for name in self.features:
            if name not in FEATURES:
                raise UnknownName("feature", str(name), FEATURES)

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
        if problem.head_dim > self.max_head_dim:
            return f"head_dim {problem.head_dim} is above {self.max_head_dim}"
        missing = [name for name in FEATURES if name in case.features - self.features]
        if missing:
            return f"no {', no '.join(missing)}"
        return self.rule(case) if self.rule else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionOutput:
    """Result on the host.

    Attributes:
        out: ``(num_query_tokens, num_qo_heads, head_dim)``, storage dtype of the case.
        lse: ``(num_query_tokens, num_qo_heads)`` float32, natural log, or None when not offered.
    """

    out: Array
    lse: Array | None


class Backend(Protocol):
    """Something that computes attention over a paged cache.

    Two attributes are optional.  ``captures`` is true when ``run`` queues all its work on CuPy's current
    stream and never waits: a sweep on a GPU then times it as a CUDA graph.  ``takes_resident`` is true when
    ``plan`` takes a cache that is an array of the device already, as ``Device.to_device`` does: gigabytes
    then need not be copied.
    """

    name: str
    capabilities: Capabilities
    profile: ComputeProfile

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


BackendFactory = Callable[[Device], Backend]


def attend(backend: Backend, tensors: Tensors) -> AttentionOutput:
    """Plan, run and fetch in one call; raises ``TypeError`` when that gives no ``AttentionOutput``."""
    plan = backend.plan(tensors)
    backend.run(plan)
    output = backend.fetch(plan)
    if not isinstance(output, AttentionOutput):
        raise TypeError(f"fetch returned {type(output).__name__}, must return AttentionOutput")
    return output
