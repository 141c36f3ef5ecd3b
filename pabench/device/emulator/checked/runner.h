// SPDX-License-Identifier: Apache-2.0
// Which block runs next, checked: the same blocks see one another in the same order in every run with the same seed.
//
// What blocks do for others to see (atomic operations on global memory, polls) they do in turns, in the order in which
// one OS thread would run them: a block has its turn until it ends or waits, those that wait come again when all
// others have had theirs.  Until it needs its turn a block runs beside the others.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <unordered_set>
#include <utility>
#include <vector>

#include "emulator/blocks.h"

namespace pab_emu {

namespace {

// Whose turn it is; shared by the OS threads of a launch.
struct Turns {
  std::mutex mutex;
  std::condition_variable changed;
  u64 position = 0;               // the block whose turn it is
  u64 first = 1;                  // blocks from here on have not had a turn
  std::deque<u64> waiting;        // those that have, and wait
  std::unordered_set<u64> ended;  // without a turn
  std::size_t idle = 0;           // turns in a row in which a waiting block did not get on
  std::chrono::steady_clock::time_point since;  // when one last did
  bool over = false;
  bool in_vain = false;  // ended because all that was left polled

  Turns() : since(std::chrono::steady_clock::now()) {}

  // Goes on to the next block; called with the mutex held.
  void next(const Launch& launch) {
    for (;;) {
      if (idle < waiting.size()) {
        position = waiting.front();
        waiting.pop_front();
        return;
      }
      while (first < launch.order.size() && ended.erase(first)) ++first;
      if (first < launch.order.size()) {
        position = first++;
        idle = 0;
        return;
      }
      if (waiting.empty()) break;
      // all wait for one another: at once when a block has fallen, else one may count its polls
      const auto still = std::chrono::steady_clock::now() - since;
      if (launch.fallen) break;
      in_vain = still > std::chrono::seconds(launch.poll_seconds);
      if (in_vain) break;
      idle = 0;
    }
    over = true;
  }
};

class Runner {
 public:
  explicit Runner(Launch& launch) : launch_(launch), turns_(*launch.turns) {}
  ~Runner() { keep(std::move(spare_)); }

  void run() {
    try {
      take_turns();
    } catch (...) {
      std::lock_guard<std::mutex> lock(turns_.mutex);
      turns_.over = true;
      turns_.changed.notify_all();
      throw;
    }
  }

 private:
  static constexpr std::size_t kMostAhead = 8;  // blocks of an OS thread that are under way without their turn

  void take_turns() {
    std::unique_lock<std::mutex> lock(turns_.mutex);
    while (!turns_.over) {
      std::unique_ptr<Worker> block = mine();
      if (!block && may_start()) {
        lock.unlock();
        block = start_block(launch_, spare_);
        lock.lock();
        if (!block) continue;  // the last one was started meanwhile: look again
      }
      if (!block) {
        turns_.changed.wait(lock);
        continue;
      }
      block->has_turn = turns_.position == block->position;
      lock.unlock();
      run_block(*block);
      lock.lock();
      end_run(std::move(block));
    }
    turns_.changed.notify_all();
    for (auto& block : here_) {
      if (turns_.in_vain) give_up(*block);
      put_away(std::move(block), spare_);
    }
    here_.clear();
  }

  bool may_start() const {
    return launch_.next < launch_.order.size() && (here_.size() < kMostAhead || turns_.position >= launch_.next);
  }

  // The block of this OS thread whose turn it is, if it has got so far.
  std::unique_ptr<Worker> mine() {
    for (auto& block : here_) {
      if (block->position != turns_.position) continue;
      std::unique_ptr<Worker> found = std::move(block);
      block = std::move(here_.back());
      here_.pop_back();
      return found;
    }
    return nullptr;
  }

  // Notes how far a block came; with the mutex held.
  void end_run(std::unique_ptr<Worker> block) {
    // it may have become its turn while it ran ahead
    const bool turn = turns_.position == block->position;
    const bool over = block->outcome == Outcome::kDone || block->outcome == Outcome::kFallen;
    if (over && !turn) turns_.ended.insert(block->position);
    if (turn && block->outcome != Outcome::kGate) {
      if (block->got_on) turns_.since = std::chrono::steady_clock::now();
      turns_.idle = block->got_on ? 0 : turns_.idle + 1;
      if (!over) turns_.waiting.push_back(block->position);
      turns_.next(launch_);
      turns_.changed.notify_all();
    }
    if (over) {
      put_away(std::move(block), spare_);
    } else {
      here_.push_back(std::move(block));
    }
  }

  void give_up(Worker& block) {
    observe::deadlock(block, "polled memory for more than " + std::to_string(launch_.poll_seconds) + " s without end");
    launch_.fail(describe_polling(block));
  }

  Launch& launch_;
  Turns& turns_;
  std::vector<std::unique_ptr<Worker>> here_;  // blocks under way on this OS thread
  std::unique_ptr<Worker> spare_;
};

}  // namespace

}  // namespace pab_emu
