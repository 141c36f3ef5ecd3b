// SPDX-License-Identifier: Apache-2.0
// Controls of class sync: barriers and collectives that not all named threads reach, and loops without end.
//
// Grid, block and shared memory of each kernel stand in controls.toml; they are tiny, no floor is aimed at.
#include "pab/intrinsics.cuh"

// --- block barriers -----------------------------------------------------------------------------------------
extern "C" __global__ void barrier_in_a_divergent_branch(pab::u32* out) {
  using namespace pab;
  if (threadIdx.x < kWarpSize) {
    block_sync();  // FAULT: warp 0 meets the others' barrier further down
  }
  out[threadIdx.x] = threadIdx.x;
  block_sync();
}

extern "C" __global__ void barrier_of_odd_lanes(pab::u32* out) {
  using namespace pab;
  if (threadIdx.x % 2 == 1) {
    block_sync();  // FAULT: the even lanes never come
  }
  warp_sync(kFullMask);  // FAULT: the odd lanes never come
  out[threadIdx.x] = threadIdx.x;
}

// All threads of a block take the same branch.
extern "C" __global__ void barrier_in_a_branch_of_the_block(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  u32 value = threadIdx.x;
  if (blockIdx.x % 2 == 0) {
    tile[threadIdx.x] = value;
    block_sync();
    value = blockDim.x - 1 - tile[blockDim.x - 1 - threadIdx.x];
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x * blockDim.x + value;
}

// Lanes that have left are not waited for.
extern "C" __global__ void odd_lanes_leave_before_a_barrier(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  if (threadIdx.x % 2 == 1) return;
  tile[threadIdx.x / 2] = threadIdx.x;
  block_sync();
  const u32 n = blockDim.x / 2, at = threadIdx.x / 2;
  out[at] = tile[n - 1 - at];
}

// --- named barriers -----------------------------------------------------------------------------------------
extern "C" __global__ void named_barrier_counts_differ(pab::u32* out) {
  using namespace pab;
  out[threadIdx.x] = threadIdx.x;
  bar_sync(1, threadIdx.x < kWarpSize ? 64u : 96u);  // FAULT: warp 0 says 64, the others 96
}

extern "C" __global__ void named_barrier_of_part_of_a_warp(pab::u32* out) {
  using namespace pab;
  out[threadIdx.x] = threadIdx.x;
  bar_sync(1, 40);  // FAULT: no multiple of the warp size
}

extern "C" __global__ void arrive_is_missing(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* buffer = reinterpret_cast<u32*>(memory);
  const u32 lane = threadIdx.x % kWarpSize;
  if (threadIdx.x < kWarpSize) {
    buffer[lane] = in[lane];
  } else {
    bar_sync(1, 2 * kWarpSize);  // FAULT: the warp that fills does not arrive
    out[lane] = buffer[lane];
  }
}

extern "C" __global__ void barriers_crossed(pab::u32* out) {
  using namespace pab;
  const bool first = threadIdx.x < kWarpSize;
  bar_sync(first ? 1 : 2, 2 * kWarpSize);  // FAULT: each warp waits where the other is not
  bar_sync(first ? 2 : 1, 2 * kWarpSize);
  out[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void barriers_in_one_order(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[threadIdx.x] = threadIdx.x;
  bar_sync(1, 2 * kWarpSize);
  const u32 other = tile[blockDim.x - 1 - threadIdx.x];
  bar_sync(2, 2 * kWarpSize);
  tile[threadIdx.x] = other;
  bar_sync(1, 2 * kWarpSize);
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void fifteen_named_barriers(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  u32 value = threadIdx.x;
  for (u32 id = 1; id < 16; ++id) {
    tile[threadIdx.x] = value;
    bar_sync(id, blockDim.x);
    value = tile[blockDim.x - 1 - threadIdx.x];
    block_sync();
  }
  out[threadIdx.x] = value;
}

// --- warp collectives ---------------------------------------------------------------------------------------
extern "C" __global__ void warp_sync_without_lane_7(pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 7) {
    warp_sync(kFullMask);  // FAULT: lane 7 is at the barrier
  }
  block_sync();  // FAULT: the other lanes are at the warp sync
  out[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void warp_sync_of_those_that_come(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 lane = threadIdx.x;
  if (lane != 7) {
    tile[lane] = lane;
    warp_sync(~(1u << 7));
    out[lane] = 31 - (lane == 24 ? 7 : tile[31 - lane]);
  } else {
    out[lane] = lane;
  }
  block_sync();
}

extern "C" __global__ void shuffle_from_an_absent_lane(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x < 16) {
    out[threadIdx.x] = shfl_idx(0xFFFFu, in[threadIdx.x], threadIdx.x + 8);  // FAULT: lanes 16 and up take no part
  }
}

extern "C" __global__ void shuffle_within_its_mask(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x < 16) {
    out[threadIdx.x] = shfl_idx(0xFFFFu, in[threadIdx.x], 15 - threadIdx.x);
  }
}

extern "C" __global__ void masks_of_a_collective_differ(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const u32 mask = threadIdx.x < 16 ? 0x1FFFFu : kFullMask;
  out[threadIdx.x] = reduce_add(mask, in[threadIdx.x]);  // FAULT: the halves do not name the same lanes
}

extern "C" __global__ void lane_outside_its_own_mask(pab::u32* out) {
  using namespace pab;
  out[threadIdx.x] = ballot(0xFFFFFFFEu, true);  // FAULT: lane 0 calls, too
}

extern "C" __global__ void collectives_of_two_kinds(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const u32 value = in[threadIdx.x];
  if (threadIdx.x < 16) {
    out[threadIdx.x] = ballot(kFullMask, value > 3);  // FAULT: half of the lanes vote
  } else {
    out[threadIdx.x] = reduce_add(kFullMask, value);  // FAULT: the other half adds up
  }
}

// Each half of the warp has a collective of its own.
extern "C" __global__ void collectives_of_two_halves(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const u32 value = in[threadIdx.x];
  if (threadIdx.x < 16) {
    out[threadIdx.x] = popc(ballot(0x0000FFFFu, value > 3));
  } else {
    out[threadIdx.x] = reduce_add(0xFFFF0000u, 1u) - 4;
  }
}

// The mask of a branch is what a vote of all lanes before it says.
extern "C" __global__ void collective_of_those_who_voted(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const u32 value = in[threadIdx.x];
  const u32 large = ballot(kFullMask, value >= 20);
  u32 sum = 12;
  if (value >= 20) sum = reduce_add(large, 1u);
  out[threadIdx.x] = sum;
}

extern "C" __global__ void sum_by_butterfly(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  u32 sum = in[threadIdx.x];
  for (u32 lanes = kWarpSize / 2; lanes > 0; lanes /= 2) sum += shfl_xor(kFullMask, sum, lanes);
  out[threadIdx.x] = sum;
}

// A warp that has only some of its lanes, and lanes that leave one after the other: both named by the full mask.
extern "C" __global__ void leavers_named_by_the_mask(pab::u32* out) {
  using namespace pab;
  u32 present = 0;
  for (u32 round = 0; round <= threadIdx.x % kWarpSize; ++round) present = popc(ballot(kFullMask, true));
  out[threadIdx.x] = present;
}

// --- waits without end --------------------------------------------------------------------------------------
extern "C" __global__ void loop_without_end(const pab::u32* flag, pab::u32* out) {
  using namespace pab;
  const volatile u32* seen = flag;
  while (*seen == 0) {  // FAULT: nobody writes it
  }
  out[threadIdx.x] = *seen;
}

extern "C" __global__ void flag_that_nobody_raises(const pab::u32* flag, pab::u32* out) {
  using namespace pab;
  while (ld_acquire(flag) == 0) {  // FAULT: nobody raises it
  }
  out[threadIdx.x] = 1;
}

extern "C" __global__ void long_loop_that_ends(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  u32 at = 0;
  for (u32 round = 0; round < rounds; ++round) at = in[at];
  out[threadIdx.x] = at + threadIdx.x;
}
