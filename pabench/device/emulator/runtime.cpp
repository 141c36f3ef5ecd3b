// SPDX-License-Identifier: Apache-2.0
// The emulated device's runtime: runs the blocks of a launch on OS threads, their CUDA threads as fibers.
//
// Seeded choices: order of blocks, visiting order of warps and of the lanes of each warp, and now and then a
// change of warp at a collective.
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>
#include <numeric>
#include <system_error>
#include <thread>

#ifdef PAB_EMU_CHECKED
#include "emulator/checked/callbacks.h"
#endif
#include "emulator/deadlock.h"
#include "emulator/numbers.h"
#include "emulator/observe.h"
#include "emulator/schedule.h"
#include "emulator/switch.h"
#include "emulator/warpgroup_compute.h"
#ifdef PAB_EMU_CHECKED
#include "emulator/checked/runner.h"
#else
#include "emulator/runner.h"
#endif

namespace pab_emu {

thread_local Lane* current __attribute__((tls_model("initial-exec"))) = nullptr;

u64 collective(u32 mask, Op op, u64 value, u32 source) {
  Lane* me = current;
  Warp& warp = *me->warp;
  me->pc = __builtin_return_address(0);
  observe::count_collective(*me, op);
  me->op = op;
  me->mask = mask;
  me->value = value;
  me->source = source;
  const u32 bit = 1u << me->index;
  if (!(mask & bit)) fault("warp collective: lane %u is not in its own mask 0x%08x", me->index, mask);
  warp.arrived |= bit;
  observe::collective_arrive(*me);
  if (try_complete(warp, mask, op)) {
    // now and then another warp goes first, so that what only works in step is seen
    if (worker->warps.size() > 1 && (worker->random() & 7) == 0) yield();
  } else {
    warp.runnable &= ~bit;
    suspend(me);
  }
  return me->result;
}

namespace {

void come_to_barrier(u32 id, u32 expected, bool wait) {
  Worker& w = *worker;
  Lane* me = current;
  if (expected % kWarpSize) fault("barrier %u: %u threads is not a multiple of the warp size", id, expected);
  observe::count_barrier(*me);
  if (w.barrier_arrived[id] && w.barrier_expected[id] != expected) {
    fault("barrier %u: threads expect %u and %u arrivals", id, w.barrier_expected[id], expected);
  }
  w.barrier_expected[id] = expected;
  observe::barrier_arrive(*me, id, expected, wait);
  const u32 bit = 1u << me->index;
  if (wait) {
    me->warp->waiting[id] |= bit;
    me->warp->runnable &= ~bit;
  }
  if (++w.barrier_arrived[id] == (expected ? expected : w.live)) release_barrier(id);
  if (wait && !(me->warp->runnable & bit)) suspend(me);
}

}  // namespace

void barrier(u32 id, u32 expected, bool wait) {
  current->pc = __builtin_return_address(0);
  if (id >= kNamedBarriers) fault("barrier %u: there are %u barriers", id, kNamedBarriers);
  come_to_barrier(id, expected, wait);
}
void cluster_barrier() {
  current->pc = __builtin_return_address(0);
  come_to_barrier(kClusterBarrier, kAllThreads, true);
}

void barrier_note(u32 id, bool truth) {
  if (id >= kNamedBarriers) fault("barrier %u: there are %u barriers", id, kNamedBarriers);
  worker->barrier_notes[id] += truth;
}
u32 barrier_noted(u32 id) { return worker->barrier_noted[id]; }

void yield() {
  Lane* me = current;
  Worker& w = *worker;
  const u32 count = static_cast<u32>(w.warp_order.size());
  for (u32 step = 1; step <= count; ++step) {
    const u32 at = (w.running_warp + step) % count;
    Warp& other = w.warps[w.warp_order[at]];
    u32 can = other.runnable;
    if (&other == me->warp) can &= ~(1u << me->index);
    if (can) {
      w.running_warp = at;
      resume(&me->context, other.lanes[some_lane(can)]);
      return;
    }
  }
}

void in_step(u32 number) {
  Lane* me = current;
  Warp& warp = *me->warp;
  warp.steps[me->index] = number;
  // the lane that is furthest behind, of several the first: all 32 are compared at once
  u32 behind = ~0u;
  for (u32 i = 0; i < kWarpSize; ++i) {
    const u32 waits = warp.runnable >> i & 1 ? 0 : ~0u;
    behind = std::min(behind, (warp.steps[i] << kLaneBits | i) | waits);
  }
  if (behind >> kLaneBits < number) resume(&me->context, warp.lanes[behind % kWarpSize]);
}

void chance() {
  if (worker->random() % 4 == 0) yield();
}

void poll(u64 found) {
  Worker& w = *worker;
  Lane* me = current;
  const void* pc = __builtin_return_address(0);
  // what is waited for may never come: another block has failed
  if (w.launch->failed.load(std::memory_order_relaxed)) abandon_block();
  const bool again = me->polled_at == pc && me->polled == found;
  me->pc = me->polled_at = pc;
  me->polled = found;
  observe::poll(*me);
  if (!again) {
    got_on(w);
  } else if (++w.idle_polls > 2 * runnable_lanes(w)) {
    wait_block(me);
    return;
  }
  yield();
}

namespace {

void queue_copy(void* target, const void* source, u32 bytes, u32 given, const void* pc) {
  Lane* me = current;
  me->pc = pc;
  PendingCopy copy{};
  copy.target = target;
  copy.source = given ? source : nullptr;
  copy.group = me->copy_group;
  copy.bytes = static_cast<unsigned short>(bytes);
  copy.given = static_cast<unsigned short>(given);
#ifdef PAB_EMU_CHECKED
  copy.pc = pc;
#endif
  observe::copy_issue(*me, copy);
  const std::uintptr_t to = reinterpret_cast<std::uintptr_t>(target), from = reinterpret_cast<std::uintptr_t>(copy.source);
  if ((to | from) % bytes) fault("cp.async: address not aligned to %u bytes", bytes);
  if (me->copy_count == kCopyQueue) fault("cp.async: more than %u copies of one thread in flight", kCopyQueue);
  poison(static_cast<unsigned char*>(target), bytes);  // whoever reads before the wait reads NaN
  me->copies[me->copy_count++] = copy;
}

}  // namespace

void copy_async(void* target, const void* source, bool valid) {
  queue_copy(target, source, 16, valid ? 16 : 0, __builtin_return_address(0));
}
void copy_async_part(void* target, const void* source, u32 bytes, u32 given) {
  if (given > bytes) fault("cp.async: %u bytes given of %u to copy", given, bytes);
  queue_copy(target, source, bytes, given, __builtin_return_address(0));
}

void copy_commit() {
  current->pc = __builtin_return_address(0);
  observe::count_commit(*current);
  ++current->copy_group;
}

namespace {

void land_copy(const PendingCopy& copy) {
  observe::copy_land(*current, copy);
  if (copy.given == 16) {
    std::memcpy(copy.target, copy.source, 16);
    return;
  }
  std::memset(copy.target, 0, copy.bytes);
  if (copy.source) std::memcpy(copy.target, copy.source, copy.given);
}

}  // namespace

void copy_wait(u32 newest_groups_left) {
  Lane* me = current;
  u32 kept = 0;
  for (u32 i = 0; i < me->copy_count; ++i) {
    const PendingCopy copy = me->copies[i];
    if (copy.group + newest_groups_left >= me->copy_group) me->copies[kept++] = copy;
    else land_copy(copy);
  }
  me->copy_count = kept;
}

void copy_land_all() {
  Lane* me = current;
  for (u32 i = 0; i < me->copy_count; ++i) land_copy(me->copies[i]);
  me->copy_count = 0;
}

void bulk_issue(const BulkCopy& copy) {
  Worker& w = *worker;
  w.bulk.push_back(copy);
  w.bulk.back().lane = current;
  w.bulk.back().group = current->bulk_group;
  if (copy.barrier) poison(copy.shared, copy.bytes);  // whoever reads before the wait reads NaN
}
void bulk_commit() { ++current->bulk_group; }

namespace {

template <typename Fits>
bool take_bulk(u64 first, BulkCopy& copy, Fits fits) {
  std::vector<BulkCopy>& all = worker->bulk;
  for (u64 i = 0; i < all.size(); ++i) {
    const u64 at = (first + i) % all.size();
    if (!fits(all[at])) continue;
    copy = all[at];
    all.erase(all.begin() + static_cast<std::ptrdiff_t>(at));
    return true;
  }
  return false;
}

}  // namespace

bool bulk_landing(u64 barrier, BulkCopy& copy) {
  return !worker->bulk.empty() && take_bulk(worker->random() % worker->bulk.size(), copy, [barrier](const BulkCopy& one) {
    return one.barrier == barrier;
  });
}
bool bulk_leaving(u32 newest_groups_left, BulkCopy& copy) {
  return take_bulk(0, copy, [newest_groups_left](const BulkCopy& one) {
    return !one.barrier && one.lane == current && one.group + newest_groups_left < current->bulk_group;
  });
}

void fault(const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  Lane* me = current;
  char where[160];
  std::snprintf(where, sizeof where, " [block (%u, %u, %u), thread (%u, %u, %u)]", me->block->index.x,
                me->block->index.y, me->block->index.z, me->thread.x, me->thread.y, me->thread.z);
  observe::fault(*me, text);
  worker->launch->fail(std::string(text) + where);
  abandon_block();
}

float approximate(double exact, double off_by, float operand) {
  if (!std::isfinite(exact)) return pab::canonical(static_cast<float>(exact));
  u32 bits;
  std::memcpy(&bits, &operand, sizeof bits);
  const u64 hash = (bits + 1ull) * 0x9E3779B97F4A7C15ull;
  return static_cast<float>(exact + off_by * (static_cast<std::int32_t>(hash >> 32) * 0x1p-31));
}

}  // namespace pab_emu

