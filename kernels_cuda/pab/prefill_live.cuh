// SPDX-License-Identifier: Apache-2.0
// Tiles of keys that the rows of a block see, where rows see sets of keys: which they are, and who sees what of them.
//
// A block of rows has a list of its own, whose number follows from its sequence and first row alone, so that lists are
// made before the blocks are put in order.  They serve all KV heads and all layers.
#pragma once

#include "pab/mask_bits.cuh"
#include "pab/prefill_order.cuh"

namespace pab {

constexpr int kMostTileWords = 2;  // of 32 keys, of a tile

// A tile that some row of a block sees.
struct alignas(16) LiveTile {
  i32 tile;
  u32 warps;                 // bit w: a row of warp w sees some key of it; bit 16 + w: all its rows see all of them
  u32 seen[kMostTileWords];  // keys that some row of the block sees
};

#if defined(PAB_MASKS) && PAB_MASKS
#define PAB_LIVE_PARAMETERS , const pab::LiveTile *live_tiles, const pab::i32 *live_counts
#define PAB_LIST_PARAMETERS , pab::LiveTile *live_tiles, pab::i32 *live_counts, pab::i32 listing
#define PAB_GIVEN_LIVE(tile) \
  pab::LiveLists { live_tiles, live_counts, pab::tiles_of_row<tile>(words_per_row) }
#define PAB_GIVEN_COST(rows, tile) \
  pab::LiveCost<rows> { live_counts }
#define PAB_GIVEN_LISTING \
  pab::Listing { live_tiles, live_counts, listing }
// The lists of all blocks, `stride` entries each.
struct LiveLists {
  const LiveTile* tiles;
  const i32* counts;
  i32 stride;
};
// Where the lists are written, and whether this launch does so.
struct Listing {
  LiveTile* tiles;
  i32* counts;
  i32 asked;
};
#else
#define PAB_LIVE_PARAMETERS
#define PAB_LIST_PARAMETERS
#define PAB_GIVEN_LIVE(tile) \
  pab::LiveLists {}
#define PAB_GIVEN_COST(rows, tile) \
  pab::RangeCost<tile> {}
#define PAB_GIVEN_LISTING \
  pab::Listing {}
struct LiveLists {};
struct Listing {};
#endif

// Tiles that the words of a row make: entries of a list.
template <int kTile>
PAB_FN i32 tiles_of_row(i32 words_per_row) {
  return (words_per_row + kTile / 32 - 1) / (kTile / 32);
}

// The place of the list of the first block of a sequence: the most blocks that those before it make.
template <int kRows>
PAB_FN i32 first_list(const Batch& batch, i32 sequence) {
  return static_cast<i32>(static_cast<i64>(batch.qo_indptr[sequence]) * batch.group_size / kRows) + sequence;
}

// What the plan orders blocks by.
template <int kRows>
struct LiveCost {
  const i32* counts;

  PAB_METHOD i32 tiles(const Batch& batch, const Sequence&, i32 sequence, i32 first_row, i32) const {
    return counts[first_list<kRows>(batch, sequence) + first_row / kRows];
  }
};

// Whether the rows of a warp, packed ones first_row .. last_row, see some of the keys of a tile, and all of them: two
// bits of LiveTile::warps.  Keys that some row sees join `seen`.
template <int kTile>
PAB_FN u32 warp_sees(u32 (&seen)[kMostTileWords], const MaskBits& mask, const Sequence& sequence, i32 tile, i32 first_row,
                     i32 last_row) {
  constexpr int kWords = kTile / 32;
  u32 some[kWords] = {}, missing = 0;
  for (i32 token = first_row / sequence.group_size; token <= last_row / sequence.group_size; ++token) {
#pragma unroll
    for (int word = 0; word < kWords; ++word) {
      const u32 bits = mask_word(mask, sequence.first_query + token, tile * kWords + word);
      some[word] |= bits;
      missing |= ~bits;
    }
  }
  u32 any_key = 0;
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    seen[word] |= some[word];
    any_key |= some[word];
  }
  return (any_key != 0 ? 1u : 0u) | (missing == 0 ? 1u << 16 : 0u);
}

#if defined(PAB_MASKS) && PAB_MASKS
// Lists the live tiles of one block of rows, ascending: that whose list has the number of this CUDA block.  `scan` is
// kScanWords of shared memory.  False when that is not asked for.
template <int kRows, int kWarpRows, int kTile>
PAB_FN bool list_tiles(const Batch& batch, const MaskBits& mask, const Listing& lists, i32 min_query_len, u64* scan) {
  static_assert(kTile % 32 == 0 && kTile / 32 <= kMostTileWords, "whole words of a tile");
  static_assert(kRows / kWarpRows <= 16, "two bits a warp");
  if (lists.asked == 0) return false;
  const i32 place = static_cast<i32>(blockIdx.x), thread = static_cast<i32>(threadIdx.x);
  i32 low = 0, high = batch.num_seqs - 1;  // the last sequence whose lists do not begin behind this one
  while (low < high) {
    const i32 middle = low + (high - low + 1) / 2;
    if (first_list<kRows>(batch, middle) <= place) low = middle; else high = middle - 1;
  }
  const Sequence sequence = sequence_of(batch, low);
  const i32 first_row = (place - first_list<kRows>(batch, low)) * kRows, rows = sequence.rows();
  const bool there = first_row < rows && sequence.query_len >= min_query_len;
  const i32 last_row = first_row + kRows - 1 < rows ? first_row + kRows - 1 : rows - 1;
  const i32 stride = tiles_of_row<kTile>(mask.words_per_row);
  i32 end = there ? sequence.kv_len / kTile + (sequence.kv_len % kTile != 0) : 0;
  if (end > stride) end = stride;
  i32 listed = 0;
  for (i32 base = 0; base < end; base += static_cast<i32>(blockDim.x)) {
    LiveTile mine = {base + thread, 0, {}};
    if (mine.tile < end) {
#pragma unroll 1
      for (i32 row = first_row, warp = 0; row <= last_row; row += kWarpRows, ++warp) {
        const i32 last = row + kWarpRows - 1 < last_row ? row + kWarpRows - 1 : last_row;
        mine.warps |= warp_sees<kTile>(mine.seen, mask, sequence, mine.tile, row, last) << warp;
      }
    }
    const bool live = (mine.warps & 0xFFFFu) != 0;
    u64 total = 0;
    const i32 before = static_cast<i32>(block_scan(live ? 1 : 0, total, scan));
    if (live) store_wide(&lists.tiles[static_cast<i64>(place) * stride + listed + before], mine);
    listed += static_cast<i32>(total);
  }
  if (thread == 0) lists.counts[place] = listed;
  return true;
}
#else
template <int kRows, int kWarpRows, int kTile>
PAB_FN bool list_tiles(const Batch&, const MaskBits&, const Listing&, i32, u64*) {
  return false;
}
#endif

}  // namespace pab
