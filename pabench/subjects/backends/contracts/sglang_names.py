# SPDX-License-Identifier: Apache-2.0
"""What attention plugins import from SGLang, where SGLang is not installed; own code, their names.

Source of names and fields: SGLang 0.5.23, in ``srt``: layers, model_executor, mem_cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from types import SimpleNamespace
from typing import Any

import torch


class AttentionType(StrEnum):
    """Kinds of attention; only ``DECODER`` is asked here."""

    DECODER = "decoder"
    ENCODER_ONLY = "encoder_only"


class ForwardMode(IntEnum):
    """Kinds of steps; asked are ``EXTEND`` and ``DECODE``."""

    EXTEND = auto()
    DECODE = auto()
    MIXED = auto()
    IDLE = auto()
    TARGET_VERIFY = auto()

    def is_extend(self, **given: Any) -> bool:
        """Whether rows come with new tokens of a prompt."""
        return self in (ForwardMode.EXTEND, ForwardMode.MIXED, ForwardMode.TARGET_VERIFY)

    is_prefill = is_extend

    def is_decode(self) -> bool:
        """Whether each sequence has one row."""
        return self == ForwardMode.DECODE

    def is_mixed(self) -> bool:
        """Whether it is both."""
        return self == ForwardMode.MIXED

    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return self == ForwardMode.IDLE

    def is_decode_or_idle(self) -> bool:
        """Whether each sequence has one row, or there is none."""
        return self.is_decode() or self.is_idle()

    def is_target_verify(self) -> bool:
        """Whether drafts are verified."""
        return self == ForwardMode.TARGET_VERIFY


class AttentionBackend:
    """Makes metadata of a batch, and computes layers."""

    forward_metadata: Any = None

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Make metadata of a batch that is no graph."""
        self.init_forward_metadata_out_graph(forward_batch)
        self.init_forward_metadata_in_graph(forward_batch)

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
        """Make the part of the metadata that a graph does not make."""

    def init_forward_metadata_in_graph(self, forward_batch: Any) -> None:
        """Make the part that is recorded."""

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None:
        """Make what stays where it is."""
        raise NotImplementedError

    def get_cuda_graph_seq_len_fill_value(self) -> int:
        """Return the length of rows of padding."""
        raise NotImplementedError

    def forward_decode(self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, **given: Any) -> Any:
        """Compute a layer of a batch with one row a sequence."""
        raise NotImplementedError

    def forward_extend(self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, **given: Any) -> Any:
        """Compute a layer of a batch with new tokens of prompts."""
        raise NotImplementedError


@dataclass
class KVWriteLoc:
    """Where new tokens are written."""

    loc: torch.Tensor
    swa_loc: torch.Tensor | None = None
    full_loc: torch.Tensor | None = None


ATTENTION_BACKENDS: dict[str, Any] = {}


def register_attention_backend(name: str) -> Callable[[Any], Any]:
    """Return a decorator that keeps what it decorates under ``name``."""
    return lambda plugin: ATTENTION_BACKENDS.setdefault(name, plugin)


FORWARD_BATCH = "sglang.srt.model_executor.forward_batch_info"
MODULES: dict[str, dict[str, Any]] = {
    "sglang.srt.layers.attention.base_attn_backend": {"AttentionBackend": AttentionBackend},
    "sglang.srt.layers.attention.attention_registry": {
        "ATTENTION_BACKENDS": ATTENTION_BACKENDS,
        "register_attention_backend": register_attention_backend,
    },
    "sglang.srt.layers.radix_attention": {"AttentionType": AttentionType, "RadixAttention": SimpleNamespace},
    FORWARD_BATCH: {"ForwardMode": ForwardMode, "ForwardBatch": SimpleNamespace},
    "sglang.srt.model_executor.model_runner": {"ModelRunner": SimpleNamespace},
    "sglang.srt.mem_cache.memory_pool": {"KVWriteLoc": KVWriteLoc},
}
