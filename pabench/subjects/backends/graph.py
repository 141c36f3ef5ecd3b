# SPDX-License-Identifier: Apache-2.0
"""A plan as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pabench.subjects.backends.base import Backend


def graph_of(backend: Backend, plan: Any) -> Callable[[], None] | None:
    """Return what replays ``plan`` as a CUDA graph, or None where the backend does not declare ``captures``.

    A backend in another process, which has a method ``graph``, captures it there.

    Raises:
        TypeError: it declares it, and cannot be captured.
    """
    elsewhere = getattr(backend, "graph", None)
    if elsewhere is not None:
        return elsewhere(plan)  # type: ignore[no-any-return]
    if not getattr(backend, "captures", False):
        return None
    from pabench.device.cuda_timer import CudaTimer

    replay = CudaTimer().capture(partial(backend.run, plan))
    if replay is None:
        raise TypeError("declares that it can be captured in a graph, and cannot")
    return replay
