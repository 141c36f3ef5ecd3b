// SPDX-License-Identifier: Apache-2.0
// Gives pages back, shares them and starts afresh: the other half of page_alloc_scan.cu, with the same state.
//
//   page_alloc_drop    grid a power of two; block PAB_THREADS (a multiple of 32, at most 1024); shared: 128 u64
//   page_alloc_push    the same; launched right after drop, with the same request
//   page_alloc_fork    grid 1; block and shared as above
//   page_alloc_reset   the same
//   page_alloc_fence   the same
//
// drop     entries sequences (max_seqs) i32, -1 for none, and values (max_seqs) i32.  `what` 0: end the sequence; 1: cut
//          it to `value` tokens; 2: give up the pages wholly before token `value`.  Finds what is let go, and counts who
//          lets go of pages that others hold too; nothing is given back yet.
// push     Each page that nobody holds any more goes to the end of the ring: entry by entry in their order, column by
//          column; one that several entries let go, where the last of them stands.  All or nothing.  They can be granted
//          at once where no step is in flight.
// fork     entries parents, children (max_seqs) i32, -1 for none: a child that is not live gets the row of a live
//          parent.  No child is named twice or as a parent.  All or nothing.
// reset    all pages free, in order of their ids; refused while a sequence is live or a step in flight.
// fence    `what` 0: a step begins, which may use all pages that are held now: what is let go from here on waits until
//          it has ended, and those before it.  1: the oldest step has ended.  Pages are let go and come back in one
//          order, so that a fence is a place in the ring: marks u64 (a power of two of them) holds the tail at the
//          beginning of each step in flight, and when one ends, what can be granted ends at the mark of the next.
// status   i64[8]: code (0 ok, 3 a sequence is not live, 4 an index or a value out of range, 5 a sequence is live, 6 a
//          step is in flight, or none, or as many as there are marks), 0, pages free, entry concerned or -1 (reset:
//          sequence), 0, pages that nobody holds any more (fence: that came back), 0, 0.
// Scratch  column_ends (max_seqs) u64: running sums of the columns let go; header u64[3]: columns, tail, code; drops,
//          last (num_pages) u32, 0 between steps: entries that let a shared page go, and the last of them; tiles
//          (2 * grid) u32: pages that each block frees, and whether it has said so; gate u32[3], 0 at first.
// Floor    as for page_alloc_scan.cu and 16 bytes a page.  In a drop of 100,000 pages of 4,096 sequences on 128 blocks a
//          thread has one column in each pass: two launches, 8 sums over a block to plan, 1 over the columns and 1 over
//          the blocks before, about 12 us on an H200 (predicted, not measured).
//
// Two launches, since what is freed depends on all counts, and the end of a launch is the one barrier over a grid that
// needs no room for all blocks at once.  In push the blocks take turns by when they start, each turn a part of the
// columns in their order: a block waits for earlier turns only, so it waits for nobody that has not started.  The last
// entry that lets a shared page go stands in the latest turn that names the page: when its block has heard from the
// turns before, nobody looks at the page's counts any more, and it can settle them.
//
// Atomics only meet pages that several entries may let go in one launch, but for one a block for its turn; what they
// leave behind does not depend on their order.
//
// PAB_GROUPS 1: as for page_alloc_scan.cu.
#include "pab/block_scan.cuh"
#include "pab/page_sizes.cuh"

namespace pab {

enum { kEnd = 0, kCut = 1, kWindow = 2 };
enum { kBegins = 0 };  // a step; else the oldest one has ended

struct Columns {
  i32 from, to, length;  // columns let go, length afterwards
};

// What entry `i` lets go; returns the code of what is wrong with it, 0 for nothing.
PAB_FN u32 columns_of(i32 sequence, i32 value, const i32* lengths, const i32* block_table, i32 max_seqs, i32 max_pages,
                      i32 page_size, i32 what, Columns& columns) {
  columns = {0, 0, -1};
  if (sequence >= max_seqs) return 4;
  const i32 length = lengths[sequence];
  if (length < 0) return 3;
  const i32 have = static_cast<i32>(pages_of(length, page_size));
  if (what == kEnd) {
    columns.to = have;
    return 0;
  }
  if (value < 0 || value > length) return 4;
  if (what == kWindow) {
    columns = {0, value / page_size, length};
    return 0;
  }
  // what a window gave up lies before everything else, so one look tells whether `value` is among it
  const i32 at = value / page_size;
  if (at < have && block_table[static_cast<i64>(sequence) * max_pages + at] < 0) return 4;
  columns = {static_cast<i32>(pages_of(value, page_size)), have, value};
  return 0;
}

// The place in the table of an item, counted over the columns let go by all entries in their order.
struct Place {
  i32 entry;
  i64 at;
};
PAB_FN Place place_of(u64 item, const u64* column_ends, const i32* sequences, const i32* values, i32 max_seqs,
                      i32 max_pages, const PageSizes& sizes, i32 what) {
  const i32 i = first_above(column_ends, max_seqs, item), page_size = sizes.of(sequences[i]);
  const i64 column = (what == kCut ? pages_of(values[i], page_size) : 0) + static_cast<i64>(item) -
                     static_cast<i64>(i ? column_ends[i - 1] : 0);
  return {i, static_cast<i64>(sequences[i]) * max_pages + column};
}

}  // namespace pab

