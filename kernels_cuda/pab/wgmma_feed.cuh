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

// Keys and values as tensors of head_dim, tokens of a page, KV heads and pages, and the tokens of a box: a page, or a
// tile, or what divides both.  0: there are no boxes.
struct Boxes {
  const TensorMap &keys, &values;
  i32 tokens;
};

// Whether tile n comes in boxes.  These bring what stands behind the last token and before the first that some row sees
// as well, which may be NaN; so all tokens of the tile must be between.
PAB_FN bool comes_in_boxes(const Boxes& boxes, const Work& work, i32 n) {
  const i64 first = static_cast<i64>(work.first_tile + n) * kTile;
  return boxes.tokens > 0 && first >= work.begin && first + kTile <= work.end;
}

// The token of tile n whose page this lane looks up, the first of a box or one of its warp's, and that page; negative
// when the lane has no box or no row of the block sees the token.
PAB_FN u32 lane_token(const Boxes& boxes, const Work& work, i32 n) {
  const u32 warp = threadIdx.x / kWarpSize, lane = lane_id();
  const u32 within = comes_in_boxes(boxes, work, n) ? warp * kTile + lane * boxes.tokens
                                                    : warp * kWarpTokens + lane % kWarpTokens;
  return within < kTile ? static_cast<u32>(work.first_tile + n) * kTile + within : ~0u;
}
PAB_FN i32 lane_page(const Boxes& boxes, const Call& call, const Work& work, i32 n) {
  const u32 token = lane_token(boxes, work, n), page_size = static_cast<u32>(call.page_size);
  if (token >= static_cast<u32>(work.end) || token < static_cast<u32>(work.begin)) return kNowhere;
  return call.block_table[static_cast<i64>(work.number) * call.max_pages + token / page_size];
}

// Starts the copies of a tile's boxes, one a lane of the first warp; all warps have then arrived.
PAB_FN void copy_boxes(u16* tile, const TensorMap& map, const Boxes& boxes, i32 page, i32 within, i32 kv_head,
                       u64* barrier) {
  if (threadIdx.x == 0) barrier_expect(barrier, kPanels * kTilePanel);
  else if (lane_id() == 0) barrier_arrive(barrier);
  warp_sync(kFullMask);
  if (page < 0) return;
  auto* target = reinterpret_cast<unsigned char*>(tile) + static_cast<i32>(lane_id()) * boxes.tokens * kPanelRowBytes;
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel) {
    copy_box(target + panel * kTilePanel, map, panel * kPanelElements, within, kv_head, page, barrier);
  }
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
    const i32 there = static_cast<i32>(at >> 32);
    cp_async16_there(target + panel_place<kTile>(first + row, chunk), source + at + chunk * kChunkBytes, there);
  }
}

// Says that this warp's copies, which have landed, are there for products.
PAB_FN void there(u64* barrier) {
  proxy_fence();
  warp_sync(kFullMask);
  if (lane_id() == 0) barrier_arrive(barrier);
}

// Feeds all tiles of the block.  Boxes tell of their arrival themselves.  Of its own copies each warp knows when they
// have landed: those of a tile's keys while its values and the next keys are on their way, and so on.
PAB_FN void feed(SharedMemory& memory, const Boxes& boxes, const Call& call, const Work& work) {
  i32 page = lane_page(boxes, call, work, 0);
  bool copied = false;  // the tile before
  for (i32 n = 0; n < work.tiles; ++n) {
    const i32 stage = n % kStages, before = (n + kStages - 1) % kStages;
    const bool boxed = comes_in_boxes(boxes, work, n);
    const i32 box = page;
    const u32 within = lane_token(boxes, work, n) % static_cast<u32>(call.page_size);
    const i64 elements = page * call.page_stride + within * call.token_stride + work.kv_head * call.head_stride;
    const i64 place = page < 0 ? kNowhere : elements * static_cast<i64>(sizeof(Cached));
    page = n + 1 < work.tiles ? lane_page(boxes, call, work, n + 1) : kNowhere;  // arrives while this tile is waited for
    if (n >= kStages) barrier_wait(&memory.keys_done[stage], phase_of(n - kStages));
    const auto start = [&](u16* tile, const TensorMap& map, const Cached* cache, u64* barrier) {
      if (boxed) copy_boxes(tile, map, boxes, box, static_cast<i32>(within), work.kv_head, barrier);
      else copy_rows(tile, cache, place);
      cp_async_commit();  // of nothing after boxes
    };
    start(memory.keys[stage], boxes.keys, call.k, &memory.keys_there[stage]);
    if (copied) {
      cp_async_wait<2>();
      there(&memory.keys_there[before]);
    }
    if (n >= kStages) barrier_wait(&memory.values_done[stage], phase_of(n - kStages));
    start(memory.values[stage], boxes.values, call.v, &memory.values_there[stage]);
    if (copied) {
      cp_async_wait<2>();
      there(&memory.values_there[before]);
    }
    copied = !boxed;
  }
  if (!copied) return;
  const i32 last = (work.tiles - 1) % kStages;
  cp_async_wait<1>();
  there(&memory.keys_there[last]);
  cp_async_wait<0>();
  there(&memory.values_there[last]);
}

}  // namespace pab
