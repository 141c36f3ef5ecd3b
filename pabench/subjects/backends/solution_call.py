# SPDX-License-Identifier: Apache-2.0
"""A Solution of FlashInfer Trace loaded and called: what all kinds of definitions have in common.

Inputs come in the order of the definition: torch tensors where the sources import torch or Triton, else numpy
arrays (CuPy's on ``cuda``).  In destination-passing style outputs come allocated behind them, full of NaN, so
that what is not written shows; those that are inputs too are written where they are.
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
from pabench.exchange.definition import Definition
from pabench.exchange.solution import CALLED, Solution
from pabench.problem.dtypes import Array, dtype_by_name, encode
from pabench.problem.pool import KvPool
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.backends.solution_source import entry_point

ON_TORCH = frozenset({"torch", "triton"})
PROFILE = NumericsProfile(p_dtype="storage", partial_dtype="storage", partial_lse=True)
"""A Solution declares no roundings: those that kernels of this field make are granted."""
Form = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and storage type of outputs by name."""


@dataclass(slots=True, kw_only=True, eq=False)
class SolutionCall:
    """Arguments of one call by name, its outputs where they are passed, and what it returned."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    result: Any = None


class SolutionFunction:
    """The entry point of a solution.

    Args:
        solution: as read.
        definition: that it solves.
        path: of the solution.
        name: in reports.
        device: where it runs.

    Raises:
        UsageError: its code raises, or has no such function.
        Unsupported: the language is not called.
    """

    def __init__(
        self, solution: Solution, definition: Definition, path: Path, name: str, device: Device
    ) -> None:
        if solution.language not in CALLED:
            rule = f"language {solution.language!r}, called are {' and '.join(CALLED)}"
            raise Unsupported(f"solution {solution.name!r}: {rule}")
        self._definition = definition
        self._passes_outputs = solution.passes_outputs
        on_torch = bool(solution.imports & ON_TORCH)
        self._arrays = torch_arrays(name, device) if on_torch else device_arrays(device)
        self._function: Callable[..., Any] = entry_point(solution, path.name)

    def prepared(self, given: Mapping[str, Any], dtypes: Mapping[str, str], outputs: Form) -> SolutionCall:
        """Upload inputs, and outputs full of NaN.

        Args:
            given: inputs by name, in order: arrays in storage form, pairs of such, and numbers.
            dtypes: storage types of inputs by name; of what is not among them it is the arrays' own.
            outputs: of those that are no inputs.
        """

        def up(one: Any, dtype: str) -> Any:
            if isinstance(one, tuple):
                return tuple(up(part, dtype) for part in one)
            return self._arrays.up(one, dtype) if isinstance(one, np.ndarray) else one

        passed = {}
        for name, (shape, stored) in outputs.items() if self._passes_outputs else ():
            nothing = encode(np.full(shape, math.nan), dtype_by_name(stored))
            passed[name] = self._arrays.up(nothing, stored)
        inputs = {name: up(one, dtypes.get(name, "")) for name, one in given.items()}
        return SolutionCall(inputs=inputs, outputs=passed)

    def call(self, prepared: SolutionCall) -> None:
        """Call the entry point, by position as the benchmark of FlashInfer does."""
        prepared.result = self._function(*prepared.inputs.values(), *prepared.outputs.values())

    def result(self, called: SolutionCall) -> dict[str, Any]:
        """Return the outputs by name, copied to the host; what is missing is None."""
        found = {**self._named(called.result), **called.outputs}
        names = self._definition.outputs
        # what is written in place is its input, unless it was returned
        return {name: self._down(found.get(name, called.inputs.get(name))) for name in names}

    def _down(self, found: Any) -> Any:
        if isinstance(found, tuple | list):
            return tuple(self._arrays.down(one) for one in found)
        return self._arrays.down(found)

    def _named(self, result: Any) -> Mapping[str, Any]:
        """What was returned, by the names of the outputs: a mapping, one for each, or a single one."""
        if result is None or isinstance(result, Mapping):
            return result or {}
        names = list(self._definition.outputs)
        values = (result,) if len(names) == 1 or not isinstance(result, tuple | list) else result
        return dict(zip(names, values, strict=False))


class SolutionBackend:
    """A solution as a backend that offers nothing; each kind of definition adds what it is of."""

    takes_resident = False

    def __init__(self, name: str, function: SolutionFunction) -> None:
        self.name = name
        self._function = function

    def plan(self, tensors: Tensors) -> Any:
        """Refuse: the definition is of no attention."""
        raise Unsupported(f"{self.name}: no attention")

    def run(self, plan: Any) -> None:
        """Refuse, as ``plan``."""
        raise Unsupported(f"{self.name}: no attention")

    def fetch(self, plan: Any) -> AttentionOutput:
        """Refuse, as ``plan``."""
        raise Unsupported(f"{self.name}: no attention")

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse: the definition is of no append."""
        raise Unsupported(f"{self.name}: no append")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """How arrays in storage form reach a solution, ``up(array, dtype)``, and come back, ``down(array)``."""

    up: Callable[[Array, str], Any]
    down: Callable[[Any], Any]


def device_arrays(device: Device) -> Arrays:
    """Return the way of numpy arrays, or of CuPy's on ``cuda``."""

    def down(array: Any) -> Any:
        device.synchronize()
        return device.to_host(array) if hasattr(array, "dtype") else array

    return Arrays(up=lambda array, dtype: device.to_device(array), down=down)


def torch_arrays(name: str, device: Device) -> Arrays:
    """Return the way of torch tensors; raises ``Unsupported`` where torch is not installed."""
    import torch

    from pabench.subjects.backends.torch_place import torch_place
    from pabench.subjects.backends.torch_tensors import to_numpy, upload

    where = torch_place(name, device)

    def up(array: Array, dtype: str) -> Any:
        # torch knows no memory that may not be written; whole numbers have no storage type of ours
        own = array if array.flags.writeable else array.copy()
        tensor = upload(own, "" if own.dtype.kind == "i" else dtype, where)
        return tensor.view(torch.float8_e4m3fn) if dtype == "e4m3" else tensor

    return Arrays(up=up, down=lambda tensor: to_numpy(tensor) if hasattr(tensor, "detach") else tensor)