extern "C" __global__ void __launch_bounds__(1024, 1) page_alloc_drop(
    const pab::i32* sequences, const pab::i32* values, const pab::u64* cursor, const pab::u32* refcounts,
    const pab::i32* lengths, const pab::i32* block_table, pab::i64* status, pab::u64* column_ends, pab::u32* drops,
    pab::u32* last, pab::u64* header, pab::u32* gate, pab::i32 max_seqs, pab::i32 max_pages, pab::i32 page_size,
    pab::i32 what PAB_GROUP_PARAMETERS) {
  using namespace pab;
  const PageSizes sizes = PAB_PAGE_SIZES;
  PAB_SHARED(memory);
  u64* shared = reinterpret_cast<u64*>(memory);
  const i32 thread = static_cast<i32>(threadIdx.x);
  const Turn turn = take_turn(&gate[0], shared);
  if (turn.block == 0) {
    const u64 tail = cursor[1];
    Pair total = {0, 0};
    u64 columns_so_far = 0, code = 0;
    for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
      const i32 i = base + thread, sequence = i < max_seqs ? sequences[i] : -1;
      u32 wrong = 0;
      Columns columns = {0, 0, -1};
      if (sequence >= 0) {
        wrong = columns_of(sequence, values[i], lengths, block_table, max_seqs, max_pages, sizes.of(sequence), what,
                           columns);
      }
      const u64 count = wrong || columns.to < columns.from ? 0 : static_cast<u64>(columns.to - columns.from);
      const Pair before = block_scan({count, wrong != 0}, total, shared);
      if (total.tokens) {
        if (wrong && before.tokens == 0) {
          status[0] = wrong;
          status[1] = status[4] = status[5] = status[6] = status[7] = 0;
          status[2] = static_cast<i64>(cursor[2] - cursor[0]);
          status[3] = i;
        }
        code = 1;
        columns_so_far = 0;
        break;
      }
      if (i < max_seqs) column_ends[i] = columns_so_far + before.pages + count;
      columns_so_far += total.pages;
    }
    if (thread == 0) {
      header[0] = columns_so_far;
      header[1] = tail;
      header[2] = code;
    }
    block_sync();  // the sums are written
    if (gridDim.x > 1 && thread == 0) st_release(&gate[1], turn.launch + 1);
  } else {
    if (thread == 0) {
      while (ld_acquire(&gate[1]) != turn.launch + 1) {
      }
    }
    block_sync();
  }

  // who lets go of pages that are shared: counted, and the last entry found
  const u64 items = header[0], step = static_cast<u64>(gridDim.x) * PAB_THREADS;
  for (u64 item = static_cast<u64>(turn.block) * PAB_THREADS + threadIdx.x; item < items; item += step) {
    const Place place = place_of(item, column_ends, sequences, values, max_seqs, max_pages, sizes, what);
    const i32 page = block_table[place.at];
    if (page >= 0 && refcounts[page] > 1) {
      atomic_add(&drops[page], 1u);
      atomic_max(&last[page], static_cast<u32>(place.entry) + 1);
    }
  }
}

