# SPDX-License-Identifier: Apache-2.0
"""What tests of several attention kernels share."""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.judge.verdict import judge
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, attend


def judged(backend: Any, tensors: Tensors) -> AttentionOutput:
    """Attend, and fail unless the result is right."""
    result = attend(backend, tensors)
    verdict = judge(tensors, result.out, result.lse, backend.profile)
    assert verdict.passed, verdict.text
    return result


def bits(result: AttentionOutput, rows: slice = slice(None)) -> bytes:
    """Output and LSE of some rows, to the last bit."""
    assert result.lse is not None
    return bytes(result.out[rows].tobytes() + result.lse[rows].tobytes())


def shifted(array: Array) -> Array:
    """A copy that starts at no multiple of 16 bytes."""
    room = np.zeros(array.size + 1, array.dtype)[1:].reshape(array.shape)
    room[...] = array
    assert room.ctypes.data % 16
    return room
