"""The adapters by name: what they run, and what that needs.  Nothing of another project is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.backends.adapters.triton_peers import SGLANG, TRITON, VLLM
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


ADAPTERS: dict[str, Adapter] = {
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
