"""The adapters by name: what they run, and what that needs.  Nothing of another project is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.backends.adapters.triton_peers import SGLANG, TRITON, VLLM
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
    "triton": Adapter(
        about="a small paged attention of ours in Triton, every feature",
        place="pabench.backends.adapters.triton_baseline:TritonBaselineBackend",
        peers=(TRITON,),
    ),
    "vllm-triton": Adapter(
        about="vLLM's unified attention in Triton, one pass; writing the cache, merging states",
        place="pabench.backends.adapters.vllm_triton:VllmTritonBackend",
        peers=(VLLM, TRITON),
    ),
    "vllm-triton-split": Adapter(
        about="vLLM's unified attention in Triton, keys in 16 segments",
        place="pabench.backends.adapters.vllm_triton:VllmTritonSplitBackend",
        peers=(VLLM, TRITON),
    ),
    "vllm-triton-chunked": Adapter(
        about="vLLM's prefix prefill and paged decode in Triton",
        place="pabench.backends.adapters.vllm_triton_paged:VllmTritonChunkedBackend",
        peers=(VLLM, TRITON),
    ),
    "vllm-triton-decode": Adapter(
        about="vLLM's split-KV decode in Triton",
        place="pabench.backends.adapters.vllm_triton_paged:VllmTritonDecodeBackend",
        peers=(VLLM, TRITON),
    ),
    "sglang-triton": Adapter(
        about="SGLang's decode attention in Triton; merging states",
        place="pabench.backends.adapters.sglang_triton:SglangTritonDecodeBackend",
        peers=(SGLANG, TRITON),
    ),
    "sglang-triton-extend": Adapter(
        about="SGLang's extend attention in Triton: new tokens over a cached prefix",
        place="pabench.backends.adapters.sglang_triton:SglangTritonExtendBackend",
        peers=(SGLANG, TRITON),
    ),
}
