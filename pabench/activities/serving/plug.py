# SPDX-License-Identifier: Apache-2.0
"""Serving as a plug for the engine: a server an allocator and page size, all over one workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pabench.activities.serving.config import ServingConfig
from pabench.activities.serving.server import Server
from pabench.device.registry import DeviceRequest
from pabench.run.plug import ActivityBase, Facts
from pabench.run.record import Record

COLUMNS_DIR = "columns"


class Serving(ActivityBase):
    """A workload, and the servers that it is given to.

    Args:
        config: what is served, and by whom.
        device: where kernels run.
        out: the run directory, which gets a folder of columns.
    """

    kind = "serving"
    noun = "server"
    bench = "pabench.activities.serving.bench:ServingBench"

    def __init__(self, config: ServingConfig, *, device: DeviceRequest, out: Path) -> None:
        self._config, self._device, self._out = config, device, out.absolute()

    def setup(self) -> Mapping[str, Any]:
        """See ``Activity``."""
        return {
            "config": self._config.to_dict(),
            "device": self._device.to_dict(),
            "columns": str(self._out / COLUMNS_DIR),
        }

    def items(self, facts: Facts) -> Sequence[Server]:
        """See ``Activity``; the workload decides how large a table is, so that the worker has made them."""
        return [Server(**server) for server in facts.more["servers"]]

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """Return the options, and what of the workload is known once it is there."""
        return {
            **self._config.to_dict(),
            **facts.more["requests"],
            "pool_gib": self._config.pool_slots * self._config.token_bytes / 2**30,
            "device": facts.device,
            "kernels": self._device.kernels,
        }

    def replay_words(self, record: Record) -> Sequence[str]:
        """See ``Activity``."""
        return () if self._device.kernels is None else ("--kernels", self._device.kernels)
