// SPDX-License-Identifier: Apache-2.0
// Grows sequences page by page, deterministically: same state and requests, same pages.
//
//   page_alloc_extend   grid a power of two; block PAB_THREADS (a multiple of 32, at most 1024)
//                       shared: 64 u64 (two values a warp)
//
// State    ring (capacity u32, a power of two): free pages between head and tail, oldest first; cursor[0] = head,
//          cursor[1] = tail, both u64 and only growing; refcounts (num_pages) u32: table entries that hold a page;
//          lengths (max_seqs) i32, -1 for a sequence that is not live; block_table (max_seqs, max_pages) i32, -1 where
//          there is no page.
// Request  sequences (max_seqs) i32, -1 for an entry without request, none named twice; tokens (max_seqs) i32 to add.
//          A sequence that is not live is started.  Served in the order of the request.
// Writes   the state; slot_mapping (slots of the new tokens, request by request); copies (max_seqs, 3) i32: source
//          page, target page, slots: a last page with room that others hold too is replaced by a copy of its own.
// status   i64[8]: code (0 ok, 1 too few pages, 2 a sequence is longer than its row, 4 an index or a count out of
//          range), pages needed, pages free, entry concerned or -1, entries served, pages taken, tokens, copies.  With
//          `prefix` the entries that fit from the first on are served, else all or none; on any code but 0 none, and
//          nothing but status and scratch is written.
// Scratch  page_ends, token_ends (max_seqs) u64: running sums over the entries; plan (max_seqs) u32; header u64[2];
//          copied (num_pages) u32, 0 between launches; gate u32[2], 0 at first.
// Floor    28 bytes a sequence and 12 a page are nothing: an empty launch plus four dependent memory latencies and
//          two barriers, about 4 us on an H200 (predicted, not measured).
//
// The block that starts first plans: needs, their sums in order of the request, the decision, lengths and copies.  All
// blocks then spread pages and slots over their threads, each finding its entry by a search in the sums.  There is no
// atomic operation on this path, but for one a block when there are several, and for those of a copied page.
#include "pab/block_scan.cuh"

// PAB_DECODE_PLAN 1: the launch also writes what paged_decode_plan of paged_decode.cu would for the lengths it leaves,
//                 whose rows are those of the table: qo_indptr (max_seqs + 1) i32, without rows where no sequence is
//                 live; line, first and arrivals as there; needs PAB_FEATURES 1, for the window (0: none).
#if defined(PAB_DECODE_PLAN) && PAB_DECODE_PLAN
#include "pab/decode_plan.cuh"
#define PAB_PLAN_PARAMETERS                                                                                         \
  , const pab::i32 *qo_indptr, pab::i64 *line, pab::i32 *first, pab::u32 *arrivals, pab::i32 num_kv_heads,           \
      pab::i32 group_size, pab::i32 tile_tokens, pab::i32 split_tiles, pab::i32 window, pab::i32 decode_blocks,      \
      pab::i32 num_arrivals
#else
#define PAB_DECODE_PLAN 0
#define PAB_PLAN_PARAMETERS
#endif

namespace pab {

struct Request {
  i64 old, now;
  i32 sequence, have, extra;  // have: pages before; extra: pages more
};

constexpr u32 kCopies = 1, kFirst = 2;  // in plan: gets a copy of its last page; the first entry to write that page

// Whether entry `i` has a request, and which.  A count below zero makes `now` less than `old`.
PAB_FN bool request_of(i32 i, const i32* sequences, const i32* tokens, const i32* lengths, i32 max_seqs, i32 page_size,
                       Request& request) {
  request = {0, 0, i < max_seqs ? sequences[i] : -1, 0, 0};
  if (request.sequence < 0 || request.sequence >= max_seqs) return request.sequence >= 0;
  const i32 length = lengths[request.sequence];
  request.old = length < 0 ? 0 : length;
  request.now = request.old + tokens[i];
  if (request.now < request.old) return true;
  request.have = static_cast<i32>(pages_of(request.old, page_size));
  request.extra = static_cast<i32>(pages_of(request.now, page_size) - request.have);
  return true;
}

// How many entries before this one write the same shared page.  Warp after warp, so that it is their order that
// counts; only entered when a page of the chunk is shared.
PAB_FN u32 rank_of(bool shared_tail, i32 page, u32* copied) {
  u32 rank = 0;
  for (u32 turn = 0; turn < blockDim.x / kWarpSize; ++turn) {
    if (turn == threadIdx.x / kWarpSize) {
      const u32 same = match_any(kFullMask, shared_tail ? static_cast<u32>(page) : 0xFFFFFFFFu);
      const u32 before = shared_tail ? copied[page] : 0;
      warp_sync(kFullMask);
      rank = before + popc(same & lanemask_lt());
      if (shared_tail && (same & lanemask_lt()) == 0) copied[page] = before + popc(same);
    }
    block_sync();
  }
  return rank;
}

}  // namespace pab

