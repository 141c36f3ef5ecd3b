// SPDX-License-Identifier: Apache-2.0
// Controls of asynchronous copies: waits that are missing, too short or one thread's only, and stages in use.
//
// Grid, block and shared memory of each kernel stand in controls.toml; they are tiny, no floor is aimed at.
#include "pab/intrinsics.cuh"

namespace pab {

constexpr u32 kChunk = 4;  // words of a copy

}  // namespace pab

// --- one copy a thread --------------------------------------------------------------------------------------
extern "C" __global__ void read_before_the_wait(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  out[threadIdx.x] = tile[at];  // FAULT: the copy may still be under way
  cp_async_wait<0>();
}

// Whoever copied and waited sees its own copy; nobody else's is read.
extern "C" __global__ void own_copy_after_own_wait(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[at];
}

extern "C" __global__ void wait_without_barrier(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[kChunk * (blockDim.x - 1 - threadIdx.x)];  // FAULT: another thread's copy, no barrier
}

extern "C" __global__ void barrier_before_the_wait(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  block_sync();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[kChunk * (blockDim.x - 1 - threadIdx.x)];  // FAULT: the others may not have waited
}

extern "C" __global__ void wait_then_barrier(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  cp_async_wait<0>();
  block_sync();
  out[threadIdx.x] = tile[kChunk * (blockDim.x - 1 - threadIdx.x)];
}

extern "C" __global__ void commit_is_missing(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_wait<0>();
  out[threadIdx.x] = tile[at];  // FAULT: the wait is for committed groups
}

extern "C" __global__ void source_overwritten_in_flight(pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  in[at] = 0;  // FAULT: the copy may read it before or after
  cp_async_wait<0>();
  out[threadIdx.x] = tile[at];
}

extern "C" __global__ void source_overwritten_after_the_wait(pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  cp_async_wait<0>();
  in[at] = 0;
  out[threadIdx.x] = tile[at];
}

extern "C" __global__ void target_overwritten_in_flight(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  tile[at] = 0;  // FAULT: the copy may land before or after
  cp_async_wait<0>();
  out[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void misaligned_copy(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at + 1, true);  // FAULT: 4 bytes off
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[at];
}

extern "C" __global__ void copy_from_past_the_end(const pab::u32* in, pab::u32* out, pab::u32 rows) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);  // FAULT: the rows past the last are not masked
  cp_async_commit();
  cp_async_wait<0>();
  if (threadIdx.x < rows) out[threadIdx.x] = tile[at];
}

extern "C" __global__ void copy_past_shared_memory(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at + kChunk, in + at, true);  // FAULT: the last chunk lies past the end
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[at + kChunk];
}

// Rows that are not there are not read: the copy fills with zeros.
extern "C" __global__ void zero_fill_past_the_end(const pab::u32* in, pab::u32* out, pab::u32 rows) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  const bool there = threadIdx.x < rows;
  cp_async16(tile + at, there ? in + at : in, there);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = there ? tile[at] : tile[at] + kChunk * threadIdx.x;
}

extern "C" __global__ void tail_not_copied(const pab::u32* in, pab::u32* out, pab::u32 rows) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  if (threadIdx.x < rows) cp_async16(tile + at, in + at, true);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[at];  // FAULT: the rows past the last hold what was there before
}

// --- pipelines ----------------------------------------------------------------------------------------------
extern "C" __global__ void wait_one_group_short(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 n = blockDim.x;
  for (u32 stage = 0; stage < 2; ++stage) {
    const u32 at = kChunk * (stage * n + threadIdx.x);
    cp_async16(tile + at, in + at, true);
    cp_async_commit();
  }
  cp_async_wait<1>();
  out[threadIdx.x] = tile[kChunk * (n + threadIdx.x)];  // FAULT: the newest group has not been waited for
}

extern "C" __global__ void wait_for_the_older_group(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 n = blockDim.x;
  for (u32 stage = 0; stage < 2; ++stage) {
    const u32 at = kChunk * (stage * n + threadIdx.x);
    cp_async16(tile + at, in + at, true);
    cp_async_commit();
  }
  cp_async_wait<1>();
  u32 sum = tile[kChunk * threadIdx.x];
  cp_async_wait<0>();
  sum += tile[kChunk * (n + threadIdx.x)];
  out[threadIdx.x] = sum;
}

