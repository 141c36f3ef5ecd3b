# SPDX-License-Identifier: Apache-2.0
"""Functions of ours that run beside a subject, in its process: what is timed there is timed without trips."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pabench.subjects.process.answers import Plain

HOME = "pabench."


def run_task(place: str, arguments: Mapping[str, Any], *, subject: Any, device: Any) -> Any:
    """Call ``module:function`` of pabench with subject, device and ``arguments``; return what it returns.

    Args:
        place: the function; it returns JSON values in a dictionary, or such a dictionary and an output.
        arguments: JSON values.
        subject: loaded, a backend for instance.
        device: that it was loaded for.

    Raises:
        ValueError: ``place`` names nothing in pabench.  Whatever the function raises passes through.
    """
    module, _, name = place.partition(":")
    if not module.startswith(HOME) or not name.isidentifier() or name.startswith("_"):
        raise ValueError(f"task {place!r}: must be module:function of pabench")
    return getattr(importlib.import_module(module), name)(subject, device, arguments)


def told(found: Any) -> Any:
    """Return the result of a task as ``answers`` describes it: its dictionaries are JSON of our own."""
    if isinstance(found, tuple):
        return tuple(told(one) for one in found)
    return Plain(found) if isinstance(found, dict) else found
