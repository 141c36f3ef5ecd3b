# SPDX-License-Identifier: Apache-2.0
"""The packages of other projects that allocators and backends run: which are here, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pabench.errors import PabenchError, Unsupported

if TYPE_CHECKING:
    from pabench.device.base import Device


def peer_facts() -> dict[str, Any]:
    """Return, by distribution: version and folder, or what is wrong and the command that installs it.

    Each is loaded as a run would load it; what needs a GPU where none is, is looked for and not loaded.
    Where some subjects need another release than the one that is here, they are named, and the package is
    not missed.
    """
    from pabench.subjects.allocators.table import ALLOCATORS
    from pabench.subjects.backends.adapters.table import ADAPTERS
    from pabench.subjects.registry import load_backend

    rows: dict[str, Any] = {}
    for name, subject in ALLOCATORS.items():
        for peer in subject.peers:
            _add(rows, peer, "allocators", name, peer.load)
            rows[peer.title]["needs_gpu"] = False
    device = _device()
    gpu = device is not None and device.name == "cuda"
    for name, adapter in ADAPTERS.items():
        load = (
            None if device is None or (adapter.needs_gpu and not gpu) else partial(load_backend, name, device)
        )
        for peer in adapter.peers:
            _add(rows, peer, "backends", name, load)
            rows[peer.title]["needs_gpu"] = rows[peer.title].get("needs_gpu", True) and adapter.needs_gpu
        for compiler in adapter.compilers:
            _add(rows, compiler, "backends", name, None)
            rows[compiler.title]["needs_gpu"] = False
    for row in rows.values():
        others = row.pop("without")
        if others and "version" in row:
            row["without"] = others
        elif others:
            row.setdefault("problem", next(iter(others.values())))
    return rows


def _add(rows: dict[str, Any], peer: Any, kind: str, name: str, load: Callable[[], object] | None) -> None:
    row = rows.setdefault(peer.title, {"without": {}})
    row.setdefault(kind, []).append(name)
    try:
        found = peer.find()
    except Unsupported as error:
        row["without"][name] = str(error)
        return
    row |= {"version": found.version, "path": str(found.folder)}
    try:
        if load is not None:
            load()
    except Unsupported as error:
        row.setdefault("problem", str(error))


def _device() -> Device | None:
    """Any device: adapters look whether it is a GPU.  None where none works; ``doctor`` says why."""
    from pabench.device.registry import open_device

    try:
        return open_device("auto")
    except PabenchError:
        return None
