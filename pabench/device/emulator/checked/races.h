// SPDX-License-Identifier: Apache-2.0
// racecheck: two accesses to a byte, one of them a write, by two threads with nothing between that orders them.
//
// Every 4 bytes have three cells: the last write to each half, and all reads and atomic operations since that are
// not ordered among themselves (up to kMostReaders; writes of single bytes are kept there as well).  Only an access
// that is ordered before the new one may be forgotten, so what is found does not depend on who came first.
#pragma once

#include "emulator/checked/members.h"

namespace pab_emu {

namespace {

// One access as it meets the cells: the thread, its event, and what is needed to tell of it.
struct Actor {
  Trace& t;
  Touch& touch;
  u32 event;
  Access kind;
  u32 cell() const { return cell_of(event, t.lane); }
};

inline bool writes(Access kind) {
  return kind != Access::kRead && kind != Access::kAtomicRead && kind != Access::kAsyncRead &&
         kind != Access::kLandedRead && kind != Access::kProductRead;
}
inline bool is_atomic(Access kind) {
  return kind == Access::kAtomic || kind == Access::kAtomicRead || kind == Access::kAtomicWrite;
}
inline bool conflict(Access a, Access b) { return (writes(a) || writes(b)) && !(is_atomic(a) && is_atomic(b)); }

inline Party party_of(const Trace& t, const Event& e, u32 lane) {
  const Launch& launch = *t.block->worker->launch;
  const u32 thread = e.warp * kWarpSize + lane;
  const Dim3 block{static_cast<u32>(e.block % launch.grid.x), static_cast<u32>(e.block / launch.grid.x % launch.grid.y),
                   static_cast<u32>(e.block / launch.grid.x / launch.grid.y)};
  const Dim3 at{thread % launch.block.x, thread / launch.block.x % launch.block.y,
                thread / launch.block.x / launch.block.y};
  return {e.pc, block, at, kAccessNames[e.kind]};
}

// Tells of a race with the lowest of the lanes that are not ordered before the actor.
inline void report_race(Actor& actor, const Event& e, u32 lanes, u64 word, u32 mask) {
  u32 lane = 0;
  for (u32 rest = lanes; rest; rest &= rest - 1) {
    lane = static_cast<u32>(__builtin_ctz(rest));
    if (!ordered(e, 1u << lane, actor.t)) break;
  }
  const Touch& touch = actor.touch;
  Finding finding;
  finding.check = "race";
  finding.at = party_of(touch);
  finding.other = party_of(actor.t, e, lane);
  finding.has_other = true;
  // the writer comes first, of two the one of the lower block and thread: the same whoever ran first
  const bool mine = writes(actor.kind), theirs = writes(static_cast<Access>(e.kind));
  if (mine == theirs ? before(finding.other, finding.at) : theirs) std::swap(finding.at, finding.other);
  const bool blocks = e.block != actor.t.block->number, warps = e.warp != actor.t.warp->number;
  finding.text = std::string(finding.at.action) + " and " + finding.other.action + " of the same bytes by two " +
                 (blocks  ? "blocks with no release and acquire between them"
                  : warps ? "warps with no barrier between them"
                          : "lanes with no warp sync between them");
  if (!blocks && !warps && lane == actor.t.lane) {
    finding.text = std::string(finding.at.action) + " and " + finding.other.action +
                   " of the same bytes by one thread with no wait between them";
  }
  if (by_product(e)) {
    finding.text = std::string(finding.at.action) + " and " + finding.other.action +
                   " of the same bytes with no wgmma.wait_group between them";
  }
  const u64 first = word + static_cast<u32>(__builtin_ctz(mask));
  finding.buffer = touch.buffer;
  finding.offset = touch.offset + (first - touch.address);
  finding.bytes = static_cast<u32>(__builtin_popcount(mask));
  actor.t.block->checked->findings.add(std::move(finding));
}

inline u32 load_cell(const u32* cell) { return __atomic_load_n(cell, __ATOMIC_ACQUIRE); }
inline bool replace_cell(u32* cell, u32& old, u32 now) {
  return __atomic_compare_exchange_n(cell, &old, now, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}

// Whether the actor stores, in the instruction of `event`, what another lane has just stored in bytes `mask` of `word`.
inline bool stores_the_same(const Actor& actor, u32 event, u64 word, u32 mask) {
  const unsigned char* bytes = actor.touch.lane->storing;
  if (!bytes || actor.kind != Access::kWrite || event != actor.event) return false;
  for (u32 rest = mask; rest; rest &= rest - 1) {
    const u64 at = word + static_cast<u32>(__builtin_ctz(rest));
    if (*reinterpret_cast<const unsigned char*>(at) != bytes[at - actor.touch.address]) return false;
  }
  return true;
}

// Whether the write in `cell` meets the actor with nothing between them; tells of it where that is a race.
inline bool race_with_write(Actor& actor, u32 cell, u64 word, u32 mask) {
  if (!cell || cell == actor.cell()) return false;
  const Event& e = event_at(actor.t, actor.touch.shared(), cell >> 5);
  const u32 lanes = 1u << (cell & 31);
  if (!(e.mask & mask) || !conflict(static_cast<Access>(e.kind), actor.kind)) return false;
  if (ordered(e, lanes, actor.t)) return false;
  if (!stores_the_same(actor, cell >> 5, word, e.mask & mask)) report_race(actor, e, lanes, word, e.mask & mask);
  return true;
}

// Of two writes that meet the lower stays, so that the pair of the lowest two is found in every order.
inline bool lower(const Actor& actor, u32 cell) {
  const Event& e = event_at(actor.t, actor.touch.shared(), cell >> 5);
  return before(party_of(actor.t, e, cell & 31), party_of(actor.touch));
}

// Adds the actor to the readers in `old`: drops who did the same before it, tells of races.
inline u32 joined(Actor& actor, u32 old, u64 word, u32 mask) {
  Trace& t = actor.t;
  Sets& sets = sets_of(t, actor.touch.shared());
  const u32 mine = actor.cell();
  if (!old || old == mine) return mine;
  const bool stores = actor.kind == Access::kWrite;  // of one byte; whether it races depends on the value
  if (old & kSet && !stores) {
    const u64 step = sets[old].step.load(std::memory_order_acquire);
    if (step >> 32 == mine) return static_cast<u32>(step);
  }
  const Members before = members_of(sets, old);
  Members after;
  bool races = false, there = false;
  for (u32 i = 0; i < before.count; ++i) {
    Member member = before.at[i];
    if (member.event == actor.event) {
      const u32 others = member.lanes & ~(1u << t.lane);
      if (stores && others && !stores_the_same(actor, member.event, word, mask)) {
        report_race(actor, event_at(t, actor.touch.shared(), member.event), others, word, mask);
      }
      member.lanes |= 1u << t.lane;
      there = true;
      after.add(member);
      continue;
    }
    const Event& e = event_at(t, actor.touch.shared(), member.event);
    const bool past = ordered(e, member.lanes, t);
    if ((e.mask & mask) && !past && conflict(static_cast<Access>(e.kind), actor.kind)) {
      report_race(actor, e, member.lanes, word, e.mask & mask);
      races = true;
    }
    if (!(past && e.kind == static_cast<u32>(actor.kind) && !(e.mask & ~mask))) after.add(member);
  }
  if (!there) after.add({actor.event, 1u << t.lane});
  if (after.count > kMostReaders) {
    // the highest block and warp is forgotten, whoever came last
    const auto place = [&](const Member& member) {
      const Event& e = event_at(t, actor.touch.shared(), member.event);
      return std::pair{e.block, e.warp};
    };
    Member* highest = std::max_element(after.at, after.at + after.count,
                                       [&](const Member& a, const Member& b) { return place(a) < place(b); });
    *highest = after.at[--after.count];
  }
  const u32 now = cell_with(sets, after);
  if (old & kSet && !races && !stores && now) sets[old].step.store(u64{mine} << 32 | now, std::memory_order_release);
  return now;
}

// One word of an access: `mask` of its bytes.
inline void race_word(Actor& actor, u32* writes_at, u32* readers, u64 word, u32 mask) {
  const bool plain = actor.kind == Access::kWrite || actor.kind == Access::kAsyncWrite || actor.kind == Access::kBulkWrite;
  if (!plain || (mask & (mask - 1)) == 0) {
    for (u32 old = load_cell(readers);;) {
      const u32 now = joined(actor, old, word, mask);
      if (now == old || replace_cell(readers, old, now)) break;
    }
    for (u32 half = 0; half < 2; ++half) {
      if (mask >> 2 * half & 3) race_with_write(actor, load_cell(writes_at + half), word, mask);
    }
    return;
  }
  auto* const both = reinterpret_cast<u64*>(writes_at);
  u64 found = __atomic_load_n(both, __ATOMIC_ACQUIRE), left = 0;
  do {
    left = found;
    for (u32 half = 0; half < 2; ++half) {
      if (!(mask >> 2 * half & 3)) continue;
      const u32 old = static_cast<u32>(found >> 32 * half);
      if (race_with_write(actor, old, word, mask & 3u << 2 * half) && lower(actor, old)) continue;
      left = (left & ~(u64{~0u} << 32 * half)) | u64{actor.cell()} << 32 * half;
    }
  } while (left != found &&
           !__atomic_compare_exchange_n(both, &found, left, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE));
  Sets& sets = sets_of(actor.t, actor.touch.shared());
  for (u32 old = load_cell(readers); old;) {
    const Members members = members_of(sets, old);
    Members kept;
    for (u32 i = 0; i < members.count; ++i) {
      const Event& e = event_at(actor.t, actor.touch.shared(), members.at[i].event);
      const bool races = e.mask & mask && !ordered(e, members.at[i].lanes, actor.t);
      if (races) report_race(actor, e, members.at[i].lanes, word, e.mask & mask);
      if (races || e.mask & ~mask) kept.add(members.at[i]);
    }
    const u32 now = cell_with(sets, kept);
    if (now == old || replace_cell(readers, old, now)) break;
  }
}

// Where the cells of a piece of memory lie, for addition to an address: of the word at `a`, writes + 2 * (a & ~3) and
// reads + (a & ~3).
struct Cells {
  u64 writes = 0, reads = 0;
};

inline Cells cells_of(BlockTrace& block, const Touch& touch) {
  if (touch.shared()) {
    const u64 base = reinterpret_cast<u64>(block.worker->shared.get()) & ~u64{3};
    return {reinterpret_cast<u64>(block.shared_writes.data()) - 2 * base,
            reinterpret_cast<u64>(block.shared_reads.data()) - base};
  }
  if (touch.memory->constant) return {};
  Checked& checked = *block.checked;
  Shadow& shadow = checked.shadows[static_cast<u64>(touch.memory - checked.request.buffers)];
  const u64 base = touch.memory->base & ~u64{3}, words = (touch.memory->base + touch.memory->bytes - base + 3) / 4;
  unsigned char* cells = shadow.cells.load(std::memory_order_acquire);
  if (!cells) {
    {
      std::lock_guard<std::mutex> lock(checked.mutex);
      cells = shadow.cells.load(std::memory_order_relaxed);
      if (!cells) {
        void* fresh =
            mmap(nullptr, 12 * words, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        cells = fresh == MAP_FAILED ? nullptr : static_cast<unsigned char*>(fresh);
        shadow.bytes = 12 * words;
        shadow.cells.store(cells, std::memory_order_release);
      }
    }
    if (!cells) {
      block.worker->launch->fail("the checked device lacks memory to follow what happens to a buffer of " +
                                 std::to_string(touch.memory->bytes) + " bytes");
      leave_block();
    }
  }
  return {reinterpret_cast<u64>(cells) - 2 * base, reinterpret_cast<u64>(cells) + 8 * words - base};
}
inline u32* writes_at(const Cells& cells, u64 word) { return reinterpret_cast<u32*>(cells.writes + 2 * word); }
inline u32* readers_at(const Cells& cells, u64 word) { return reinterpret_cast<u32*>(cells.reads + word); }

// Tells of accesses that are not ordered before a write that begins now and is noted when it is done.
inline void check_overwritten(Trace& t, Touch& touch, const Cells& cells) {
  Actor actor{t, touch, 0, touch.kind};
  for (u64 word = touch.address; word < touch.address + touch.bytes; word += 4) {
    for (u32 half = 0; half < 2; ++half) race_with_write(actor, load_cell(writes_at(cells, word) + half), word, 15u);
    const Members members = members_of(sets_of(t, true), load_cell(readers_at(cells, word)));
    for (u32 i = 0; i < members.count; ++i) {
      const Event& e = event_at(t, true, members.at[i].event);
      if (!ordered(e, members.at[i].lanes, t)) report_race(actor, e, members.at[i].lanes, word, e.mask);
    }
  }
}

// Tells of a word that a thread wrote as threads do, and that wgmma or a bulk copy reads with no fence between.
inline void check_proxy(Trace& t, const Touch& touch, u32 cell, u64 word) {
  if (!cell) return;
  const Event& e = event_at(t, true, cell >> 5);
  const u32 lanes = 1u << (cell & 31);
  const bool plain = e.kind == static_cast<u32>(Access::kWrite) || e.kind == static_cast<u32>(Access::kLandedWrite);
  if (!plain || !ordered(e, lanes, t) || proxied(e, lanes, t)) return;
  Finding finding;
  finding.check = "race";
  finding.at = party_of(t, e, cell & 31);
  finding.other = party_of(touch);
  finding.has_other = true;
  finding.text = std::string(finding.at.action) + " and " + finding.other.action + " of the same bytes with no fence.proxy.async between them";
  finding.buffer = touch.buffer;
  finding.offset = touch.offset + (word - touch.address);
  finding.bytes = 4;
  t.block->checked->findings.add(std::move(finding));
}
inline void check_proxies(Trace& t, Touch& touch, const Cells& cells) {
  for (u64 word = touch.address & ~u64{3}; word < touch.address + touch.bytes; word += 4) {
    for (u32 half = 0; half < 2; ++half) check_proxy(t, touch, load_cell(writes_at(cells, word) + half), word);
    const Members members = members_of(sets_of(t, true), load_cell(readers_at(cells, word)));
    for (u32 i = 0; i < members.count; ++i) {
      check_proxy(t, touch, cell_of(members.at[i].event, static_cast<u32>(__builtin_ctz(members.at[i].lanes))), word);
    }
  }
}

// Checks all words of an access and notes it; returns its event (0: none), for `cell_event` of a site.
inline u32 check_races(Trace& t, Touch& touch, const Cells& cells) {
  const u64 first = touch.address & ~u64{3}, end = touch.address + touch.bytes;
  const u32 mask = touch.bytes >= 4 ? 15u : ((1u << touch.bytes) - 1) << (touch.address & 3);
  const u32 event = event_of(t, touch, mask);
  if (!event) return 0;
  if (!touch.shared() && touch.writes()) t.dirty = true;
  Actor actor{t, touch, event, touch.kind};
  for (u64 word = first; word < end; word += 4) {
    race_word(actor, writes_at(cells, word), readers_at(cells, word), word, mask);
  }
  return event;
}

}  // namespace

}  // namespace pab_emu
