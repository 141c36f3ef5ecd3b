// SPDX-License-Identifier: Apache-2.0
// One launch and the OS threads that run it: stacks, lanes and shared memory of the emulated device.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "emulator/lane.h"
#include "emulator/warpgroup.h"

#ifdef PAB_EMU_UCONTEXT
#include <ucontext.h>
#endif

namespace pab_emu {

#ifdef PAB_EMU_UCONTEXT
struct UContext {
  ucontext_t context;
};
#endif

// Internal to the one file that includes this: two runtimes in one process must not share a variable.
namespace {

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr std::size_t kGuardBytes = 4096;
// Lanes use the same offsets of their stacks at the same time; staggered tops keep them out of one cache set.
constexpr std::size_t kStaggerBytes = 320, kStaggerSpan = 4096;

struct Random {  // splitmix64
  u64 state;
  u64 operator()() {
    u64 z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  template <typename T>
  void shuffle(T* items, std::size_t count) {
    for (std::size_t i = count; i > 1; --i) std::swap(items[i - 1], items[(*this)() % i]);
  }
};

#ifdef PAB_EMU_CHECKED
struct Checked;
struct BlockTrace;
struct Counters;
struct Turns;
#endif

struct Launch {
#ifdef PAB_EMU_CHECKED
  Checked* checked = nullptr;  // checkers, counters and what they found
  Turns* turns = nullptr;      // the order in which blocks do what others see
#endif
  void (*invoke)(void**);
  void** args;
  Dim3 grid, block;
  u32 shared_bytes;
  u64 seed;
  u32 poll_seconds;
  std::vector<u64> order;  // block numbers in the order they are started
  std::atomic<u64> next{0};
  // Not checked: OS threads that have a block which gets on, and when their number changed last.  Once it is 0 for
  // long, what is polled for never comes.
  std::atomic<u32> busy{0};
  std::atomic<std::chrono::steady_clock::rep> changed{0};
  std::atomic<bool> failed{false};  // every block ends as soon as it can
  std::atomic<bool> fallen{false};  // a block has ended early
  std::mutex mutex;
  std::string message;

  // Ends the launch; the first reason given is the one that is told.  Checked, the other blocks run on, so that what
  // is found does not depend on who came first.
  void fail(const std::string& reason) {
    std::lock_guard<std::mutex> lock(mutex);
    if (message.empty()) message = reason;
    fallen = true;
#ifndef PAB_EMU_CHECKED
    failed = true;
#endif
  }
};

constexpr u32 kMostGuarded = 16;  // workers whose stacks end in a page that faults
std::atomic<u32> workers_alive{0};

// How a block gave the processor back: it ended, polls in vain, was ended, or (checked only) wants its turn.
enum class Outcome : u32 { kDone, kWaits, kFallen, kGate };

// A running block's stacks, lanes and shared memory; kept between launches.
struct Worker {
  explicit Worker(u32 threads, u32 shared_bytes) : capacity(threads), lanes(threads) {
    const std::size_t bytes = threads * (kStackBytes + kGuardBytes);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks = static_cast<unsigned char*>(memory);
    // the kernel bounds the number of mappings: the first blocks show a stack that is too small
    const bool guarded = workers_alive.fetch_add(1) < kMostGuarded;
    for (u32 i = 0; i < threads && guarded; ++i) {
      mprotect(stacks + i * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE);
    }
    warps.resize((threads + kWarpSize - 1) / kWarpSize);
    shared.reset(new (std::align_val_t{1024}) unsigned char[shared_bytes + 1]);
    shared_capacity = shared_bytes;
    copies.reset(static_cast<PendingCopy*>(std::calloc(std::size_t{threads} * kCopyQueue, sizeof(PendingCopy))));
    if (!copies) throw std::bad_alloc();
  }
  ~Worker() {
    --workers_alive;
    munmap(stacks, capacity * (kStackBytes + kGuardBytes));
  }

  struct AlignedDelete {
    void operator()(unsigned char* p) const { ::operator delete[](p, std::align_val_t{1024}); }
  };
  struct Free {
    void operator()(PendingCopy* p) const { std::free(p); }
  };
  u32 capacity, shared_capacity;
  unsigned char* stacks = nullptr;
  std::unique_ptr<unsigned char[], AlignedDelete> shared;
  std::vector<Lane> lanes;
  std::unique_ptr<PendingCopy[], Free> copies;  // of all lanes; memory only where a lane copies
#ifdef PAB_EMU_UCONTEXT
  std::vector<UContext> contexts;
  UContext home;
#endif
  std::vector<BulkCopy> bulk;  // issued and not performed
  std::vector<WarpProducts> products;  // of wgmma, one a warp
  std::vector<unsigned char> product_rows;  // for one of them: rows of both matrices
  std::vector<Warp> warps;
  std::vector<u32> warp_order;
  u32 barrier_arrived[kBarriers] = {};
  u32 barrier_expected[kBarriers] = {};
  u32 barrier_notes[kBarriers] = {}, barrier_noted[kBarriers] = {};  // of the meeting under way, of the last one
  u32 live = 0, threads = 0, running_warp = 0;
  u32 idle_polls = 0;          // polls in a row that found nothing new
  bool got_on = false;         // anything but such polls since the block was last resumed
  Outcome outcome = Outcome::kDone;
  Lane* waiting = nullptr;     // of a block that waits: the lane to go on with
  u64 position = 0;            // in the launch's order
#ifdef PAB_EMU_CHECKED
  bool has_turn = false;       // whether it may do what other blocks see
#endif
  Block block;
  Launch* launch = nullptr;
  Context scheduler = nullptr;
  Random random{0};
#ifdef PAB_EMU_CHECKED
  std::shared_ptr<BlockTrace> trace;  // what the checkers keep of the block
  std::unique_ptr<u64[]> log;         // what lanes did since they met, kLogStride words a lane
  Counters* counters = nullptr;       // of this block in the launch `counted`
  u64 counted = 0;
#endif
};

// The block that runs on this OS thread.  A block stays with its thread: compilers keep addresses of thread_local
// variables across calls.
thread_local Worker* worker = nullptr;

constexpr std::size_t kMostIdle = 32;  // kept for the next launch

std::mutex idle_mutex;
std::vector<std::unique_ptr<Worker>> idle_workers;

// Returns a worker with room enough, an idle one where there is one.
std::unique_ptr<Worker> take_worker(u32 threads, u32 shared_bytes) {
  {
    std::lock_guard<std::mutex> lock(idle_mutex);
    for (auto& idle : idle_workers) {
      if (idle->capacity >= threads && idle->shared_capacity >= shared_bytes) {
        std::unique_ptr<Worker> found = std::move(idle);
        idle = std::move(idle_workers.back());
        idle_workers.pop_back();
        return found;
      }
    }
  }
  return std::make_unique<Worker>(std::max(threads, 128u), std::max(shared_bytes, 49152u));
}

}  // namespace

}  // namespace pab_emu
