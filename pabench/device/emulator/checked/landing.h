// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies that have landed: from in flight, when they race with everybody, to ordinary accesses.
#pragma once

#include "emulator/checked/races.h"

namespace pab_emu {

namespace {

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
