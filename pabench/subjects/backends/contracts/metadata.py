# SPDX-License-Identifier: Apache-2.0
"""What must hold of a plugin's metadata, whatever else is in it; by the names that fields have in engines.

Source of the rules: the padded-batch invariants of SGLang's unit tests of attention backends (``indptr``
rises, lengths are not negative after a replay), and what a captured graph reads: addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

DEPTH = 3
STARTS = re.compile(r"indptr|start_loc|cu_seqlens")
LENGTHS = re.compile(r"seq_?lens|kv_lens|cache_seqlens|prefix_lens")
ON_HOST = re.compile(r"cpu|host")


class BrokenContract(AssertionError):
    """A plugin does what its engine does not allow."""


def tensors_in(metadata: Any, prefix: str = "", depth: int = DEPTH) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of an object with their names, those of objects in it too."""
    if isinstance(metadata, torch.Tensor):
        yield prefix, metadata
        return
    if depth == 0 or metadata is None or isinstance(metadata, str | int | float | type):
        return
    if isinstance(metadata, Mapping):
        inner = {str(name): value for name, value in metadata.items()}
    elif isinstance(metadata, tuple | list):
        inner = {str(at): value for at, value in enumerate(metadata)}
    else:
        names = (*getattr(metadata, "__dict__", {}), *getattr(metadata, "__slots__", ()))
        inner = {name: getattr(metadata, name, None) for name in names}
    for name, value in inner.items():
        yield from tensors_in(value, f"{prefix}.{name}" if prefix else name, depth - 1)


def check_metadata(metadata: Any, *, max_len: int, slots: int) -> None:
    """Raise ``BrokenContract`` where a field cannot be what its name says.

    Args:
        metadata: of any type.
        max_len: tokens that a sequence may have.
        slots: of the cache.
    """
    found = dict(tensors_in(metadata))
    for name, tensor in found.items():
        last = name.rpartition(".")[2]
        if tensor.is_floating_point() or tensor.dtype == torch.bool or tensor.ndim != 1 or not len(tensor):
            continue
        numbers = tensor.to(torch.int64)
        if STARTS.search(last):
            if int(numbers[0]) != 0 or bool((numbers.diff() < 0).any()):
                raise BrokenContract(f"metadata {name}: must rise from 0, is {_shown(tensor)}")
            indices = found.get(re.sub("indptr", "indices", name))
            if indices is not None and indices is not tensor:
                _check_indices(name, numbers, indices, slots)
        elif LENGTHS.search(last):
            if bool(((numbers < 0) | (numbers > max_len)).any()):
                raise BrokenContract(
                    f"metadata {name}: must be lengths of 0 to {max_len}, is {_shown(tensor)}"
                )
        elif re.search(r"slot_mapping|cache_loc", last) and bool(((numbers < -1) | (numbers >= slots)).any()):
            raise BrokenContract(f"metadata {name}: must be slots below {slots}, or -1, is {_shown(tensor)}")


def check_addresses(captured: Any, replayed: Any) -> None:
    """Raise ``BrokenContract`` where a tensor lies elsewhere at replay than where the graph reads it."""
    there = dict(tensors_in(captured))
    for name, tensor in tensors_in(replayed):
        before = there.get(name)
        if before is None or ON_HOST.search(name) or not tensor.numel():
            continue
        if tensor.data_ptr() != before.data_ptr():
            raise BrokenContract(
                f"metadata {name}: lies elsewhere at replay than at capture: the graph reads the old one"
            )


def copies(inputs: Any) -> dict[str, torch.Tensor]:
    """Return copies of the tables and lengths in an object, to see later whether it is as it was."""
    return {name: one.clone() for name, one in tensors_in(inputs) if not one.is_floating_point()}


def check_unchanged(what: str, inputs: Any, before: Mapping[str, torch.Tensor]) -> None:
    """Raise ``BrokenContract`` when a tensor that is shared by all layers was changed."""
    for name, tensor in tensors_in(inputs):
        if name in before and not torch.equal(tensor, before[name]):
            raise BrokenContract(f"{what} changes {name}, which all layers and backends share")


def _check_indices(name: str, starts: torch.Tensor, indices: torch.Tensor, slots: int) -> None:
    end, named = int(starts[-1]), re.sub("indptr", "indices", name)
    if end > len(indices):
        raise BrokenContract(f"metadata {name}: ends at {end}, and {named} has {len(indices)} entries")
    used = indices[:end]
    if bool(((used < 0) | (used >= slots)).any()):
        raise BrokenContract(f"metadata {named}: must be below {slots} where it is used, is {_shown(used)}")


def _shown(tensor: torch.Tensor) -> str:
    few = [int(one) for one in tensor[:8]]
    return f"{few}" if len(tensor) <= 8 else f"{str(few)[:-1]}, ...]"
