// SPDX-License-Identifier: Apache-2.0
// Blocks, barriers, shared memory, atomics, asynchronous copies; used by tests/emulator/test_blocks.py.
#include "pab/intrinsics.cuh"

namespace pab {
PAB_FN u32 threads_of_block() { return blockDim.x * blockDim.y * blockDim.z; }
PAB_FN u32 thread_number() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }
PAB_FN u64 block_number() {
  return (static_cast<u64>(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
}
}  // namespace pab

extern "C" __global__ void indices(pab::u32* seen, pab::u32* where) {
  using namespace pab;
  const u64 at = block_number() * threads_of_block() + thread_number();
  atomic_add(seen + at, 1u);
  u32* mine = where + 6 * at;
  mine[0] = threadIdx.x, mine[1] = threadIdx.y, mine[2] = threadIdx.z;
  mine[3] = blockIdx.x, mine[4] = blockIdx.y, mine[5] = blockIdx.z;
}

// Threads from `stay` on return at once; the others reverse `in` through shared memory, `rounds` times.
extern "C" __global__ void reverse(const pab::u32* in, pab::u32* out, pab::u32 stay, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  const u32 t = threadIdx.x;
  if (t >= stay) return;
  u32 value = in[t];
  for (u32 round = 0; round < rounds; ++round) {
    shared[t] = value;
    block_sync();
    value = shared[stay - 1 - t];
    block_sync();
  }
  out[t] = value;
}

// Warp 0 fills a buffer, warps 1 and 2 empty it: barrier 1 says full, barrier 2 says empty.
extern "C" __global__ void pipeline(const pab::u32* in, pab::u32* out, pab::u32 items) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* buffer = reinterpret_cast<u32*>(memory);
  const u32 warp = threadIdx.x / kWarpSize, lane = lane_id();
  for (u32 item = 0; item < items; ++item) {
    if (warp == 0) {
      if (item) bar_sync(2, 96);
      buffer[lane] = in[32 * item + lane];
      bar_arrive(1, 96);
    } else {
      bar_sync(1, 96);
      out[(2 * item + warp - 1) * 32 + lane] = buffer[31 - lane] + warp;
      if (item + 1 < items) bar_arrive(2, 96);
    }
  }
}

// Each pair of warps reverses its own part with a barrier of its own.
extern "C" __global__ void pairs(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  const u32 pair = threadIdx.x / 64, t = threadIdx.x % 64;
  for (u32 round = 0; round <= pair; ++round) {
    shared[threadIdx.x] = threadIdx.x * (round + 1);
    bar_sync(pair + 1, 64);
    out[threadIdx.x] = shared[pair * 64 + 63 - t];
    bar_sync(pair + 1, 64);
  }
}

// What a block finds in its shared memory, before it dirties it.
extern "C" __global__ void fresh_shared(pab::u8* found, pab::u32 bytes) {
  using namespace pab;
  PAB_SHARED(memory);
  for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) found[block_number() * bytes + i] = memory[i];
  block_sync();
  for (u32 i = threadIdx.x; i < bytes; i += blockDim.x) memory[i] = static_cast<u8>(blockIdx.x);
}

extern "C" __global__ void atomics(pab::u32* word, pab::u64* wide) {
  using namespace pab;
  const u32 id = static_cast<u32>(block_number()) * threads_of_block() + thread_number();
  atomic_add(word, id);
  atomic_max(word + 1, id);
  atomic_min(word + 2, id);
  atomic_or(word + 3, 1u << id % 32);
  atomic_and(word + 4, ~(1u << id % 32));
  u32 old = word[5];
  for (u32 before; (before = atomic_cas(word + 5, old, old + 3)) != old; old = before) {
  }
  atomic_add(word + 6, atomic_exch(word + 7, id));  // every id is handed on once
  atomic_add(wide, static_cast<u64>(id) << 32);
  atomic_min(wide + 1, (static_cast<u64>(id) << 33) + 5);
  u64 sum = wide[2];
  for (u64 before; (before = atomic_cas(wide + 2, sum, sum + (1ull << 40))) != sum; sum = before) {
  }
}

// Thread t waits for its flag and raises the next thread's.
extern "C" __global__ void handed_on(pab::u32* flags, pab::u32* data) {
  using namespace pab;
  const u32 t = threadIdx.x;
  if (t) {
    while (ld_acquire(flags + t) == 0) {
    }
  }
  data[t + 1] = data[t] + 1;
  fence_device();
  st_release(flags + t + 1, 1);
}

// Four groups of copies of 16 bytes a thread; after each wait the whole buffer is written out.
extern "C" __global__ void copies(const float* in, float* out, pab::u32 skip) {
  using namespace pab;
  PAB_SHARED(memory);
  float* shared = reinterpret_cast<float*>(memory);
  const u32 t = threadIdx.x, n = blockDim.x;
  const auto look = [&](u32 stage) {
    block_sync();
    for (u32 i = t; i < 16 * n; i += n) out[stage * 16 * n + i] = shared[i];
    block_sync();
  };
  for (u32 i = t; i < 16 * n; i += n) shared[i] = 1000.0f;
  block_sync();
  for (u32 group = 0; group < 4; ++group) {
    const u32 at = 4 * (group * n + t);
    cp_async16(shared + at, in + at, !((skip >> t) & 1u));
    if (group < 3) cp_async_commit();  // the last group stays open
  }
  look(0);
  cp_async_wait<2>();
  look(1);
  cp_async_wait<1>();
  look(2);
  cp_async_wait<0>();
  look(3);
  cp_async_commit();
  cp_async_wait<0>();
  look(4);
}

// In which order the threads run, at the start and again after each of two barriers.
extern "C" __global__ void order(pab::u32* counter, pab::u32* rank) {
  using namespace pab;
  const u32 n = threads_of_block(), t = thread_number();
  for (u32 round = 0; round < 3; ++round) {
    rank[(block_number() * 3 + round) * n + t] = atomic_add(counter, 1u);
    block_sync();
  }
}
