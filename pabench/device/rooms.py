"""Where a device puts memory while somebody watches: between canaries, or flush with memory of nobody.

A device has no rooms of its own accord.  Within ``in_rooms`` all that it hands out, uploads included, lies in
rooms; what was handed out before stays where it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pabench.device.base import Device, Rooms
from pabench.problem.dtypes import Array

MARGIN_BYTES = 4096
"""Of canaries on each side of a room; a multiple of any alignment that kernels ask for."""
CANARIES: Array = (0x7FC1 + np.arange(MARGIN_BYTES // 2) % 62).astype("<u2").view(np.uint8)
"""Each 16 bits a NaN in float16 and bfloat16, each 32 in float32, and neighbours differ."""

SomeRooms = TypeVar("SomeRooms", bound=Rooms)


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

    def changed(self, inputs: dict[str, Array]) -> list[str]:
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
