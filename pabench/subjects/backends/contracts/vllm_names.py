# SPDX-License-Identifier: Apache-2.0
"""What out-of-tree attention plugins import from vLLM, where vLLM is not installed; own code, their names.

Source of names and fields: vLLM 0.33, ``v1/attention/backend.py`` and ``v1/kv_cache_interface.py``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, TypeVar

import torch

T = TypeVar("T")


class AttentionType(StrEnum):
    """Kinds of attention; only ``DECODER`` is asked here."""

    DECODER = "decoder"
    ENCODER = "encoder"
    ENCODER_ONLY = "encoder_only"
    ENCODER_DECODER = "encoder_decoder"


class AttentionCGSupport(Enum):
    """Which batches a builder can replay."""

    ALWAYS = 3
    UNIFORM_BATCH = 2
    UNIFORM_SINGLE_TOKEN_DECODE = 1
    NEVER = 0


@dataclass(frozen=True)
class MultipleOf:
    """Any multiple of a block size."""

    base: int


class AttentionBackend:
    """Names implementation and builder."""

    supported_dtypes: ClassVar[Any] = [torch.float16, torch.bfloat16]
    forward_includes_kv_cache_update = True

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[Any]:
        """Return block sizes, or multiples."""
        return [MultipleOf(1)]

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        """Return head sizes; empty for all."""
        return []

    @classmethod
    def supports_sink(cls) -> bool:
        """Whether ``sinks`` may be given."""
        return False

    @classmethod
    def supports_sliding_window(cls) -> bool:
        """Whether ``sliding_window`` may be given."""
        return False

    @classmethod
    def supports_non_causal(cls) -> bool:
        """Whether rows may see later keys."""
        return False


class AttentionMetadata:
    """What a builder returns."""


class AttentionImplBase(Generic[T]):
    """What implementations share."""


class AttentionImpl(AttentionImplBase[T]):
    """Computes a layer."""


class AttentionLayer:
    """What ``forward`` gets as its layer."""


class AttentionMetadataBuilder(Generic[T]):
    """Makes metadata of a batch."""

    _cudagraph_support = AttentionCGSupport.NEVER
    reorder_batch_threshold: int | None = None

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: Any) -> None:
        self.kv_cache_spec, self.layer_names = kv_cache_spec, layer_names
        self.vllm_config, self.device = vllm_config, device

    @classmethod
    def get_cudagraph_support(cls, vllm_config: Any, kv_cache_spec: Any) -> Any:
        """Return which batches can be replayed."""
        return cls._cudagraph_support

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        """Return the metadata of a batch."""
        raise NotImplementedError

    def build_for_cudagraph_capture(self, common_attn_metadata: Any) -> Any:
        """Return the metadata that a graph is captured with."""
        return self.build(common_prefix_len=0, common_attn_metadata=common_attn_metadata)


@dataclass
class CommonAttentionMetadata:
    """A batch, for all layers and backends."""

    query_start_loc: torch.Tensor
    query_start_loc_cpu: torch.Tensor
    seq_lens: torch.Tensor
    num_reqs: int
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    block_table_tensor: torch.Tensor
    slot_mapping: torch.Tensor
    causal: bool = True


@dataclass(frozen=True)
class FullAttentionSpec:
    """The cache of a layer."""

    block_size: int
    num_kv_heads: int
    head_size: int
    dtype: torch.dtype
    sliding_window: int | None = None


BACKEND = "vllm.v1.attention.backend"
MODULES: dict[str, dict[str, Any]] = {
    BACKEND: {
        one.__name__: one
        for one in (
            *(AttentionBackend, AttentionCGSupport, AttentionImpl, AttentionImplBase, AttentionLayer),
            *(
                AttentionMetadata,
                AttentionMetadataBuilder,
                AttentionType,
                CommonAttentionMetadata,
                MultipleOf,
            ),
        )
    },
    "vllm.v1.attention.backends.registry": {
        "AttentionBackendEnum": SimpleNamespace(CUSTOM="CUSTOM"),
        "register_backend": lambda *given, **named: lambda plugin: plugin,
    },
    "vllm.v1.kv_cache_interface": {
        "AttentionSpec": FullAttentionSpec,
        "FullAttentionSpec": FullAttentionSpec,
    },
    "vllm.config": {"VllmConfig": SimpleNamespace},
    "vllm.logger": {"init_logger": logging.getLogger},
}
