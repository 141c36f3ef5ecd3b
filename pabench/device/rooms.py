# SPDX-License-Identifier: Apache-2.0
"""Where a device puts memory while somebody watches: between canaries, or flush with memory of nobody.

A device has no rooms of its own accord.  Within ``in_rooms`` all that it hands out, uploads included, lies in
rooms; what was handed out before stays where it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pabench.device.base import Device, Rooms
from pabench.problem.checks import one_of
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors

MARGIN_BYTES = 4096
"""Of canaries on each side of a room; a multiple of any alignment that kernels ask for."""
CANARIES: Array = (0x7FC1 + np.arange(MARGIN_BYTES // 2) % 62).astype("<u2").view(np.uint8)
"""Each 16 bits a NaN in float16 and bfloat16, each 32 in float32, and neighbours differ."""

SomeRooms = TypeVar("SomeRooms", bound=Rooms)
PLAIN, CANARY, GUARD_AT_END, GUARD_AT_START = "plain", "canary", "guard-at-end", "guard-at-start"
ROOM_KINDS = (PLAIN, CANARY, GUARD_AT_END, GUARD_AT_START)


def make_rooms(device: Device, kind: str) -> Any:
    """Return rooms of one of ``ROOM_KINDS`` for ``device``; a device elsewhere makes them where it is.

    Raises:
        Unsupported: the driver of a GPU gives no guarded memory.
    """
    elsewhere = getattr(device, "make_rooms", None)
    if elsewhere is not None:
        return elsewhere(kind)
    one_of("rooms", kind, ROOM_KINDS)
    if kind in (PLAIN, CANARY):
        return PlainRooms(device) if kind == PLAIN else CanaryRooms(device)
    at_end = kind == GUARD_AT_END
    if device.name == "cuda":
        from pabench.device.cuda_guards import GuardGranules

        return GuardGranules(device, at_end=at_end)
    from pabench.device.guard_pages import GuardPages

    return GuardPages(device, at_end=at_end)


@contextlib.contextmanager
def in_rooms(device: Device, rooms: SomeRooms) -> Iterator[SomeRooms]:
    """Let ``device`` put new memory into ``rooms`` for the time being."""
    before, device.rooms = device.rooms, rooms
    try:
        yield rooms
    finally:
        device.rooms = before


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Upload:
    """An array of the host and its copy on the device."""

    host: Array
    held: Any


class PlainRooms(Rooms):
    """Memory as ever, and a list of what was uploaded, so that it can be changed in place later."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.uploads: list[Upload] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, upload: bool = False) -> Any:
        """Return new memory."""
        return self._device.allocate(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

    def uploaded(self, host: Array, held: Any) -> None:
        """Remember the pair."""
        self.uploads.append(Upload(host=host, held=held))

    @property
    def used(self) -> bool:
        """Whether anything was uploaded."""
        return bool(self.uploads)

    def given(self, tensors: Tensors) -> Tensors:
        """Return ``tensors`` as a backend is to see them."""
        return tensors

    def rewrite(self, pairs: Mapping[str, tuple[Array, Array]]) -> list[str]:
        """Write the second array of each pair over all copies of the first, the very array.

        Returns:
            Names of the pairs whose first array has no copy.
        """
        missing = []
        for name, (host, wanted) in pairs.items():
            copies = self.held(host)
            for held in copies:
                overwrite(held, wanted)
            if not copies:
                missing.append(name)
        self._device.synchronize()
        return missing

    def held(self, host: Array) -> list[Any]:
        """Return the copies that were made of ``host``, the very array."""
        return [upload.held for upload in self.uploads if upload.host is host]


class CanaryRooms(PlainRooms):
    """Memory between canaries, which nobody may write."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._taken: list[tuple[str, Any, Any]] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, upload: bool = False) -> Any:
        """Return new memory between canaries."""
        nbytes = math.prod(shape) * dtype.itemsize
        room = self._device.allocate(nbytes + 2 * MARGIN_BYTES)
        before, after = room[:MARGIN_BYTES], room[MARGIN_BYTES + nbytes :]
        for margin in (before, after):
            overwrite(margin, CANARIES)
        self._taken.append((f"{dtype.name}{list(shape)}", before, after))
        return room[MARGIN_BYTES : MARGIN_BYTES + nbytes].view(dtype).reshape(shape)

    def disturbed(self) -> str | None:
        """Say which canaries have changed, or None."""
        for name, before, after in self._taken:
            for margin, words in ((before, "before its start"), (after, "past its end")):
                wrong = np.flatnonzero(self._device.to_host(margin) != CANARIES)
                if wrong.size:
                    nearest = int(wrong[0]) if margin is after else MARGIN_BYTES - 1 - int(wrong[-1])
                    size = f"{wrong.size} byte{'s' if wrong.size > 1 else ''}"
                    return f"{size} {words} of an array {name} were written, the nearest {nearest + 1} away"
        return None

    def found(self, inputs: Mapping[str, Array]) -> tuple[str | None, list[str]]:
        """Return what ``disturbed`` and ``changed`` say."""
        return self.disturbed(), self.changed(inputs)

    def changed(self, inputs: Mapping[str, Array]) -> list[str]:
        """Return which of ``inputs``, by name, have copies on the device that differ by now."""
        return [
            name
            for name, host in inputs.items()
            if any(self._device.to_host(held).tobytes() != host.tobytes() for held in self.held(host))
        ]


def overwrite(target: Any, source: Array) -> None:
    """Write an array of the host over one of a device, in place."""
    if isinstance(target, np.ndarray):
        target[...] = source
    else:
        target.set(np.ascontiguousarray(source))
