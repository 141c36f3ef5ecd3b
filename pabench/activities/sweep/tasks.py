# SPDX-License-Identifier: Apache-2.0
"""What a cell asks of the process of its backend: all that is timed or counted there, nothing that is judged.

Each function is a task of ``run_task``; its arguments are JSON values.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from pabench.activities.sweep import operations
from pabench.activities.sweep.cell import cell_from_dict
from pabench.activities.sweep.counted import counted
from pabench.activities.sweep.device_times import device_times
from pabench.activities.sweep.measure import measure
from pabench.activities.sweep.stopwatch import Stopwatch
from pabench.device.base import Device
from pabench.device.checked import CheckedDevice
from pabench.problem.dtypes import Array
from pabench.subjects.backends.base import AttentionOutput, Backend
from pabench.timing.gpus import gpu_by_name

_stopwatches: weakref.WeakKeyDictionary[Device, Stopwatch] = weakref.WeakKeyDictionary()
"""The instruments of a CUDA device, made when they are first needed."""


def host_times(backend: Backend, device: Device, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``plan_ns`` and ``run_ns`` of ``asked["cell"]`` by the host's clock."""
    return measure(cell_from_dict(asked["cell"]), backend, device).to_dict()


def traffic(backend: Backend, device: CheckedDevice, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the checked device counts in ``asked["cell"]``, with the times of ``asked["gpu"]``."""
    return counted(cell_from_dict(asked["cell"]), backend, device, gpu_by_name(asked["gpu"]))


def event_times(
    backend: Backend, device: Device, asked: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[AttentionOutput, ...]]:
    """Return times of ``asked["cell"]`` by the device's events, and outputs of what was timed."""
    return device_times(cell_from_dict(asked["cell"]), backend, device, _stopwatch(device))


def ceilings(backend: Backend, device: Device, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this GPU is and reaches at best; see ``Stopwatch.hardware``."""
    return _stopwatch(device).hardware()


def operation_times(
    backend: Backend, device: Device, asked: Mapping[str, Any]
) -> tuple[list[float], tuple[Array, ...]]:
    """Return times of an operation of ours beside attention, and what it left."""
    return operations.operation_times(device, _stopwatch(device), asked["name"], asked["size"])


def operation_counts(
    backend: Backend, device: CheckedDevice, asked: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[Array, ...]]:
    """Return what the checked device counts in an operation of ours, and what it left."""
    return operations.operation_counts(device, asked["name"], asked["size"])


def _stopwatch(device: Device) -> Stopwatch:
    if device not in _stopwatches:
        _stopwatches[device] = Stopwatch(device)
    return _stopwatches[device]
