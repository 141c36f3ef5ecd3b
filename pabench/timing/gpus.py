# SPDX-License-Identifier: Apache-2.0
"""Datasheet figures of a few GPUs, for modelled times only."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import UnknownName


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What a vendor promises of one GPU; real kernels reach a part of it.

    Attributes:
        name: short name, as given on the command line.
        title: full name.
        memory_gbps: memory bandwidth, 10^9 bytes a second.
        tensor_tflops: dense fp16 / bf16 tensor-core peak with float32 accumulation, without sparsity.
        fp32_tflops: float32 peak outside the tensor cores.
        l2_mib: L2 cache.
        l2_gbps: read bandwidth of the L2 cache, 10^9 bytes a second; None where the vendor publishes none.
        num_sms: streaming multiprocessors.
        memory_gib: device memory as sold.
        source: where the figures come from.
    """

    name: str
    title: str
    memory_gbps: float
    tensor_tflops: float
    fp32_tflops: float
    l2_mib: float
    l2_gbps: float | None
    num_sms: int
    memory_gib: float
    source: str


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="a100",
            title="NVIDIA A100 80GB SXM",
            memory_gbps=2039.0,
            tensor_tflops=312.0,
            fp32_tflops=19.5,
            l2_mib=40.0,
            l2_gbps=7219.2,
            num_sms=108,
            memory_gib=80.0,
            source="NVIDIA A100 80GB datasheet (2,039 GB/s, 312 and 19.5 TFLOPS); NVIDIA A100 Tensor Core "
            "GPU Architecture whitepaper (108 SMs, 40 MB L2 read at 5,120 bytes a clock, 1,410 MHz)",
        ),
        Gpu(
            name="h100",
            title="NVIDIA H100 80GB SXM",
            memory_gbps=3350.0,
            tensor_tflops=989.4,
            fp32_tflops=66.9,
            l2_mib=50.0,
            l2_gbps=None,
            num_sms=132,
            memory_gib=80.0,
            source="NVIDIA H100 datasheet, SXM (80 GB, 3.35 TB/s); NVIDIA H100 Tensor Core GPU Architecture "
            "whitepaper, H100 SXM5 (989.4 and 66.9 TFLOPS dense, 132 SMs, 50 MB L2)",
        ),
        Gpu(
            name="h200",
            title="NVIDIA H200 141GB SXM",
            memory_gbps=4800.0,
            tensor_tflops=989.4,
            fp32_tflops=66.9,
            l2_mib=60.0,
            l2_gbps=None,
            num_sms=132,
            memory_gib=141.0,
            source="NVIDIA H200 datasheet, SXM (141 GB, 4.8 TB/s; TFLOPS are those of H100 SXM, "
            "here unrounded and without sparsity); 132 SMs and L2 as the driver reports them",
        ),
        Gpu(
            name="b200",
            title="NVIDIA B200 SXM, 1000 W",
            memory_gbps=7700.0,
            tensor_tflops=2250.0,
            fp32_tflops=75.0,
            l2_mib=126.5,
            l2_gbps=None,
            num_sms=148,
            memory_gib=180.0,
            source="NVIDIA Blackwell datasheet, HGX B200 column, per GPU (180 GB, 7.7 TB/s, 75 TFLOPS; "
            "4.5 PFLOPS are given with sparsity); 148 SMs and L2 as the driver reports them (pytorch/ao pull "
            "request 4002; the CUDA Blackwell Tuning Guide says 126 MB)",
        ),
        Gpu(
            name="l4",
            title="NVIDIA L4 24GB",
            memory_gbps=300.0,
            tensor_tflops=121.0,
            fp32_tflops=30.3,
            l2_mib=48.0,
            l2_gbps=None,
            num_sms=58,
            memory_gib=24.0,
            source="NVIDIA L4 datasheet (24 GB, 300 GB/s, 30.3 TFLOPS; 242 TFLOPS are given with "
            "sparsity); NVIDIA Ada GPU Architecture whitepaper V2.01 (58 SMs, 48 MB L2)",
        ),
        Gpu(
            name="rtx4090",
            title="NVIDIA GeForce RTX 4090",
            memory_gbps=1008.0,
            tensor_tflops=165.2,
            fp32_tflops=82.6,
            l2_mib=72.0,
            l2_gbps=None,
            num_sms=128,
            memory_gib=24.0,
            source="NVIDIA Ada GPU Architecture whitepaper, GeForce RTX 4090 (24 GB, 1,008 GB/s, 82.6 "
            "TFLOPS, 165.2 TFLOPS with FP32 accumulate, 128 SMs, 72 MB L2)",
        ),
    )
}


def gpu_by_name(name: str) -> Gpu:
    """Return the GPU called ``name``, in any case and with or without hyphens and blanks.

    Raises:
        UnknownName: no such GPU; the nearest name is offered.
    """
    key = "".join(part for part in str(name).lower() if part not in "-_ ")
    if key not in GPUS:
        raise UnknownName("gpu", str(name), GPUS)
    return GPUS[key]
