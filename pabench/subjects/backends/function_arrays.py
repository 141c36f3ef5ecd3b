# SPDX-License-Identifier: Apache-2.0
"""The arrays that a plain function gets and returns: those of the device, torch's, or CuPy's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import InvalidCase, UsageError
from pabench.problem.dtypes import E4M3, E5M2, DType
from pabench.subjects.backends.base import AttentionOutput

KINDS = ("numpy", "torch", "cupy")


def kind_of(name: str, function: Callable[..., Any], told: Any, device: Device) -> str:
    """Return which of ``KINDS`` a function takes: as declared, else by its first annotation.

    Raises:
        InvalidCase: no such kind.
        UsageError: CuPy's arrays, and no GPU is asked for.
    """
    kind = _annotated(function) if told is None else told
    if kind not in KINDS:
        raise InvalidCase(f"{name}: arrays", kind, f"must be one of {', '.join(KINDS)}")
    if kind == "cupy" and device.name != "cuda":
        raise UsageError(f"{name} takes CuPy arrays, which are on a GPU", hint="add --device cuda")
    return str(kind)


def _annotated(function: Callable[..., Any]) -> str:
    if type(function).__module__.startswith("torch."):
        return "torch"
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return "numpy"
    said = "" if first is None else str(first.annotation)
    if "cupy" in said or said.startswith("cp."):
        return "cupy"
    return "torch" if "torch" in said or "Tensor" in said else "numpy"


class DeviceArrays:
    """Arrays as the device has them: numpy's, or CuPy's on a GPU."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def given(self, array: Any, dtype: DType | None = None) -> Any:
        """Return an array of the host as the function gets it; ``dtype`` is what its bits stand for."""
        return self._device.to_device(array)

    def call(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call the function."""
        return function(*given, **named)

    def host(self, array: Any) -> Any:
        """Return what the function returned, on the host; what is no array stays what it is.

        Raises:
            ValueError: a tensor of torch's that has no memory where the arguments have theirs.
        """
        if type(array).__module__.partition(".")[0] == "torch" and hasattr(array, "layout"):
            return host_tensor(array, "cuda" if self._device.name == "cuda" else "cpu")
        return self._device.to_host(array) if hasattr(array, "dtype") else array


class TorchArrays(DeviceArrays):
    """Tensors over the same memory where torch can have it."""

    def __init__(self, name: str, device: Device) -> None:
        super().__init__(device)
        from pabench.subjects.backends.torch_place import torch_place

        self._place = torch_place(name, device)

    def given(self, array: Any, dtype: DType | None = None) -> Any:
        """See ``DeviceArrays.given``; memory that may not be written is copied, torch knows no such."""
        import torch

        from pabench.subjects.backends.torch_tensors import upload

        if isinstance(array, np.ndarray) and not array.flags.writeable:
            array = array.copy()
        tensor = upload(array, "" if dtype is None else dtype.name, self._place)
        small = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
        return tensor.view(small[dtype]) if dtype in small else tensor

    def call(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """See ``DeviceArrays.call``."""
        import torch

        with torch.no_grad():
            return function(*given, **named)

    def host(self, array: Any) -> Any:
        """See ``DeviceArrays.host``."""
        import torch

        return host_tensor(array, self._place.type) if isinstance(array, torch.Tensor) else array


def host_tensor(tensor: Any, place: str) -> Any:
    """Return a dense tensor of torch's as a numpy array in storage form.

    Raises:
        ValueError: it is not on a device of type ``place``, or not dense.
    """
    import torch

    from pabench.subjects.backends.torch_tensors import to_numpy

    if tensor.device.type != place:
        raise ValueError(f"returned a tensor on {tensor.device}, its arguments are on {place}")
    if tensor.layout != torch.strided:
        raise ValueError(f"returned a tensor of layout {tensor.layout}, must be dense (torch.strided)")
    return to_numpy(tensor)


def output_of(result: Any, arrays: DeviceArrays) -> AttentionOutput:
    """Return what a function returned as an output: ``out``, or ``out`` and ``lse``.

    The judge looks at shapes and types.
    """
    pair = isinstance(result, tuple | list) and len(result) == 2
    out, lse = result if pair else (result, None)
    return AttentionOutput(out=arrays.host(out), lse=None if lse is None else arrays.host(lse))
