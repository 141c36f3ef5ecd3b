// SPDX-License-Identifier: Apache-2.0
// What a thread knows of the past of others: for each block up to which tick its threads' actions happened before.
//
// A value that is shared and never changed: joining two gives a third that keeps what they have in common, so that
// a thousand blocks that meet at one counter cost a thousand small nodes, not a million entries.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "emulator/lane.h"

namespace pab_emu {

namespace {

// Ticks of one block: all its threads up to `all`; `parts` (sorted) adds warps and threads that are known further.
struct View {
  u32 all = 0;
  std::vector<std::pair<u32, u32>> parts;  // part, tick

  u32 tick(u32 part) const {
    const auto at = std::lower_bound(parts.begin(), parts.end(), std::pair<u32, u32>{part, 0});
    return at != parts.end() && at->first == part ? at->second : 0;
  }
  bool operator==(const View&) const = default;
};
inline u32 warp_part(u32 warp) { return warp; }
inline u32 thread_part(u32 thread) { return kWarpSize + thread; }

struct KnownNode;
using Known = std::shared_ptr<const KnownNode>;  // null: nothing
constexpr u32 kFanOut = 16;

// A tree over block numbers, lowest digits first, of a depth fixed by the grid; leaves hold the views.
struct KnownNode {
  View view;
  std::vector<Known> below;  // empty in a leaf
};

inline View join(const View& a, const View& b) {
  View both;
  both.all = std::max(a.all, b.all);
  auto i = a.parts.begin(), j = b.parts.begin();
  while (i != a.parts.end() || j != b.parts.end()) {
    std::pair<u32, u32> next;
    if (j == b.parts.end() || (i != a.parts.end() && i->first < j->first)) {
      next = *i++;
    } else if (i == a.parts.end() || j->first < i->first) {
      next = *j++;
    } else {
      next = {i->first, std::max(i->second, j->second)};
      ++i, ++j;
    }
    if (next.second > both.all) both.parts.push_back(next);
  }
  return both;
}

inline Known join(const Known& a, const Known& b) {
  if (!b || a == b) return a;
  if (!a) return b;
  if (a->below.empty()) {
    View both = join(a->view, b->view);
    if (both == a->view) return a;
    if (both == b->view) return b;
    return std::make_shared<const KnownNode>(KnownNode{std::move(both), {}});
  }
  std::vector<Known> below(kFanOut);
  bool like_a = true, like_b = true;
  for (u32 i = 0; i < kFanOut; ++i) {
    below[i] = join(a->below[i], b->below[i]);
    like_a &= below[i] == a->below[i];
    like_b &= below[i] == b->below[i];
  }
  if (like_a) return a;
  if (like_b) return b;
  return std::make_shared<const KnownNode>(KnownNode{{}, std::move(below)});
}

inline u32 levels_for(u64 blocks) {
  u32 levels = 0;
  for (u64 reach = 1; reach < blocks; reach *= kFanOut) ++levels;
  return levels;
}

inline Known known_of(u64 block, View view, u32 levels) {
  if (levels == 0) return std::make_shared<const KnownNode>(KnownNode{std::move(view), {}});
  std::vector<Known> below(kFanOut);
  below[block % kFanOut] = known_of(block / kFanOut, std::move(view), levels - 1);
  return std::make_shared<const KnownNode>(KnownNode{{}, std::move(below)});
}

inline const View* view_of(const Known& known, u64 block) {
  const KnownNode* node = known.get();
  while (node && !node->below.empty()) {
    node = node->below[block % kFanOut].get();
    block /= kFanOut;
  }
  return node ? &node->view : nullptr;
}

}  // namespace

}  // namespace pab_emu