extern "C" __global__ void __launch_bounds__(1024, 1) page_alloc_extend(
    const pab::i32* sequences, const pab::i32* tokens, const pab::u32* ring, pab::u64* cursor, pab::u32* refcounts,
    pab::i32* lengths, pab::i32* block_table, pab::i64* slot_mapping, pab::i32* copies, pab::i64* status,
    pab::u64* page_ends, pab::u64* token_ends, pab::u32* plan, pab::u64* header, pab::u32* copied, pab::u32* gate,
    pab::u32 ring_mask, pab::i32 max_seqs, pab::i32 max_pages, pab::i32 page_size, pab::i32 prefix PAB_PLAN_PARAMETERS) {
  using namespace pab;
  PAB_SHARED(memory);
  u64* shared = reinterpret_cast<u64*>(memory);
  const i32 thread = static_cast<i32>(threadIdx.x);
  const Turn turn = take_turn(&gate[0], shared);
  const u32 block = turn.block, launch = turn.launch;

  if (block == 0) {
    const u64 head = cursor[0], free_pages = cursor[1] - head;
    Pair total = {0, 0}, carried = {0, 0};
    i64 code = 0, concerned = -1;
    bool sharing = false;
    for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
      const i32 i = base + thread;
      Request request;
      const bool asked = request_of(i, sequences, tokens, lengths, max_seqs, page_size, request);
      const bool wrong = asked && (request.sequence >= max_seqs || request.now < request.old);
      const bool outgrows = asked && !wrong &&
                            (request.have + static_cast<i64>(request.extra) > max_pages || request.now > 0x7FFFFFFF);
      i32 tail = -1;
      if (asked && !wrong && request.now > request.old && request.old % page_size) {
        tail = block_table[static_cast<i64>(request.sequence) * max_pages + request.have - 1];
      }
      const bool shared_tail = tail >= 0 && refcounts[tail] > 1;
      const u32 seen = block_or((wrong || outgrows ? 1u : 0u) | (shared_tail ? 2u : 0u), shared);
      if ((seen & 1) && code == 0) {
        // 4 at an entry that is wrong, 2 at one that outgrows its row: the code of the first of them
        const Pair before = block_scan({wrong || outgrows, 0}, total, shared);
        if ((wrong || outgrows) && before.pages == 0) shared[0] = static_cast<u64>(i) * 8 + (wrong ? 4 : 2);
        block_sync();
        code = static_cast<i64>(shared[0] % 8);
        concerned = static_cast<i64>(shared[0] / 8);
        block_sync();
      }
      u32 mark = 0;
      if (seen & 2) {
        sharing = true;
        const u32 rank = rank_of(shared_tail, tail, copied);
        // each copy leaves one holder fewer, and the last holder keeps the page
        if (shared_tail) mark = (refcounts[tail] - rank > 1 ? kCopies : 0) | (rank == 0 ? kFirst : 0);
      }
      const bool counts = asked && !wrong;
      const Pair mine = {counts ? static_cast<u64>(request.extra) + (mark & kCopies) : 0,
                         counts ? static_cast<u64>(request.now - request.old) : 0};
      const Pair before = block_scan(mine, total, shared);
      if (i < max_seqs) {
        page_ends[i] = carried.pages + before.pages + mine.pages;
        token_ends[i] = carried.tokens + before.tokens + mine.tokens;
        plan[i] = mark;
      }
      carried.pages += total.pages;
      carried.tokens += total.tokens;
    }
    if (code == 0 && carried.pages > free_pages && !prefix) code = 1;
    block_sync();  // the sums are written
    // the search is a dozen loads, each on the one before: where everything fits there is nothing to look for
    const bool fits = carried.pages <= free_pages;
    const i32 served = code != 0 ? 0 : fits ? max_seqs : first_above(page_ends, max_seqs, free_pages);
    u64 copies_before = 0;
    for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
      const i32 i = base + thread;
      Request request = {0, 0, -1, 0, 0};
      const u32 mark = i < max_seqs && sharing ? plan[i] : 0;
      const bool asked = i < max_seqs && (mark || i < served) &&
                         request_of(i, sequences, tokens, lengths, max_seqs, page_size, request);
      const i32 tail = mark ? block_table[static_cast<i64>(request.sequence) * max_pages + request.have - 1] : -1;
      if (mark & kFirst) copied[tail] = 0;
      const bool copies_tail = i < served && (mark & kCopies);
      if (sharing) {
        const Pair before = block_scan({copies_tail, 0}, total, shared);
        if (copies_tail) {
          i32* copy = copies + 3 * (copies_before + before.pages);
          copy[0] = tail;
          copy[1] = static_cast<i32>(ring[(head + (i ? page_ends[i - 1] : 0)) & ring_mask]);
          copy[2] = static_cast<i32>(request.old % page_size);
          atomic_add(&refcounts[tail], 0xFFFFFFFFu);  // one holder fewer
        }
        copies_before += total.pages;
      }
      if (asked && i < served) lengths[request.sequence] = static_cast<i32>(request.now);
    }
    if (thread == 0) {
      const u64 taken = served ? page_ends[served - 1] : 0;
      cursor[0] = head + taken;
      header[0] = head;
      header[1] = static_cast<u64>(served);
      status[0] = code;
      status[1] = static_cast<i64>(carried.pages);
      status[2] = static_cast<i64>(free_pages - taken);
      status[3] = concerned;
      status[4] = served;
      status[5] = static_cast<i64>(taken);
      status[6] = static_cast<i64>(served ? token_ends[served - 1] : 0);
      status[7] = static_cast<i64>(copies_before);
    }
    block_sync();
    // what the block has written goes with it, since the barrier brought it here
    if (gridDim.x > 1 && thread == 0) st_release(&gate[1], launch + 1);
