// Page allocator whose order of grants depends on the sequence index alone: same requests, same pages.
//
//   page_alloc_extend   grid 1; block PAB_THREADS (a multiple of 32, at most 1024)
//   page_alloc_free     grid 1; block PAB_THREADS
//                       shared, both: 64 u64 (two values a warp)
//
// State    ring (capacity u32, a power of two): free pages between head and tail, oldest first; cursor[0] = head,
//          cursor[1] = tail, both u64 and only growing; lengths (max_seqs) i32, -1 for a sequence that is not
//          live; block_table (max_seqs, max_pages) i32, -1 beyond the pages in use.
// extend   request (max_seqs) i32: tokens to add, -1 to leave a sequence alone; a request to a sequence that is
//          not live starts it.  Writes table, lengths and slot_mapping (slots of the new tokens, sequence by
//          sequence).  All or nothing: when the pages do not suffice nothing but `status` is written.
// free     request i32: nonzero frees the sequence; its pages go to the end of the ring, in logical order.
// status   i64[4]: 0 ok, 1 too few pages, 2 a sequence is longer than its table row, 3 request to free a
//          sequence that is not live; then pages needed (free: returned), pages free, first sequence concerned.
// Floor    28 bytes a sequence and 12 a page are nothing: an empty launch plus four dependent memory latencies
//          and two barriers, about 4 us on an H200 (predicted, not measured).
//
// Sequences go by in chunks of PAB_THREADS; a chunk is scanned in sequence order, the totals are carried.
#include "pab/intrinsics.cuh"

namespace pab {

struct Pair {
  u64 pages, tokens;
};

// Exclusive sums over the block in thread order; `total` gets the sums of all threads.
PAB_FN Pair block_scan(Pair mine, Pair& total, u64* shared) {
  const u32 lane = lane_id(), warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  Pair sum = mine;
#pragma unroll
  for (u32 step = 1; step < kWarpSize; step *= 2) {
    const u64 pages = shfl_up(kFullMask, sum.pages, step), tokens = shfl_up(kFullMask, sum.tokens, step);
    if (lane >= step) {
      sum.pages += pages;
      sum.tokens += tokens;
    }
  }
  if (lane == kWarpSize - 1) {
    shared[warp] = sum.pages;
    shared[32 + warp] = sum.tokens;
  }
  block_sync();
  Pair before = {0, 0};
  total = {0, 0};
  for (u32 w = 0; w < warps; ++w) {
    if (w == warp) before = total;
    total.pages += shared[w];
    total.tokens += shared[32 + w];
  }
  block_sync();  // the next scan writes here
  return {before.pages + sum.pages - mine.pages, before.tokens + sum.tokens - mine.tokens};
}

PAB_FN i64 pages_of(i64 tokens, i32 page_size) { return (tokens + page_size - 1) / page_size; }

}  // namespace pab

