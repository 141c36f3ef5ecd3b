// Which block runs next on an OS thread, and what becomes of blocks that wait for one another.
//
// A block whose lanes all poll in vain gives its OS thread to another: first to one that waits as well, and only when
// none of those gets on to one that has not been started, so that no more are under way than must be.
#pragma once

#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <thread>

#include "emulation/deadlock.h"
#include "emulation/observe.h"
#include "emulation/schedule.h"
#include "emulation/worker.h"

namespace pab_emu {

namespace {

#ifdef PAB_EMU_CHECKED
void leave_block() {
  worker->launch->fallen = true;
  abandon_block();
}
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
  std::memset(block.shared, kPoison, launch.shared_bytes);
  std::memset(w.barrier_arrived, 0, sizeof w.barrier_arrived);
  std::memset(w.barrier_expected, 0, sizeof w.barrier_expected);
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
      lane.copy_group = lane.copy_count = 0;
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
  block.outcome = Outcome::kDone;
  block.got_on = !block.waiting;
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

// The blocks of a launch that are under way on one OS thread.
class Runner {
 public:
  explicit Runner(Launch& launch) : launch_(launch) { busy(true); }
  ~Runner() {
    busy(false);
    for (auto& block : waiting_) put_away(std::move(block));
    if (spare_) keep(std::move(spare_));
  }

  void run() {
    while (!launch_.failed.load(std::memory_order_relaxed)) {
      std::unique_ptr<Worker> block = idle_ < waiting_.size() ? take_waiting() : start();
      if (!block && waiting_.empty()) return;
      if (!block) {
        rest();
        idle_ = 0;
        continue;
      }
      run_block(*block);
      if (block->got_on) busy(true);
      idle_ = block->got_on ? 0 : idle_ + 1;
      if (block->outcome == Outcome::kWaits) {
        waiting_.push_back(std::move(block));
      } else {
        put_away(std::move(block));
      }
    }
  }

 private:
  static constexpr auto kGrace = std::chrono::milliseconds(100);

  std::unique_ptr<Worker> take_waiting() {
    std::unique_ptr<Worker> block = std::move(waiting_.front());
    waiting_.pop_front();
    return block;
  }

  // A block that has not been started, or null.
  std::unique_ptr<Worker> start() {
    const u64 at = launch_.next.load(std::memory_order_relaxed) < launch_.order.size()
                       ? launch_.next.fetch_add(1, std::memory_order_relaxed)
                       : launch_.order.size();
    if (at >= launch_.order.size()) return nullptr;
    const u32 threads = launch_.block.x * launch_.block.y * launch_.block.z;
    std::unique_ptr<Worker> block = spare_ ? std::move(spare_) : take_worker(threads, launch_.shared_bytes);
    block->launch = &launch_;
    block->threads = threads;
    worker = block.get();
    prepare_block(*block, launch_.order[at]);
    block->running_warp = 0;
    block->waiting = nullptr;
    observe::block_begin(*block);
    return block;
  }

  // All blocks here wait for those of other OS threads, or for what nobody will write.
  void rest() {
    busy(false);
    std::this_thread::yield();
    if (launch_.busy.load() != 0) return;
    const auto still = std::chrono::steady_clock::now().time_since_epoch() -
                       std::chrono::steady_clock::duration(launch_.changed.load());
    // nobody is left who could write what is waited for: at once when a block has fallen, else it may count its polls
    const bool fallen = launch_.fallen && still > kGrace;
    if (!fallen && still <= std::chrono::seconds(launch_.poll_seconds)) return;
    for (auto& block : waiting_) {
      const Lane& lane = *block->waiting;
      char text[200];
      std::snprintf(text, sizeof text, "polled memory for more than %u s without end [block (%u, %u, %u), thread (%u, %u, %u)]",
                    launch_.poll_seconds, lane.block->index.x, lane.block->index.y, lane.block->index.z, lane.thread.x,
                    lane.thread.y, lane.thread.z);
      if (!fallen) observe::deadlock(*block, "polled memory for more than " + std::to_string(launch_.poll_seconds) + " s without end");
      launch_.fail(text);
    }
    for (auto& block : waiting_) put_away(std::move(block));
    waiting_.clear();
  }

  void busy(bool now) {
    if (busy_ == now) return;
    busy_ = now;
    launch_.changed = std::chrono::steady_clock::now().time_since_epoch().count();
    launch_.busy += now ? 1 : -1;
  }

  void put_away(std::unique_ptr<Worker> block) {
    if (!spare_) {
      spare_ = std::move(block);
    } else {
      keep(std::move(block));
    }
  }
  static void keep(std::unique_ptr<Worker> block) {
    std::lock_guard<std::mutex> lock(idle_mutex);
    if (idle_workers.size() < kMostIdle) idle_workers.push_back(std::move(block));
  }

  Launch& launch_;
  std::deque<std::unique_ptr<Worker>> waiting_;
  std::unique_ptr<Worker> spare_;  // of the block that ended last
  std::size_t idle_ = 0;           // waiting blocks in a row that did not get on
  bool busy_ = false;
};

}  // namespace

}  // namespace pab_emu
