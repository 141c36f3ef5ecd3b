// SPDX-License-Identifier: Apache-2.0
// Controls of class race in shared memory: threads of a block that touch the same bytes with nothing between.
//
// Grid, block and shared memory of each kernel stand in controls.toml; they are tiny, no floor is aimed at.
#include "pab/intrinsics.cuh"

// --- block barriers -----------------------------------------------------------------------------------------
extern "C" __global__ void no_barrier_before_refill(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    tile[threadIdx.x] = in[round * blockDim.x + threadIdx.x];
    block_sync();
    sum += tile[blockDim.x - 1 - threadIdx.x];  // FAULT: no barrier before the next round writes
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void barrier_before_refill(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    tile[threadIdx.x] = in[round * blockDim.x + threadIdx.x];
    block_sync();
    sum += tile[blockDim.x - 1 - threadIdx.x];
    block_sync();
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void two_buffers_half_the_barriers(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* buffers = reinterpret_cast<u32*>(memory);
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    u32* tile = buffers + round % 2 * blockDim.x;
    tile[threadIdx.x] = in[round * blockDim.x + threadIdx.x];
    if (round % 2 == 0) block_sync();
    sum += tile[blockDim.x - 1 - threadIdx.x];  // FAULT: the odd rounds have no barrier
  }
  out[threadIdx.x] = sum;
}

// With two buffers one barrier a round is enough: whoever writes again has passed the next round's barrier.
extern "C" __global__ void two_buffers_one_barrier(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* buffers = reinterpret_cast<u32*>(memory);
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    u32* tile = buffers + round % 2 * blockDim.x;
    tile[threadIdx.x] = in[round * blockDim.x + threadIdx.x];
    block_sync();
    sum += tile[blockDim.x - 1 - threadIdx.x];
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void ring_of_four_with_too_few_barriers(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* ring = reinterpret_cast<u32*>(memory);
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    if (round % 4 == 0) {
      for (u32 ahead = 0; ahead < 4; ++ahead) {
        ring[ahead * blockDim.x + threadIdx.x] = in[(round + ahead) * blockDim.x + threadIdx.x];
      }
      block_sync();
    }
    sum += ring[round % 4 * blockDim.x + blockDim.x - 1 - threadIdx.x];  // FAULT: refilled without a barrier
  }
  out[threadIdx.x] = sum;
}

// Three buffers, each written two rounds ahead of its reading.
extern "C" __global__ void ring_of_three_buffers(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* ring = reinterpret_cast<u32*>(memory);
  const u32 n = blockDim.x;
  for (u32 round = 0; round < 2; ++round) ring[round * n + threadIdx.x] = in[round * n + threadIdx.x];
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    block_sync();
    if (round + 2 < rounds) ring[(round + 2) % 3 * n + threadIdx.x] = in[(round + 2) * n + threadIdx.x];
    sum += ring[round % 3 * n + n - 1 - threadIdx.x];
  }
  out[threadIdx.x] = sum;
}

// Half of the threads leave first: a barrier does not wait for them.
extern "C" __global__ void exited_threads_before_a_barrier(const pab::u32* in, pab::u32* out, pab::u32 stay) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  if (threadIdx.x >= stay) return;
  tile[threadIdx.x] = in[threadIdx.x];
  block_sync();
  out[threadIdx.x] = tile[stay - 1 - threadIdx.x];
}

extern "C" __global__ void warp_sync_between_warps(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[threadIdx.x] = in[threadIdx.x];
  warp_sync(kFullMask);
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];  // FAULT: written by the other warp
}

// --- named barriers -----------------------------------------------------------------------------------------
extern "C" __global__ void arrives_before_it_writes(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* buffer = reinterpret_cast<u32*>(memory);
  const u32 lane = threadIdx.x % kWarpSize;
  if (threadIdx.x < kWarpSize) {
    bar_arrive(1, 2 * kWarpSize);
    buffer[lane] = in[lane];  // FAULT: the other warp may have read by now
  } else {
    bar_sync(1, 2 * kWarpSize);
    out[lane] = buffer[kWarpSize - 1 - lane];
  }
}

// Two warps take turns: each writes what the other wrote before, plus one.
extern "C" __global__ void ping_pong_of_two_warps(pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* value = reinterpret_cast<u32*>(memory);
  const u32 warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  if (warp == 0) value[lane] = 0;
  for (u32 round = 0; round < rounds; ++round) {
    if (warp == round % 2) {
      if (round) bar_sync(1 + round % 2, 2 * kWarpSize);
      value[lane] += 1;
      if (round + 1 < rounds) bar_arrive(1 + (round + 1) % 2, 2 * kWarpSize);
    }
  }
  if (warp == (rounds - 1) % 2) out[lane] = value[lane];
}