extern "C" __global__ void __launch_bounds__(PAB_THREADS) page_alloc_extend(
    const pab::i32* request, pab::u32* ring, pab::u64* cursor, pab::i32* lengths, pab::i32* block_table,
    pab::i64* slot_mapping, pab::i64* status, pab::u32 ring_mask, pab::i32 max_seqs, pab::i32 max_pages,
    pab::i32 page_size) {
  using namespace pab;
  PAB_SHARED(memory);
  u64* shared = reinterpret_cast<u64*>(memory);
  const u64 head = cursor[0], free_pages = cursor[1] - head;

  // first pass: is there enough, and does every row hold its sequence
  Pair total = {0, 0}, carried = {0, 0};
  i64 too_long = -1;
  for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
    const i32 sequence = base + static_cast<i32>(threadIdx.x);
    Pair need = {0, 0};  // pages; in place of tokens, whether the sequence outgrows its row
    if (sequence < max_seqs && request[sequence] >= 0) {
      const i64 old = lengths[sequence] < 0 ? 0 : lengths[sequence], now = old + request[sequence];
      need.pages = static_cast<u64>(pages_of(now, page_size) - pages_of(old, page_size));
      need.tokens = pages_of(now, page_size) > max_pages;
    }
    const Pair before = block_scan(need, total, shared);
    carried.pages += total.pages;
    if (total.tokens && too_long < 0) {
      too_long = base;
      if (need.tokens && before.tokens == 0) status[3] = sequence;
    }
  }
  if (too_long >= 0 || carried.pages > free_pages) {
    if (threadIdx.x == 0) {
      status[0] = too_long >= 0 ? 2 : 1;
      status[1] = static_cast<i64>(carried.pages);
      status[2] = static_cast<i64>(free_pages);
      if (too_long < 0) status[3] = -1;
    }
    return;
  }

  // second pass: the same scan, now with the offsets used
  carried = {0, 0};
  for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
    const i32 sequence = base + static_cast<i32>(threadIdx.x);
    const i32 added = sequence < max_seqs ? request[sequence] : -1;
    i64 old = 0, have = 0, want = 0;
    if (added >= 0) {
      old = lengths[sequence] < 0 ? 0 : lengths[sequence];
      have = pages_of(old, page_size);
      want = pages_of(old + added, page_size);
    }
    const Pair mine = {static_cast<u64>(want - have), static_cast<u64>(added > 0 ? added : 0)};
    const Pair before = block_scan(mine, total, shared);
    if (added >= 0) {
      i32* row = block_table + static_cast<i64>(sequence) * max_pages;
      const u64 first = head + carried.pages + before.pages;
      for (i64 j = have; j < want; ++j) row[j] = static_cast<i32>(ring[(first + (j - have)) & ring_mask]);
      i64* slots = slot_mapping + carried.tokens + before.tokens;
      for (i64 t = old; t < old + added; ++t) {
        slots[t - old] = static_cast<i64>(row[t / page_size]) * page_size + t % page_size;
      }
      lengths[sequence] = static_cast<i32>(old + added);
    }
    carried.pages += total.pages;
    carried.tokens += total.tokens;
  }
  if (threadIdx.x == 0) {
    cursor[0] = head + carried.pages;
    status[0] = 0;
    status[1] = static_cast<i64>(carried.pages);
    status[2] = static_cast<i64>(free_pages - carried.pages);
    status[3] = -1;
  }
}

extern "C" __global__ void __launch_bounds__(PAB_THREADS) page_alloc_free(
    const pab::i32* request, pab::u32* ring, pab::u64* cursor, pab::i32* lengths, pab::i32* block_table,
    pab::i64* status, pab::u32 ring_mask, pab::i32 max_seqs, pab::i32 max_pages, pab::i32 page_size) {
  using namespace pab;
  PAB_SHARED(memory);
  u64* shared = reinterpret_cast<u64*>(memory);
  const u64 tail = cursor[1];
  Pair total = {0, 0};
  i64 not_live = -1;
  for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
    const i32 sequence = base + static_cast<i32>(threadIdx.x);
    const u64 bad = sequence < max_seqs && request[sequence] != 0 && lengths[sequence] < 0;
    const Pair before = block_scan({bad, 0}, total, shared);
    if (total.pages && not_live < 0) {
      not_live = base;
      if (bad && before.pages == 0) status[3] = sequence;
    }
  }
  if (not_live >= 0) {
    if (threadIdx.x == 0) {
      status[0] = 3;
      status[1] = 0;
      status[2] = static_cast<i64>(tail - cursor[0]);
    }
    return;
  }
  u64 carried = 0;
  for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
    const i32 sequence = base + static_cast<i32>(threadIdx.x);
    const bool leaves = sequence < max_seqs && request[sequence] != 0;
    const i64 have = leaves ? pages_of(lengths[sequence], page_size) : 0;
    const Pair before = block_scan({static_cast<u64>(have), 0}, total, shared);
    if (leaves) {
      i32* row = block_table + static_cast<i64>(sequence) * max_pages;
      for (i64 j = 0; j < have; ++j) {
        ring[(tail + carried + before.pages + j) & ring_mask] = static_cast<u32>(row[j]);
        row[j] = -1;  // a stale entry would read as a page that now belongs to somebody else
      }
      lengths[sequence] = -1;
    }
    carried += total.pages;
  }
  if (threadIdx.x == 0) {
    cursor[1] = tail + carried;
    status[0] = 0;
    status[1] = static_cast<i64>(carried);
    status[2] = static_cast<i64>(tail + carried - cursor[0]);
    status[3] = -1;
  }
}
