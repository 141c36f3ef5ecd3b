// SPDX-License-Identifier: Apache-2.0
// synccheck: threads that do not meet as they should, and blocks that do not end.
#pragma once

#include "emulator/checked/races.h"
#include "emulator/deadlock.h"

namespace pab_emu {

namespace {

inline Party party_of(const Lane& lane, const std::string& action) {
  return {lane.pc, lane.block->index, lane.thread, action};
}

inline void report_sync(const Lane& lane, const std::string& action, const std::string& text) {
  Finding finding;
  finding.check = "sync";
  finding.text = text;
  finding.at = party_of(lane, action);
  trace_of(lane).block->checked->findings.add(std::move(finding));
}

// A barrier of all threads is one place of the source; the caller drops the finding if these two are the same line.
inline void check_same_barrier(BlockTrace& block, const Lane& lane, u32 id) {
  if (!block.first_at[id]) {
    block.first_at[id] = &lane;
    block.first_pc[id] = lane.pc;
    return;
  }
  if (block.first_pc[id] == lane.pc) return;
  Finding finding;
  finding.check = "sync";
  finding.text = "threads of one block meet at different calls of a barrier of all threads";
  finding.at = party_of(lane, "barrier");
  finding.other = party_of(*block.first_at[id], "barrier");
  finding.other.pc = block.first_pc[id];
  finding.has_other = true;
  if (finding.other.pc < finding.at.pc) std::swap(finding.at, finding.other);
  block.checked->findings.add(std::move(finding));
}

// A shuffle from a lane that takes no part gives an undefined value.
inline void check_sources(const Warp& warp, u32 mask) {
  for (u32 rest = mask; rest; rest &= rest - 1) {
    const Lane& lane = *warp.lanes[__builtin_ctz(rest)];
    if (mask >> lane.source & 1) continue;
    char text[120];
    std::snprintf(text, sizeof text, "lane %u shuffles from lane %u, which %s", lane.index, lane.source,
                  warp.finished >> lane.source & 1 ? "has returned or is not there" : "the mask does not name");
    report_sync(lane, "shuffle", text);
  }
}

// One finding for a block in which nobody can run: a thread of each group that waits, and where.
inline void report_deadlock(Worker& w, const std::string& text) {
  std::map<std::pair<const void*, std::string>, std::pair<const Lane*, u32>> groups;
  for (const Warp& warp : w.warps) {
    for (u32 i = 0; i < warp.count; ++i) {
      if (warp.finished >> i & 1) continue;
      const Lane& lane = *warp.lanes[i];
      std::string what = "a poll of memory";
      if (warp.arrived >> i & 1) what = kOpNames[static_cast<u32>(lane.op)];
      for (u32 id = 0; id < kBarriers; ++id) {
        if (warp.waiting[id] >> i & 1) what = "barrier " + std::to_string(id);
      }
      auto& group = groups[{lane.pc, what}];
      if (!group.second++) group.first = &lane;
    }
  }
  Finding finding;
  finding.check = "sync";
  finding.text = text;
  for (const auto& [key, group] : groups) {
    finding.waiting.push_back(party_of(*group.first, std::to_string(group.second) + " waiting at " + key.second));
  }
  if (finding.waiting.empty()) return;
  std::sort(finding.waiting.begin(), finding.waiting.end(), before);
  finding.at = finding.waiting.front();
  w.launch->checked->findings.add(std::move(finding));
}

[[noreturn]] [[gnu::noinline]] void report_budget(Lane& lane, const void* pc) {
  lane.pc = pc;
  const u64 budget = trace_of(lane).block->checked->request.step_budget;
  report_sync(lane, "step", "a block made " + std::to_string(budget) +
                                " steps (accesses, barriers and polls) and has not ended");
  leave_block();
}

inline void count_step(Lane& lane, const void* pc) {
  if (--trace_of(lane).block->steps == 0) [[unlikely]] report_budget(lane, pc);
}
void spend_steps(Lane& lane, u64 count, const void* pc) {
  u64& left = trace_of(lane).block->steps;
  if (left - 1 < count) report_budget(lane, pc);
  left -= count;
}

}  // namespace

}  // namespace pab_emu
