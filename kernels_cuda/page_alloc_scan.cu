// SPDX-License-Identifier: Apache-2.0
// Grows sequences page by page, deterministically: same state and requests, same pages.
//
//   page_alloc_extend   grid a power of two; block PAB_THREADS (a multiple of 32, at most 1024)
//                       shared: 128 u64 for sums over the block, and 8 * PAB_THREADS u64 for those of the entries
//
// State    ring (capacity u32, a power of two): pages that nobody holds, oldest first; cursor u64[5], none of which ever
//          falls: head, tail, where between them what can be granted ends (pages behind it wait for steps in flight, see
//          page_alloc_fence of page_alloc_release.cu), steps begun, steps ended; refcounts (num_pages) u32: table
//          entries that hold a page; lengths (max_seqs) i32, -1 for a sequence that is not live; block_table (max_seqs,
//          max_pages) i32, -1 where there is no page.
// Request  sequences (max_seqs) i32, -1 for an entry without request, none named twice; tokens (max_seqs) i32 to add.
//          A sequence that is not live is started.  Served in the order of the request.
// Writes   the state; slot_mapping (slots of the new tokens, request by request); copies (max_seqs, 3) i32: source
//          page, target page, slots: a last page with room that others hold too is replaced by a copy of its own.
// status   i64[8]: code (0 ok, 1 too few pages, 2 a sequence is longer than its row, 4 an index or a count out of
//          range), pages needed, pages free, entry concerned or -1, entries served, pages taken, tokens, copies.  With
//          `prefix` the entries that fit from the first on are served, else all or none; on any code but 0 none, and
//          nothing but status and scratch is written.
// Scratch  page_ends, token_ends (max_seqs) u64: running sums over the entries; plan (max_seqs) u32; header u64[4];
//          copied (num_pages) u32, 0 between launches; gate u32[2], 0 at first.
// Floor    28 bytes a sequence and 12 a page are nothing, latencies are all.  Up to 4 * PAB_THREADS entries, 4,096 in a
//          block of 1024, are one pass: four loads, each on the one before (request, length, table, references), those
//          of a thread's 4 entries issued together; one sum of two barriers, and a barrier each behind the sums and
//          the lengths.  A block that waits for the plan has four loads more before its first page (header, sums,
//          request, length), and searches in shared memory.  With the launch about 5 us on an H200 for 256 entries, and
//          8 us for 4,096, whose 32 warps share the issue slots of one multiprocessor (predicted, not measured).
//
// PAB_GROUPS 1: see pab/page_sizes.cuh; a request of a sequence is one of each of its rows, all of them served or none.
//
// The block that starts first plans: needs, their sums in order of the request, the decision, lengths and copies.  All
// blocks then spread pages and slots over their threads, each finding its entry by a search in the sums.  There is no
// atomic operation on this path, but for one a block when there are several, and for those of a copied page.
#include "pab/growth.cuh"

// PAB_DECODE_PLAN 1: the launch also writes what paged_decode_plan of paged_decode.cu would for the lengths it leaves,
//                 whose rows are those of the table: qo_indptr (max_seqs + 1) i32, without rows where no sequence is
//                 live; line, first and arrivals as there; needs PAB_FEATURES 1, for the window (0: none).
#if defined(PAB_DECODE_PLAN) && PAB_DECODE_PLAN
#include "pab/decode_plan.cuh"
#define PAB_PLAN_PARAMETERS                                                                                         \
  , const pab::i32 *qo_indptr, pab::i64 *line, pab::i32 *first, pab::u32 *arrivals, pab::i32 num_kv_heads,           \
      pab::i32 group_size, pab::i32 tile_tokens, pab::i32 split_tiles, pab::i32 window, pab::i32 shares,             \
      pab::i32 num_arrivals
#else
#define PAB_DECODE_PLAN 0
#define PAB_PLAN_PARAMETERS
#endif

namespace pab {

constexpr u32 kCopies = 1, kFirst = 2;  // in plan: gets a copy of its last page; the first entry to write that page

// Above the sums of a chunk, which are below 2^31 * kChunk, ride two counts, so that one scan brings all four: of pages
// that are shared, after which pages are summed again, and of entries that are wrong, after which tokens do not matter.
constexpr u32 kAbove = 48;

}  // namespace pab

