// SPDX-License-Identifier: Apache-2.0
// Sums over the threads of a block, in thread order.
#pragma once

#include "pab/intrinsics.cuh"

namespace pab {

constexpr int kScanWords = 32;  // u64 of shared memory that block_scan uses, one a warp

// Returns the sum of `mine` over the threads before this one; `total` gets that over all.  A block of whole warps.
PAB_FN u64 block_scan(u64 mine, u64& total, u64* shared) {
  const u32 lane = lane_id(), warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  u64 sum = mine;
#pragma unroll
  for (u32 step = 1; step < kWarpSize; step *= 2) {
    const u64 below = shfl_up(kFullMask, sum, step);
    if (lane >= step) sum += below;
  }
  if (lane == kWarpSize - 1) shared[warp] = sum;
  block_sync();
  u64 before = 0;
  total = 0;
  for (u32 w = 0; w < warps; ++w) {
    if (w == warp) before = total;
    total += shared[w];
  }
  block_sync();  // the next scan writes here
  return before + sum - mine;
}

}  // namespace pab