namespace {

// Runs a launch on up to `workers` OS threads.  No exception leaves: the caller is Python.
void run(pab_emu::Launch& launch, unsigned workers) {
  using namespace pab_emu;
  const auto guarded = [&launch] {
    try {
      Runner(launch).run();
    } catch (const std::exception& error) {
      launch.fail(std::string("the emulated device lacks memory: ") + error.what());
    }
  };
  std::vector<std::thread> threads;
  try {
    launch.order.resize(static_cast<u64>(launch.grid.x) * launch.grid.y * launch.grid.z);
    std::iota(launch.order.begin(), launch.order.end(), u64{0});
    Random{launch.seed}.shuffle(launch.order.data(), launch.order.size());
    const u64 useful = std::min<u64>(workers ? workers : 1, launch.order.size());
    threads.reserve(useful);
    for (u64 i = 1; i < useful; ++i) threads.emplace_back(guarded);
  } catch (const std::system_error&) {
    // fewer threads than wished: the rest do the work
  } catch (const std::exception& error) {
    launch.fail(std::string("the emulated device lacks memory: ") + error.what());
  }
  guarded();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

// What the launcher fills in.
struct PabEmuLaunch {
  void (*invoke)(void**);
  void** args;
  unsigned grid[3], block[3];
  unsigned shared_bytes, workers, poll_seconds, message_bytes;
  unsigned long long seed;
  char* message;
};

namespace {

void prepare(pab_emu::Launch& launch, const PabEmuLaunch& asked) {
  launch.invoke = asked.invoke;
  launch.args = asked.args;
  launch.grid = {asked.grid[0], asked.grid[1], asked.grid[2]};
  launch.block = {asked.block[0], asked.block[1], asked.block[2]};
  launch.shared_bytes = asked.shared_bytes;
  launch.seed = asked.seed;
  launch.poll_seconds = asked.poll_seconds;
}

int end(const pab_emu::Launch& launch, const PabEmuLaunch& asked) {
  if (launch.message.empty()) return 0;
  std::snprintf(asked.message, asked.message_bytes, "%s", launch.message.c_str());
  return 1;
}

}  // namespace

#ifndef PAB_EMU_CHECKED

// Runs one launch.  Returns 0, or 1 with the reason in `message`.
extern "C" int pab_emu_launch(const PabEmuLaunch* asked) {
  pab_emu::Launch launch;
  prepare(launch, *asked);
  run(launch, asked->workers);
  return end(launch, *asked);
}

#else

// The same, checked; *report gets a JSON object, to be given to pab_emu_free.
extern "C" int pab_emu_launch_checked(const PabEmuLaunch* asked, const pab_emu::Request* request, char** report) {
  pab_emu::Checked checked(*request, pab_emu::u64{asked->grid[0]} * asked->grid[1] * asked->grid[2]);
  pab_emu::Launch launch;
  launch.checked = &checked;
  pab_emu::Turns turns;
  launch.turns = &turns;
  prepare(launch, *asked);
  run(launch, asked->workers);
  *report = strdup(pab_emu::report_json(checked).c_str());
  return end(launch, *asked);
}
extern "C" void pab_emu_free(char* report) { std::free(report); }

#endif
