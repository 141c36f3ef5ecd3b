# SPDX-License-Identifier: Apache-2.0
"""How many blocks of a kernel fit on one multiprocessor, by the rules of the CUDA driver.

Limits of an SM: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", and NVIDIA's
libcu++ (``cuda/__device/arch_traits.h``): 64 Ki registers, 1 KiB of shared memory reserved in each block.
Rules of allocation: ``cuda_occupancy.h`` of the CUDA toolkit, 13.0: registers by 256 a warp, a quarter of the
file for each of four schedulers; shared memory by 128 bytes; from compute capability 9.0 on barriers too.
Clusters and tensor memory, which limit further, are not covered.
"""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import UnknownName

WARP_THREADS = 32
MAX_BLOCK_THREADS = 1024
MAX_THREAD_REGISTERS = 255
REGISTERS = 65_536
REGISTER_UNIT = 256
"""Registers are given to a warp in multiples of this."""
SCHEDULERS = 4
"""Each has a quarter of the register file and of the warps."""
SHARED_UNIT_BYTES = 128
RESERVED_SHARED_BYTES = 1024
"""Of each block, for the system, from compute capability 8.0 on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmLimits:
    """What one multiprocessor holds at once.

    Attributes:
        max_threads: resident threads.
        max_blocks: resident blocks.
        shared_bytes: shared memory; one block may have all of it but the reserved part.
        barriers: hardware barriers; None where they set no limit.
    """

    max_threads: int
    max_blocks: int
    shared_bytes: int
    barriers: int | None


def _limits(threads: int, blocks: int, shared_kib: int, barriers: int | None = None) -> SmLimits:
    return SmLimits(max_threads=threads, max_blocks=blocks, shared_bytes=shared_kib * 1024, barriers=barriers)


_AMPERE, _AMPERE_SMALL, _ADA = _limits(2048, 32, 164), _limits(1536, 16, 100), _limits(1536, 24, 100)
_HOPPER = _limits(2048, 32, 228, 64)
_BLACKWELL, _BLACKWELL_ULTRA = _limits(2048, 32, 228, 64), _limits(2048, 32, 228, 32)
_BLACKWELL_SMALL = _limits(1536, 24, 100, 24)

SM_LIMITS: dict[str, SmLimits] = {
    "sm_80": _AMPERE,
    "sm_86": _AMPERE_SMALL,
    "sm_89": _ADA,
    **dict.fromkeys(("sm_90", "sm_90a"), _HOPPER),
    **dict.fromkeys(("sm_100", "sm_100a", "sm_100f"), _BLACKWELL),
    **dict.fromkeys(("sm_103", "sm_103a", "sm_103f"), _BLACKWELL_ULTRA),
    **dict.fromkeys(("sm_120", "sm_120a", "sm_120f"), _BLACKWELL_SMALL),
}
"""Architectures that the static table knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """Blocks of a kernel on one multiprocessor.

    Attributes:
        blocks_per_sm: 0 when not even one fits, and the launch fails.
        limited_by: the scarcest: ``registers``, ``shared memory``, ``threads``, ``blocks`` or ``barriers``.
        warps_share: resident warps over the most possible.
    """

    blocks_per_sm: int
    limited_by: str
    warps_share: float


def sm_limits(architecture: str) -> SmLimits:
    """Return the limits of ``architecture``, such as ``sm_90a``.

    Raises:
        UnknownName: none is known by that name; the nearest one is offered.
    """
    if architecture not in SM_LIMITS:
        raise UnknownName("architecture", architecture, SM_LIMITS)
    return SM_LIMITS[architecture]


def occupancy(
    limits: SmLimits, *, threads: int, registers: int, shared_bytes: int, barriers: int = 0
) -> Occupancy:
    """Return how many blocks one multiprocessor runs at once.

    Args:
        limits: of the multiprocessor.
        threads: of one block, at least 1.
        registers: of one thread.
        shared_bytes: of one block, static and dynamic.
        barriers: hardware barriers of one block.
    """
    warps = -(-threads // WARP_THREADS)
    max_warps = limits.max_threads // WARP_THREADS
    fits = {
        "blocks": limits.max_blocks,
        "threads": max_warps // warps if threads <= MAX_BLOCK_THREADS else 0,
        "registers": blocks_by_registers(warps, registers),
        "shared memory": blocks_by_shared(limits.shared_bytes, shared_bytes),
    }
    if limits.barriers is not None and barriers:
        fits["barriers"] = limits.barriers // barriers
    limited_by = min(fits, key=lambda name: fits[name])
    blocks = fits[limited_by]
    return Occupancy(blocks_per_sm=blocks, limited_by=limited_by, warps_share=blocks * warps / max_warps)


def blocks_by_registers(warps: int, registers: int) -> int:
    """Return how many blocks of ``warps`` warps with ``registers`` a thread fit into the register file."""
    if registers > MAX_THREAD_REGISTERS:
        return 0
    of_warp = -(-max(registers, 1) * WARP_THREADS // REGISTER_UNIT) * REGISTER_UNIT
    # the launch is checked as if a block's warps were spread evenly over the schedulers
    if of_warp * -(-warps // SCHEDULERS) * SCHEDULERS > REGISTERS:
        return 0
    return REGISTERS // SCHEDULERS // of_warp * SCHEDULERS // warps


def blocks_by_shared(sm_bytes: int, shared_bytes: int) -> int:
    """Return how many blocks of ``shared_bytes`` fit into the shared memory of a multiprocessor."""
    of_block = -(-(shared_bytes + RESERVED_SHARED_BYTES) // SHARED_UNIT_BYTES) * SHARED_UNIT_BYTES
    return sm_bytes // of_block
