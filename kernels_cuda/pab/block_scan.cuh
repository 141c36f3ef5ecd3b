// SPDX-License-Identifier: Apache-2.0
// Sums over the threads of a block in thread order, a search in what they leave behind, and turns of blocks.
//
// Shared memory: 64 u64 (two values a warp).  Every thread of the block calls, none has returned.
#pragma once

#include "pab/intrinsics.cuh"

namespace pab {

struct Pair {
  u64 pages, tokens;
};

// Exclusive sums over the block in thread order; `total` gets the sums of all threads.
PAB_FN Pair block_scan(Pair mine, Pair& total, u64* shared) {
  const u32 lane = lane_id(), warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  Pair sum = mine;
#pragma unroll
  for (u32 step = 1; step < kWarpSize; step *= 2) {
    const u64 pages = shfl_up(kFullMask, sum.pages, step), tokens = shfl_up(kFullMask, sum.tokens, step);
    if (lane >= step) {
      sum.pages += pages;
      sum.tokens += tokens;
    }
  }
  if (lane == kWarpSize - 1) {
    shared[warp] = sum.pages;
    shared[32 + warp] = sum.tokens;
  }
  block_sync();
  Pair before = {0, 0};
  total = {0, 0};
  for (u32 w = 0; w < warps; ++w) {
    if (w == warp) before = total;
    total.pages += shared[w];
    total.tokens += shared[32 + w];
  }
  block_sync();  // the next scan writes here
  return {before.pages + sum.pages - mine.pages, before.tokens + sum.tokens - mine.tokens};
}

// The bits that any thread of the block has set.
PAB_FN u32 block_or(u32 bits, u64* shared) {
  const u32 warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  u32 mine = 0;
  for (u32 bit = 1; bit <= 2; bit *= 2) mine |= any(kFullMask, bits & bit) ? bit : 0;
  if (lane_id() == 0) shared[warp] = mine;
  block_sync();
  u32 all = 0;
  for (u32 w = 0; w < warps; ++w) all |= static_cast<u32>(shared[w]);
  block_sync();
  return all;
}

// The turn of this block in its launch, by when it started: a block that waits for earlier turns waits for nobody that
// has not started, whatever the order in which blocks come.  `launch` counts the launches of a grid of this size.
struct Turn {
  u32 block, launch;
};

// `counter` is 0 at first and belongs to one kernel; the grid is a power of two, so that it may wrap.
PAB_FN Turn take_turn(u32* counter, u64* shared) {
  if (gridDim.x == 1) return {0, 0};
  if (threadIdx.x == 0) shared[0] = atomic_add(counter, 1u);
  block_sync();
  const u32 ticket = static_cast<u32>(shared[0]);
  block_sync();
  return {ticket % gridDim.x, ticket / gridDim.x};
}

// The first of `count` entries of a rising array that is greater than `value`; `count` when none is.
PAB_FN i32 first_above(const u64* ends, i32 count, u64 value) {
  i32 low = 0, high = count;
  while (low < high) {
    const i32 middle = low + (high - low) / 2;
    if (ends[middle] > value) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

PAB_FN i64 pages_of(i64 tokens, i32 page_size) { return (tokens + page_size - 1) / page_size; }

}  // namespace pab
