// SPDX-License-Identifier: Apache-2.0
// Wrong on purpose, each in one way; used by tests/emulator/test_faults.py.
#include "pab/intrinsics.cuh"

extern "C" __global__ void no_barrier(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  shared[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

// The second barrier of the loop is missing: a fast warp overwrites what a slow one has yet to read.
extern "C" __global__ void one_barrier(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  u32 value = threadIdx.x;
  for (u32 round = 0; round < 3; ++round) {
    shared[threadIdx.x] = value + round;
    block_sync();
    value = shared[blockDim.x - 1 - threadIdx.x];
  }
  out[threadIdx.x] = value;
}

// Lane 0 of each warp speaks to the others with nothing between, after a barrier.
extern "C" __global__ void no_warp_sync(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  const u32 warp = threadIdx.x / kWarpSize;
  block_sync();
  if (lane_id() == 0) shared[warp] = 100 + warp;
  out[threadIdx.x] = shared[warp];
}

extern "C" __global__ void barriers_apart() {
  using namespace pab;
  if (threadIdx.x < 32) {
    bar_sync(1, 96);
  } else {
    bar_sync(2, 96);
  }
}

extern "C" __global__ void lane_at_barrier() {
  using namespace pab;
  if (threadIdx.x == 5) block_sync();
  reduce_add(kFullMask, 1);
  block_sync();
}

extern "C" __global__ void masks_differ() {
  using namespace pab;
  ballot(threadIdx.x == 3 ? 0x0Fu : 0x1Fu, true);
}

extern "C" __global__ void masks_split() {
  using namespace pab;
  if (threadIdx.x < 2) {
    ballot(0x7u, true);
  } else {
    any(0xCu, true);
  }
  block_sync();  // lane 2 is not done when lanes 0 and 1 ask for it
}

extern "C" __global__ void operations_differ() {
  using namespace pab;
  if (threadIdx.x == 3) {
    any(kFullMask, true);
  } else {
    ballot(kFullMask, true);
  }
}

extern "C" __global__ void not_in_own_mask() { pab::ballot(0xFFFFFFFEu, true); }

extern "C" __global__ void barrier_of(pab::u32 id, pab::u32 threads) { pab::bar_sync(id, threads); }

extern "C" __global__ void counts_differ() { pab::bar_sync(1, threadIdx.x < 32 ? 64 : 96); }

extern "C" __global__ void copy_at(const float* in, pab::u32 target, pab::u32 source) {
  using namespace pab;
  PAB_SHARED(memory);
  cp_async16(memory + target, reinterpret_cast<const u8*>(in) + source, true);
}

extern "C" __global__ void too_many_copies(const float* in) {
  using namespace pab;
  PAB_SHARED(memory);
  for (u32 i = 0; i < 257; ++i) cp_async16(memory, in, true);
}

extern "C" __global__ void waits_forever(const pab::u32* flag) {
  using namespace pab;
  while (ld_acquire(flag) == 0) {
  }
}

// Block 0 fails, the others wait for it.
extern "C" __global__ void waits_for_the_fallen(const pab::u32* flag) {
  using namespace pab;
  if (blockIdx.x == 0) bar_sync(1, 33);
  while (ld_acquire(flag) == 0) {
  }
}

extern "C" __global__ void right(pab::u32* out) {
  using namespace pab;
  block_sync();
  out[threadIdx.x] = reduce_add(kFullMask, 1);
}
