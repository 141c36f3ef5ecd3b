// SPDX-License-Identifier: Apache-2.0
// Page pool as a ring with tickets: a warp asks for all its lanes at once, so there is one atomic operation a warp on
// each of its words.  Blocking: whoever has a ticket may wait for the thread that fills, or empties, that place.
//
// State    words[0] u64: {free pages, ticket of the next to be taken}, 32 bits each; words[1] u64: ticket of the next to
//          be given; store (capacity, a power of two) u32: page + 1, 0 in a place that is empty.
// Requests all or nothing; those of a warp are served from its first lane on, but one that is too large for what is left
//          is refused and does not stand in the way of the next.  Free pages and ticket change in one operation, and a
//          page counts as free only once it stands in the ring: nobody is refused who would not be alone.
// Floor    two atomic operations a warp and two a page, the latter on addresses of their own.
#pragma once

#include "pab/page_requests.cuh"

namespace pab {

struct TicketPool {
  u64* words;
  u32* store;
  u32 mask;  // capacity less 1
  Stall stall;

  // Sums over the lanes up to and with this one; those beyond 2^31 - 1 are given as that, more than any pool holds.
  PAB_METHOD static u32 sum_to_here(u32 value) {
    for (u32 step = 1; step < kWarpSize; step *= 2) {
      const u32 other = shfl_up(kFullMask, value, step), sum = value + other;
      if (lane_id() >= step) value = sum < 0x7FFFFFFFu ? sum : 0x7FFFFFFFu;
    }
    return value;
  }

  PAB_METHOD bool take(u32 pages, i32* out) {
    bool open = pages > 0, served = pages == 0;
    u64 seen = 0;
    if (any(kFullMask, open)) seen = shfl_idx(kFullMask, ld_acquire(&words[0]), 0);
    while (any(kFullMask, open)) {
      const u32 left = static_cast<u32>(seen >> 32), ticket = static_cast<u32>(seen);
      const bool possible = open && pages <= left;
      const u32 end = sum_to_here(possible ? pages : 0);
      const bool fits = possible && end <= left;
      const u32 fitting = ballot(kFullMask, fits);
      if (fitting == 0) break;  // each alone is too large for what is left
      u32 last = 31;
      while (!((fitting >> last) & 1u)) --last;
      const u32 taken = shfl_idx(kFullMask, end, last);  // sums rise: it is the sum of all that fit
      u64 found = 0;
      if (lane_id() == 0) {
        found = atomic_cas(&words[0], seen, (static_cast<u64>(left - taken) << 32) | static_cast<u32>(ticket + taken));
      }
      found = shfl_idx(kFullMask, found, 0);
      if (found == seen) {
        stall.point(1);
        for (u32 j = 0; fits && j < pages; ++j) {
          u32* place = &store[(ticket + end - pages + j) & mask];
          u32 page = atomic_exch(place, 0u);
          while (page == 0) page = atomic_exch(place, 0u);
          out[j] = static_cast<i32>(page - 1);
        }
        fence_device();  // what the last owner wrote to the pages comes before what this one does
        served |= fits;
        open = open && !fits;
        seen = (static_cast<u64>(left - taken) << 32) | static_cast<u32>(ticket + taken);
      } else {
        seen = found;
      }
    }
    return served;
  }

  PAB_METHOD void give(const i32* pages, u32 count) {
    if (!any(kFullMask, count > 0)) return;
    fence_device();  // what the owner wrote to the pages comes before them
    const u32 end = sum_to_here(count), all = shfl_idx(kFullMask, end, 31);
    u64 ticket = 0;
    if (lane_id() == 0) ticket = atomic_add(&words[1], static_cast<u64>(all));
    ticket = shfl_idx(kFullMask, ticket, 0);
    stall.point(2);
    for (u32 j = 0; j < count; ++j) {
      u32* place = &store[(static_cast<u32>(ticket) + end - count + j) & mask];
      while (atomic_cas(place, 0u, static_cast<u32>(pages[j]) + 1) != 0) {
      }
    }
    warp_sync(kFullMask);
    if (lane_id() == 0) atomic_add(&words[0], static_cast<u64>(all) << 32);
  }
};

}  // namespace pab
