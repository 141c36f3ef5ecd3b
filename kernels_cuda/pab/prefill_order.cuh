// SPDX-License-Identifier: Apache-2.0
// The work of a prefill call: blocks of packed rows, and the order in which they are begun.
//
// The query tokens of a sequence and the heads of a group are packed into rows, row = token * group_size + head of
// the group, and cut into blocks of so many.  A block and a KV head are what one CUDA block attends to.  Blocks that
// see many keys come first, so that no long one is left when the others are done.  Nothing of this is known to the
// host: lengths may change in place between two launches.
#pragma once

#include "pab/features.cuh"
#include "pab/scan.cuh"

namespace pab {

// Lengths of the batch, and what its rows see.
struct Batch {
  const i32* kv_lens;
  const i32* qo_indptr;
  i32 num_seqs, group_size, causal;
  Features features;
};

// One sequence's rows.
struct Sequence {
  i32 kv_len, first_query, query_len, group_size, causal;
  Features features;

  PAB_METHOD i32 rows() const { return query_len * group_size; }
  // The key that stands where the row's token does: masks align at the bottom right.  Negative before the first.
  PAB_METHOD i32 position(i32 row) const { return kv_len - query_len + row / group_size; }
  // A row sees the keys from oldest(row) up to, not with, limit(row); neither falls from a row to the next.
  PAB_METHOD i32 oldest(i32 row) const { return oldest_key(features, position(row)); }
  PAB_METHOD i32 limit(i32 row) const {
    if (!causal) return kv_len;
    const i32 own = position(row);
    return own < 0 ? 0 : own + 1;
  }
};

// A block of rows, as the plan leaves it for the attention.
struct alignas(8) RowBlock {
  i32 sequence, first_row;
};

// What blocks are ordered by: the tiles from the first key that the first row sees to the last of the last row.
template <int kTile>
struct RangeCost {
  PAB_METHOD i32 tiles(const Batch&, const Sequence& found, i32, i32 first_row, i32 last_row) const {
    return found.limit(last_row) / kTile - found.oldest(first_row) / kTile;
  }
};

constexpr int kBuckets = 256;  // of cost; the block that plans has at least as many threads

PAB_FN Sequence sequence_of(const Batch& batch, i32 sequence) {
  const i32 first = batch.qo_indptr[sequence];
  return {batch.kv_lens[sequence], first, batch.qo_indptr[sequence + 1] - first, batch.group_size, batch.causal,
          batch.features};
}

// Rises with `tiles`, a step for each eighth of an octave: 200 values for 2^27 tiles.
PAB_FN i32 bucket_of(i32 tiles) {
  i32 octave = 0;
  while (tiles >> octave >= 16) ++octave;
  return 8 * octave + (tiles >> octave);
}

// Plans with one block of whole warps: `starts` (num_seqs + 1) gets the number of each sequence's first block and at
// the end how many there are, `order` all of them by falling cost; equal ones in any order, for none depends on
// another.  Sequences with fewer than `min_query_len` query tokens are another kernel's: they have no blocks.  `counts`
// is kBuckets of shared memory, `scan` kScanWords; cost.tiles says what a block costs.
template <int kRows, int kTile, typename Cost = RangeCost<kTile>>
PAB_FN void order_blocks(const Batch& batch, i32 min_query_len, i32* starts, RowBlock* order, u32* counts, u64* scan,
                         const Cost& cost = {}) {
  const i32 thread = static_cast<i32>(threadIdx.x), threads = static_cast<i32>(blockDim.x);
  u64 carried = 0;
  for (i32 base = 0; base < batch.num_seqs; base += threads) {
    const i32 sequence = base + thread;
    u64 mine = 0, total = 0;
    if (sequence < batch.num_seqs && sequence_of(batch, sequence).query_len >= min_query_len) {
      mine = (static_cast<u64>(sequence_of(batch, sequence).rows()) + kRows - 1) / kRows;
    }
    const u64 before = block_scan(mine, total, scan);
    if (sequence < batch.num_seqs) starts[sequence] = static_cast<i32>(carried + before);
    carried += total;
  }
  const i32 blocks = static_cast<i32>(carried);
  if (thread == 0) starts[batch.num_seqs] = blocks;
  for (i32 bucket = thread; bucket < kBuckets; bucket += threads) counts[bucket] = 0;
  block_sync();

  const auto find = [&](i32 number, i32& bucket) -> RowBlock {
    i32 low = 0, high = batch.num_seqs - 1;  // the last sequence that begins at or before it has rows
    while (low < high) {
      const i32 middle = low + (high - low + 1) / 2;
      if (starts[middle] <= number) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    const Sequence found = sequence_of(batch, low);
    const i32 first_row = (number - starts[low]) * kRows, left = found.rows() - first_row;
    const i32 last_row = first_row + (left < kRows ? left : kRows) - 1;
    bucket = bucket_of(cost.tiles(batch, found, low, first_row, last_row));
    return {low, first_row};
  };
  i32 bucket = 0;
  for (i32 number = thread; number < blocks; number += threads) {
    find(number, bucket);
    atomic_add(&counts[bucket], 1u);
  }
  block_sync();
  const i32 mirrored = kBuckets - 1 - thread;  // the dearest first
  u64 total = 0;
  const u64 before = block_scan(mirrored >= 0 ? counts[mirrored] : 0, total, scan);
  if (mirrored >= 0) counts[mirrored] = static_cast<u32>(before);
  block_sync();
  for (i32 number = thread; number < blocks; number += threads) {
    const RowBlock block = find(number, bucket);
    store_wide(&order[atomic_add(&counts[bucket], 1u)], block);
  }
}

}  // namespace pab