extern "C" __global__ void __launch_bounds__(1024, 1) page_alloc_extend(
    const pab::i32* sequences, const pab::i32* tokens, const pab::u32* ring, pab::u64* cursor, pab::u32* refcounts,
    pab::i32* lengths, pab::i32* block_table, pab::i64* slot_mapping, pab::i32* copies, pab::i64* status,
    pab::u64* page_ends, pab::u64* token_ends, pab::u32* plan, pab::u64* header, pab::u32* copied, pab::u32* gate,
    pab::u32 ring_mask, pab::i32 max_seqs, pab::i32 max_pages, pab::i32 page_size, pab::i32 prefix PAB_GROUP_PARAMETERS
        PAB_PLAN_PARAMETERS) {
  using namespace pab;
  PAB_SHARED(memory);
  u64* shared = reinterpret_cast<u64*>(memory);
  u64 *page_sums = shared + kScanArea, *token_sums = page_sums + kChunk;
  const PageSizes sizes = PAB_PAGE_SIZES;
  const i32 thread = static_cast<i32>(threadIdx.x);
  const bool one_pass = max_seqs <= kChunk;  // then the entries stay in registers, and the sums in shared memory
  const Turn turn = take_turn(&gate[0], shared);
  const u32 block = turn.block, launch = turn.launch;

  if (block == 0) {
    PAB_REGION("plan");
    const Growth growth = {sequences, tokens, lengths, max_seqs, max_pages, sizes,
                           aligned(sequences) && aligned(tokens)};
    const u64 head = cursor[0], free_pages = cursor[2] - head;
    Pair total = {0, 0}, carried = {0, 0};
    i64 code = 0, concerned = -1;
    bool sharing = false;
    Entries entries;
    u32 mark[kEach];
    for (i32 base = 0; base < max_seqs; base += kChunk) {
      const i32 first = base + kEach * thread;
      load_entries(growth, first, entries);
      // all that needs no load comes before the two of the last page, so that nothing stands between those of a level
      i64 at[kEach];
      u32 need[kEach];
      u64 pages = 0, added = 0, sharers = 0;
#pragma unroll
      for (i32 k = 0; k < kEach; ++k) {
        const i32 page_size = entries.page_size[k];
        const u32 size = static_cast<u32>(page_size), column = entries.old[k] / size;
        const bool begun = (entries.more[k] != 0) & (entries.old[k] % size != 0);
        at[k] = begun ? static_cast<i64>(entries.sequence[k]) * max_pages + column : -1;
        need[k] = static_cast<u32>(pages_of(entries.now(k), page_size) - pages_of(entries.old[k], page_size));
        pages += need[k];
        added += entries.more[k];
        mark[k] = 0;
      }
      i32 tail[kEach];  // the page that is written, where it is not full
      u32 holders[kEach];
#pragma unroll
      for (i32 k = 0; k < kEach; ++k) tail[k] = block_table[at[k] < 0 ? 0 : at[k]];
#pragma unroll
      for (i32 k = 0; k < kEach; ++k) holders[k] = refcounts[tail[k] < 0 ? 0 : tail[k]];
#pragma unroll
      for (i32 k = 0; k < kEach; ++k) {
        if (at[k] >= 0 && tail[k] >= 0 && holders[k] > 1) {
          ++sharers;
        } else {
          tail[k] = -1;
        }
      }
      const u64 wrongs = entries.wrongs;
      Pair before = block_scan({sharers << kAbove | pages, wrongs << kAbove | added}, total, shared);
      if (total.tokens >> kAbove && code == 0) {
        if (wrongs && before.tokens >> kAbove == 0) shared[0] = static_cast<u64>(first) * 8 + entries.first_wrong;
        block_sync();
        code = static_cast<i64>(shared[0] % 8);
        concerned = static_cast<i64>(shared[0] / 8);
        block_sync();
      }
      const u64 added_before = before.tokens, added_in_all = total.tokens;
      if (total.pages >> kAbove) {
        sharing = true;
        u32 rank[kEach];
        rank_of(tail, reinterpret_cast<u32*>(page_sums), copied, rank);
        // each copy leaves one holder fewer, and the last holder keeps the page
#pragma unroll
        for (i32 k = 0; k < kEach; ++k) {
          if (tail[k] >= 0) mark[k] = (holders[k] - rank[k] > 1 ? kCopies : 0) | (rank[k] == 0 ? kFirst : 0);
          need[k] += mark[k] & kCopies;
          pages += mark[k] & kCopies;
        }
        before = block_scan({pages, 0}, total, shared);
      }
      u64 page_ends_here[kEach], token_ends_here[kEach];
      u64 page_end = carried.pages + before.pages, token_end = carried.tokens + added_before;
#pragma unroll
      for (i32 k = 0; k < kEach; ++k) {
        page_ends_here[k] = page_end += need[k];
        token_ends_here[k] = token_end += entries.more[k];
      }
      store_each(page_ends, first, max_seqs, aligned(page_ends), page_ends_here);
      store_each(token_ends, first, max_seqs, aligned(token_ends), token_ends_here);
      store_each(plan, first, max_seqs, aligned(plan), mark);
      if (one_pass) {
        store_each(page_sums, first, kChunk, true, page_ends_here);
        store_each(token_sums, first, kChunk, true, token_ends_here);
      }
      carried.pages += total.pages;
      carried.tokens += added_in_all;
    }
    if (code == 0 && carried.pages > free_pages && !prefix) code = 1;
    block_sync();  // the sums are written
    const u64 *page_at = one_pass ? page_sums : page_ends, *token_at = one_pass ? token_sums : token_ends;
    // the search is a dozen loads, each on the one before: where everything fits there is nothing to look for
    const bool fits = carried.pages <= free_pages;
    const i32 served = code != 0 ? 0 : fits ? max_seqs : first_above(page_at, max_seqs, free_pages);
    u64 copies_before = 0;
    for (i32 base = 0; base < max_seqs; base += kChunk) {
      const i32 first = base + kEach * thread;
      if (!one_pass) {
        load_entries(growth, first, entries);
        load_each(plan, first, max_seqs, 0u, aligned(plan), mark);
      }
      if (sharing) {
        u32 copying = 0;
#pragma unroll
        for (i32 k = 0; k < kEach; ++k) copying += first + k < served && (mark[k] & kCopies);
        const Pair before = block_scan({copying, 0}, total, shared);
        i32* copy = copies + 3 * (copies_before + before.pages);
#pragma unroll
        for (i32 k = 0; k < kEach; ++k) {
          if (mark[k] == 0) continue;
          const i32 i = first + k;
          const u32 size = static_cast<u32>(entries.page_size[k]), slots = entries.old[k] % size;
          const i32 tail = block_table[static_cast<i64>(entries.sequence[k]) * max_pages + entries.old[k] / size];
          if (mark[k] & kFirst) copied[tail] = 0;
          if (i >= served || !(mark[k] & kCopies)) continue;
          copy[0] = tail;
          copy[1] = static_cast<i32>(ring[(head + (i ? page_at[i - 1] : 0)) & ring_mask]);
          copy[2] = static_cast<i32>(slots);
          copy += 3;
          atomic_add(&refcounts[tail], 0xFFFFFFFFu);  // one holder fewer
        }
        copies_before += total.pages;
      }
#pragma unroll
      for (i32 k = 0; k < kEach; ++k) {
        if (entries.sequence[k] >= 0 && first + k < served) {
          lengths[entries.sequence[k]] = static_cast<i32>(entries.now(k));
        }
      }
    }
    if (thread == 0) {
      const u64 taken = served ? page_at[served - 1] : 0, added = served ? token_at[served - 1] : 0;
      cursor[0] = head + taken;
      header[0] = head;
      header[1] = static_cast<u64>(served);
      header[2] = taken;
      header[3] = added;
      status[0] = code;
      status[1] = static_cast<i64>(carried.pages);
      status[2] = static_cast<i64>(free_pages - taken);
      status[3] = concerned;
      status[4] = served;
      status[5] = static_cast<i64>(taken);
      status[6] = static_cast<i64>(added);
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
    plan_line(batch, {line, first, arrivals, max_seqs, shares, num_arrivals}, shared);
#endif
  } else {
    if (thread == 0) {
      while (ld_acquire(&gate[1]) != launch + 1) {
      }
    }
    block_sync();
  }

  PAB_REGION("spread");
  const u64 head = header[0], pages = header[2], slots = header[3];
  const i32 served = static_cast<i32>(header[1]);
  const u64 begin = static_cast<u64>(block) * PAB_THREADS, step = static_cast<u64>(gridDim.x) * PAB_THREADS;
  if (begin >= pages && begin >= slots) return;
  const u64 *page_at = page_ends, *token_at = token_ends;
  if (one_pass) {  // a search is cheaper in shared memory: the block that planned has the sums there, others fetch them
    page_at = page_sums;
    token_at = token_sums;
    if (block != 0) {
      u64 page_ends_here[kEach], token_ends_here[kEach];
      load_each(page_ends, kEach * thread, served, u64{0}, aligned(page_ends), page_ends_here);
      load_each(token_ends, kEach * thread, served, u64{0}, aligned(token_ends), token_ends_here);
      store_each(page_sums, kEach * thread, kChunk, true, page_ends_here);
      store_each(token_sums, kEach * thread, kChunk, true, token_ends_here);
      block_sync();
    }
  }
  for (u64 item = begin + threadIdx.x; item < pages; item += step) {
    const i32 i = first_above(page_at, served, item), sequence = sequences[i];
    const i64 have = pages_of(lengths[sequence] - static_cast<i64>(tokens[i]), sizes.of(sequence));
    const i64 column = have - (plan[i] & kCopies) + static_cast<i64>(item - (i ? page_at[i - 1] : 0));
    const u32 page = ring[(head + item) & ring_mask];
    block_table[static_cast<i64>(sequence) * max_pages + column] = static_cast<i32>(page);
    refcounts[page] = 1;
  }
  for (u64 item = begin + threadIdx.x; item < slots; item += step) {
    const i32 i = first_above(token_at, served, item), sequence = sequences[i];
    const i32 page_size = sizes.of(sequence);
    const u32 old = static_cast<u32>(lengths[sequence] - tokens[i]), size = static_cast<u32>(page_size);
    const u32 token = old + static_cast<u32>(item - (i ? token_at[i - 1] : 0)), column = token / size;
    // a page taken now is read from the ring: another thread may not have written the table yet
    const i64 fresh = column - (pages_of(old, page_size) - (plan[i] & kCopies));
    const i64 page = fresh >= 0 ? static_cast<i64>(ring[(head + (i ? page_at[i - 1] : 0) + fresh) & ring_mask])
                                : block_table[static_cast<i64>(sequence) * max_pages + column];
    slot_mapping[item] = page * page_size + token % size;
  }
}