// Each pair of warps has a barrier of its own.
extern "C" __global__ void barrier_of_each_pair_of_warps(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 pair = threadIdx.x / (2 * kWarpSize), t = threadIdx.x % (2 * kWarpSize);
  tile[threadIdx.x] = in[threadIdx.x];
  bar_sync(1 + pair, 2 * kWarpSize);
  out[threadIdx.x] = tile[pair * 2 * kWarpSize + 2 * kWarpSize - 1 - t] + 2 * t;
}

extern "C" __global__ void barrier_of_the_other_pair(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 pair = threadIdx.x / (2 * kWarpSize);
  tile[threadIdx.x] = in[threadIdx.x];
  bar_sync(1 + pair, 2 * kWarpSize);
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];  // FAULT: that is another pair's
}

// --- lanes of a warp ----------------------------------------------------------------------------------------
extern "C" __global__ void warp_reduction_in_step(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 lane = threadIdx.x;
  tile[lane] = in[lane];
  warp_sync(kFullMask);
  for (u32 distance = kWarpSize / 2; distance > 0; distance /= 2) {
    if (lane < distance) tile[lane] += tile[lane + distance];  // FAULT: lanes do not run in step
  }
  if (lane == 0) out[0] = tile[0];
}

extern "C" __global__ void warp_reduction_with_syncs(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 lane = threadIdx.x;
  tile[lane] = in[lane];
  warp_sync(kFullMask);
  for (u32 distance = kWarpSize / 2; distance > 0; distance /= 2) {
    if (lane < distance) tile[lane] += tile[lane + distance];
    warp_sync(kFullMask);
  }
  if (lane == 0) out[0] = tile[0];
}

// Each warp has a part of the tile and speaks to no other: no block barrier is needed.
extern "C" __global__ void tile_of_each_warp(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  const u32 warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  u32* tile = reinterpret_cast<u32*>(memory) + warp * kWarpSize;
  tile[lane] = in[threadIdx.x];
  warp_sync(kFullMask);
  out[threadIdx.x] = tile[kWarpSize - 1 - lane] + 2 * lane;
}

extern "C" __global__ void leader_speaks_without_sync(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* word = reinterpret_cast<u32*>(memory);
  if (threadIdx.x == 0) word[0] = in[0];
  out[threadIdx.x] = word[0];  // FAULT: nothing orders the lanes
}

// A shuffle orders the lanes of its mask like a warp sync.
extern "C" __global__ void leader_speaks_before_a_shuffle(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* word = reinterpret_cast<u32*>(memory);
  if (threadIdx.x == 0) word[0] = in[0];
  const u32 neighbour = shfl_xor(kFullMask, threadIdx.x, 1u);
  out[threadIdx.x] = word[0] + (neighbour ^ 1u);
}

extern "C" __global__ void halves_of_a_warp_apart(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 lane = threadIdx.x;
  tile[lane] = in[lane];
  if (lane < 16) {
    warp_sync(0x0000FFFFu);
  } else {
    warp_sync(0xFFFF0000u);
  }
  out[lane] = tile[kWarpSize - 1 - lane];  // FAULT: written by the other half
}

extern "C" __global__ void halves_of_a_warp_alone(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 lane = threadIdx.x;
  tile[lane] = in[lane];
  if (lane < 16) {
    warp_sync(0x0000FFFFu);
  } else {
    warp_sync(0xFFFF0000u);
  }
  out[lane] = tile[lane ^ 15u] ^ 15u;
}

// Lane 0 hands out one word after the other.
extern "C" __global__ void broadcast_overwritten_at_once(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* word = reinterpret_cast<u32*>(memory);
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) word[0] = in[round];
    warp_sync(kFullMask);
    sum += word[0];  // FAULT: lane 0 may write the next word while others still read
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void broadcast_with_two_syncs(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* word = reinterpret_cast<u32*>(memory);
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) word[0] = in[round];
    warp_sync(kFullMask);
    sum += word[0];
    warp_sync(kFullMask);
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void broadcast_overwritten_after_a_sync_of_two(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* word = reinterpret_cast<u32*>(memory);
  if (threadIdx.x == 0) word[0] = in[0];
  warp_sync(kFullMask);
  const u32 seen = word[0];  // FAULT: lane 0 waits for one of 31 readers
  if (threadIdx.x < 2) warp_sync(3u);
  if (threadIdx.x == 0) word[0] = seen + 1;
  out[threadIdx.x] = seen;
}

