// SPDX-License-Identifier: Apache-2.0
// Words for people: what a collective is called, and who waits where when nobody can run.
#pragma once

#include <bit>
#include <cstdio>
#include <string>

#include "emulator/worker.h"

namespace pab_emu {

namespace {

constexpr u32 kWarpsTold = 4;  // warps that a deadlock's message describes
constexpr const char* kOpNames[] = {"warp_sync", "a shuffle",  "ballot",     "any",
                                    "all",       "match_any",  "reduce_add", "a matrix instruction"};

// One line on a block in which nobody can run: what each warp waits for, the first few of them.
std::string describe_deadlock() {
  const Worker& w = *worker;
  std::string text;
  char part[200];
  const auto add = [&text, &part](auto... values) {
    std::snprintf(part, sizeof part, values...);
    text += part;
  };
  add("deadlock in block (%u, %u, %u)", w.block.index.x, w.block.index.y, w.block.index.z);
  for (u32 id = 0; id < kBarriers; ++id) {
    const u32 arrived = w.barrier_arrived[id];
    const u32 expected = w.barrier_expected[id] ? w.barrier_expected[id] : w.live;
    if (arrived) add("; %u of %u threads are at barrier %u", arrived, expected, id);
  }
  u32 told = 0, stuck = 0;
  for (u32 wi = 0; wi < w.warps.size(); ++wi) {
    const Warp& warp = w.warps[wi];
    if (std::popcount(warp.finished) == kWarpSize || ++stuck > kWarpsTold) continue;
    add("; warp %u:", wi);
    for (u32 rest = warp.arrived; rest;) {
      const Lane& lane = *warp.lanes[__builtin_ctz(rest)];
      u32 alike = 0;
      for (u32 i = 0; i < kWarpSize; ++i) {
        if (((rest >> i) & 1u) && warp.lanes[i]->mask == lane.mask) alike |= 1u << i;
      }
      const u32 absent = lane.mask & ~warp.finished & ~warp.arrived;
      add(" lanes 0x%08x at %s with mask 0x%08x, where lanes 0x%08x never arrive,", alike,
          kOpNames[static_cast<u32>(lane.op)], lane.mask, absent);
      rest &= ~alike;
    }
    for (u32 id = 0; id < kBarriers; ++id) {
      if (warp.waiting[id]) add(" lanes 0x%08x at barrier %u,", warp.waiting[id], id);
    }
    text.pop_back();
    ++told;
  }
  if (stuck > told) add("; %u more warps", stuck - told);
  return text;
}

}  // namespace

}  // namespace pab_emu
