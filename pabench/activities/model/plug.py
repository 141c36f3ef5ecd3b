# SPDX-License-Identifier: Apache-2.0
"""A language model's run as a plug for the engine: all prompts, once at each page size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pabench.activities.model.config import ModelConfig
from pabench.activities.model.record import Setting
from pabench.device.registry import DeviceRequest
from pabench.run.plug import ActivityBase, Facts


class Model(ActivityBase):
    """Prompts that a real model answers, its cache in pages.

    Args:
        config: prompts, page sizes, backend and allocator.
        device: where the cache lies.
    """

    kind = "model"
    bench = "pabench.activities.model.bench:ModelBench"

    def __init__(self, config: ModelConfig, *, device: DeviceRequest) -> None:
        self._config, self._device = config, device

    def setup(self) -> Mapping[str, Any]:
        """See ``Activity``."""
        return {"config": self._config.to_dict(), "device": self._device.to_dict()}

    def items(self, facts: Facts) -> Sequence[Setting]:
        """See ``Activity``; the model's name is known when it is loaded."""
        return [
            Setting(
                model=str(facts.more["model"]),
                backend=self._config.backend,
                allocator=self._config.allocator,
                device=facts.device,
                page_size=page_size,
                dtype=self._config.dtype,
            )
            for page_size in self._config.page_sizes
        ]

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """See ``Activity``."""
        kernels = self._device.kernels
        return {**self._config.to_dict(), "device": facts.device, "kernels": kernels}
