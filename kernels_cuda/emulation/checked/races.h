// racecheck: two accesses to a byte, one of them a write, by two threads with nothing between that orders them.
//
// Every 4 bytes have three cells: the last write to each half, and all reads and atomic operations since that are
// not ordered among themselves (up to kMostReaders; writes of single bytes are kept there as well).  Only an access
// that is ordered before the new one may be forgotten, so what is found does not depend on who came first.
#pragma once

#include "emulation/checked/clocks.h"

namespace pab_emu {

namespace {

constexpr u32 kMostReaders = 32;

struct Member {
  u32 event, lanes;
};
struct Members {
  Member at[kMostReaders + 1];
  u32 count = 0;
  void add(Member member) { at[count++] = member; }
};

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
         kind != Access::kLandedRead;
}
inline bool is_atomic(Access kind) {
  return kind == Access::kAtomic || kind == Access::kAtomicRead || kind == Access::kAtomicWrite;
}
inline bool conflict(Access a, Access b) { return (writes(a) || writes(b)) && !(is_atomic(a) && is_atomic(b)); }

inline Event& event_at(Trace& t, bool shared, u32 id) {
  if (!shared) return t.block->checked->events[id];
  WarpTrace& warp = t.block->warps[id >> kEventIndexBits];
  const u32 index = id & ((1u << kEventIndexBits) - 1);
  return index & kLate ? warp.late[index & ~kLate] : warp.events[index];
}
inline Sets& sets_of(Trace& t, bool shared) { return shared ? t.block->sets : t.block->checked->sets; }

// The number of the event of this stretch; 0 when there is no room for more.
inline u32 event_of(Trace& t, const Touch& touch, u32 mask) {
  const Event wanted{touch.pc, t.block->number, t.stamp, static_cast<std::uint16_t>(t.warp->number),
                     static_cast<unsigned char>(touch.kind), static_cast<unsigned char>(mask)};
  const auto same = [&wanted](const Event& e) {
    return e.pc == wanted.pc && e.stamp == wanted.stamp && e.kind == wanted.kind && e.mask == wanted.mask &&
           e.block == wanted.block;
  };
  WarpTrace& warp = *t.warp;
  if (touch.shared()) {
    std::vector<Event>& events = in_flight(wanted) ? warp.late : warp.events;
    const u32 late = in_flight(wanted) ? kLate : 0, first = warp.number << kEventIndexBits | late;
    const u32 count = static_cast<u32>(events.size());
    for (u32 back = 1; back <= std::min(count, 8u); ++back) {
      if (same(events[count - back])) return first | (count - back);
    }
    if (count >= kLate) return 0;
    events.push_back(wanted);
    return first | count;
  }
  Chunks<Event>& events = t.block->checked->events;
  for (const u32 id : warp.recent) {
    if (id && same(events[id])) return id;
  }
  const u32 id = events.add();
  if (!id) return 0;
  events[id] = wanted;
  std::copy_backward(warp.recent, warp.recent + 3, warp.recent + 4);
  warp.recent[0] = id;
  return id;
}

inline Members members_of(Sets& sets, u32 cell) {
  Members members;
  if (cell && !(cell & kSet)) members.add({cell >> 5, 1u << (cell & 31)});
  for (; cell & kSet && members.count < kMostReaders; cell = sets[cell].others) {
    members.add({sets[cell].event, sets[cell].lanes});
  }
  return members;
}
inline u32 cell_with(Sets& sets, Members& members) {
  if (members.count == 0) return 0;
  const Member& only = members.at[0];
  if (members.count == 1 && !(only.lanes & (only.lanes - 1))) {
    return cell_of(only.event, static_cast<u32>(__builtin_ctz(only.lanes)));
  }
  // by number, so that the same members are the same set
  std::sort(members.at, members.at + members.count, [](const Member& a, const Member& b) { return a.event < b.event; });
  u32 cell = 0;
  for (u32 i = 0; i < members.count; ++i) cell = sets.intern(cell, members.at[i].event, members.at[i].lanes);
  return cell;
}

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

// Whether the write in `cell` races with the actor; tells of it.
inline bool race_with_write(Actor& actor, u32 cell, u64 word, u32 mask) {
  if (!cell || cell == actor.cell()) return false;
  const Event& e = event_at(actor.t, actor.touch.shared(), cell >> 5);
  const u32 lanes = 1u << (cell & 31);
  if (!(e.mask & mask) || !conflict(static_cast<Access>(e.kind), actor.kind) || ordered(e, lanes, actor.t)) return false;
  report_race(actor, e, lanes, word, e.mask & mask);
  return true;
}

// Adds the actor to the readers in `old`: drops who did the same before it, tells of races.
inline u32 joined(Actor& actor, u32 old, u64 word, u32 mask) {
  Trace& t = actor.t;
  Sets& sets = sets_of(t, actor.touch.shared());
  const u32 mine = actor.cell();
  if (!old || old == mine) return mine;
  if (old & kSet) {
    const u64 step = sets[old].step.load(std::memory_order_acquire);
    if (step >> 32 == mine) return static_cast<u32>(step);
  }
  const Members before = members_of(sets, old);
  Members after;
  bool races = false, there = false;
  for (u32 i = 0; i < before.count; ++i) {
    Member member = before.at[i];
    if (member.event == actor.event) {
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
  if (old & kSet && !races && now) sets[old].step.store(u64{mine} << 32 | now, std::memory_order_release);
  return now;
}

// One word of an access: `mask` of its bytes.
inline void race_word(Actor& actor, u32* writes_at, u32* readers, u64 word, u32 mask) {
  const bool plain = actor.kind == Access::kWrite || actor.kind == Access::kAsyncWrite;
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
  const u32 mine = actor.cell();
  for (u32 half = 0; half < 2; ++half) {
    if (!(mask >> 2 * half & 3)) continue;
    const u32 old = __atomic_exchange_n(writes_at + half, mine, __ATOMIC_SEQ_CST);
    if (!race_with_write(actor, old, word, mask & 3u << 2 * half)) continue;
    // of two that race the lower stays: the pair of the lowest two is found in every order
    const Event& e = event_at(actor.t, actor.touch.shared(), old >> 5);
    if (before(party_of(actor.t, e, old & 31), party_of(actor.touch))) __atomic_store_n(writes_at + half, old, __ATOMIC_SEQ_CST);
  }
  Sets& sets = sets_of(actor.t, actor.touch.shared());
  for (u32 old = load_cell(readers); old;) {
    const Members members = members_of(sets, old);
    Members left;
    for (u32 i = 0; i < members.count; ++i) {
      const Event& e = event_at(actor.t, actor.touch.shared(), members.at[i].event);
      const bool races = e.mask & mask && !ordered(e, members.at[i].lanes, actor.t);
      if (races) report_race(actor, e, members.at[i].lanes, word, e.mask & mask);
      if (races || e.mask & ~mask) left.add(members.at[i]);
    }
    const u32 now = cell_with(sets, left);
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
    std::lock_guard<std::mutex> lock(checked.mutex);
    cells = shadow.cells.load(std::memory_order_relaxed);
    if (!cells) {
      void* fresh = mmap(nullptr, 12 * words, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (fresh == MAP_FAILED) fault("checked: no memory to follow the accesses to %llu bytes", static_cast<unsigned long long>(touch.memory->bytes));
      cells = static_cast<unsigned char*>(fresh);
      shadow.bytes = 12 * words;
      shadow.cells.store(cells, std::memory_order_release);
    }
  }
  return {reinterpret_cast<u64>(cells) - 2 * base, reinterpret_cast<u64>(cells) + 8 * words - base};
}
inline u32* writes_at(const Cells& cells, u64 word) { return reinterpret_cast<u32*>(cells.writes + 2 * word); }
inline u32* readers_at(const Cells& cells, u64 word) { return reinterpret_cast<u32*>(cells.reads + word); }

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

// An asynchronous copy has been waited for: from here on its accesses are like those of the thread that waited.
inline void land_races(Trace& t, Touch& touch, Access landed, const Cells& cells) {
  const bool shared = touch.shared();
  touch.kind = landed;
  const u32 event = event_of(t, touch, 15u);
  const auto mine = [&](u32 id) {
    const Event& e = event_at(t, shared, id);
    return in_flight(e) && e.block == t.block->number && e.warp == t.warp->number && e.pc == touch.pc;
  };
  if (!event) return;
  for (u64 word = touch.address; word < touch.address + touch.bytes; word += 4) {
    if (landed == Access::kLandedWrite) {
      for (u32 half = 0; half < 2; ++half) {
        u32* cell = writes_at(cells, word) + half;
        if (*cell && (*cell & 31) == t.lane && mine(*cell >> 5)) *cell = cell_of(event, t.lane);
      }
      continue;
    }
    Sets& sets = sets_of(t, shared);
    for (u32 old = load_cell(readers_at(cells, word)); old;) {
      const Members members = members_of(sets, old);
      Members after;
      bool found = false;
      for (u32 i = 0; i < members.count; ++i) {
        Member member = members.at[i];
        if (member.lanes >> t.lane & 1 && mine(member.event)) {
          member.lanes &= ~(1u << t.lane);
          found = true;
        }
        if (member.lanes) after.add(member);
      }
      if (!found) break;
      u32 i = 0;
      while (i < after.count && after.at[i].event != event) ++i;
      if (i == after.count) after.add({event, 0});
      after.at[i].lanes |= 1u << t.lane;
      if (replace_cell(readers_at(cells, word), old, cell_with(sets, after))) break;
    }
  }
}

}  // namespace

}  // namespace pab_emu
