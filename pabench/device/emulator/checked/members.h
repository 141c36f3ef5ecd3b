// SPDX-License-Identifier: Apache-2.0
// What the cells of racecheck stand for: events, and the members of a set of readers.
#pragma once

#include "emulator/checked/clocks.h"

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

inline Event& event_at(Trace& t, bool shared, u32 id) {
  if (!shared) return t.block->checked->events[id];
  WarpTrace& warp = t.block->warps[id >> kEventIndexBits];
  const u32 index = id & ((1u << kEventIndexBits) - 1);
  return index & kLate ? warp.late[index & ~kLate] : warp.events[index];
}
inline Sets& sets_of(Trace& t, bool shared) { return shared ? t.block->sets : t.block->checked->sets; }

// The number of the event of this stretch; 0 when there is no room for more.
inline u32 event_of(Trace& t, const Touch& touch, u32 mask) {
  const u32 stamp = touch.kind == Access::kProductRead ? touch.product : t.stamp;
  const Event wanted{touch.pc, t.block->number, stamp, static_cast<std::uint16_t>(t.warp->number),
                     static_cast<unsigned char>(touch.kind), static_cast<unsigned char>(mask)};
  const auto same = [&wanted](const Event& e) {
    return e.pc == wanted.pc && e.stamp == wanted.stamp && e.kind == wanted.kind && e.mask == wanted.mask &&
           e.block == wanted.block;
  };
  WarpTrace& warp = *t.warp;
  if (touch.shared()) {
    const bool asynchronous = in_flight(wanted) || by_product(wanted);
    std::vector<Event>& events = asynchronous ? warp.late : warp.events;
    const u32 late = asynchronous ? kLate : 0, first = warp.number << kEventIndexBits | late;
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

}  // namespace

}  // namespace pab_emu
