// SPDX-License-Identifier: Apache-2.0
// The warps of paged_prefill_wgmma.cu that feed: tiles of the paged cache on their way to shared memory.
//
// Part of that kernel, not of others: it uses the constants and the memory that paged_prefill_wgmma.cu defines before it.
#pragma once

#include "pab/prefill_work.cuh"
#include "pab/wgmma.cuh"

namespace pab {

constexpr int kWarpTokens = kTile / kGroupWarps;  // of a tile, that a warp copies
constexpr i32 kNowhere = -1;

// The token of tile n whose place this lane knows, and its page; negative when no row of the block sees it.
PAB_FN u32 lane_token(const Work& work, i32 n) {
  const u32 within = threadIdx.x / kWarpSize * kWarpTokens + lane_id() % kWarpTokens;
  return static_cast<u32>(work.first_tile + n) * kTile + within;
}
PAB_FN i32 lane_page(const Call& call, const Work& work, i32 n) {
  const u32 token = lane_token(work, n), page_size = static_cast<u32>(call.page_size);
  if (token >= static_cast<u32>(work.end) || token < static_cast<u32>(work.begin)) return kNowhere;
  return call.block_table[static_cast<i64>(work.number) * call.max_pages + token / page_size];
}

// Starts the copies of this warp's rows of a tile, whose tokens lie `place` bytes behind `cache`, a lane's each; rows of
// tokens that are nowhere are zeros, for a weight of zero does not silence a NaN.
PAB_FN void copy_rows(u16* tile, const Cached* cache, i64 place) {
  auto* target = reinterpret_cast<unsigned char*>(tile);
  const auto* source = reinterpret_cast<const unsigned char*>(cache);
  const int first = static_cast<int>(threadIdx.x / kWarpSize) * kWarpTokens;
#pragma unroll 4
  for (int i = 0; i < kWarpTokens * kChunks / static_cast<int>(kWarpSize); ++i) {
    const int index = static_cast<int>(lane_id()) + i * static_cast<int>(kWarpSize);
    const int row = index / kChunks, chunk = index % kChunks;
    const i64 at = shfl_idx(kFullMask, place, static_cast<u32>(row));
    cp_async16(target + panel_place<kTile>(first + row, chunk), source + (at < 0 ? 0 : at + chunk * kChunkBytes), at >= 0);
  }
  cp_async_commit();
}

// Says that this warp's copies, which have landed, are there for products.
PAB_FN void there(u64* barrier) {
  proxy_fence();
  warp_sync(kFullMask);
  if (lane_id() == 0) barrier_arrive(barrier);
}

// Feeds all tiles of the block.  Each warp knows of its own copies when they have landed: those of a tile's keys while
// its values and the next keys are on their way, and so on.
PAB_FN void feed(SharedMemory& memory, const Call& call, const Work& work) {
  i32 page = lane_page(call, work, 0);
  for (i32 n = 0; n < work.tiles; ++n) {
    const i32 stage = n % kStages, before = (n + kStages - 1) % kStages;
    const u32 within = lane_token(work, n) % static_cast<u32>(call.page_size);
    const i64 elements = page * call.page_stride + within * call.token_stride + work.kv_head * call.head_stride;
    const i64 place = page < 0 ? kNowhere : elements * static_cast<i64>(sizeof(Cached));
    page = n + 1 < work.tiles ? lane_page(call, work, n + 1) : kNowhere;  // arrives while this tile is waited for
    if (n >= kStages) barrier_wait(&memory.keys_done[stage], phase_of(n - kStages));
    copy_rows(memory.keys[stage], call.k, place);
    if (n > 0) {
      cp_async_wait<2>();
      there(&memory.keys_there[before]);
    }
    if (n >= kStages) barrier_wait(&memory.values_done[stage], phase_of(n - kStages));
    copy_rows(memory.values[stage], call.v, place);
    if (n > 0) {
      cp_async_wait<2>();
      there(&memory.values_there[before]);
    }
  }
  const i32 last = (work.tiles - 1) % kStages;
  cp_async_wait<1>();
  there(&memory.keys_there[last]);
  cp_async_wait<0>();
  there(&memory.values_there[last]);
}

}  // namespace pab