extern "C" __global__ void __launch_bounds__(1024, 1) page_alloc_push(
    const pab::i32* sequences, const pab::i32* values, pab::u32* ring, pab::u64* cursor, pab::u32* refcounts,
    pab::i32* lengths, pab::i32* block_table, pab::i64* status, const pab::u64* column_ends, pab::u32* drops,
    pab::u32* last, const pab::u64* header, pab::u32* tiles, pab::u32* gate, pab::u32 ring_mask, pab::i32 max_seqs,
    pab::i32 max_pages, pab::i32 page_size, pab::i32 what PAB_GROUP_PARAMETERS) {
  using namespace pab;
  const PageSizes sizes = PAB_PAGE_SIZES;
  PAB_SHARED(memory);
  u64* shared = reinterpret_cast<u64*>(memory);
  const Turn turn = take_turn(&gate[2], shared);
  if (header[2]) return;
  const u64 items = header[0], tail = header[1], step = static_cast<u64>(gridDim.x) * PAB_THREADS;
  const u64 span = (items + step - 1) / step * PAB_THREADS;  // columns of a turn
  const u64 begin = turn.block * span, end = begin + span < items ? begin + span : items;

  // what becomes of each page; until it is done the table keeps it: a page that became free, -2 - page for one that
  // others still hold, -1 where there is nothing to do
  u64 ending = 0;
  for (u64 item = begin + threadIdx.x; item < end; item += PAB_THREADS) {
    const Place place = place_of(item, column_ends, sequences, values, max_seqs, max_pages, sizes, what);
    const i32 page = block_table[place.at];
    bool ours = false, ends = false;
    if (page >= 0) {
      ours = refcounts[page] == 1 || last[page] == static_cast<u32>(place.entry) + 1;
      ends = ours && (refcounts[page] == 1 || refcounts[page] == drops[page]);
    }
    block_table[place.at] = ends ? page : ours ? -2 - page : -1;
    ending += ends;
  }
  Pair total = {0, 0};
  block_scan({ending, 0}, total, shared);

  u64 freed = 0;  // pages that go to the ring before the next one of this block
  if (gridDim.x > 1) {
    if (threadIdx.x == 0) {
      tiles[turn.block] = static_cast<u32>(total.pages);
      st_release(&tiles[gridDim.x + turn.block], turn.launch + 1);  // with all that the block has looked at
    }
    u64 before = 0;
    for (u32 block = threadIdx.x; block < turn.block; block += PAB_THREADS) {
      while (ld_acquire(&tiles[gridDim.x + block]) != turn.launch + 1) {
      }
      before += tiles[block];
    }
    block_scan({before, 0}, total, shared);
    freed = total.pages;
  }

  for (u64 base = begin; base < end; base += PAB_THREADS) {
    const u64 item = base + threadIdx.x;
    i32* entry = nullptr;
    i32 said = -1;
    if (item < end) {
      entry = block_table + place_of(item, column_ends, sequences, values, max_seqs, max_pages, sizes, what).at;
      said = *entry;
    }
    const Pair before = block_scan({said >= 0, 0}, total, shared);
    if (said >= 0) ring[(tail + freed + before.pages) & ring_mask] = static_cast<u32>(said);
    freed += total.pages;
    if (said == -1) continue;
    const i32 page = said >= 0 ? said : -2 - said;
    refcounts[page] = said >= 0 ? 0 : refcounts[page] - drops[page];
    drops[page] = last[page] = 0;
    *entry = -1;  // a stale entry would read as a page that now belongs to somebody else
  }
  for (u64 i = static_cast<u64>(turn.block) * PAB_THREADS + threadIdx.x; i < static_cast<u64>(max_seqs); i += step) {
    if (sequences[i] >= 0 && what != kWindow) lengths[sequences[i]] = what == kCut ? values[i] : -1;
  }
  if (turn.block == gridDim.x - 1 && threadIdx.x == 0) {
    cursor[1] = tail + freed;
    if (cursor[3] == cursor[4]) cursor[2] = tail + freed;  // no step is in flight
    status[0] = status[1] = status[4] = status[6] = status[7] = 0;
    status[2] = static_cast<i64>(cursor[2] - cursor[0]);
    status[3] = -1;
    status[5] = static_cast<i64>(freed);
  }
}

