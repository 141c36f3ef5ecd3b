# SPDX-License-Identifier: Apache-2.0
"""A plain Python function as a backend: the shortest way to have a kernel judged.

::

    def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
        ...
        return out, lse

``q (num_query_tokens, num_qo_heads, head_dim)``, caches ``(num_pages, page_size, num_kv_heads, head_dim)``,
``block_table (num_seqs, max_pages) int32``, ``kv_lens (num_seqs,) int32``; arrays are numpy arrays on the
emulated device and CuPy arrays on ``cuda``, or torch tensors, and the caches may be strided views.  ``out``
has the shape and type of ``q``; ``lse (num_query_tokens, num_qo_heads) float32`` is the natural log-sum-exp.

More parameters, by their names in ``declared.py``, declare more: ``window``, ``soft_cap``, ``qo_indptr``
for prefill.  Attributes on the function say the rest: ``decode.dtypes = ("float32",)``.

With ``decode.latent = True`` it is one for latent caches (MLA) and nothing else: it gets ``(q, cache,
block_table, kv_lens, sm_scale, head_dim_v)``, where the values are the first ``head_dim_v`` numbers of each
row of ``cache``, and ``out`` has rows of that length.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.problem.dtypes import Array, dtype_by_name
from pabench.problem.pool import KvPool
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.declared import ARGUMENTS, DECLARATIONS, declared_of
from pabench.subjects.backends.function_arrays import DeviceArrays, TorchArrays, kind_of, output_of
from pabench.subjects.backends.validate import check_append, check_attention


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeclaredFunction:
    """A callable with what is declared of it beside, for callables that take no attributes."""

    function: Callable[..., Any]
    declared: Mapping[str, Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call it."""
        return self.function(*given, **named)


@dataclass(slots=True, kw_only=True, eq=False)
class FunctionCall:
    """Arguments of one call, and its result once it has run."""

    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    result: Any = None


class FunctionBackend:
    """Attention by calling ``function``; see the module's head for its signature.

    Raises:
        UsageError: it cannot be called so, or declares what means nothing.
    """

    takes_resident = True

    def __init__(self, name: str, function: Callable[..., Any], device: Device) -> None:
        self.name = name
        told = told_of(function)
        self._function = function.function if isinstance(function, DeclaredFunction) else function
        self._device = device
        kind = kind_of(name, self._function, told.get("arrays"), device)
        self._declared = declared_of(name, self._function, told, device.name)
        self._arrays = TorchArrays(name, device) if kind == "torch" else DeviceArrays(device)
        self.capabilities, self.profile = self._declared.capabilities, self._declared.profile

    def plan(self, tensors: Tensors) -> FunctionCall:
        """Upload the arrays."""
        check_attention(self.name, self.capabilities, tensors)
        problem, given = tensors.case.problem, self._arrays.given
        # rows with scales of their own are bytes
        rows = problem.kv_format is not None and problem.kv_format.scale is not None
        stored = given(tensors.pool.storage, None if rows else problem.kv_storage)
        pool = tensors.pool.with_storage(stored)
        latent = self._declared.latent
        return FunctionCall(
            arguments=(
                given(tensors.q, problem.q_storage),
                *((pool.k,) if latent else (pool.k, pool.v)),
                given(tensors.layout.block_table),
                given(tensors.kv_lens),
                problem.scale,
                *((problem.value_dim,) if latent else ()),
            ),
            named={name: self._value(name, tensors) for name in self._declared.names},
        )

    def run(self, plan: FunctionCall) -> None:
        """Call the function."""
        plan.result = self._arrays.call(self._function, *plan.arguments, **plan.named)

    def outputs(self, plan: FunctionCall) -> tuple[Any, ...]:
        """Return what the last call returned, as far as it is arrays."""
        found = plan.result if isinstance(plan.result, tuple | list) else (plan.result,)
        return tuple(
            one
            for one in found
            if hasattr(one, "fill_") or hasattr(getattr(one, "data", None), "memset_async")
        )

    def fetch(self, plan: FunctionCall) -> AttentionOutput:
        """Copy what the function returned to the host; the judge looks at its shapes and types."""
        self._device.synchronize()
        return output_of(plan.result, self._arrays)

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into a copy of the cache with the function's ``append``; see ``Backend.append``."""
        if self._declared.append is None:
            raise Unsupported(f"{self.name}: no append")
        check_append(pool, keys, values, slot_mapping, dtype)
        given, stored = self._arrays.given, dtype_by_name(dtype)
        target = pool.with_storage(given(pool.storage.copy(), stored))
        slots = given(slot_mapping.astype(np.int64))
        new = given(keys, stored), given(values, stored)
        layout = {"kv_layout": pool.kv_layout} if "kv_layout" in self._declared.names else {}
        self._arrays.call(self._declared.append, target.k, target.v, *new, slots, **layout)
        self._device.synchronize()
        return self._arrays.host(target.storage)  # type: ignore[no-any-return]

    def _value(self, name: str, tensors: Tensors) -> Any:
        value = ARGUMENTS[name].of(tensors)
        return self._arrays.given(value) if isinstance(value, np.ndarray) else value


def told_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what attributes of a function declare; one that nobody knows is told too, to be refused."""
    if isinstance(function, DeclaredFunction):
        return {**told_of(function.function), **function.declared}
    if inspect.isfunction(function):
        return {name: value for name, value in vars(function).items() if not name.startswith("_")}
    return {name: getattr(function, name) for name in DECLARATIONS if hasattr(function, name)}
