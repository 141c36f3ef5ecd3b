// SPDX-License-Identifier: Apache-2.0
// What a block of paged_prefill.cu keeps, in shared memory and in registers.
//
// Part of that kernel, not of others: it uses the constants that paged_prefill.cu defines before it.
#pragma once

#include "pab/fragment_logits.cuh"
#include "pab/prefill_live.cuh"
#include "pab/prefill_work.cuh"
#include "pab/storage.cuh"
#include "pab/values_apart.cuh"

namespace pab {

struct Stage {
  Cached keys[kTile * kHeadDim], values[kTile * kValueDim];
};

constexpr int kWorkBytes = 80;  // as much as it takes with features

// Keys that some row of a warp sees, and those that all of them do.
struct alignas(16) Seen {
  u32 some_begin, some_end, all_begin, all_end;
};

// What is rarely asked for and lies in shared memory where two row tiles leave no registers for it.
template <bool kTwoTiles>
struct Kept {};
template <>
struct alignas(16) Kept<true> {
  Seen seen[kWarps];
  u32 ends[kRows];                // each row sees keys before it
  unsigned char work[kWorkBytes];  // a Work
};

// Where the values of a tile's tokens lie, when it does not follow from where their keys do.
template <bool kThere>
struct ValueRows {};
template <>
struct ValueRows<true> {
  i64 value_rows[2][kTile];
};

// Live tiles from the one that is attended to to the last that is to be looked up, where blocks have lists of them.
constexpr int kLive = 2 * kStages;
template <bool kThere>
struct LiveRing {};
template <>
struct LiveRing<true> {
  LiveTile live[kLive];
};

struct SharedMemory : Kept<kRowTiles == 2>, ValueRows<kApart>, LiveRing<kMasks> {
  u16 queries[kRows * kRowRoom];  // at the end the output, each warp's rows where its queries were
  Stage stages[kStages];
  i64 rows[2][kTile];  // byte offsets of tokens; negative: no such token
};
static_assert(sizeof(Work) <= kWorkBytes, "the work fits its place");
static_assert(sizeof(SharedMemory) == PAB_SHARED_BYTES, "the launch plan computes the same size");

// What a lane keeps of its two rows of 16: lane / 4, and 8 below.
struct State {
  float out[2 * kValueSteps][4];
  float max[2], sum[2];  // the sum is this lane's share
  LogitRow row[2];
  u32 query[kQueryInRegisters ? kSteps : 1][4];
};

// Where the block's work, what the warp sees and the ends of the block's rows are kept: `own` is the thread's.
template <typename Memory>
PAB_FN Work& work_place(Memory& memory, Work& own) {
  if constexpr (kRowTiles == 2) return *reinterpret_cast<Work*>(memory.work);
  else return own;
}
template <typename Memory>
PAB_FN Seen& seen_place(Memory& memory, Seen& own) {
  if constexpr (kRowTiles == 2) return memory.seen[threadIdx.x / kWarpSize];
  else return own;
}
template <typename Memory>
PAB_FN u32* ends_place(Memory& memory, int row) {
  if constexpr (kRowTiles == 2) return memory.ends + row;
  else return nullptr;
}

}  // namespace pab
