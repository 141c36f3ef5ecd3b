// SPDX-License-Identifier: Apache-2.0
// The plan of paged_decode.cu: lays the units of a batch on the line of pab/decode_line.cuh, and finds where each share
// begins.  One block of whole warps does it, all threads together.
//
// Whoever changes the lengths may call it: page_alloc_scan.cu does, so that a decode step needs no launch for it.
#pragma once

#include "pab/decode_line.cuh"
#include "pab/scan.cuh"

namespace pab {

// What a plan writes: line (num_seqs + 1), first (shares), arrivals (num_arrivals), all 0 afterwards.  It has one line
// for all KV heads, and `shares` of each: the blocks of the grid that attends, divided by the heads.
struct Line {
  i64* line;
  i32* first;
  u32* arrivals;
  i32 num_seqs, shares, num_arrivals;
};

// `shared` holds kScanWords u64; the lengths are there for all threads of the block.
PAB_FN void plan_line(const Batch& batch, const Line& plan, u64* shared) {
  const i32 threads = static_cast<i32>(blockDim.x), thread = static_cast<i32>(threadIdx.x);
  u64 carried = 0;
  for (i32 base = 0; base < plan.num_seqs; base += threads) {
    const i32 sequence = base + thread;
    u64 mine = 0, total = 0;
    if (sequence < plan.num_seqs) {
      const Shape shape = shape_of(batch, sequence);
      mine = static_cast<u64>(shape.units) * static_cast<u64>(shape.weight);
    }
    const u64 before = block_scan(mine, total, shared);
    if (sequence < plan.num_seqs) plan.line[sequence] = static_cast<i64>(carried + before);
    carried += total;
  }
  if (thread == 0) plan.line[plan.num_seqs] = static_cast<i64>(carried);
  for (i32 i = thread; i < plan.num_arrivals; i += threads) plan.arrivals[i] = 0;
  block_sync();
  const Cut cut = cut_line(static_cast<i64>(carried), static_cast<u32>(plan.shares), 0);
  for (i32 share = thread; share < static_cast<i32>(cut.shares); share += threads) {
    const i64 position = share_begin(cut, static_cast<u64>(share));
    i32 low = 0, high = plan.num_seqs - 1;  // the last sequence that begins at or before the position has units
    while (low < high) {
      const i32 middle = low + (high - low + 1) / 2;
      if (plan.line[middle] <= position) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    plan.first[share] = low;
  }
}

}  // namespace pab
