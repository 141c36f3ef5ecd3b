// SPDX-License-Identifier: Apache-2.0
// Happens-before: what synchronisation orders.  Only what the program forces counts, not what happened to run first;
// of atomic operations the order that was observed counts.
//
//   collectives   order the lanes of their mask
//   barriers      order all that arrived before all that waited; a thread that returned has arrived everywhere
//   release, or a fence before a relaxed atomic write: hands on; acquire, or a fence after a relaxed atomic read, of
//   what was handed on: accepts.  A fence at block scope hands on to, and accepts from, the same block only.
//   A barrier carries both halves: whoever signals after it speaks for all who fenced before it.
#pragma once

#include "emulator/checked/memory.h"

namespace pab_emu {

namespace {

inline bool in_flight(const Event& e) {
  return e.kind == static_cast<u32>(Access::kAsyncRead) || e.kind == static_cast<u32>(Access::kAsyncWrite);
}

// Whether what lanes `lanes` did in event `e` is part of `known`.
inline bool covered(const Known& known, const Event& e, u32 lanes) {
  const View* view = view_of(known, e.block);
  if (!view) return false;
  if (e.stamp < view->all || e.stamp < view->tick(warp_part(e.warp))) return true;
  for (u32 rest = lanes; rest; rest &= rest - 1) {
    const u32 thread = e.warp * kWarpSize + static_cast<u32>(__builtin_ctz(rest));
    if (e.stamp >= view->tick(thread_part(thread))) return false;
  }
  return true;
}

inline bool by_product(const Event& e) { return e.kind == static_cast<u32>(Access::kProductRead); }
// Whether `t` follows some thread of a warp that waited for the product which read in `e`.
bool follows_product(const Event& e, const Trace& t);

// Whether what lanes `lanes` did in event `e` happened before what `t` does now.
inline bool ordered(const Event& e, u32 lanes, const Trace& t) {
  if (in_flight(e)) return false;
  if (by_product(e)) return follows_product(e, t);
  const BlockTrace& block = *t.block;
  if (e.block == block.number) {
    if (e.stamp < block.barrier) return true;
    if (e.warp == t.warp->number) {
      lanes &= ~(1u << t.lane);
      if (!lanes || e.stamp < t.warp->tick) return true;
      for (u32 rest = lanes; rest; rest &= rest - 1) {
        const u32 lane = static_cast<u32>(__builtin_ctz(rest));
        if (e.stamp < t.mates[lane]) lanes &= ~(1u << lane);
      }
      if (!lanes) return true;
    }
  }
  return covered(t.known, e, lanes);
}

bool follows_product(const Event& e, const Trace& t) {
  for (const ProductWait& wait : t.block->product_waits[e.stamp]) {
    const Event after{nullptr, e.block, wait.tick, static_cast<std::uint16_t>(wait.warp), static_cast<unsigned char>(Access::kRead), 15};
    for (u32 lane = 0; lane < kWarpSize; ++lane) {
      if (ordered(after, 1u << lane, t)) return true;
    }
  }
  return false;
}

// All that happened before `t`, its own past included; begins a new stretch.
inline Known publish(Trace& t) {
  BlockTrace& block = *t.block;
  t.stamp = ++block.tick;
  View view;
  view.all = block.barrier;
  const u32 whole = std::max(block.barrier, t.warp->tick);
  if (t.warp->tick > block.barrier) view.parts.push_back({warp_part(t.warp->number), t.warp->tick});
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    const u32 tick = lane == t.lane ? t.stamp : t.mates[lane];
    if (tick > whole) view.parts.push_back({thread_part(t.thread - t.lane + lane), tick});
  }
  return join(t.known, known_of(block.number, std::move(view), block.checked->levels));
}

inline void learn(Trace& t, const Known& news) {
  if (!news) return;
  t.known = join(t.known, news);
  t.warp->knows = t.block->knows = true;
}

inline void order_collective(Warp& warp, u32 mask) {
  Lane& any = *warp.lanes[__builtin_ctz(mask)];
  Trace& first = trace_of(any);
  WarpTrace& w = *first.warp;
  const u32 tick = ++first.block->tick;
  // lanes that the mask names and that have returned have arrived by that
  const u32 existing = warp.count == kWarpSize ? ~0u : (1u << warp.count) - 1;
  if ((any.mask & existing) == existing) {
    w.tick = tick;
    w.synced = static_cast<u32>(w.events.size());
  } else {
    u32 joined[kWarpSize] = {};
    for (u32 rest = mask; rest; rest &= rest - 1) {
      const Trace& t = trace_of(*warp.lanes[__builtin_ctz(rest)]);
      for (u32 i = 0; i < kWarpSize; ++i) joined[i] = std::max(joined[i], t.mates[i]);
    }
    for (u32 rest = mask; rest; rest &= rest - 1) joined[__builtin_ctz(rest)] = tick;
    for (u32 rest = mask; rest; rest &= rest - 1) {
      std::copy(joined, joined + kWarpSize, trace_of(*warp.lanes[__builtin_ctz(rest)]).mates);
    }
  }
  Known all;
  for (u32 rest = mask; rest; rest &= rest - 1) {
    Trace& t = trace_of(*warp.lanes[__builtin_ctz(rest)]);
    t.stamp = tick;
    if (w.knows) all = join(all, t.known);
  }
  if (!all) return;
  for (u32 rest = mask; rest; rest &= rest - 1) trace_of(*warp.lanes[__builtin_ctz(rest)]).known = all;
}

// All threads of the block: those that are there and those that returned.
inline void order_block(BlockTrace& block) {
  block.barrier = ++block.tick;
  for (WarpTrace& warp : block.warps) {
    block.synced[warp.number] = warp.synced = static_cast<u32>(warp.events.size());
  }
  bool dirty = false;
  Known known, observed[kScopes];
  for (Trace& t : block.lanes) {
    t.stamp = block.barrier;
    dirty |= t.dirty;
    if (block.knows) known = join(known, t.known);
    if (block.observes) {
      for (u32 s = 0; s < kScopes; ++s) observed[s] = join(observed[s], t.observed[s]);
    }
  }
  if (!dirty) block.handed_on = block.barrier;
  for (Trace& t : block.lanes) {
    if (known) t.known = known;
    if (known) t.warp->knows = true;
    if (block.observes) {
      for (u32 s = 0; s < kScopes; ++s) t.observed[s] = observed[s];
    }
  }
}

// A named barrier of some threads: what those who waited now know.
inline void order_some(BlockTrace& block, const std::vector<Arrival>& arrivals) {
  const u32 tick = ++block.tick;
  Known all;
  std::vector<u32> warps;
  View view;
  view.all = block.barrier;
  for (const Arrival& one : arrivals) {
    Trace& t = *one.lane;
    const u32 until = one.wait ? tick : one.tick;
    view.parts.push_back({thread_part(t.thread), until});
    for (u32 lane = 0; lane < kWarpSize; ++lane) {
      if (t.mates[lane] > block.barrier) view.parts.push_back({thread_part(t.thread - t.lane + lane), t.mates[lane]});
    }
    if (t.warp->tick > block.barrier) view.parts.push_back({warp_part(t.warp->number), t.warp->tick});
    all = join(all, t.known);
  }
  std::sort(view.parts.begin(), view.parts.end());
  // of a part that is named more than once the latest tick counts
  std::vector<std::pair<u32, u32>> latest;
  for (const auto& part : view.parts) {
    if (!latest.empty() && latest.back().first == part.first) {
      latest.back() = part;
    } else {
      latest.push_back(part);
    }
  }
  view.parts = std::move(latest);
  all = join(all, known_of(block.number, std::move(view), block.checked->levels));
  for (const Arrival& one : arrivals) {
    if (!one.wait) continue;
    one.lane->known = all;
    one.lane->stamp = tick;
    one.lane->warp->knows = true;
  }
  block.knows = true;
}

inline void order_fence(Trace& t, Scope scope) {
  const Known past = publish(t);
  for (u32 s = 0; s <= scope; ++s) t.fenced[s] = past;
  if (scope == kDeviceScope) t.dirty = false;
  for (u32 s = 0; s <= scope; ++s) {
    learn(t, t.observed[s]);
    t.observed[s] = nullptr;
  }
}

// What was ordered before a fence of the proxies is there for wgmma and for bulk copies.
inline void order_proxies(Trace& t) { t.proxied = publish(t); }
// Whether some thread has made such a fence behind event `e`: its own, the reader's, or one between.
inline bool proxied(const Event& e, u32 lanes, const Trace& t) {
  const BlockTrace& block = *t.block;
  const Trace& writer = block.lanes[e.warp * kWarpSize + static_cast<u32>(__builtin_ctz(lanes))];
  if (covered(writer.proxied, e, lanes) || covered(t.proxied, e, lanes)) return true;
  return std::any_of(block.lanes.begin(), block.lanes.end(), [&](const Trace& one) { return covered(one.proxied, e, lanes); });
}

// An atomic operation as it takes effect; `order` is the compiler's number of a memory order.
inline void order_atomic(Trace& t, SyncVariable& variable, int order, bool reads, bool writes) {
  BlockTrace& block = *t.block;
  const bool acquires = reads && order != 0 && order != 3, releases = writes && order >= 3;
  Known given[kScopes];
  if (releases) {
    given[kBlockScope] = given[kDeviceScope] = publish(t);
  } else if (writes) {
    for (u32 s = 0; s < kScopes; ++s) given[s] = t.fenced[s];
    if (block.handed_on) {
      const Known whole = known_of(block.number, {block.handed_on, {}}, block.checked->levels);
      given[kDeviceScope] = join(given[kDeviceScope], whole);
    }
  }
  if (reads) {
    const auto own = variable.block.find(block.number);
    const Known seen[kScopes] = {own == variable.block.end() ? nullptr : own->second, variable.device};
    for (u32 s = 0; s < kScopes; ++s) {
      if (acquires) learn(t, seen[s]);
      if (!acquires && seen[s]) {
        t.observed[s] = join(t.observed[s], seen[s]);
        block.observes = true;
      }
    }
  }
  if (writes) {
    // a store begins anew; what reads and writes in one passes on what it found
    if (!reads) {
      variable.device = nullptr;
      variable.block.clear();
    }
    if (given[kDeviceScope]) variable.device = join(variable.device, given[kDeviceScope]);
    const Known within = join(given[kBlockScope], given[kDeviceScope]);
    if (within) {
      Known& own = variable.block[block.number];
      own = join(own, within);
    }
  }
}

}  // namespace

}  // namespace pab_emu