extern "C" __global__ void stage_refilled_while_read(const pab::u32* in, pab::u32* out, pab::u32 tiles) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* stages = reinterpret_cast<u32*>(memory);
  const u32 n = blockDim.x;
  for (u32 i = 0; i < 2; ++i) {
    cp_async16(stages + kChunk * (i * n + threadIdx.x), in + kChunk * (i * n + threadIdx.x), true);
    cp_async_commit();
  }
  u32 sum = 0;
  for (u32 i = 0; i < tiles; ++i) {
    cp_async_wait<1>();
    block_sync();
    u32* stage = stages + i % 2 * kChunk * n;
    sum += stage[kChunk * (n - 1 - threadIdx.x)];  // FAULT: no barrier before this stage is refilled
    if (i + 2 < tiles) {
      const u32* next = in + kChunk * ((i + 2) * n + threadIdx.x);
      cp_async16(stage + kChunk * threadIdx.x, next, true);
    }
    cp_async_commit();
  }
  out[threadIdx.x] = sum;
}

// Three stages: the one that is refilled was read before the last barrier.  Groups without copies keep the count.
extern "C" __global__ void pipeline_of_three_stages(const pab::u32* in, pab::u32* out, pab::u32 tiles,
                                                    pab::u32 rows) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* stages = reinterpret_cast<u32*>(memory);
  const u32 n = blockDim.x;
  const auto fill = [&](u32 i) {
    if (i < tiles) {
      const u32 row = i * n + threadIdx.x;
      const bool there = row < rows;
      cp_async16(stages + kChunk * (i % 3 * n + threadIdx.x), there ? in + kChunk * row : in, there);
    }
    cp_async_commit();
  };
  fill(0);
  fill(1);
  u32 sum = 0;
  for (u32 i = 0; i < tiles; ++i) {
    cp_async_wait<1>();
    block_sync();
    fill(i + 2);
    const u32* row = stages + kChunk * (i % 3 * n + n - 1 - threadIdx.x);
    for (u32 k = 0; k < kChunk; ++k) sum += row[k];
  }
  out[threadIdx.x] = reduce_add(kFullMask, sum);
}

// Two stages with a barrier on either side of the reading.
extern "C" __global__ void pipeline_of_two_stages(const pab::u32* in, pab::u32* out, pab::u32 tiles) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* stages = reinterpret_cast<u32*>(memory);
  const u32 n = blockDim.x;
  for (u32 i = 0; i < 2; ++i) {
    cp_async16(stages + kChunk * (i * n + threadIdx.x), in + kChunk * (i * n + threadIdx.x), true);
    cp_async_commit();
  }
  u32 sum = 0;
  for (u32 i = 0; i < tiles; ++i) {
    cp_async_wait<1>();
    block_sync();
    u32* stage = stages + i % 2 * kChunk * n;
    sum += stage[kChunk * (n - 1 - threadIdx.x)];
    block_sync();
    if (i + 2 < tiles) {
      cp_async16(stage + kChunk * threadIdx.x, in + kChunk * ((i + 2) * n + threadIdx.x), true);
    }
    cp_async_commit();
  }
  out[threadIdx.x] = sum;
}

// Each warp copies, waits and reads alone: a warp sync is enough.
extern "C" __global__ void pipeline_of_each_warp(const pab::u32* in, pab::u32* out, pab::u32 tiles) {
  using namespace pab;
  PAB_SHARED(memory);
  const u32 warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  u32* stages = reinterpret_cast<u32*>(memory) + warp * 2 * kChunk * kWarpSize;
  const auto fill = [&](u32 i) {
    if (i < tiles) {
      const u32 row = i * blockDim.x + threadIdx.x;
      cp_async16(stages + kChunk * (i % 2 * kWarpSize + lane), in + kChunk * row, true);
    }
    cp_async_commit();
  };
  fill(0);
  u32 sum = 0;
  for (u32 i = 0; i < tiles; ++i) {
    fill(i + 1);
    cp_async_wait<1>();
    warp_sync(kFullMask);
    sum += stages[kChunk * (i % 2 * kWarpSize + kWarpSize - 1 - lane)];
    warp_sync(kFullMask);
  }
  out[threadIdx.x] = sum;
}

// Nobody reads what was copied, so nobody has to wait.
extern "C" __global__ void copies_that_nobody_reads(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * threadIdx.x;
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  out[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void copies_to_the_end_of_shared_memory(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 at = kChunk * (blockDim.x - 1 - threadIdx.x);
  cp_async16(tile + at, in + at, true);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[at + 3];
}
