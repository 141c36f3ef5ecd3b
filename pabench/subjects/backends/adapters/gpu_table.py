# SPDX-License-Identifier: Apache-2.0
"""The adapters of libraries that need a GPU, by name; ``table.py`` has them all."""

from __future__ import annotations

from pabench.subjects.peers.named import NamedSubject
from pabench.subjects.peers.package import ThirdPartyPackage

FLASHINFER = ThirdPartyPackage(
    package="flashinfer",
    distribution="flashinfer-python",
    version="0.7.2.post1",
    modules=("flashinfer",),
    stays=True,
)
NVCC = ThirdPartyPackage(
    package="nvidia",
    distribution="nvidia-cuda-nvcc",
    version="13.0.88",
    modules=(),
    along=("nvidia-nvvm==13.0.88",),
)
"""The compiler, whose two halves find each other where one command installed both."""
ON_PTX = "pabench.subjects.backends.adapters.flashinfer_ptx"
FLASH_ATTN = ThirdPartyPackage(
    package="flash_attn",
    distribution="flash-attn",
    version="2.8.3.post2",
    modules=("flash_attn.flash_attn_interface",),
    stays=True,
)
VLLM_CUDA = ThirdPartyPackage(
    package="vllm",
    version="0.33.0",
    modules=("vllm.vllm_flash_attn.flash_attn_interface", "vllm._custom_ops"),
    stays=True,
)
CUDNN = ThirdPartyPackage(
    package="cudnn",
    distribution="nvidia-cudnn-frontend",
    version="1.32.0",
    modules=("cudnn",),
    stays=True,
)
XFORMERS = ThirdPartyPackage(
    package="xformers",
    version="0.0.35",
    modules=("xformers.ops.fmha", "xformers.ops.fmha.attn_bias", "xformers.ops.fmha.triton_splitk"),
    stays=True,
)

GPU_ADAPTERS: dict[str, NamedSubject] = {
    "flashinfer": NamedSubject(
        about="FlashInfer's paged prefill wrapper for every batch, its append and its merge",
        place="pabench.subjects.backends.adapters.flashinfer:FlashInferBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
        on_ptx=f"{ON_PTX}:FlashInferPtxBackend",
        compilers=(NVCC,),
    ),
    "flashinfer-decode": NamedSubject(
        about="FlashInfer's paged decode wrapper, on CUDA cores",
        place="pabench.subjects.backends.adapters.flashinfer:FlashInferDecodeBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
        on_ptx=f"{ON_PTX}:FlashInferPtxDecodeBackend",
        compilers=(NVCC,),
    ),
    "flashinfer-mla": NamedSubject(
        about="FlashInfer's paged wrapper over latent caches (MLA)",
        place="pabench.subjects.backends.adapters.flashinfer:FlashInferMlaBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
        on_ptx="pabench.subjects.backends.adapters.flashinfer_mla:FlashInferPtxMlaBackend",
        compilers=(NVCC,),
    ),
    "flashinfer-batch": NamedSubject(
        about="FlashInfer's BatchAttention: decode and prefill in one launch",
        place="pabench.subjects.backends.adapters.flashinfer:FlashInferBatchBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
    ),
    "flashinfer-xqa": NamedSubject(
        about="XQA decode by way of FlashInfer",
        place="pabench.subjects.backends.adapters.flashinfer:FlashInferXqaBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
    ),
    "flash-attn": NamedSubject(
        about="FlashAttention 2 over a block table",
        place="pabench.subjects.backends.adapters.flash_attn:FlashAttnBackend",
        peers=(FLASH_ATTN,),
        needs_gpu=True,
    ),
    "vllm-cuda": NamedSubject(
        about="vLLM's compiled kernels: its FlashAttention 2, append and merge of two states",
        place="pabench.subjects.backends.adapters.flash_attn:VllmCudaBackend",
        peers=(VLLM_CUDA,),
        needs_gpu=True,
    ),
    "cudnn-frontend": NamedSubject(
        about="cuDNN's attention over page tables",
        place="pabench.subjects.backends.adapters.cudnn_frontend:CudnnFrontendBackend",
        peers=(CUDNN,),
        needs_gpu=True,
    ),
    "xformers": NamedSubject(
        about="xFormers' memory-efficient attention with a paged bias, split keys",
        place="pabench.subjects.backends.adapters.xformers:XformersBackend",
        peers=(XFORMERS,),
        needs_gpu=True,
    ),
}