#if PAB_DECODE_PLAN
    // the lengths are known: this block plans the decode while others spread the pages
    const Features features = {window, 0.0f, nullptr, num_kv_heads * group_size};
    const Batch batch = {lengths, qo_indptr, num_kv_heads, group_size, tile_tokens, split_tiles,
                         kAnyQueryLen, features};
    plan_line(batch, {line, first, arrivals, max_seqs, decode_blocks, num_arrivals}, shared);
#endif
  } else {
    if (thread == 0) {
      while (ld_acquire(&gate[1]) != launch + 1) {
      }
    }
    block_sync();
  }

  const u64 head = header[0], step = static_cast<u64>(gridDim.x) * PAB_THREADS;
  const i32 served = static_cast<i32>(header[1]);
  const u64 pages = served ? page_ends[served - 1] : 0, slots = served ? token_ends[served - 1] : 0;
  for (u64 item = static_cast<u64>(block) * PAB_THREADS + threadIdx.x; item < pages; item += step) {
    const i32 i = first_above(page_ends, served, item), sequence = sequences[i];
    const i64 have = pages_of(lengths[sequence] - static_cast<i64>(tokens[i]), page_size);
    const i64 column = have - (plan[i] & kCopies) + static_cast<i64>(item - (i ? page_ends[i - 1] : 0));
    const u32 page = ring[(head + item) & ring_mask];
    block_table[static_cast<i64>(sequence) * max_pages + column] = static_cast<i32>(page);
    refcounts[page] = 1;
  }
  for (u64 item = static_cast<u64>(block) * PAB_THREADS + threadIdx.x; item < slots; item += step) {
    const i32 i = first_above(token_ends, served, item), sequence = sequences[i];
    const i64 old = lengths[sequence] - static_cast<i64>(tokens[i]);
    const i64 token = old + static_cast<i64>(item - (i ? token_ends[i - 1] : 0)), column = token / page_size;
    // a page taken now is read from the ring: another thread may not have written the table yet
    const i64 fresh = column - (pages_of(old, page_size) - (plan[i] & kCopies));
    const i64 page = fresh >= 0 ? static_cast<i64>(ring[(head + (i ? page_ends[i - 1] : 0) + fresh) & ring_mask])
                                : block_table[static_cast<i64>(sequence) * max_pages + column];
    slot_mapping[item] = page * page_size + token % page_size;
  }
}
