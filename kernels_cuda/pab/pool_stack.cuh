// SPDX-License-Identifier: Apache-2.0
// Page pool as a lock-free stack: any number of threads take and give at the same time, and none waits for another.
//
// State    words[0] u64: {tag, index of the top page}, index 0xFFFFFFFF for an empty pool; store (num_pages) u32: the
//          page below each page.  Every change of the top adds one to the tag, so that a thread that was held up while
//          the same page left and came back sees that it did.
// Requests k pages are one change of the top: all or nothing, and refused only when fewer than k pages were free at
//          one moment.
// Compile  PAB_TAG_BITS: width of the tag, 32 unless a test makes it small to see it fail.
// Floor    one compare-and-swap a request on one address: they follow one another at the rate of the L2 cache, about
//          one a clock of it (predicted, not measured).
#pragma once

#include "pab/page_requests.cuh"

#ifndef PAB_TAG_BITS
#define PAB_TAG_BITS 32
#endif

namespace pab {

struct StackPool {
  u64* words;
  u32* store;
  Stall stall;

  static constexpr u32 kNone = 0xFFFFFFFFu;
  static constexpr u64 kTagMask = (u64{1} << PAB_TAG_BITS) - 1;

  // The word that follows `seen` with `index` on top.
  PAB_METHOD static u64 next_word(u64 seen, u32 index) { return ((((seen >> 32) + 1) & kTagMask) << 32) | index; }

  PAB_METHOD bool take(u32 pages, i32* out) {
    u32 touched = 0;
    while (pages) {
      const u64 seen = ld_acquire(&words[0]);
      stall.point(1);
      u32 index = static_cast<u32>(seen), found = 0;
      // may walk over pages that others take and give meanwhile: then the word has changed
      for (; found < pages && index != kNone; ++found) {
        out[found] = static_cast<i32>(index);
        index = ld_relaxed(&store[index]);
      }
      touched = found > touched ? found : touched;
      stall.point(2);
      if (found == pages) {
        if (atomic_cas(&words[0], seen, next_word(seen, index)) == seen) break;
      } else if (ld_acquire(&words[0]) == seen) {
        for (u32 j = 0; j < touched; ++j) out[j] = -1;  // also what earlier attempts left
        return false;
      }
    }
    return true;
  }

  PAB_METHOD void give(const i32* pages, u32 count) {
    if (count == 0) return;
    for (u32 j = 0; j + 1 < count; ++j) st_relaxed(&store[pages[j]], static_cast<u32>(pages[j + 1]));
    u64 seen = ld_acquire(&words[0]);
    for (;;) {
      st_relaxed(&store[pages[count - 1]], static_cast<u32>(seen));
      fence_device();  // links, and what the owner wrote to the pages, come before the pages do
      stall.point(3);
      const u64 found = atomic_cas(&words[0], seen, next_word(seen, static_cast<u32>(pages[0])));
      if (found == seen) return;
      seen = found;
    }
  }
};

}  // namespace pab
