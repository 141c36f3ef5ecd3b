// SPDX-License-Identifier: Apache-2.0
// Sums over the threads of a block in thread order, a search in what they leave behind, and turns of blocks.
//
// Shared memory: 128 u64 (two values a warp, and their sums).  Every thread of the block calls, none has returned.
#pragma once

#include "pab/intrinsics.cuh"

namespace pab {

constexpr u32 kScanArea = 128;  // u64 of shared memory

struct Pair {
  u64 pages, tokens;
};

// Inclusive sums over a warp in lane order.
PAB_FN Pair warp_scan(Pair sum) {
#pragma unroll
  for (u32 step = 1; step < kWarpSize; step *= 2) {
    const u64 pages = shfl_up(kFullMask, sum.pages, step), tokens = shfl_up(kFullMask, sum.tokens, step);
    if (lane_id() >= step) {
      sum.pages += pages;
      sum.tokens += tokens;
    }
  }
  return sum;
}

// Exclusive sums over the block in thread order; `total` gets the sums of all threads.  Two barriers, and none behind
// what is read last: the next scan writes there only after its own first.
PAB_FN Pair block_scan(Pair mine, Pair& total, u64* shared) {
  const u32 lane = lane_id(), warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  const Pair sum = warp_scan(mine);
  if (lane == kWarpSize - 1) {
    shared[warp] = sum.pages;
    shared[32 + warp] = sum.tokens;
  }
  block_sync();
  if (warp == 0) {  // five steps of one warp, where a loop of every thread would read up to 32 pairs
    const Pair ends = warp_scan({lane < warps ? shared[lane] : 0, lane < warps ? shared[32 + lane] : 0});
    shared[64 + lane] = ends.pages;
    shared[96 + lane] = ends.tokens;
  }
  block_sync();
  total = {shared[95], shared[127]};
  const Pair before = warp ? Pair{shared[63 + warp], shared[95 + warp]} : Pair{0, 0};
  return {before.pages + sum.pages - mine.pages, before.tokens + sum.tokens - mine.tokens};
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

// Of at most 2^32 - 1 tokens, so that a division of 32 bits does, a fraction of one of 64.
PAB_FN i64 pages_of(i64 tokens, i32 page_size) {
  const u32 count = static_cast<u32>(tokens), size = static_cast<u32>(page_size);
  return count / size + (count % size != 0);
}

}  // namespace pab