extern "C" __global__ void __launch_bounds__(1024, 1) page_alloc_fork(
    const pab::i32* parents, const pab::i32* children, const pab::u64* cursor, pab::u32* refcounts, pab::i32* lengths,
    pab::i32* block_table, pab::i64* status, pab::i32 max_seqs, pab::i32 max_pages,
    pab::i32 page_size PAB_GROUP_PARAMETERS) {
  using namespace pab;
  const PageSizes sizes = PAB_PAGE_SIZES;
  PAB_SHARED(memory);
  u64* shared = reinterpret_cast<u64*>(memory);
  const i32 thread = static_cast<i32>(threadIdx.x);
  Pair total = {0, 0};
  for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
    const i32 i = base + thread, parent = i < max_seqs ? parents[i] : -1;
    u32 wrong = 0;
    if (parent >= 0) {
      const i32 child = children[i];
      wrong = parent >= max_seqs || child < 0 || child >= max_seqs ? 4
              : lengths[parent] < 0                                ? 3
              : lengths[child] >= 0                                ? 5
                                                                   : 0;
    }
    const Pair before = block_scan({wrong != 0, 0}, total, shared);
    if (total.pages) {
      if (wrong && before.pages == 0) {
        status[0] = wrong;
        status[1] = status[4] = status[5] = status[6] = status[7] = 0;
        status[2] = static_cast<i64>(cursor[2] - cursor[0]);
        status[3] = i;
      }
      return;
    }
  }
  for (i32 i = 0; i < max_seqs; ++i) {
    if (parents[i] < 0) continue;
    const i32 length = lengths[parents[i]];
    const i32* from = block_table + static_cast<i64>(parents[i]) * max_pages;
    i32* to = block_table + static_cast<i64>(children[i]) * max_pages;
    for (i64 column = thread; column < pages_of(length, sizes.of(parents[i])); column += PAB_THREADS) {
      to[column] = from[column];
      if (from[column] >= 0) atomic_add(&refcounts[from[column]], 1u);  // entries may share a parent
    }
    if (thread == 0) lengths[children[i]] = length;
  }
  if (thread == 0) {
    status[0] = status[1] = status[4] = status[5] = status[6] = status[7] = 0;
    status[2] = static_cast<i64>(cursor[2] - cursor[0]);
    status[3] = -1;
  }
}

extern "C" __global__ void __launch_bounds__(1024, 1) page_alloc_reset(
    pab::u32* ring, pab::u64* cursor, const pab::i32* lengths, pab::i64* status, pab::i32 num_pages,
    pab::i32 max_seqs) {
  using namespace pab;
  PAB_SHARED(memory);
  u64* shared = reinterpret_cast<u64*>(memory);
  const i32 thread = static_cast<i32>(threadIdx.x);
  Pair total = {0, 0};
  if (cursor[3] != cursor[4]) {
    if (thread == 0) {
      status[0] = 6;
      status[1] = status[4] = status[5] = status[6] = status[7] = 0;
      status[2] = static_cast<i64>(cursor[2] - cursor[0]);
      status[3] = -1;
    }
    return;
  }
  for (i32 base = 0; base < max_seqs; base += PAB_THREADS) {
    const i32 sequence = base + thread;
    const bool live = sequence < max_seqs && lengths[sequence] >= 0;
    const Pair before = block_scan({live, 0}, total, shared);
    if (total.pages) {
      if (live && before.pages == 0) {
        status[0] = 5;
        status[1] = status[4] = status[5] = status[6] = status[7] = 0;
        status[2] = static_cast<i64>(cursor[2] - cursor[0]);
        status[3] = sequence;
      }
      return;
    }
  }
  // with no sequence live the tables and counts are as at the start
  for (i32 page = thread; page < num_pages; page += PAB_THREADS) ring[page] = static_cast<u32>(page);
  if (thread == 0) {
    cursor[0] = cursor[3] = cursor[4] = 0;
    cursor[1] = cursor[2] = static_cast<u64>(num_pages);
    status[0] = status[1] = status[4] = status[5] = status[6] = status[7] = 0;
    status[2] = num_pages;
    status[3] = -1;
  }
}

extern "C" __global__ void __launch_bounds__(1024, 1) page_alloc_fence(
    pab::u64* cursor, pab::u64* marks, pab::i64* status, pab::u32 mark_mask, pab::i32 what) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  const u64 begun = cursor[3], ended = cursor[4], flying = begun - ended, open = cursor[2];
  const bool refused = what == kBegins ? flying > mark_mask : flying == 0;
  u64 opened = open;
  if (!refused && what == kBegins) {
    marks[begun & mark_mask] = cursor[1];
    cursor[3] = begun + 1;
  } else if (!refused) {
    opened = flying > 1 ? marks[(ended + 1) & mark_mask] : cursor[1];
    cursor[2] = opened;
    cursor[4] = ended + 1;
  }
  status[0] = refused ? 6 : 0;
  status[1] = status[4] = status[6] = status[7] = 0;
  status[2] = static_cast<i64>(opened - cursor[0]);
  status[3] = -1;
  status[5] = static_cast<i64>(opened - open);
}
