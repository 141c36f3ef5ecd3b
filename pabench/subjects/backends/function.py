"""A plain Python function as a backend: the shortest way to have a kernel judged.

::

    def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
        ...
        return out, lse

``q (num_seqs, num_qo_heads, head_dim)``, caches ``(num_pages, page_size, num_kv_heads, head_dim)``,
``block_table (num_seqs, max_pages) int32``, ``kv_lens (num_seqs,) int32``; arrays are numpy arrays on the
emulated device and CuPy arrays on ``cuda``, and the caches may be strided views.  ``out`` has the shape and
type of ``q``; ``lse (num_seqs, num_qo_heads) float32`` is the natural log-sum-exp.

What is special about the function is said by attributes on it: ``decode.dtypes = ("float32",)``,
``decode.profile = ComputeProfile(...)``, ``decode.lse = False``.

With ``decode.latent = True`` it is one for latent caches (MLA) and nothing else: it gets ``(q, cache,
block_table, kv_lens, sm_scale, head_dim_v)``, where the values are the first ``head_dim_v`` numbers of each
row of ``cache``, and ``out`` has rows of that length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pabench.device.base import Device
from pabench.errors import InvalidCase, Unsupported
from pabench.problem.dtypes import Array, dtype_by_name
from pabench.problem.pool import KvPool
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.validate import check_attention

NUMPY_DTYPES = ("float32", "float16")
"""Storage types that numpy has itself; bfloat16 must be asked for and comes as its bits in uint16."""


@dataclass(slots=True, kw_only=True, eq=False)
class FunctionCall:
    """Arguments of one call, and its result once it has run."""

    arguments: tuple[Any, ...]
    result: Any = None


class FunctionBackend:
    """Decode by calling ``function``; see the module's head for its signature."""

    takes_resident = True

    def __init__(self, name: str, function: Callable[..., Any], device: Device) -> None:
        self.name = name
        self._function = function
        self._device = device
        dtypes = getattr(function, "dtypes", NUMPY_DTYPES)
        if isinstance(dtypes, str) or not dtypes:
            raise InvalidCase(f"{name}: dtypes", dtypes, "must be a list of storage types")
        self._latent = bool(getattr(function, "latent", False))
        only = frozenset({"latent-cache"}) if self._latent else frozenset()
        self.capabilities = Capabilities(
            dtypes=frozenset(dtype_by_name(dtype).name for dtype in dtypes),
            devices=frozenset({device.name}),
            operations=frozenset({"decode"}),
            kv_layouts=frozenset({"NHD"}),
            features=only,
            requires=only,
            lse=bool(getattr(function, "lse", True)),
        )
        self.profile = getattr(function, "profile", ComputeProfile())
        if not isinstance(self.profile, ComputeProfile):
            raise InvalidCase(f"{name}: profile", self.profile, "must be a ComputeProfile")

    def plan(self, tensors: Tensors) -> FunctionCall:
        """Upload the arrays."""
        check_attention(self.name, self.capabilities, tensors)
        up = self._device.to_device
        pool, problem = tensors.pool.with_storage(up(tensors.pool.storage)), tensors.case.problem
        caches = (pool.k,) if self._latent else (pool.k, pool.v)
        table, lens = up(tensors.layout.block_table), up(tensors.kv_lens)
        more = (problem.value_dim,) if self._latent else ()
        return FunctionCall(arguments=(up(tensors.q), *caches, table, lens, problem.scale, *more))

    def run(self, plan: FunctionCall) -> None:
        """Call the function."""
        plan.result = self._function(*plan.arguments)

    def fetch(self, plan: FunctionCall) -> AttentionOutput:
        """Copy what the function returned to the host; the judge looks at its shapes and types."""
        self._device.synchronize()
        result = plan.result
        out, lse = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        return AttentionOutput(out=self._host(out), lse=None if lse is None else self._host(lse))

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse: a decode function writes no cache."""
        raise Unsupported(f"{self.name}: no append")

    def _host(self, array: Any) -> Any:
        return self._device.to_host(array) if hasattr(array, "dtype") else array
