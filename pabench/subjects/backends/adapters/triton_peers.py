# SPDX-License-Identifier: Apache-2.0
"""Triton, and what of vLLM and SGLang is loaded for their Triton kernels; torch is imported on use alone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pabench.subjects.peers.package import ThirdPartyPackage

TRITON = ThirdPartyPackage(
    package="triton", version="3.9.0", modules=("triton", "triton.language"), stays=True
)

UNIFIED = "vllm.v1.attention.ops.triton_unified_attention"
CHUNKED = "vllm.v1.attention.ops.chunked_prefill_paged_decode"
DECODE = "vllm.v1.attention.ops.triton_decode_attention"
CACHE = "vllm.v1.attention.ops.triton_reshape_and_cache_flash"
MERGE = "vllm.v1.attention.ops.triton_merge_attn_states"

SGLANG_DECODE = "sglang.kernels.ops.attention.decode_attention"
SGLANG_EXTEND = "sglang.kernels.ops.attention.extend_attention"
SGLANG_MERGE = "sglang.kernels.ops.attention.merge_state"
SGLANG_PAGES = "sglang.kernels.ops.memory.allocator"


class QuantMode(IntEnum):
    """Stands for vLLM's ``KVQuantMode``: the modes that its kernels compare with."""

    NONE = 0
    FP8_PER_TENSOR = 1
    INT8_PER_TOKEN_HEAD = 2
    FP8_PER_TOKEN_HEAD = 3
    INT4_PER_TOKEN_HEAD = 4


def _quiet(*words: object) -> None:
    """Stands for a logger."""


def _capability() -> tuple[int, int] | None:
    """Return the compute capability of what kernels are compiled for, None where they are interpreted."""
    import torch

    interpreted = type(TRITON.load()["triton.language"].sum).__name__ == "InterpretedFunction"
    # answered for a device that runs PTX too, while it is the current one
    return None if interpreted else torch.cuda.get_device_capability()


def _vllm_platform() -> SimpleNamespace:
    """Return what vLLM's kernels ask of the platform: CUDA's answers where kernels are compiled.

    Else it calls itself an XPU, since there the launchers do not ask CUDA what it can.
    """
    import torch

    capability = _capability() or (0, 0)
    cuda = capability != (0, 0)
    return SimpleNamespace(
        fp8_dtype=lambda: torch.float8_e4m3fn,
        is_rocm=lambda: False,
        is_xpu=lambda: not cuda,
        get_device_capability=lambda: capability,
        has_device_capability=lambda wanted: capability[0] * 10 + capability[1] >= wanted,
        is_device_capability_family=lambda family: capability[0] == family // 10,
    )


def _vllm(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    import torch

    triton = TRITON.load()
    kernels = {"triton": triton["triton"], "tl": triton["triton.language"], "HAS_TRITON": True}
    logger = SimpleNamespace(debug_once=_quiet, warning_once=_quiet, warning=_quiet)
    quant = {"FP8_DTYPE": torch.float8_e4m3fn, "get_fp8_min_max": lambda: (-448.0, 448.0)}
    return {
        "vllm._custom_ops": {},
        "vllm.envs": {"VLLM_BATCH_INVARIANT": False},
        "vllm.logger": {"init_logger": lambda name: logger},
        "vllm.model_executor.layers.quantization.utils.quant_utils": quant,
        "vllm.platforms": {"current_platform": _vllm_platform()},
        "vllm.triton_utils": kernels,
        "vllm.v1.kv_cache_interface": {
            "KVQuantMode": QuantMode,
            "is_quantized_kv_cache": lambda name: name.startswith("fp8"),
        },
    }


VLLM = ThirdPartyPackage(
    package="vllm",
    version="0.33.0",
    modules=(UNIFIED, CHUNKED, DECODE, CACHE, MERGE),
    bare=(
        *("vllm", "vllm.model_executor", "vllm.model_executor.layers"),
        *("vllm.model_executor.layers.quantization", "vllm.model_executor.layers.quantization.utils"),
        *("vllm.v1", "vllm.v1.attention", "vllm.v1.attention.ops"),
    ),
    replaced=_vllm,
)


def _sglang(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    compiled = _capability() is not None
    off = SimpleNamespace(get=lambda: False)
    names = ("SGLANG_TRITON_FP8_PREFILL_ATTN", "SGLANG_TRITON_COMPACT_EXTEND_ATTENTION")
    return {
        "sglang.srt.environ": {"envs": SimpleNamespace(**dict.fromkeys(names, off))},
        "sglang.srt.utils": {
            "get_device_core_count": lambda index=0: 0,
            "is_cuda": lambda: compiled,
            "is_gfx95_supported": lambda: False,
            "is_gfx1250_supported": lambda: False,
            "is_hip": lambda: False,
        },
    }


SGLANG = ThirdPartyPackage(
    package="sglang",
    version="0.5.23",
    modules=(SGLANG_DECODE, SGLANG_EXTEND, SGLANG_MERGE, SGLANG_PAGES),
    bare=(
        *("sglang", "sglang.kernels", "sglang.kernels.ops", "sglang.kernels.ops.attention"),
        *("sglang.kernels.ops.memory", "sglang.srt"),
    ),
    replaced=_sglang,
)
