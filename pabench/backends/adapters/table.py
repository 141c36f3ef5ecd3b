"""The adapters by name: what they run, and what that needs.  Nothing of another project is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import Unsupported
from pabench.peers.peer import Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A backend that runs kernels of another project.

    Attributes:
        about: one line for lists.
        place: ``module:attribute`` of its class.
        peers: the packages it runs, the one it is named after first.
        needs_gpu: its kernels have no interpreter; without a GPU every case is unsupported.
    """

    about: str
    place: str
    peers: tuple[Peer, ...]
    needs_gpu: bool = False

    def check(self, name: str, device: str) -> None:
        """Look whether it can be had on a device, without importing anything.

        Raises:
            Unsupported: it needs a GPU, or one of its packages is absent or too old.
        """
        if self.needs_gpu and device != "cuda":
            raise Unsupported(f"{name} needs a GPU: its kernels have no interpreter; add --device cuda")
        for peer in self.peers:
            peer.find()

    @property
    def install(self) -> str:
        """The commands that install what it runs."""
        return " && ".join(dict.fromkeys(peer.install for peer in self.peers))


TORCH = Peer(
    package="torch",
    version="2.13.0",
    modules=("torch.nn.attention.flex_attention", "torch.nn.attention.experimental._paged_attention"),
    installed=True,
)
"""Part of what pabench depends on anyway, so it is imported as it is."""

JAX = (
    Peer(package="ml_dtypes", version="0.6.0", modules=("ml_dtypes",), stays=True),
    Peer(package="opt_einsum", version="3.4.0", modules=("opt_einsum",), stays=True),
    Peer(package="scipy", version="1.17.1", modules=("scipy",), stays=True),
    Peer(package="jaxlib", version="0.10.2", modules=("jaxlib",), stays=True),
    Peer(
        package="jax",
        version="0.10.2",
        modules=("jax", "jax.experimental.pallas.ops.gpu.paged_attention"),
        stays=True,
    ),
)
"""JAX last, after what it imports: each is installed without its dependencies."""

FLASHINFER = Peer(
    package="flashinfer",
    distribution="flashinfer-python",
    version="0.7.2",
    modules=("flashinfer",),
    stays=True,
)
FLASH_ATTN = Peer(
    package="flash_attn",
    distribution="flash-attn",
    version="2.8.3",
    modules=("flash_attn.flash_attn_interface",),
    stays=True,
)
VLLM_CUDA = Peer(
    package="vllm",
    version="0.33.0",
    modules=("vllm.vllm_flash_attn.flash_attn_interface", "vllm._custom_ops"),
    stays=True,
)
CUDNN = Peer(
    package="cudnn",
    distribution="nvidia-cudnn-frontend",
    version="1.32.0",
    modules=("cudnn",),
    stays=True,
)
XFORMERS = Peer(
    package="xformers",
    version="0.0.35",
    modules=("xformers.ops.fmha", "xformers.ops.fmha.attn_bias", "xformers.ops.fmha.triton_splitk"),
    stays=True,
)

ADAPTERS: dict[str, Adapter] = {
    "jax-pallas": Adapter(
        about="JAX's Pallas kernel for decode over pages",
        place="pabench.backends.adapters.jax_pallas:JaxPallasBackend",
        peers=(JAX[-1], *JAX[:-1]),
    ),
    "torch-flex": Adapter(
        about="FlexAttention with the block mask of torch's experimental PagedAttention",
        place="pabench.backends.adapters.torch_flex:TorchFlexBackend",
        peers=(TORCH,),
    ),
    "flashinfer": Adapter(
        about="FlashInfer's paged prefill wrapper for every batch, its append and its merge",
        place="pabench.backends.adapters.flashinfer:FlashInferBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
    ),
    "flashinfer-decode": Adapter(
        about="FlashInfer's paged decode wrapper, on CUDA cores",
        place="pabench.backends.adapters.flashinfer:FlashInferDecodeBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
    ),
    "flashinfer-batch": Adapter(
        about="FlashInfer's BatchAttention: decode and prefill in one launch",
        place="pabench.backends.adapters.flashinfer:FlashInferBatchBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
    ),
    "flashinfer-xqa": Adapter(
        about="XQA decode by way of FlashInfer",
        place="pabench.backends.adapters.flashinfer:FlashInferXqaBackend",
        peers=(FLASHINFER,),
        needs_gpu=True,
    ),
    "flash-attn": Adapter(
        about="FlashAttention 2 over a block table",
        place="pabench.backends.adapters.flash_attn:FlashAttnBackend",
        peers=(FLASH_ATTN,),
        needs_gpu=True,
    ),
    "vllm-cuda": Adapter(
        about="vLLM's compiled kernels: its FlashAttention 2, append and merge of two states",
        place="pabench.backends.adapters.flash_attn:VllmCudaBackend",
        peers=(VLLM_CUDA,),
        needs_gpu=True,
    ),
    "cudnn-frontend": Adapter(
        about="cuDNN's attention over page tables",
        place="pabench.backends.adapters.cudnn_frontend:CudnnFrontendBackend",
        peers=(CUDNN,),
        needs_gpu=True,
    ),
    "xformers": Adapter(
        about="xFormers' memory-efficient attention with a paged bias, split keys",
        place="pabench.backends.adapters.xformers:XformersBackend",
        peers=(XFORMERS,),
        needs_gpu=True,
    ),
}
