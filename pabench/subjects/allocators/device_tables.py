# SPDX-License-Identifier: Apache-2.0
"""What allocators on a device have in common: lengths and block table in its memory, read when asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import InvalidCase
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.base import PageAllocator, PoolShape


class DeviceTables(PageAllocator):
    """Base of allocators on a device; a subclass sets ``_lengths`` (int32) and ``_table`` (int32)."""

    on_device = True

    _lengths: Any
    _table: Any

    def __init__(self, device: Device, shape: PoolShape) -> None:
        super().__init__(shape)
        self._device = device

    def lengths(self) -> Array:
        """See ``PageAllocator``."""
        return self._device.to_host(self._lengths).astype(np.int64)

    def block_table(self) -> Array:
        """See ``PageAllocator``."""
        return self._device.to_host(self._table).copy()

    @abstractmethod
    def start_empty(self, count: int) -> None:
        """Start sequences 0 to ``count - 1``, none of them live, without tokens: one launch for all."""

    def _live(self, named: int, lengths: Array, field: str = "sequence") -> int:
        """Return the index of a live sequence; raises ``InvalidCase``."""
        sequence = self.check_index(named, field)
        if lengths[sequence] < 0:
            raise InvalidCase(field, sequence, "must be live")
        return sequence

    def _new(self, named: int, lengths: Array, field: str = "sequence") -> int:
        """Return the index of a sequence that is not there; raises ``InvalidCase``."""
        sequence = self.check_index(named, field)
        if lengths[sequence] >= 0:
            raise InvalidCase(field, sequence, "must not be there already")
        return sequence

    def _request(self, *columns: Sequence[int]) -> list[Any]:
        """Return columns of a request as device arrays, int32, one entry a row, unused entries -1."""
        filled = []
        for column in columns:
            entries = np.full(self._lengths.shape[0], -1, np.int32)
            entries[: len(column)] = column
            filled.append(self._device.to_device(entries))
        return filled
