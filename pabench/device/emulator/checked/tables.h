// SPDX-License-Identifier: Apache-2.0
// The records behind the cells of racecheck: who accessed (events), and sets of those who did so side by side.
//
// A cell is 32 bits.  A writer is `event << 5 | lane`.  Readers are the same for one lane, or a set with the top bit
// set.  An event is one instruction of one warp between two synchronisations, so that its 32 lanes share it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "emulator/lane.h"

namespace pab_emu {

namespace {

struct Event {
  const void* pc;
  u64 block;
  u32 stamp;           // tick at which the lanes' stretch between two synchronisations began
  std::uint16_t warp;
  unsigned char kind;  // Access
  unsigned char mask;  // bytes of each 4 that are touched
};

constexpr u32 kEventBits = 26;
constexpr u32 kSet = 1u << 31;
constexpr u32 cell_of(u32 event, u32 lane) { return event << 5 | lane; }

// Records that are appended by any OS thread and never move.
template <typename T>
class Chunks {
 public:
  static constexpr u32 kChunk = 1u << 14, kChunks = 1u << 12;

  T& operator[](u32 i) { return chunks_[i / kChunk].load(std::memory_order_acquire)[i % kChunk]; }
  // The number of a fresh record; 0 when there is no room left.
  u32 add() {
    const u32 i = count_.fetch_add(1, std::memory_order_relaxed);
    if (i >= kChunk * kChunks) return 0;
    std::atomic<T*>& chunk = chunks_[i / kChunk];
    if (!chunk.load(std::memory_order_acquire)) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!chunk.load(std::memory_order_relaxed)) {
        owned_.push_back(std::make_unique<T[]>(kChunk));
        chunk.store(owned_.back().get(), std::memory_order_release);
      }
    }
    return i;
  }
  u32 count() const { return count_.load(std::memory_order_relaxed); }
  void clear() { count_ = 1; }

 private:
  std::atomic<u32> count_{1};  // 0 stands for none
  std::atomic<T*> chunks_[kChunks] = {};
  std::vector<std::unique_ptr<T[]>> owned_;
  std::mutex mutex_;
};

// One member of a set, and the set of the others.
struct Set {
  u32 others;  // cell: 0 or a set
  u32 event, lanes;
  std::atomic<u64> step{0};  // the set that one more reader made of this: cell of the reader << 32 | set
};

// Sets by value: the same members in the same order have the same number.
class Sets {
 public:
  bool concurrent = true;  // used by more than one OS thread

  Set& operator[](u32 cell) { return sets_[cell & ~kSet]; }

  u32 intern(u32 others, u32 event, u32 lanes) {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    if (concurrent) lock.lock();
    if (2 * (used_ + 1) > slots_.size()) grow();
    u32& slot = find(others, event, lanes);
    if (!slot) {
      const u32 made = sets_.add();
      if (!made) return others;
      Set& set = sets_[made];
      set.others = others, set.event = event, set.lanes = lanes;
      set.step.store(0, std::memory_order_relaxed);
      slot = made;
      ++used_;
    }
    return kSet | slot;
  }
  void clear() {
    if (!used_) return;
    used_ = 0;
    slots_.assign(slots_.size(), 0);
    sets_.clear();
  }

 private:
  u32& find(u32 others, u32 event, u32 lanes) {
    const u64 mask = slots_.size() - 1;
    u64 at = ((others * 0x9E3779B97F4A7C15ull) ^ (event * 0xD1B54A32D192ED03ull) ^ (lanes * 0x94D049BB133111EBull));
    for (at = (at ^ at >> 29) & mask;; at = (at + 1) & mask) {
      const u32 i = slots_[at];
      if (!i) return slots_[at];
      const Set& set = sets_[i];
      if (set.others == others && set.event == event && set.lanes == lanes) return slots_[at];
    }
  }
  void grow() {
    std::vector<u32> old(slots_.empty() ? 256 : 2 * slots_.size());
    old.swap(slots_);
    for (const u32 i : old) {
      if (i) find(sets_[i].others, sets_[i].event, sets_[i].lanes) = i;
    }
  }

  Chunks<Set> sets_;
  std::vector<u32> slots_;
  u64 used_ = 0;
  std::mutex mutex_;
};

}  // namespace

}  // namespace pab_emu
