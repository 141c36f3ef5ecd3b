// SPDX-License-Identifier: Apache-2.0
// The ceilings that other kernels are measured against: a plain read, copy and fill of memory, and an empty launch.
//
//   ceiling_read    grid any; block 256; no shared memory; sums (grid * 8) u32: one a warp, of the words it read
//   ceiling_copy    grid any; block 256; no shared memory
//   ceiling_fill    grid any; block 256; no shared memory
//   ceiling_tile    grid any; block 256; no shared memory; repeats a block of `block_count` lanes through `to`, so that
//                   gigabytes of input need not come from the host
//   ceiling_empty   any launch: what a graph node costs
//
// Layout   arrays of `count` lanes of 16 bytes, that start at a multiple of 16.
// Compile  PAB_LANES: lanes that a thread has on their way at a time.
// Floor    16 * count bytes read, read and written, or written; nothing may be faster, so these kernels are the measure
//          of everything else.  98 KB of loads a multiprocessor with 4 lanes and 6 blocks cover a latency of 1 us at
//          4.8 TB/s nearly three times on 132 of them.
//
// A block takes chunks of PAB_LANES * 256 neighbouring lanes; the threads of a warp read neighbouring lanes.  The sum is
// there so that no load can be left out, and so that a wrong read shows.
#include "pab/intrinsics.cuh"

namespace pab {

constexpr i32 kLanes = PAB_LANES, kThreads = 256;

struct alignas(16) Lane {
  u32 word[4];
};

// Bits that look random: a product and two shifts that mix high bits into low ones.
PAB_FN u32 mixed(u32 x) {
  x = (x + 1u) * 0x9E3779B1u;
  x ^= x >> 15;
  x *= 0x2C1B3C6Du;
  return x ^ (x >> 13);
}

}  // namespace pab

extern "C" __global__ void __launch_bounds__(256) ceiling_read(const pab::Lane* data, pab::u32* sums, pab::i64 count) {
  using namespace pab;
  const i64 chunk = static_cast<i64>(kLanes) * kThreads;
  u32 sum = 0;
  i64 first = blockIdx.x * chunk;
  for (; first + chunk <= count; first += gridDim.x * chunk) {
    Lane lanes[kLanes];
#pragma unroll
    for (i32 i = 0; i < kLanes; ++i) lanes[i] = load_wide(data + first + i * kThreads + threadIdx.x);
#pragma unroll
    for (i32 i = 0; i < kLanes; ++i) sum += lanes[i].word[0] + lanes[i].word[1] + lanes[i].word[2] + lanes[i].word[3];
  }
  // at most one chunk is cut short, and it is the last one of its block
  for (i64 at = first + threadIdx.x; at < count; at += kThreads) {
    const Lane lane = load_wide(data + at);
    sum += lane.word[0] + lane.word[1] + lane.word[2] + lane.word[3];
  }
  sum = reduce_add(kFullMask, sum);
  if (lane_id() == 0) sums[blockIdx.x * (kThreads / kWarpSize) + threadIdx.x / kWarpSize] = sum;
}

extern "C" __global__ void __launch_bounds__(256) ceiling_copy(const pab::Lane* from, pab::Lane* to, pab::i64 count) {
  using namespace pab;
  const i64 chunk = static_cast<i64>(kLanes) * kThreads;
  i64 first = blockIdx.x * chunk;
  for (; first + chunk <= count; first += gridDim.x * chunk) {
    Lane lanes[kLanes];
#pragma unroll
    for (i32 i = 0; i < kLanes; ++i) lanes[i] = load_wide(from + first + i * kThreads + threadIdx.x);
#pragma unroll
    for (i32 i = 0; i < kLanes; ++i) store_wide(to + first + i * kThreads + threadIdx.x, lanes[i]);
  }
  for (i64 at = first + threadIdx.x; at < count; at += kThreads) store_wide(to + at, load_wide(from + at));
}

extern "C" __global__ void __launch_bounds__(256) ceiling_fill(pab::Lane* to, pab::i64 count, pab::u32 seed) {
  using namespace pab;
  for (i64 at = static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x; at < count;
       at += static_cast<i64>(gridDim.x) * kThreads) {
    Lane lane;
#pragma unroll
    for (i32 i = 0; i < 4; ++i) lane.word[i] = mixed(static_cast<u32>(at) * 4 + i + seed);
    store_wide(to + at, lane);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    ceiling_tile(const pab::Lane* block, pab::i64 block_count, pab::Lane* to, pab::i64 count) {
  using namespace pab;
  const i64 stride = static_cast<i64>(gridDim.x) * kThreads;
  for (i64 at = static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x; at < count; at += stride) {
    store_wide(to + at, load_wide(block + at % block_count));
  }
}

extern "C" __global__ void ceiling_empty() {}
