# SPDX-License-Identifier: Apache-2.0
"""Calls about memory that is watched: rooms are numbers that the judge gives out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pabench.device.base import Device
from pabench.device.rooms import CanaryRooms, PlainRooms, make_rooms
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors


class RoomCalls:
    """Rooms of a device, one of which it may be using."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._rooms: dict[int, PlainRooms] = {}
        self._used: PlainRooms | None = None

    @property
    def calls(self) -> dict[str, Callable[..., Any]]:
        """The calls by name."""
        made = (self.make_rooms, self.use_rooms, self.rooms_used, self.rooms_found, self.rewrite)
        return {call.__name__: call for call in made}

    def given(self, tensors: Tensors) -> Tensors:
        """Return ``tensors`` as a backend is to see them in the rooms that are used."""
        return tensors if self._used is None else self._used.given(tensors)

    def make_rooms(self, number: int, kind: str) -> None:
        """Make rooms; the last ones asked for are the only ones that are kept."""
        self._rooms = {number: make_rooms(self._device, kind)}

    def use_rooms(self, number: int | None) -> None:
        """Let the device use rooms, or none."""
        self._used = self._device.rooms = None if number is None else self._rooms[number]

    def rooms_used(self, number: int) -> bool:
        """Return whether anything was uploaded into rooms."""
        return self._rooms[number].used

    def rooms_found(self, number: int, inputs: Mapping[str, Array]) -> tuple[str | None, list[str]]:
        """Return what was written beside arrays, and which of ``inputs`` were changed."""
        rooms = self._rooms[number]
        return rooms.found(inputs) if isinstance(rooms, CanaryRooms) else (None, [])

    def rewrite(self, number: int, pairs: Mapping[str, tuple[Array, Array]]) -> list[str]:
        """Write new arrays over copies of old ones, and return the names of those without a copy."""
        return self._rooms[number].rewrite(pairs)
