"""A Solution of FlashInfer Trace as a backend: its entry point is called as its Definition says.

Inputs come in the order of the definition: torch tensors where the sources import torch or Triton, else numpy
arrays (CuPy's on ``cuda``).  In destination-passing style outputs come allocated behind them, full of NaN, so
that what is not written shows.  The LSE is in base 2, and turned into the natural log here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.exchange.definition import find_definition, root_of
from pabench.exchange.paged import LSE, OUTPUT, SCALE, PagedAttention, paged_attention
from pabench.exchange.solution import CALLED, read_solution
from pabench.problem.case import Case
from pabench.problem.dtypes import FLOAT32, Array, dtype_by_name, encode
from pabench.problem.pool import KvPool
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.solution_source import entry_point
from pabench.subjects.backends.validate import check_attention

ON_TORCH = frozenset({"torch", "triton"})
BOTH = frozenset({"decode", "speculative", "prefill"})
PROFILE = ComputeProfile(p_dtype="storage", partial_dtype="storage", partial_lse=True)
"""A Solution declares no roundings: those that kernels of this field make are granted."""


@dataclass(slots=True, kw_only=True, eq=False)
class SolutionCall:
    """Arguments of one call by name, its outputs where they are passed, and what it returned."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    result: Any = None


class SolutionBackend:
    """Attention by calling a solution's entry point; see the module's head.

    Args:
        name: in reports.
        path: of the solution, which lies in a trace set with its definition.
        device: where it runs.

    Raises:
        UsageError: the solution or its definition breaks a rule, or its code raises.
        Unsupported: the definition is of something else, or the language is not called.
    """

    takes_resident = False

    def __init__(self, name: str, path: Path, device: Device) -> None:
        self.name = name
        solution = read_solution(path)
        self.attention: PagedAttention = paged_attention(find_definition(root_of(path), solution.definition))
        if solution.language not in CALLED:
            rule = f"language {solution.language!r}, called are {' and '.join(CALLED)}"
            raise Unsupported(f"solution {solution.name!r}: {rule}")
        self._passes_outputs = solution.passes_outputs
        on_torch = bool(solution.imports & ON_TORCH)
        self._arrays = _torch_arrays(name, device) if on_torch else _device_arrays(device)
        self._function: Callable[..., Any] = entry_point(solution, path.name)
        only = self.attention.shape
        features = {"latent-cache"} if only.latent else {"head-dim-v"} if only.head_dim_v else set()
        free = set() if only.causal else {"non-causal"}
        self.capabilities = Capabilities(
            dtypes=frozenset({self.attention.dtype}),
            devices=frozenset({device.name}),
            operations=BOTH if self.attention.prefill else frozenset({"decode"}),
            kv_layouts=frozenset({"NHD"}),
            interleaved=False,
            features=frozenset(features | free),
            requires=frozenset(features),
            lse=self.attention.lse,
            only=only,
            rule=None if SCALE in self.attention.definition.inputs else _default_scale,
            # a definition says nothing of what is refused
            validates=False,
        )
        self.profile = PROFILE

    def plan(self, tensors: Tensors) -> SolutionCall:
        """Upload the inputs, and outputs full of NaN."""
        check_attention(self.name, self.capabilities, tensors)
        given = self.attention.arguments(tensors)
        dtype = self.attention.dtype
        inputs = {
            name: self._arrays.up(value, dtype) if isinstance(value, np.ndarray) else value
            for name, value in given.items()
        }
        outputs = {}
        if self._passes_outputs:
            for name, (shape, stored) in self.attention.outputs(len(tensors.q)).items():
                nothing = encode(np.full(shape, math.nan), dtype_by_name(stored))
                outputs[name] = self._arrays.up(nothing, stored)
        return SolutionCall(inputs=inputs, outputs=outputs)

    def run(self, plan: SolutionCall) -> None:
        """Call the entry point, by position as the benchmark of FlashInfer does."""
        plan.result = self._function(*plan.inputs.values(), *plan.outputs.values())

    def fetch(self, plan: SolutionCall) -> AttentionOutput:
        """Copy the outputs to the host; the judge looks at their shapes and types."""
        found = plan.outputs if self._passes_outputs else self._named(plan.result)
        out, lse = (self._arrays.down(found.get(name)) for name in (OUTPUT, LSE))
        return AttentionOutput(out=out, lse=natural_log(lse))

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse: attention writes no cache."""
        raise Unsupported(f"{self.name}: no append")

    def _named(self, result: Any) -> Mapping[str, Any]:
        """What was returned, by the names of the outputs: a mapping, one for each, or a single one."""
        if isinstance(result, Mapping):
            return result
        values = result if isinstance(result, tuple | list) else (result,)
        return dict(zip(self.attention.definition.outputs, values, strict=False))


def _default_scale(case: Case) -> str | None:
    return None if case.problem.sm_scale is None else f"no input {SCALE}"


def natural_log(lse: Any) -> Any:
    """Return an LSE of base 2 as natural log, rounded once; what is no float32 array as it is."""
    if not isinstance(lse, np.ndarray) or lse.dtype != FLOAT32.storage:
        return lse
    return (lse.astype(np.float64) * math.log(2.0)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """How arrays in storage form reach a solution, ``up(array, dtype)``, and come back, ``down(array)``."""

    up: Callable[[Array, str], Any]
    down: Callable[[Any], Any]


def _device_arrays(device: Device) -> Arrays:
    def down(array: Any) -> Any:
        device.synchronize()
        return device.to_host(array) if hasattr(array, "dtype") else array

    return Arrays(up=lambda array, dtype: device.to_device(array), down=down)


def _torch_arrays(name: str, device: Device) -> Arrays:
    from pabench.subjects.backends.torch_place import torch_place
    from pabench.subjects.backends.torch_tensors import to_numpy, upload

    where = torch_place(name, device)

    def up(array: Array, dtype: str) -> Any:
        # torch knows no memory that may not be written; whole numbers have no storage type of ours
        own = array if array.flags.writeable else array.copy()
        return upload(own, "" if own.dtype.kind == "i" else dtype, where)

    return Arrays(up=up, down=lambda tensor: to_numpy(tensor) if hasattr(tensor, "detach") else tensor)
