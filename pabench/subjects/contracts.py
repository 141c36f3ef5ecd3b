# SPDX-License-Identifier: Apache-2.0
"""The contracts by the prefix that asks for them: ``vllm:file.py:Backend``."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from pabench.device.base import Device
from pabench.subjects.importing import guarded, import_place
from pabench.subjects.reference import Reference

_HERE = "pabench.subjects.backends.contracts"
CONTRACTS: dict[str, tuple[str, str, bool]] = {
    "vllm": (f"{_HERE}.vllm", "VllmPlugin", False),
    "vllm-graph": (f"{_HERE}.vllm", "VllmPlugin", True),
    "sglang": (f"{_HERE}.sglang", "SglangPlugin", False),
    "sglang-graph": (f"{_HERE}.sglang", "SglangPlugin", True),
}
"""Prefix to module, class, and whether batches are padded as in a captured graph."""


def contract_of(text: str) -> tuple[str, str] | None:
    """Return prefix and place of ``vllm:file.py:Backend``, or None where it asks for no contract."""
    prefix, _, place = text.partition(":")
    return (prefix, place) if prefix in CONTRACTS and ":" in place else None


def load_plugin(reference: Reference, device: Device) -> Any:
    """Import a plugin and put it into the frame of its engine; raises as ``load_backend`` does."""
    found = contract_of(reference.place)
    if found is None:
        raise TypeError(f"{reference.place} asks for no contract")
    module, name, padded = CONTRACTS[found[0]]
    frame = guarded(reference, lambda: importlib.import_module(module))
    frame.prepare()
    plugin = import_place(replace(reference, place=found[1]))
    return guarded(reference, lambda: getattr(frame, name)(reference.name, plugin, device, padded=padded))
