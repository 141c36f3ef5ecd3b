# SPDX-License-Identifier: Apache-2.0
"""Where a backend that runs on torch keeps its tensors."""

from __future__ import annotations

import torch

from pabench.device.base import Device
from pabench.errors import EnvironmentRefused


def torch_place(backend: str, device: Device) -> torch.device:
    """Return ``cuda`` for the device of that name, ``cpu`` for any other.

    Raises:
        EnvironmentRefused: the device is ``cuda`` and this PyTorch has no CUDA.
    """
    place = torch.device("cuda" if device.name == "cuda" else "cpu")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentRefused(
            f"backend {backend!r} on device 'cuda': PyTorch {torch.__version__} finds no CUDA device",
            hint="install a CUDA build of PyTorch",
        )
    return place
