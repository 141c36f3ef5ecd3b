# SPDX-License-Identifier: Apache-2.0
"""The adapters by name: what they run, and what that needs.  Nothing of another project is imported here."""

from __future__ import annotations

from pabench.subjects.backends.adapters.gpu_table import GPU_ADAPTERS
from pabench.subjects.backends.adapters.triton_peers import SGLANG, TRITON, VLLM
from pabench.subjects.peers.named import NamedSubject
from pabench.subjects.peers.package import ThirdPartyPackage
from pabench.subjects.peers.transformers import TRANSFORMERS

TORCH = ThirdPartyPackage(
    package="torch",
    version="2.13.0",
    modules=("torch.nn.attention.flex_attention", "torch.nn.attention.experimental._paged_attention"),
    installed=True,
)
"""The extra ``torch``; imported as it is."""

JAX = (
    ThirdPartyPackage(package="ml_dtypes", version="0.6.0", modules=("ml_dtypes",), stays=True),
    ThirdPartyPackage(package="opt_einsum", version="3.4.0", modules=("opt_einsum",), stays=True),
    ThirdPartyPackage(package="scipy", version="1.17.1", modules=("scipy",), stays=True),
    ThirdPartyPackage(package="jaxlib", version="0.10.2", modules=("jaxlib",), stays=True),
    ThirdPartyPackage(
        package="jax",
        version="0.10.2",
        modules=("jax", "jax.experimental.pallas.ops.gpu.paged_attention"),
        stays=True,
    ),
)
"""JAX last, after what it imports: each is installed without its dependencies."""

ADAPTERS: dict[str, NamedSubject] = {
    "jax-pallas": NamedSubject(
        about="JAX's Pallas kernel for decode over pages",
        place="pabench.subjects.backends.adapters.jax_pallas:JaxPallasBackend",
        peers=(JAX[-1], *JAX[:-1]),
    ),
    "torch-flex": NamedSubject(
        about="FlexAttention with the block mask of torch's experimental PagedAttention",
        place="pabench.subjects.backends.adapters.torch_flex:TorchFlexBackend",
        peers=(TORCH,),
    ),
    "triton": NamedSubject(
        about="a small paged attention of ours in Triton, every feature",
        place="pabench.subjects.backends.adapters.triton_baseline:TritonBaselineBackend",
        peers=(TRITON,),
    ),
    "vllm-triton": NamedSubject(
        about="vLLM's unified attention in Triton, one pass; writing the cache, merging states",
        place="pabench.subjects.backends.adapters.vllm_triton:VllmTritonBackend",
        peers=(VLLM, TRITON),
    ),
    "vllm-triton-split": NamedSubject(
        about="vLLM's unified attention in Triton, keys in 16 segments",
        place="pabench.subjects.backends.adapters.vllm_triton:VllmTritonSplitBackend",
        peers=(VLLM, TRITON),
    ),
    "vllm-triton-chunked": NamedSubject(
        about="vLLM's prefix prefill and paged decode in Triton",
        place="pabench.subjects.backends.adapters.vllm_triton_paged:VllmTritonChunkedBackend",
        peers=(VLLM, TRITON),
    ),
    "vllm-triton-decode": NamedSubject(
        about="vLLM's split-KV decode in Triton",
        place="pabench.subjects.backends.adapters.vllm_triton_paged:VllmTritonDecodeBackend",
        peers=(VLLM, TRITON),
    ),
    "sglang-triton": NamedSubject(
        about="SGLang's decode attention in Triton; merging states",
        place="pabench.subjects.backends.adapters.sglang_triton:SglangTritonDecodeBackend",
        peers=(SGLANG, TRITON),
    ),
    "sglang-triton-extend": NamedSubject(
        about="SGLang's extend attention in Triton: new tokens over a cached prefix",
        place="pabench.subjects.backends.adapters.sglang_triton:SglangTritonExtendBackend",
        peers=(SGLANG, TRITON),
    ),
    "transformers-paged": NamedSubject(
        about="sdpa_paged of transformers' continuous batching, over its own cache",
        place="pabench.subjects.backends.adapters.transformers_paged:TransformersPagedBackend",
        peers=(TRANSFORMERS,),
    ),
    "transformers-paged-eager": NamedSubject(
        about="eager_paged of transformers' continuous batching, over its own cache",
        place="pabench.subjects.backends.adapters.transformers_paged:TransformersPagedEagerBackend",
        peers=(TRANSFORMERS,),
    ),
    **GPU_ADAPTERS,
}
