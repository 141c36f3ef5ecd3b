from __future__ import annotations

import pytest

from pabench.errors import InvalidCase, UnknownName
from pabench.timing.gpus import GPUS, Gpu, gpu_by_name
from pabench.timing.roofline import LAUNCH_FLOOR_NS, modelled_time_ns


def test_gpus_are_found_by_any_spelling_and_the_nearest_is_offered() -> None:
    assert gpu_by_name("H200") is GPUS["h200"]
    assert gpu_by_name("RTX 4090") is GPUS["rtx4090"]
    with pytest.raises(UnknownName, match="unknown gpu 'h20'; did you mean 'h200'"):
        gpu_by_name("h20")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=list(GPUS))
def test_gpus_have_plausible_figures_and_a_source(gpu: Gpu) -> None:
    spec = gpu
    assert "NVIDIA" in spec.source
    assert 100 < spec.memory_gbps < 10_000
    assert spec.fp32_tflops < spec.tensor_tflops
    # a machine balance far from the others would be a slip of units
    assert 100 < spec.tensor_tflops * 1e3 / spec.memory_gbps < 500


def test_roofline_memory_bound_decode() -> None:
    time_ns = modelled_time_ns(16_777_216, 67_108_864, GPUS["h200"])
    assert time_ns == pytest.approx(LAUNCH_FLOOR_NS + 16_777_216 / 4800)


def test_roofline_compute_bound_prefill() -> None:
    flops = 137_472_507_904
    assert modelled_time_ns(1, flops, GPUS["a100"], 0) == pytest.approx(flops / 312e3)
    assert modelled_time_ns(1, flops, GPUS["a100"], 0, dtype="float32") == pytest.approx(flops / 19.5e3)


def test_roofline_charges_each_launch() -> None:
    assert modelled_time_ns(0, 0, GPUS["l4"], 3) == 3 * LAUNCH_FLOOR_NS


def test_roofline_rejects_impossible_numbers() -> None:
    with pytest.raises(InvalidCase, match="traffic_bytes = -1: must be at least 0"):
        modelled_time_ns(-1, 0, GPUS["l4"])
    with pytest.raises(InvalidCase, match="flops = nan: must be finite"):
        modelled_time_ns(1, float("nan"), GPUS["l4"])
