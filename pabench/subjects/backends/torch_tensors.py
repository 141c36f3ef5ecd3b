# SPDX-License-Identifier: Apache-2.0
"""Arrays of a case as torch tensors, and back; what every backend that runs on torch does first and last."""

from __future__ import annotations

import numpy as np
import torch

from pabench.problem.dtypes import Array

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Storage types of queries, cache and output, by name; a cache of e4m3 comes as its bits in uint8."""


def upload(array: Array, dtype: str, where: torch.device) -> torch.Tensor:
    """Return ``array``, stored as ``dtype``, on ``where``; e4m3 stays bits in uint8.

    On the CPU it shares the memory; so does an array of CuPy's, which is on the GPU already.
    """
    if not isinstance(array, np.ndarray):
        bits = array.view(np.int16) if dtype == "bfloat16" else array
        shared = torch.as_tensor(bits, device=where)
        return shared.view(torch.bfloat16) if dtype == "bfloat16" else shared
    array = np.ascontiguousarray(array)
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(where)
    return torch.from_numpy(array).to(where)


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a copy on the host in storage form: bfloat16 as its bits in uint16, e4m3 in uint8."""
    host = tensor.detach().cpu()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(np.uint16).copy()
    if host.dtype == torch.float8_e4m3fn:
        return host.view(torch.uint8).numpy().copy()
    return host.numpy().copy()
