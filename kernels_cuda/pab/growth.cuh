// SPDX-License-Identifier: Apache-2.0
// Entries of a growth, four a thread, so that a load of one is on its way beside those of the other three; and the rank
// of entries that write one page.
#pragma once

#include "pab/block_scan.cuh"
#include "pab/page_sizes.cuh"

namespace pab {

constexpr i32 kEach = 4;                    // entries of a thread, neighbours in the request
constexpr i32 kChunk = kEach * PAB_THREADS;  // entries of a pass of the block

template <typename T>
struct alignas(16) Wide {
  T at[16 / sizeof(T)];
};

// Whether an array begins at a multiple of 16 bytes; the caller's may be a part of another.
PAB_FN bool aligned(const void* array) { return reinterpret_cast<u64>(array) % 16 == 0; }

// Moves `kEach` neighbours from `first` on, 16 bytes at a time where `wide` says that the array begins at a multiple of
// them; `none` stands for what lies behind the `count` entries that there are.
template <typename T>
PAB_FN void load_each(const T* array, i32 first, i32 count, T none, bool wide, T (&out)[kEach]) {
  constexpr i32 kAtOnce = 16 / sizeof(T);
  if (wide && first + kEach <= count) {
#pragma unroll
    for (i32 k = 0; k < kEach; k += kAtOnce) {
      const auto some = load_wide(reinterpret_cast<const Wide<T>*>(array + first + k));
#pragma unroll
      for (i32 j = 0; j < kAtOnce; ++j) out[k + j] = some.at[j];
    }
  } else {
#pragma unroll
    for (i32 k = 0; k < kEach; ++k) out[k] = first + k < count ? array[first + k] : none;
  }
}
template <typename T>
PAB_FN void store_each(T* array, i32 first, i32 count, bool wide, const T (&values)[kEach]) {
  constexpr i32 kAtOnce = 16 / sizeof(T);
  if (wide && first + kEach <= count) {
#pragma unroll
    for (i32 k = 0; k < kEach; k += kAtOnce) {
      Wide<T> some;
#pragma unroll
      for (i32 j = 0; j < kAtOnce; ++j) some.at[j] = values[k + j];
      store_wide(reinterpret_cast<Wide<T>*>(array + first + k), some);
    }
  } else {
#pragma unroll
    for (i32 k = 0; k < kEach; ++k) {
      if (first + k < count) array[first + k] = values[k];
    }
  }
}

// What a growth is about: the request, and the lengths and sizes that it is held to.
struct Growth {
  const i32* sequences;
  const i32* tokens;
  const i32* lengths;
  i32 max_seqs, max_pages;
  PageSizes sizes;
  bool wide;  // the arrays of the request are aligned
};

struct Entries {
  i32 sequence[kEach];          // -1 where there is no request, or none that can be
  u32 old[kEach], more[kEach];  // tokens before, and to add
  i32 page_size[kEach];
  u32 wrongs, first_wrong;      // how many are refused; 8 k + code of the first of them

  PAB_METHOD u32 now(i32 k) const { return old[k] + more[k]; }
};

// Code 4 for an index that is none or a count below zero, 2 for a sequence longer than its row.
PAB_FN void load_entries(const Growth& growth, i32 first, Entries& entries) {
  i32 tokens[kEach], length[kEach];
  load_each(growth.sequences, first, growth.max_seqs, -1, growth.wide, entries.sequence);
  load_each(growth.tokens, first, growth.max_seqs, 0, growth.wide, tokens);
#pragma unroll
  for (i32 k = 0; k < kEach; ++k) {
    const bool can_be = static_cast<u32>(entries.sequence[k]) < static_cast<u32>(growth.max_seqs);
    length[k] = can_be ? growth.lengths[entries.sequence[k]] : -1;
    entries.page_size[k] = growth.sizes.of(entries.sequence[k]);
  }
  entries.wrongs = entries.first_wrong = 0;
#pragma unroll
  for (i32 k = kEach - 1; k >= 0; --k) {
    const i32 sequence = entries.sequence[k];
    const bool wrong = sequence >= 0 && (sequence >= growth.max_seqs || tokens[k] < 0);
    if (wrong) entries.sequence[k] = -1;
    entries.old[k] = length[k] < 0 ? 0 : static_cast<u32>(length[k]);
    entries.more[k] = entries.sequence[k] < 0 ? 0 : static_cast<u32>(tokens[k]);
    const i64 pages = pages_of(entries.now(k), entries.page_size[k]);
    const bool outgrows = (entries.now(k) > 0x7FFFFFFF) | (pages > growth.max_pages);  // no branch between loads
    if (wrong || outgrows) {
      ++entries.wrongs;
      entries.first_wrong = static_cast<u32>(8 * k) + (wrong ? 4 : 2);
    }
  }
}

// For each entry how many before it write the same page; `page` is -1 where an entry does not ask.  Warp after warp, 32
// entries after 32, so that it is their order that counts; only entered when a page of the chunk is shared.  `staged`
// is kChunk of shared memory, `copied` (num_pages) 0 at first.
PAB_FN void rank_of(const i32 (&page)[kEach], u32* staged, u32* copied, u32 (&rank)[kEach]) {
  u32* ours = staged + kEach * (threadIdx.x - lane_id());  // of this warp
#pragma unroll
  for (i32 k = 0; k < kEach; ++k) ours[kEach * lane_id() + k] = static_cast<u32>(page[k]);
  warp_sync(kFullMask);
  for (u32 turn = 0; turn < blockDim.x / kWarpSize; ++turn) {
    if (turn == threadIdx.x / kWarpSize) {
#pragma unroll 1
      for (u32 part = 0; part < kEach * kWarpSize; part += kWarpSize) {
        const u32 asked = ours[part + lane_id()];
        const bool asks = asked != 0xFFFFFFFFu;
        if (!any(kFullMask, asks)) continue;
        const u32 same = match_any(kFullMask, asked);
        const u32 before = asks ? copied[asked] : 0;
        warp_sync(kFullMask);
        ours[part + lane_id()] = before + popc(same & lanemask_lt());
        if (asks && (same & lanemask_lt()) == 0) copied[asked] = before + popc(same);
        warp_sync(kFullMask);
      }
    }
    block_sync();
  }
#pragma unroll
  for (i32 k = 0; k < kEach; ++k) rank[k] = ours[kEach * lane_id() + k];
}

}  // namespace pab
