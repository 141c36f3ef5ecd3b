# SPDX-License-Identifier: Apache-2.0
"""transformers: the parts of its continuous batching that adapters run, and what those name without need."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pabench.subjects.peers.package import ThirdPartyPackage

SDPA = "transformers.integrations.sdpa_paged"
EAGER = "transformers.integrations.eager_paged"
BATCHING = "transformers.generation.continuous_batching"
CACHE = f"{BATCHING}.cache"
UTILS = f"{BATCHING}.utils"
ABSENT = ("psutil", "torch_mps", "torch_npu", "torch_xpu")


def _never(*_: Any, **__: Any) -> bool:
    return False


def _replaced(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """What cache and utilities name and these adapters do not call: models, requests, memory, processes."""
    logger = SimpleNamespace(get_logger=logging.getLogger)
    unused: dict[str, dict[str, Any]] = {
        "transformers.configuration_utils": {"PreTrainedConfig": None, "PretrainedConfig": None},
        "transformers.generation.configuration_utils": {"ContinuousBatchingConfig": None},
        "transformers.utils.generic": {"is_flash_attention_requested": None},
        "transformers.utils.logging": {"logging": logging},
        f"{BATCHING}.distributed": {"DistributedHelper": None},
        f"{BATCHING}.initialization": {"resolve_max_memory_percent": None},
        # none of these accelerators is driven, and psutil is asked for memory alone
        "transformers.utils": {"logging": logger, **{f"is_{name}_available": _never for name in ABSENT}},
        "transformers.utils.import_utils": {
            "is_torch_greater_or_equal": _never,
            "is_torchdynamo_compiling": _never,
        },
    }
    requests = ("FutureRequestState", "RequestState", "RequestStatus", "get_device_and_memory_breakdown")
    kept = {name: type(name, (), {}) for name in requests}
    return {**unused, f"{BATCHING}.requests": {**kept, "logger": logging.getLogger("transformers")}}


TRANSFORMERS = ThirdPartyPackage(
    package="transformers",
    version="5.17.0",
    modules=(SDPA, EAGER, CACHE, UTILS),
    bare=(
        "transformers",
        "transformers.generation",
        BATCHING,
        "transformers.integrations",
        "transformers.utils",
    ),
    replaced=_replaced,
)
