// SPDX-License-Identifier: Apache-2.0
// Small kernels whose traffic is known by hand.
#include "pab/storage.cuh"

using pab::i32;
using pab::u32;
using pab::u64;

// Each lane reads one word, `stride` words after that of the lane before it, from word `start` on.
extern "C" __global__ void strided(const u32* from, u32* to, i32 start, i32 stride) {
  const u32 value = from[start + static_cast<i32>(threadIdx.x) * stride];
  to[threadIdx.x] = value;
}

// The halves of a warp read by different instructions.
extern "C" __global__ void halves(const u32* from, u32* to) {
  u32 value;
  if (threadIdx.x % 32 < 16) {
    value = from[threadIdx.x];  // the low half
  } else {
    value = from[threadIdx.x + 1024] + 1;  // the high half
  }
  to[threadIdx.x] = value;
}

// Lane i goes round the loop i + 1 times.
extern "C" __global__ void trips(const u32* from, u32* to) {
  u32 sum = 0;
  for (u32 i = 0; i <= threadIdx.x % 32; ++i) sum += from[32 * i + threadIdx.x % 32];
  to[threadIdx.x] = sum;
}

// The same loop twice, with a barrier of the block in between.
extern "C" __global__ void trips_twice(const u32* from, u32* to) {
  u32 sum = 0;
  for (int round = 0; round < 2; ++round) {
    for (u32 i = 0; i <= threadIdx.x % 32; ++i) sum += from[32 * i + threadIdx.x % 32];
    pab::block_sync();
  }
  to[threadIdx.x] = sum;
}

// Stores and loads words of shared memory `stride` words apart.
extern "C" __global__ void banks(u32* to, i32 stride) {
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[static_cast<i32>(threadIdx.x) * stride] = threadIdx.x;  // store to the tile
  pab::block_sync();
  to[threadIdx.x] = tile[static_cast<i32>(threadIdx.x) * stride];
}

// Loads N words a lane from shared memory, from word `stride` * lane on.
template <int N>
PAB_FN void read_wide(u32* to, i32 stride) {
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  for (i32 i = static_cast<i32>(threadIdx.x); i < 32 * 16; i += 32) tile[i] = static_cast<u32>(i);
  pab::warp_sync(~0u);
  PAB_REGION("wide");
  const pab::Pack<u32, N> pack = pab::load_pack<N>(tile + static_cast<i32>(threadIdx.x) * stride);
  PAB_REGION("");
  u32 sum = 0;
  for (int i = 0; i < N; ++i) sum += pack.at[i];
  to[threadIdx.x] = sum;
}
extern "C" __global__ void wide2(u32* to, i32 stride) { read_wide<2>(to, stride); }
extern "C" __global__ void wide4(u32* to, i32 stride) { read_wide<4>(to, stride); }

// Atomic operations: on one word, on one of a lane's own, and on shared memory.
extern "C" __global__ void atomics(u32* to) {
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[threadIdx.x] = 0;
  pab::block_sync();
  pab::atomic_add(to, 1u);
  pab::atomic_max(to + 64 + threadIdx.x, threadIdx.x);
  pab::atomic_min(to + 1, threadIdx.x);
  pab::atomic_cas(to + 2, 0u, 1u);
  pab::atomic_exch(tile + threadIdx.x % 2, threadIdx.x);
}

// Meetings: whole warps, halves, the block; fences.
extern "C" __global__ void meetings(u32* to) {
  const u32 lane = pab::lane_id();
  u32 value = pab::shfl_xor(~0u, threadIdx.x, 1u);
  value += pab::ballot(~0u, lane < 5);
  if (lane < 16) value += pab::reduce_add(0x0000FFFFu, lane);
  pab::warp_sync(~0u);
  pab::block_sync();
  pab::fence_device();
  to[threadIdx.x] = value;
}

// Each lane copies `rounds` times 16 bytes to shared memory; those past `valid` lanes copy zeros.
extern "C" __global__ void copies(const u32* from, u32* to, i32 rounds, u32 valid) {
  PAB_SHARED(memory);
  for (i32 r = 0; r < rounds; ++r) {
    pab::cp_async16(memory + 16 * threadIdx.x, from + 4 * (threadIdx.x + static_cast<u32>(r) * 32), threadIdx.x < valid);
    pab::cp_async_commit();
    pab::cp_async_wait<0>();
    pab::warp_sync(~0u);
  }
  to[threadIdx.x] = reinterpret_cast<u32*>(memory)[4 * threadIdx.x];
}

// Many requests between two meetings, more than a lane's log holds; lanes of the upper half do half as many.
extern "C" __global__ void long_run(const u32* from, u32* to, i32 rounds) {
  const i32 mine = threadIdx.x % 32 < 16 ? rounds : rounds / 2;
  u32 sum = 0;
  for (i32 i = 0; i < mine; ++i) sum += from[(static_cast<u32>(i) * 32 + threadIdx.x) % 4096];
  to[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// All threads but the first wait for a flag.
extern "C" __global__ void polls(u32* flag, u32* to) {
  if (threadIdx.x == 0) {
    pab::st_release(flag, 1u);
  } else {
    while (pab::ld_acquire(flag) == 0) {
    }
  }
  to[threadIdx.x] = 1;
}

// What a warp does under regions, and in none.
extern "C" __global__ void regions(const u32* from, u32* to) {
  const u32 first = from[threadIdx.x];
  PAB_REGION("one");
  const u32 second = from[threadIdx.x + 32];
  PAB_REGION(threadIdx.x < 8 ? "few" : "many");
  const u32 third = from[threadIdx.x + 64];
  PAB_REGION("");
  to[threadIdx.x] = first + second + third;
}

// A request whose lanes hit two buffers.
extern "C" __global__ void two_buffers(const u32* a, const u32* b, u32* to) {
  const u32* from = threadIdx.x < 8 ? a : b;
  to[threadIdx.x] = from[threadIdx.x];
}
