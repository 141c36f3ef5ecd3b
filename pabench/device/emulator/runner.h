// SPDX-License-Identifier: Apache-2.0
// Which block runs next on an OS thread, and what becomes of blocks that wait for one another.
//
// A block whose lanes all poll in vain gives its OS thread to another: first to one that waits as well, and only when
// none of those gets on to one that has not been started, so that no more are under way than must be.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <thread>
#include <utility>

#include "emulator/blocks.h"

namespace pab_emu {

namespace {

// The blocks of a launch that are under way on one OS thread.
class Runner {
 public:
  explicit Runner(Launch& launch) : launch_(launch) { busy(true); }
  ~Runner() {
    busy(false);
    for (auto& block : waiting_) put_away(std::move(block), spare_);
    keep(std::move(spare_));
  }

  void run() {
    while (!launch_.failed.load(std::memory_order_relaxed)) {
      std::unique_ptr<Worker> block = idle_ < waiting_.size() ? take_waiting() : start_block(launch_, spare_);
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
        put_away(std::move(block), spare_);
      }
    }
  }

 private:
  std::unique_ptr<Worker> take_waiting() {
    std::unique_ptr<Worker> block = std::move(waiting_.front());
    waiting_.pop_front();
    return block;
  }

  // All blocks here wait for those of other OS threads, or for what nobody will write.
  void rest() {
    busy(false);
    std::this_thread::yield();
    if (launch_.busy.load() != 0) return;
    const auto still = std::chrono::steady_clock::now().time_since_epoch() -
                       std::chrono::steady_clock::duration(launch_.changed.load());
    // nobody is left who could write what is waited for, unless a block counts its polls
    if (still <= std::chrono::seconds(launch_.poll_seconds)) return;
    for (auto& block : waiting_) launch_.fail(describe_polling(*block));
    for (auto& block : waiting_) put_away(std::move(block), spare_);
    waiting_.clear();
  }

  void busy(bool now) {
    if (busy_ == now) return;
    busy_ = now;
    launch_.changed = std::chrono::steady_clock::now().time_since_epoch().count();
    launch_.busy += now ? 1 : -1;
  }

  Launch& launch_;
  std::deque<std::unique_ptr<Worker>> waiting_;
  std::unique_ptr<Worker> spare_;  // of the block that ended last
  std::size_t idle_ = 0;           // waiting blocks in a row that did not get on
  bool busy_ = false;
};

}  // namespace

}  // namespace pab_emu
