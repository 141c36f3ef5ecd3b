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
    num_sms: int
    memory_gib: float
    source: str

    def peak_tflops(self, dtype: str) -> float:
        """Return the peak for operands of ``dtype``: float32 runs outside the tensor cores."""
        return self.fp32_tflops if dtype == "float32" else self.tensor_tflops


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
            num_sms=108,
            memory_gib=80.0,
            source="NVIDIA A100 Tensor Core GPU datasheet; L2 and SMs: NVIDIA Ampere architecture whitepaper",
        ),
        Gpu(
            name="h100",
            title="NVIDIA H100 80GB SXM",
            memory_gbps=3350.0,
            tensor_tflops=989.4,
            fp32_tflops=66.9,
            l2_mib=50.0,
            num_sms=132,
            memory_gib=80.0,
            source="NVIDIA H100 Tensor Core GPU datasheet; L2 and SMs: NVIDIA Hopper architecture whitepaper",
        ),
        Gpu(
            name="h200",
            title="NVIDIA H200 141GB SXM",
            memory_gbps=4800.0,
            tensor_tflops=989.4,
            fp32_tflops=66.9,
            l2_mib=60.0,
            num_sms=132,
            memory_gib=141.0,
            source="NVIDIA H200 Tensor Core GPU datasheet; L2 as the driver reports it",
        ),
        Gpu(
            name="b200",
            title="NVIDIA B200 SXM, 1000 W",
            memory_gbps=8000.0,
            tensor_tflops=2250.0,
            fp32_tflops=75.0,
            l2_mib=126.0,
            num_sms=148,
            memory_gib=180.0,
            source="NVIDIA DGX B200 datasheet, an eighth of the system; L2 as the driver reports it",
        ),
        Gpu(
            name="l4",
            title="NVIDIA L4 24GB",
            memory_gbps=300.0,
            tensor_tflops=121.0,
            fp32_tflops=30.3,
            l2_mib=48.0,
            num_sms=58,
            memory_gib=24.0,
            source="NVIDIA L4 Tensor Core GPU datasheet (tensor figure halved: it is given with sparsity); "
            "L2 and SMs: NVIDIA Ada architecture whitepaper",
        ),
        Gpu(
            name="rtx4090",
            title="NVIDIA GeForce RTX 4090",
            memory_gbps=1008.0,
            tensor_tflops=165.2,
            fp32_tflops=82.6,
            l2_mib=72.0,
            num_sms=128,
            memory_gib=24.0,
            source="NVIDIA Ada GPU architecture whitepaper, appendix on the RTX 4090",
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