// --- bytes and words ----------------------------------------------------------------------------------------
extern "C" __global__ void word_over_a_neighbours_half(const pab::u16* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u16* halves = reinterpret_cast<u16*>(memory);
  const u32* words = reinterpret_cast<const u32*>(memory);
  halves[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = words[threadIdx.x / 2];  // FAULT: half of the word is the neighbour's
}

extern "C" __global__ void halves_of_two_neighbours(const pab::u16* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u16* halves = reinterpret_cast<u16*>(memory);
  halves[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = halves[threadIdx.x];
}

extern "C" __global__ void upper_half_overwritten_while_read(const pab::u16* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u16* halves = reinterpret_cast<u16*>(memory);
  halves[threadIdx.x] = in[threadIdx.x];
  warp_sync(kFullMask);
  u32 sum = 0;
  if (threadIdx.x == 0) {
    for (u32 i = 0; i < kWarpSize; ++i) sum += halves[i];
  }
  if (threadIdx.x == 1) halves[7] = 0;  // FAULT: lane 0 reads it, half by half
  out[threadIdx.x] = sum;
}

extern "C" __global__ void halves_read_and_others_overwritten(const pab::u16* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u16* halves = reinterpret_cast<u16*>(memory);
  halves[threadIdx.x] = in[threadIdx.x];
  warp_sync(kFullMask);
  u32 sum = 0;
  if (threadIdx.x == 0) {
    for (u32 i = 0; i < kWarpSize; i += 2) sum += halves[i];
  }
  if (threadIdx.x == 1) halves[7] = 0;
  sum = shfl_idx(kFullMask, sum, 0u);
  out[threadIdx.x] = sum;
}

// --- counters -----------------------------------------------------------------------------------------------
extern "C" __global__ void shared_counter_without_atomics(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* count = reinterpret_cast<u32*>(memory);
  if (threadIdx.x == 0) *count = 0;
  block_sync();
  *count += 1;  // FAULT: all threads at once
  block_sync();
  out[threadIdx.x] = *count;
}

extern "C" __global__ void shared_counter_with_atomics(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* count = reinterpret_cast<u32*>(memory);
  if (threadIdx.x == 0) *count = 0;
  block_sync();
  atomic_add(count, 1u);
  block_sync();
  out[threadIdx.x] = *count;
}

// The kept items of a warp, side by side: each lane's place is the number of kept ones below it.
extern "C" __global__ void compaction_by_ballot(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* kept = reinterpret_cast<u32*>(memory);
  const u32 value = in[threadIdx.x];
  const bool keep = value % 2 == 0;
  const u32 keepers = ballot(kFullMask, keep);
  if (keep) kept[popc(keepers & lanemask_lt())] = value;
  warp_sync(kFullMask);
  if (threadIdx.x < popc(keepers)) out[threadIdx.x] = kept[threadIdx.x];
}

extern "C" __global__ void compaction_by_wrong_mask(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* kept = reinterpret_cast<u32*>(memory);
  const u32 value = in[threadIdx.x];
  const bool keep = value % 2 == 0;
  const u32 keepers = ballot(kFullMask, keep);
  if (keep) kept[popc(keepers & lanemask_lt() & 0xFFFF0000u)] = value;  // FAULT: two lanes, one place
  warp_sync(kFullMask);
  if (threadIdx.x < 8) out[threadIdx.x] = kept[threadIdx.x];
}

// --- no other thread's business -----------------------------------------------------------------------------
extern "C" __global__ void own_words_without_a_barrier(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* mine = reinterpret_cast<u32*>(memory) + threadIdx.x;
  *mine = 0;
  for (u32 round = 0; round < rounds; ++round) *mine += in[round * blockDim.x + threadIdx.x];
  out[threadIdx.x] = *mine;
}

// Sums of warps through shared memory: lane 0 of each warp writes, a barrier, all read.
extern "C" __global__ void block_sum_by_warps(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* sums = reinterpret_cast<u32*>(memory);
  const u32 sum = reduce_add(kFullMask, in[threadIdx.x]);
  if (lane_id() == 0) sums[threadIdx.x / kWarpSize] = sum;
  block_sync();
  u32 total = 0;
  for (u32 warp = 0; warp < blockDim.x / kWarpSize; ++warp) total += sums[warp];
  out[threadIdx.x] = total;
}

extern "C" __global__ void block_sum_read_too_early(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* sums = reinterpret_cast<u32*>(memory);
  const u32 sum = reduce_add(kFullMask, in[threadIdx.x]);
  if (lane_id() == 0) sums[threadIdx.x / kWarpSize] = sum;
  u32 total = 0;
  for (u32 warp = 0; warp < blockDim.x / kWarpSize; ++warp) {
    total += sums[warp];  // FAULT: a collective orders one warp, the sums are of all
  }
  block_sync();
  out[threadIdx.x] = total;
}
