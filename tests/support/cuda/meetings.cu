// SPDX-License-Identifier: Apache-2.0
// Pairs of kernels for synccheck; used by tests/emulator/test_checked_sync.py.
#include "pab/intrinsics.cuh"

// Both branches have a barrier: as many threads meet, yet not at one barrier of the source.
extern "C" __global__ void two_barriers(pab::u32* out, pab::u32 apart) {
  using namespace pab;
  if (threadIdx.x < 32 || !apart) {
    block_sync();  // first call
    out[threadIdx.x] = 1;
  } else {
    block_sync();  // second call
    out[threadIdx.x] = 2;
  }
}

// The same barrier in a loop that the compiler may unroll.
extern "C" __global__ void one_barrier_often(pab::u32* out) {
  using namespace pab;
  u32 sum = 0;
#pragma unroll 4
  for (u32 i = 0; i < 13; ++i) {
    sum += i * threadIdx.x;
    block_sync();
  }
  out[threadIdx.x] = sum;
}

// Half a warp adds up; with `wide` it asks lanes that take no part.
extern "C" __global__ void half_warp(pab::u32* out, pab::u32 wide) {
  using namespace pab;
  if (lane_id() >= 16) return;
  u32 sum = 1;
  for (u32 step = wide ? 16 : 8; step > 0; step /= 2) sum += shfl_xor(0xFFFFu, sum, step);  // half warp
  out[threadIdx.x] = sum;
}

// Counts to `steps` in memory.
extern "C" __global__ void counts(volatile pab::u32* out, pab::u32 steps) {
  for (pab::u32 i = 0; i < steps; ++i) out[threadIdx.x] = i;  // counts
}

extern "C" __global__ void meets_forever(pab::u32 ever) {
  using namespace pab;
  do {
    warp_sync(kFullMask);  // meets
  } while (ever);
}

// Two threads wait, each for the flag of the other, unless `first` raises its own before.
extern "C" __global__ void each_for_the_other(pab::u32* flags, pab::u32 first) {
  using namespace pab;
  if (threadIdx.x) return;
  const u32 me = blockIdx.x;
  if (me == 0 && first) st_release(flags, 1);
  while (ld_acquire(flags + 1 - me) == 0) {  // each for the other
  }
  st_release(flags + me, 1);
}

// A lock that spins: whoever holds it may be another lane, warp or block.
extern "C" __global__ void locked(pab::u32* lock, pab::u32* count) {
  using namespace pab;
  for (u32 lane = 0; lane < 32; ++lane) {
    if (lane == lane_id()) {
      while (atomic_cas(lock, 0u, 1u) != 0) {
      }
      fence_device();
      *count = *count + 1;
      fence_device();
      atomic_exch(lock, 0u);
    }
  }
}
