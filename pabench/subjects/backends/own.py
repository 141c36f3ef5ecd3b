# SPDX-License-Identifier: Apache-2.0
"""Our own backends by name; the adapters of other projects' kernels are in ``adapters/table.py``."""

from __future__ import annotations

from pabench.subjects.peers.named import NamedSubject

OWN: dict[str, NamedSubject] = {
    "rawkernel": NamedSubject(
        about="our CUDA kernels, the readable ones",
        place="pabench.subjects.backends.rawkernel:RawKernelBackend",
    ),
    "rawkernel-mma": NamedSubject(
        about="our decode and prefill on tensor cores",
        place="pabench.subjects.backends.rawkernel_mma:RawKernelMmaBackend",
    ),
    "rawkernel-mma-fixed": NamedSubject(
        about="rawkernel-mma with sequences cut at fixed places, so that bits do not depend on the batch",
        place="pabench.subjects.backends.rawkernel_mma_fixed:RawKernelMmaFixedBackend",
    ),
    "rawkernel-mma-overlap": NamedSubject(
        about="rawkernel-mma with the attention launched while its plan is made, on sm_90 and later",
        place="pabench.subjects.backends.rawkernel_overlap:RawKernelOverlapBackend",
        architecture="sm_90a",
    ),
    "rawkernel-wgmma": NamedSubject(
        about="rawkernel-mma with prompts by products of warpgroups, on sm_90a alone",
        place="pabench.subjects.backends.rawkernel_wgmma:RawKernelWgmmaBackend",
        architecture="sm_90a",
    ),
    "rawkernel-mla": NamedSubject(
        about="our decode over latent caches (MLA) on tensor cores",
        place="pabench.subjects.backends.rawkernel_mla:RawKernelMlaBackend",
    ),
    "rawkernel-cascade": NamedSubject(
        about="rawkernel-mma, which reads pages that sequences share once for all of them",
        place="pabench.subjects.backends.rawkernel_cascade:RawKernelCascadeBackend",
    ),
    "torch-sdpa": NamedSubject(
        about="gather the pages, then torch's scaled_dot_product_attention",
        place="pabench.subjects.backends.torch_sdpa:TorchSdpaBackend",
    ),
}
