// SPDX-License-Identifier: Apache-2.0
// Controls: one fault and one correct look-alike of each class, in one file that compiles fast: run before a checked run.
//
// Grid, block and shared memory of each kernel stand in controls.toml; they are tiny, no floor is aimed at.
#include "pab/intrinsics.cuh"

extern "C" __global__ void past_table_by_one(const pab::u32* table, pab::u32* out, pab::u32 entries) {
  using namespace pab;
  u32 sum = 0;
  for (u32 i = threadIdx.x; i <= entries; i += blockDim.x) {
    sum += table[i];  // FAULT: <= for <
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void table_to_its_end(const pab::u32* table, pab::u32* out, pab::u32 entries) {
  using namespace pab;
  u32 sum = 0;
  for (u32 i = threadIdx.x; i < entries; i += blockDim.x) sum += table[i];
  out[threadIdx.x] = sum;
}

extern "C" __global__ void shared_tail_unwritten(const pab::u32* in, pab::u32* out, pab::u32 filled) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  if (threadIdx.x < filled) tile[threadIdx.x] = in[threadIdx.x];
  block_sync();
  u32 sum = 0;
  for (u32 i = 0; i < blockDim.x; ++i) {
    sum += tile[i];  // FAULT: nobody wrote the tile from `filled` on
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void shared_tail_zeroed(const pab::u32* in, pab::u32* out, pab::u32 filled) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[threadIdx.x] = threadIdx.x < filled ? in[threadIdx.x] : 0;
  block_sync();
  u32 sum = 0;
  for (u32 i = 0; i < blockDim.x; ++i) sum += tile[i];
  out[threadIdx.x] = sum;
}

extern "C" __global__ void no_barrier_after_fill(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];  // FAULT: no barrier since the write
}

extern "C" __global__ void barrier_after_fill(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[threadIdx.x] = in[threadIdx.x];
  block_sync();
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void named_barrier_of_too_many(pab::u32* out) {
  using namespace pab;
  out[threadIdx.x] = threadIdx.x;
  bar_sync(1, blockDim.x + kWarpSize);  // FAULT: one warp more than there is
}

// Warp 0 fills a buffer, warp 1 empties it: barrier 1 says full, barrier 2 says empty.
extern "C" __global__ void handed_over_by_warps(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* buffer = reinterpret_cast<u32*>(memory);
  const u32 lane = threadIdx.x % kWarpSize;
  for (u32 round = 0; round < rounds; ++round) {
    if (threadIdx.x < kWarpSize) {
      if (round) bar_sync(2, 2 * kWarpSize);
      buffer[lane] = in[round * kWarpSize + lane];
      bar_arrive(1, 2 * kWarpSize);
    } else {
      bar_sync(1, 2 * kWarpSize);
      out[round * kWarpSize + lane] = buffer[kWarpSize - 1 - lane];
      if (round + 1 < rounds) bar_arrive(2, 2 * kWarpSize);
    }
  }
}
