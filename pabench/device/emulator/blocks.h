// SPDX-License-Identifier: Apache-2.0
// The life of a block: from the order of the launch to a worker, run until it ends or waits, put away.
#pragma once

#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "emulator/deadlock.h"
#include "emulator/mbarrier.h"
#include "emulator/observe.h"
#include "emulator/schedule.h"
#include "emulator/worker.h"

namespace pab_emu {

namespace {

#ifdef PAB_EMU_CHECKED
void leave_block() {
  worker->launch->fallen = true;
  abandon_block();
}
void take_turn() { wait_block(current); }
#endif

// Shared memory is poisoned before every block.
void prepare_block(Worker& w, u64 number) {
  Launch& launch = *w.launch;
  w.random.state = launch.seed ^ (number * 0xD1B54A32D192ED03ull);
  Block& block = w.block;
  block.grid = launch.grid;
  block.block = launch.block;
  block.index.x = static_cast<u32>(number % launch.grid.x);
  block.index.y = static_cast<u32>(number / launch.grid.x % launch.grid.y);
  block.index.z = static_cast<u32>(number / launch.grid.x / launch.grid.y);
  block.shared = w.shared.get();
  block.shared_bytes = launch.shared_bytes;
  poison(block.shared, launch.shared_bytes);
  std::memset(w.barrier_arrived, 0, sizeof w.barrier_arrived);
  std::memset(w.barrier_expected, 0, sizeof w.barrier_expected);
  std::memset(w.barrier_notes, 0, sizeof w.barrier_notes);
  w.bulk.clear();
  for (WarpProducts& one : w.products) one.issued = one.computed = one.waited = one.group = 0;
  w.live = w.threads;
  const u32 warp_count = (w.threads + kWarpSize - 1) / kWarpSize;
  w.warps.resize(warp_count);
  for (u32 wi = 0; wi < warp_count; ++wi) {
    Warp& warp = w.warps[wi];
    warp = Warp{};
    warp.count = std::min(kWarpSize, w.threads - wi * kWarpSize);
    warp.runnable = warp.count == kWarpSize ? ~0u : (1u << warp.count) - 1;
    warp.finished = ~warp.runnable;  // a lane that does not exist is waited for as little as one that returned
    unsigned char order[kWarpSize];
    for (u32 i = 0; i < warp.count; ++i) order[i] = static_cast<unsigned char>(i);
    w.random.shuffle(order, warp.count);
    for (u32 i = 0; i < warp.count; ++i) warp.next[order[i]] = order[(i + 1) % warp.count];
    for (u32 i = 0; i < warp.count; ++i) {
      const u32 t = wi * kWarpSize + i;
      Lane& lane = w.lanes[t];
      warp.lanes[i] = &lane;
      lane.warp = &warp;
      lane.block = &block;
      lane.index = i;
      lane.thread = {t % launch.block.x, t / launch.block.x % launch.block.y, t / launch.block.x / launch.block.y};
      lane.copy_group = lane.copy_count = lane.bulk_group = 0;
      lane.at_barrier = nullptr;
      lane.at_product = false;
      lane.copies = &w.copies[t * kCopyQueue];
      lane.context = new_context(w, t);
    }
  }
  w.warp_order.resize(warp_count);
  std::iota(w.warp_order.begin(), w.warp_order.end(), 0u);
  w.random.shuffle(w.warp_order.data(), warp_count);
}

// Runs a block from its start or from where it waited, until it ends or waits.
void run_block(Worker& block) {
  worker = &block;
#ifdef PAB_EMU_UCONTEXT
  block.scheduler = &block.home;
#endif
  Lane* first = block.waiting;
  if (!first) {
    Warp& warp = block.warps[block.warp_order[0]];
    first = warp.lanes[block.random() % warp.count];
  }
  block.got_on = !block.waiting || block.outcome == Outcome::kGate;
  block.outcome = Outcome::kDone;
  block.idle_polls = 0;
  block.waiting = nullptr;
  resume(&block.scheduler, first);
  if (block.outcome == Outcome::kDone && block.live) {
    const std::string text = describe_deadlock();
    observe::deadlock(block, text);
    block.launch->fail(text);
  }
  if (block.outcome != Outcome::kWaits) observe::block_end(block);
  current = nullptr;
  worker = nullptr;
}

// The next block of the launch that has not been started, in `spare` when there is one; null when all have been.
std::unique_ptr<Worker> start_block(Launch& launch, std::unique_ptr<Worker>& spare) {
  const u64 count = launch.order.size();
  if (launch.next.load(std::memory_order_relaxed) >= count) return nullptr;
  const u64 at = launch.next.fetch_add(1, std::memory_order_relaxed);
  if (at >= count) return nullptr;
  const u32 threads = launch.block.x * launch.block.y * launch.block.z;
  std::unique_ptr<Worker> block = spare ? std::move(spare) : take_worker(threads, launch.shared_bytes);
  block->launch = &launch;
  block->threads = threads;
  block->position = at;
  block->running_warp = 0;
  block->waiting = nullptr;
  worker = block.get();
  prepare_block(*block, launch.order[at]);
  observe::block_begin(*block);
  return block;
}

// Keeps a block's memory for another launch.
void keep(std::unique_ptr<Worker> block) {
  if (!block) return;
  std::lock_guard<std::mutex> lock(idle_mutex);
  if (idle_workers.size() < kMostIdle) idle_workers.push_back(std::move(block));
}
// The same, for the next block of this OS thread where there is none yet.
void put_away(std::unique_ptr<Worker> block, std::unique_ptr<Worker>& spare) {
  if (!spare) {
    spare = std::move(block);
  } else {
    keep(std::move(block));
  }
}

// What a launch says of a block that polls and polls.
std::string describe_polling(const Worker& block) {
  const Lane& lane = *block.waiting;
  char text[400];
  std::string what = lane.at_product ? "waited at a wgmma.wait_group for a warp of the warpgroup that does not come to the product"
                                     : "polled memory";
  if (lane.at_barrier) {
    u64 word;
    std::memcpy(&word, lane.at_barrier, sizeof word);
    const Mbarrier barrier = Mbarrier::of(word);
    std::snprintf(text, sizeof text, "waited at the mbarrier at byte %td of shared memory (phase of parity %u: %llu of %llu arrivals missing, ",
                  static_cast<const unsigned char*>(lane.at_barrier) - lane.block->shared, barrier.parity,
                  static_cast<unsigned long long>(barrier.pending), static_cast<unsigned long long>(barrier.expected));
    what = text;
    std::snprintf(text, sizeof text, barrier.bytes < 0 ? "%lld bytes came that were not expected)" : "%lld bytes expected that did not come)",
                  barrier.bytes < 0 ? -barrier.bytes : barrier.bytes);
    what += text;
  }
  std::snprintf(text, sizeof text,
                "%s for more than %u s without end [block (%u, %u, %u), thread (%u, %u, %u)]",
                what.c_str(), block.launch->poll_seconds, lane.block->index.x, lane.block->index.y, lane.block->index.z,
                lane.thread.x, lane.thread.y, lane.thread.z);
  return text;
}

}  // namespace

}  // namespace pab_emu
