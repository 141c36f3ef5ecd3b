# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from pabench.errors import InvalidCase, UnknownName
from pabench.timing.gpus import GPUS, Gpu, gpu_by_name
from pabench.timing.roofline import (
    LAUNCH_FLOOR_NS,
    Work,
    closed_form_work,
    counted_work,
    modelled_time,
)

# SM clock in MHz that the vendor's float32 peak is given for: 2 operations x cores x clock
BOOST_MHZ = {"a100": 1410, "h100": 1980, "h200": 1980, "b200": 1980, "l4": 2040, "rtx4090": 2520}


def test_gpus_are_found_by_any_spelling_and_the_nearest_is_offered() -> None:
    assert gpu_by_name("H200") is GPUS["h200"]
    assert gpu_by_name("RTX 4090") is GPUS["rtx4090"]
    with pytest.raises(UnknownName, match="unknown gpu 'h20'; did you mean 'h200'"):
        gpu_by_name("h20")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=list(GPUS))
def test_gpus_have_figures_that_agree_and_a_source(gpu: Gpu) -> None:
    assert "NVIDIA" in gpu.source
    cores = 64 if gpu.name == "a100" else 128
    # from another figure than the one given: the SMs and the boost clock make the peak
    peak = 2 * cores * gpu.num_sms * BOOST_MHZ[gpu.name] * 1e-6
    assert abs(gpu.fp32_tflops - peak) < 0.05 + 0.001 * peak
    # a machine balance far from the others would be a slip of units
    assert 100 < gpu.tensor_tflops * 1e3 / gpu.memory_gbps < 500
    assert gpu.l2_gbps is None or gpu.l2_gbps > gpu.memory_gbps


def test_gpus_named_by_the_documents_are_all_there() -> None:
    assert set(GPUS) == {"a100", "h100", "h200", "b200", "l4", "rtx4090"}


def test_roofline_memory_bound_decode() -> None:
    work = closed_form_work(16_777_216, 67_108_864, dtype="bfloat16")
    model = modelled_time(work, GPUS["h200"])
    assert model.time_ns == pytest.approx(LAUNCH_FLOOR_NS + 16_777_216 / 4800)
    assert model.bound == "memory"


def test_roofline_compute_bound_prefill() -> None:
    flops = 137_472_507_904
    for dtype, bound, peak in (("float16", "tensor", 312e3), ("float32", "fp32", 19.5e3)):
        model = modelled_time(closed_form_work(1, flops, dtype=dtype, launches=0), GPUS["a100"])
        assert model.time_ns == pytest.approx(flops / peak)
        assert model.bound == bound


def test_roofline_charges_each_launch() -> None:
    model = modelled_time(Work(dram_bytes=0, launches=3), GPUS["l4"])
    assert (model.time_ns, model.bound) == (3 * LAUNCH_FLOOR_NS, "launch")


def test_roofline_counted_traffic_in_sectors() -> None:
    work = counted_work(
        global_load_sectors=4_000_000,
        global_store_sectors=1000,
        distinct_load_sectors=1_000_000,
        distinct_store_sectors=500,
        mma_flops=7,
        fp32_flops=9.0,
        launches=2,
    )
    assert work == Work(
        dram_bytes=32 * 1_000_500, l2_bytes=32 * 4_001_000, tensor_flops=7, fp32_flops=9.0, launches=2
    )
    # the same bytes four times: four times the floor, which the A100's L2 gives 3.54 times as fast
    model = modelled_time(work, GPUS["a100"])
    assert model.bound == "l2"
    assert model.time_ns == pytest.approx(2 * LAUNCH_FLOOR_NS + 32 * 4_001_000 / 7219.2)
    unknown = modelled_time(work, GPUS["h200"])
    assert unknown.bound == "memory"
    assert "l2" not in unknown.terms_ns


def test_roofline_counts_beyond_32_bits() -> None:
    work = counted_work(
        global_load_sectors=2**40,
        global_store_sectors=0,
        distinct_load_sectors=2**40,
        distinct_store_sectors=0,
    )
    assert work.dram_bytes == 2**45


def test_roofline_rejects_impossible_numbers() -> None:
    with pytest.raises(InvalidCase, match="dram_bytes = -1: must be at least 0"):
        Work(dram_bytes=-1)
    with pytest.raises(InvalidCase, match="tensor_flops = nan: must be finite"):
        closed_form_work(1, math.nan, dtype="float16")
    with pytest.raises(InvalidCase, match="launches = -2: must be at least 0"):
        Work(dram_bytes=0, launches=-2)
    counts = dict.fromkeys(("global_load_sectors", "global_store_sectors"), 5)
    with pytest.raises(InvalidCase, match="distinct_store_sectors = 6: must be at most the 5 sectors asked"):
        counted_work(**counts, distinct_load_sectors=5, distinct_store_sectors=6)
    with pytest.raises(InvalidCase, match="distinct_load_sectors = -1: must be at least 0"):
        counted_work(**counts, distinct_load_sectors=-1, distinct_store_sectors=0)
