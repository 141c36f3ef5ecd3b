// SPDX-License-Identifier: Apache-2.0
// What is asked of a pool of pages that many threads share; the pool itself is a template parameter.
//
// A pool has `take(pages, out)`: true when `pages` of them stand in `out`, false with nothing taken; and
// `give(pages, count)`.  All lanes of a warp call together, with 0 for those that want nothing.  A block is a
// multiple of 32 threads, of which none returns before its warp.
#pragma once

#include "pab/intrinsics.cuh"

namespace pab {

// Holds one warp up at a chosen point until all others have ended, in a build that has PAB_STALL: a pool is lock-free
// at that point when the launch ends all the same.
struct Stall {
  const u32* ended;
  u32 others;
  bool here;
  PAB_METHOD void point(u32 number) {
#ifdef PAB_STALL
    if (number == PAB_STALL && here) {
      while (ld_acquire(ended) < others) {
      }
      here = false;
    }
#else
    (void)number;
#endif
  }
};

// Pages of `tokens`, at most 2^31 - 1; a 64-bit division would be a call.
PAB_FN u32 pages_for(i64 tokens, i32 page_size) {
  return (static_cast<u32>(tokens) + static_cast<u32>(page_size) - 1) / static_cast<u32>(page_size);
}

constexpr i32 kServed = 0, kRefused = 1, kOutgrows = 2, kNotLive = 3, kWrong = 4;

// Entry `thread` of a request to grow: state and request as in page_alloc_scan.cu; token_starts (max_seqs) i64 says
// where the slots of an entry go, and results (max_seqs) i32 what became of it, -1 for an entry without request.
template <typename Pool>
PAB_FN void extend_entry(Pool& pool, i32 thread, const i32* sequences, const i32* tokens, const i64* token_starts,
                         i32* lengths, i32* block_table, i64* slot_mapping, i32* results, i32 max_seqs, i32 max_pages,
                         i32 page_size) {
  const i32 sequence = thread < max_seqs ? sequences[thread] : -1;
  i32 result = sequence < 0 ? -1 : sequence >= max_seqs || tokens[thread] < 0 ? kWrong : kServed;
  i64 old = 0, now = 0;
  u32 have = 0, extra = 0;
  i32* row = block_table;
  if (result == kServed) {
    old = lengths[sequence] < 0 ? 0 : lengths[sequence];
    now = old + tokens[thread];
    have = pages_for(old, page_size);
    row += static_cast<i64>(sequence) * max_pages;
    if (now > 0x7FFFFFFF || pages_for(now, page_size) > static_cast<u32>(max_pages)) result = kOutgrows;
    if (result == kServed) extra = pages_for(now, page_size) - have;
  }
  const bool served = pool.take(extra, row + have);
  if (result == kServed && !served) result = kRefused;
  if (result == kServed) {
    const u32 size = static_cast<u32>(page_size);
    for (u32 token = static_cast<u32>(old); token < static_cast<u32>(now); ++token) {
      const i64 page = row[token / size];
      slot_mapping[token_starts[thread] + token - static_cast<u32>(old)] = page * page_size + token % size;
    }
    lengths[sequence] = static_cast<i32>(now);
  }
  if (thread < max_seqs) results[thread] = result;
}

// Entry `thread` of a request to end sequences.
template <typename Pool>
PAB_FN void free_entry(Pool& pool, i32 thread, const i32* sequences, i32* lengths, i32* block_table, i32* results,
                       i32 max_seqs, i32 max_pages, i32 page_size) {
  const i32 sequence = thread < max_seqs ? sequences[thread] : -1;
  i32 result = sequence < 0 ? -1 : sequence >= max_seqs ? kWrong : lengths[sequence] < 0 ? kNotLive : kServed;
  const u32 have = result == kServed ? pages_for(lengths[sequence], page_size) : 0;
  i32* row = block_table + (result == kServed ? static_cast<i64>(sequence) * max_pages : 0);
  pool.give(row, have);
  for (u32 column = 0; column < have; ++column) row[column] = -1;
  if (result == kServed) lengths[sequence] = -1;
  if (thread < max_seqs) results[thread] = result;
}

// A page's owner word, and two words that its owner writes before it lets go: the second is the first's complement.
// violations u32[3]: pages that had an owner when they were taken, had none when they were given, or held words that
// do not belong together.
struct Stamps {
  u32 *owners, *words, *violations;
  PAB_METHOD void took(i32 page, u32 owner) {
    if (atomic_cas(&owners[page], 0u, owner) != 0) atomic_add(&violations[0], 1u);
    if (words[2 * page] != ~words[2 * page + 1]) atomic_add(&violations[2], 1u);
  }
  PAB_METHOD void gives(i32 page, u32 word) {
    words[2 * page] = word;
    words[2 * page + 1] = ~word;
    if (atomic_exch(&owners[page], 0u) == 0) atomic_add(&violations[1], 1u);
  }
};

// One launch of requests and returns: thread i < takers takes counts[i] pages into out (takers, width); thread
// takers + j gives page frees[j].  served (takers) i32.
template <typename Pool>
PAB_FN void batch_entry(Pool& pool, Stamps stamps, i32 thread, const i32* counts, const i32* frees, i32* out,
                        i32* served, i32 takers, i32 givers, i32 width) {
  const i32 giver = thread - takers;
  const bool gives = giver >= 0 && giver < givers;
  if (gives) stamps.gives(frees[giver], static_cast<u32>(thread));
  pool.give(frees + (gives ? giver : 0), gives ? 1 : 0);
  const bool takes = thread < takers;
  const u32 count = takes ? static_cast<u32>(counts[thread]) : 0;
  i32* mine = out + (takes ? static_cast<i64>(thread) * width : 0);
  const bool done = pool.take(count, mine);
  if (!takes) return;
  for (u32 j = 0; done && j < count; ++j) stamps.took(mine[j], static_cast<u32>(thread) + 1);
  served[thread] = done;
}

// Takes, writes to and gives back up to `most` pages again and again; served (threads) i32 counts the successes.
template <typename Pool>
PAB_FN void churn_entry(Pool& pool, Stamps stamps, u32 thread, i32* out, i32* served, u32* ended, i32 rounds, i32 most) {
  i32* mine = out + static_cast<i64>(thread) * most;
  i32 successes = 0;
  for (i32 round = 0; round < rounds; ++round) {
    const u32 draw = (thread * 2654435761u + static_cast<u32>(round) * 40503u) >> 7;
    const u32 count = 1 + draw % static_cast<u32>(most);
    const bool done = pool.take(count, mine);
    for (u32 j = 0; done && j < count; ++j) stamps.took(mine[j], thread + 1);
    for (u32 j = 0; done && j < count; ++j) stamps.gives(mine[j], draw + j);
    pool.give(mine, done ? count : 0);
    successes += done;
  }
  served[thread] = successes;
  atomic_add(ended, 1u);
}

}  // namespace pab
