# SPDX-License-Identifier: Apache-2.0
"""Blocks per multiprocessor: worked examples, and NVIDIA's own calculation where its header is installed."""

from __future__ import annotations

import importlib.util
import random
import subprocess
from pathlib import Path

import pytest

from pabench.device.compiler import find_compiler
from pabench.device.nvrtc import ARCHITECTURES
from pabench.device.occupancy import SM_LIMITS, Occupancy, occupancy, sm_limits
from pabench.errors import EnvironmentRefused, UnknownName

PROGRAM = """
#include <cstring>
#include "cuda_occupancy.h"
#include <cstdio>
int main() {
  int major, minor, max_threads, threads, registers, barriers;
  long per_sm, fixed, dynamic;
  while (std::scanf("%d %d %d %ld %d %d %ld %ld %d", &major, &minor, &max_threads, &per_sm, &threads,
                    &registers, &fixed, &dynamic, &barriers) == 9) {
    cudaOccDeviceProp device;
    device.computeMajor = major;
    device.computeMinor = minor;
    device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = max_threads;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.warpSize = 32;
    device.sharedMemPerBlock = 49152;
    device.sharedMemPerMultiprocessor = per_sm;
    device.sharedMemPerBlockOptin = per_sm - 1024;
    device.reservedSharedMemPerBlock = 1024;
    device.numSms = 1;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = fixed;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = per_sm;
    kernel.numBlockBarriers = barriers;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult result;
    cudaOccError error =
        cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, dynamic);
    std::printf("%d\\n", error ? -error : result.activeBlocksPerMultiprocessor);
  }
}
"""


def blocks(architecture: str, threads: int, registers: int, shared: int = 0, barriers: int = 0) -> Occupancy:
    limits = sm_limits(architecture)
    return occupancy(limits, threads=threads, registers=registers, shared_bytes=shared, barriers=barriers)


def test_occupancy_worked_examples() -> None:
    # 96 registers x 32 = 3072 a warp; 16384 / 3072 = 5 warps a scheduler, 20 in all, 4 a block
    assert blocks("sm_80", 128, 92) == Occupancy(blocks_per_sm=5, limited_by="registers", warps_share=20 / 64)
    assert blocks("sm_120", 128, 32).limited_by == "threads"
    assert blocks("sm_120", 128, 32).blocks_per_sm == 12
    assert blocks("sm_90a", 32, 16).limited_by == "blocks"
    # 56 KiB and the reserved one: 57 x 4 = 228
    assert blocks("sm_90a", 128, 32, 56 * 1024).blocks_per_sm == 4
    assert blocks("sm_90a", 128, 32, 56 * 1024 + 1).blocks_per_sm == 3
    assert blocks("sm_90a", 32, 16, barriers=16) == Occupancy(
        blocks_per_sm=4, limited_by="barriers", warps_share=4 / 64
    )
    assert blocks("sm_80", 32, 16, barriers=16).limited_by == "blocks"


@pytest.mark.parametrize(
    ("threads", "registers", "shared"), [(1025, 8, 0), (1024, 65, 0), (32, 256, 0), (32, 8, 163 * 1024 + 1)]
)
def test_occupancy_is_zero_where_no_launch_fits(threads: int, registers: int, shared: int) -> None:
    assert blocks("sm_80", threads, registers, shared).blocks_per_sm == 0


def test_occupancy_knows_every_architecture_of_the_table() -> None:
    assert set(ARCHITECTURES) <= set(SM_LIMITS)
    with pytest.raises(UnknownName, match="unknown architecture 'sm_90b'; did you mean 'sm_90'"):
        sm_limits("sm_90b")


def toolkit_include() -> Path | None:
    found = importlib.util.find_spec("nvidia")
    places = found.submodule_search_locations or [] if found else []
    headers = [path for place in places for path in Path(place).glob("*/include/cuda_occupancy.h")]
    return headers[0].parent if headers else None


def test_occupancy_is_what_nvidia_computes(tmp_path: Path) -> None:
    include = toolkit_include()
    if include is None:
        pytest.skip("cuda_occupancy.h is not installed: pip install pabench[nvrtc]")
    try:
        command = find_compiler().command
    except EnvironmentRefused as error:
        pytest.skip(str(error))
    (tmp_path / "ask.cpp").write_text(PROGRAM)
    program = str(tmp_path / "ask")
    subprocess.run([*command, f"-I{include}", str(tmp_path / "ask.cpp"), "-o", program, "-w"], check=True)
    draw = random.Random(1)
    asked: list[tuple[str, int, int, int, int, int]] = []
    for architecture in SM_LIMITS:
        for _ in range(400):
            threads, registers = (
                draw.randint(1, 1030),
                draw.choice([draw.randint(0, 64), draw.randint(16, 255)]),
            )
            fixed, barriers = draw.choice([0, draw.randint(0, 49152)]), draw.randint(0, 16)
            dynamic = draw.choice([0, draw.randint(0, 48 * 1024), draw.randint(0, 240 * 1024)])
            if architecture.startswith("sm_103"):
                barriers = 0  # headers up to 13.0 give it as many as sm_100, later ones half
            asked.append((architecture, threads, registers, fixed, dynamic, barriers))
    lines = []
    for architecture, threads, registers, fixed, dynamic, barriers in asked:
        limits, number = sm_limits(architecture), int(architecture[3:].rstrip("af"))
        device = f"{number // 10} {number % 10} {limits.max_threads} {limits.shared_bytes}"
        lines.append(f"{device} {threads} {registers} {fixed} {dynamic} {barriers}")
    done = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True)
    answers = [int(line) for line in done.stdout.split()]
    assert len(answers) == len(asked)
    ours = [blocks(a, t, r, fixed + dynamic, b).blocks_per_sm for a, t, r, fixed, dynamic, b in asked]
    wrong = [(case, mine, his) for case, mine, his in zip(asked, ours, answers, strict=True) if mine != his]
    assert wrong == []
    assert sum(answer > 0 for answer in answers) > len(answers) // 2
