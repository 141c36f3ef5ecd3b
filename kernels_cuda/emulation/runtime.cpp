// The emulated device's scheduler: runs the blocks of a launch on OS threads, their CUDA threads as fibers.
//
// Seeded choices: order of blocks, visiting order of warps and of the lanes of each warp, and now and then a
// change of warp at a collective.  Shared memory is poisoned before every block.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "emulation/lane.h"

#ifdef PAB_EMU_UCONTEXT
#include <ucontext.h>
#endif

namespace pab_emu {

#ifdef PAB_EMU_UCONTEXT
struct UContext {
  ucontext_t context;
};
#endif

thread_local Lane* current __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr std::size_t kGuardBytes = 4096;
// Lanes use the same offsets of their stacks at the same time; staggered tops keep them out of one cache set.
constexpr std::size_t kStaggerBytes = 320, kStaggerSpan = 4096;
constexpr u32 kPollsPerLook = 4096;  // polls between two looks at the clock

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

struct Launch {
  void (*invoke)(void**);
  void** args;
  Dim3 grid, block;
  u32 shared_bytes;
  u64 seed;
  std::chrono::steady_clock::time_point poll_deadline;
  u32 poll_seconds;
  std::vector<u64> order;  // block numbers in the order they are started
  std::atomic<u64> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::string message;

  // Ends the launch; the first reason given is the one that is told.
  void fail(const std::string& reason) {
    std::lock_guard<std::mutex> lock(mutex);
    if (message.empty()) message = reason;
    failed = true;
  }
};

// One OS thread's stacks, lanes and shared memory; kept between launches.
struct Worker {
  explicit Worker(u32 threads, u32 shared_bytes) : capacity(threads), lanes(threads), copies(threads * kCopyQueue) {
    const std::size_t bytes = threads * (kStackBytes + kGuardBytes);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks = static_cast<unsigned char*>(memory);
    for (u32 i = 0; i < threads; ++i) mprotect(stacks + i * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE);
    warps.resize((threads + kWarpSize - 1) / kWarpSize);
    shared.reset(new (std::align_val_t{1024}) unsigned char[shared_bytes + 1]);
    shared_capacity = shared_bytes;
  }
  ~Worker() { munmap(stacks, capacity * (kStackBytes + kGuardBytes)); }

  struct AlignedDelete {
    void operator()(unsigned char* p) const { ::operator delete[](p, std::align_val_t{1024}); }
  };
  u32 capacity, shared_capacity;
  unsigned char* stacks = nullptr;
  std::unique_ptr<unsigned char[], AlignedDelete> shared;
  std::vector<Lane> lanes;
  std::vector<PendingCopy> copies;
#ifdef PAB_EMU_UCONTEXT
  std::vector<UContext> contexts;
  UContext home;
#endif
  std::vector<Warp> warps;
  std::vector<u32> warp_order;
  u32 barrier_arrived[kBarriers] = {};
  u32 barrier_expected[kBarriers] = {};
  u32 live = 0, threads = 0, running_warp = 0, polls = 0;
  Block block;
  Launch* launch = nullptr;
  Context scheduler = nullptr;
  Random random{0};
};

thread_local Worker* worker = nullptr;

std::mutex idle_mutex;
std::vector<std::unique_ptr<Worker>> idle_workers;

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

constexpr u32 kWarpsTold = 4;  // warps that a deadlock's message describes
constexpr const char* kOpNames[] = {"warp_sync", "a shuffle", "ballot", "any", "all", "match_any", "reduce_add"};

void lane_main();

// Makes the context of thread `t` such that switching to it enters lane_main.
Context new_context(Worker& w, u32 t) {
  unsigned char* top = w.stacks + (t + 1) * (kStackBytes + kGuardBytes) - t * kStaggerBytes % kStaggerSpan;
#if defined(PAB_EMU_UCONTEXT)
  w.contexts.resize(w.capacity);
  ucontext_t& made = w.contexts[t].context;
  getcontext(&made);
  made.uc_stack.ss_sp = top - kStackBytes / 2;
  made.uc_stack.ss_size = kStackBytes / 2;
  made.uc_link = nullptr;
  makecontext(&made, reinterpret_cast<void (*)()>(&lane_main), 0);
  return &w.contexts[t];
#else
  auto* frame = reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(top) & ~std::uintptr_t{15});
#if defined(__x86_64__)
  *--frame = nullptr;  // keeps the stack 16-byte aligned as after a call
  *--frame = reinterpret_cast<void*>(&lane_main);
  for (int i = 0; i < 6; ++i) *--frame = nullptr;
#else
  frame -= 20;  // x19-x30, d8-d15
  std::memset(frame, 0, 20 * sizeof(void*));
  frame[11] = reinterpret_cast<void*>(&lane_main);
#endif
  return frame;
#endif
}

inline void resume(Context* from, Lane* to) {
  current = to;
  pab_emu_switch(from, to->context);
}

// A lane of `lanes` (not empty), by chance: always the lowest would hide what it does first from the others.
u32 some_lane(u32 lanes) {
  const u32 turn = static_cast<u32>(worker->random() % kWarpSize);
  const u32 first = static_cast<u32>(std::countr_zero(std::rotr(lanes, static_cast<int>(turn))));
  return (first + turn) % kWarpSize;
}

// The lane to run when `me` cannot: the next of its warp, else of the next warp; null when none can run.
Lane* pick(Lane* me) {
  Warp& warp = *me->warp;
  if (warp.runnable) {
    u32 lane = warp.next[me->index];
    while (!((warp.runnable >> lane) & 1u)) lane = warp.next[lane];
    return warp.lanes[lane];
  }
  Worker& w = *worker;
  const u32 count = static_cast<u32>(w.warp_order.size());
  for (u32 step = 1; step <= count; ++step) {
    const u32 at = (w.running_warp + step) % count;
    Warp& other = w.warps[w.warp_order[at]];
    if (other.runnable) {
      w.running_warp = at;
      return other.lanes[some_lane(other.runnable)];
    }
  }
  return nullptr;
}

// Gives the processor away; returns when this lane is picked again.
void suspend(Lane* me) {
  Lane* next = pick(me);
  if (next == me) return;
  if (next) {
    resume(&me->context, next);
  } else {
    pab_emu_switch(&me->context, worker->scheduler);
  }
}

// Ends a collective once all of `mask` that have not returned are there, and computes its results for all of
// them.  CUDA waits for the non-exited lanes of a mask only.
bool try_complete(Warp& warp, const u32 named, Op op) {
  const u32 mask = named & ~warp.finished;
  if ((warp.arrived & mask) != mask) return false;
  u64 all = 0, sum = 0;
  for (u32 rest = mask; rest; rest &= rest - 1) {
    const u32 i = static_cast<u32>(__builtin_ctz(rest));
    Lane& lane = *warp.lanes[i];
    if (lane.mask != named || lane.op != op) {
      fault("warp collective: lane %u came to %s with mask 0x%08x, another lane to %s with 0x%08x", i,
            kOpNames[static_cast<u32>(lane.op)], lane.mask, kOpNames[static_cast<u32>(op)], named);
    }
    all |= static_cast<u64>(lane.value != 0) << i;
    sum += lane.value;
  }
  warp.arrived &= ~mask;
  warp.runnable |= mask;
  if (op == Op::kSync) return true;
  for (u32 rest = mask; rest; rest &= rest - 1) {
    Lane& lane = *warp.lanes[__builtin_ctz(rest)];
    switch (op) {
      case Op::kShuffle:
        // reading a lane that takes no part is undefined on hardware: give what nobody can use
        lane.result = (mask >> lane.source) & 1u ? warp.lanes[lane.source]->value : ~u64{0};
        break;
      case Op::kBallot: lane.result = all; break;
      case Op::kAny: lane.result = all != 0; break;
      case Op::kAll: lane.result = all == mask; break;
      case Op::kReduceAdd: lane.result = sum; break;
      case Op::kMatchAny: {
        u64 equal = 0;
        for (u32 other = mask; other; other &= other - 1) {
          const u32 i = static_cast<u32>(__builtin_ctz(other));
          equal |= static_cast<u64>(warp.lanes[i]->value == lane.value) << i;
        }
        lane.result = equal;
        break;
      }
      case Op::kSync: break;
    }
  }
  return true;
}

// Ends the collectives that waited only for a lane that has now returned.
void release_collectives(Warp& warp) {
  for (u32 rest = warp.arrived; rest; rest &= rest - 1) {
    const Lane& lane = *warp.lanes[__builtin_ctz(rest)];
    if ((warp.arrived >> lane.index) & 1u) try_complete(warp, lane.mask, lane.op);
  }
}

// Leaves the block for good; its fibers are never resumed.
[[noreturn]] void abandon_block() {
  pab_emu_switch(&current->context, worker->scheduler);
  __builtin_unreachable();
}

void release_barrier(u32 id) {
  Worker& w = *worker;
  w.barrier_arrived[id] = 0;
  for (Warp& warp : w.warps) {
    warp.runnable |= warp.waiting[id];
    warp.waiting[id] = 0;
  }
}

void lane_main() {
  Worker& w = *worker;
  w.launch->invoke(w.launch->args);
  Lane* me = current;
  const u32 bit = 1u << me->index;
  me->warp->runnable &= ~bit;
  me->warp->finished |= bit;
  --w.live;
  if (me->warp->arrived) release_collectives(*me->warp);
  if (w.barrier_arrived[0] && w.barrier_expected[0] == 0 && w.barrier_arrived[0] == w.live) release_barrier(0);
  suspend(me);
  __builtin_unreachable();
}

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

void work(Launch& launch) {
  const u32 threads = launch.block.x * launch.block.y * launch.block.z;
  std::unique_ptr<Worker> mine = take_worker(threads, launch.shared_bytes);
  worker = mine.get();
  worker->launch = &launch;
  worker->threads = threads;
#ifdef PAB_EMU_UCONTEXT
  worker->scheduler = &worker->home;
#endif
  while (!launch.failed.load(std::memory_order_relaxed)) {
    const u64 at = launch.next.fetch_add(1, std::memory_order_relaxed);
    if (at >= launch.order.size()) break;
    prepare_block(*worker, launch.order[at]);
    worker->running_warp = 0;
    Warp& first = worker->warps[worker->warp_order[0]];
    resume(&worker->scheduler, first.lanes[worker->random() % first.count]);
    if (worker->live && !launch.failed) launch.fail(describe_deadlock());
  }
  current = nullptr;
  worker = nullptr;
  std::lock_guard<std::mutex> lock(idle_mutex);
  idle_workers.push_back(std::move(mine));
}

}  // namespace

u64 collective(u32 mask, Op op, u64 value, u32 source) {
  Lane* me = current;
  Warp& warp = *me->warp;
  me->op = op;
  me->mask = mask;
  me->value = value;
  me->source = source;
  const u32 bit = 1u << me->index;
  if (!(mask & bit)) fault("warp collective: lane %u is not in its own mask 0x%08x", me->index, mask);
  warp.arrived |= bit;
  if (try_complete(warp, mask, op)) {
    // now and then another warp goes first, so that what only works in step is seen
    if (worker->warps.size() > 1 && (worker->random() & 7) == 0) yield();
  } else {
    warp.runnable &= ~bit;
    suspend(me);
  }
  return me->result;
}

void barrier(u32 id, u32 expected, bool wait) {
  Worker& w = *worker;
  Lane* me = current;
  if (id >= kBarriers) fault("barrier %u: there are %u barriers", id, kBarriers);
  if (expected % kWarpSize) fault("barrier %u: %u threads is not a multiple of the warp size", id, expected);
  if (w.barrier_arrived[id] && w.barrier_expected[id] != expected) {
    fault("barrier %u: threads expect %u and %u arrivals", id, w.barrier_expected[id], expected);
  }
  w.barrier_expected[id] = expected;
  const u32 bit = 1u << me->index;
  if (wait) {
    me->warp->waiting[id] |= bit;
    me->warp->runnable &= ~bit;
  }
  if (++w.barrier_arrived[id] == (expected ? expected : w.live)) release_barrier(id);
  if (wait && !(me->warp->runnable & bit)) suspend(me);
}

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

void poll() {
  Worker& w = *worker;
  Launch& launch = *w.launch;
  // what is waited for may never come: another block has failed, or nobody writes it
  if (launch.failed.load(std::memory_order_relaxed)) abandon_block();
  if (++w.polls % kPollsPerLook == 0) {
    if (std::chrono::steady_clock::now() > launch.poll_deadline) {
      fault("polled memory for more than %u s without end", launch.poll_seconds);
    }
    std::this_thread::yield();  // the one who writes may be another block
  }
  yield();
}

void copy_async(void* target, const void* source, bool valid) {
  Lane* me = current;
  if (reinterpret_cast<std::uintptr_t>(target) % 16 || (valid && reinterpret_cast<std::uintptr_t>(source) % 16)) {
    fault("cp.async: address not aligned to 16 bytes");
  }
  if (me->copy_count == kCopyQueue) fault("cp.async: more than %u copies of one thread in flight", kCopyQueue);
  std::memset(target, kPoison, 16);  // whoever reads before the wait reads NaN
  me->copies[me->copy_count++] = {target, valid ? source : nullptr, me->copy_group};
}

void copy_commit() { ++current->copy_group; }

void copy_wait(u32 newest_groups_left) {
  Lane* me = current;
  u32 kept = 0;
  for (u32 i = 0; i < me->copy_count; ++i) {
    const PendingCopy copy = me->copies[i];
    if (copy.group + newest_groups_left >= me->copy_group) {
      me->copies[kept++] = copy;
    } else if (copy.source) {
      std::memcpy(copy.target, copy.source, 16);
    } else {
      std::memset(copy.target, 0, 16);
    }
  }
  me->copy_count = kept;
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
  worker->launch->fail(std::string(text) + where);
  abandon_block();
}

float approximate(double exact, double off_by, float operand) {
  if (!std::isfinite(exact)) return static_cast<float>(exact);
  u32 bits;
  std::memcpy(&bits, &operand, sizeof bits);
  const u64 hash = (bits + 1ull) * 0x9E3779B97F4A7C15ull;
  return static_cast<float>(exact + off_by * (static_cast<std::int32_t>(hash >> 32) * 0x1p-31));
}

}  // namespace pab_emu

#if defined(PAB_EMU_UCONTEXT)
extern "C" void pab_emu_switch(pab_emu::Context* from, pab_emu::Context to) {
  swapcontext(&(*from)->context, &to->context);
}
#elif defined(__x86_64__)
asm(R"(
.text
.globl pab_emu_switch
.type pab_emu_switch, @function
pab_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size pab_emu_switch, .-pab_emu_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl pab_emu_switch
.type pab_emu_switch, %function
pab_emu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size pab_emu_switch, .-pab_emu_switch
)");
#endif

// Runs one launch.  Returns 0, or 1 with the reason in `message`.  No exception leaves: the caller is Python.
extern "C" int pab_emu_launch(void (*invoke)(void**), void** args, const unsigned* grid, const unsigned* block,
                              unsigned shared_bytes, unsigned long long seed, unsigned workers,
                              unsigned poll_seconds, char* message, unsigned message_bytes) {
  using namespace pab_emu;
  Launch launch;
  launch.invoke = invoke;
  launch.args = args;
  launch.grid = {grid[0], grid[1], grid[2]};
  launch.block = {block[0], block[1], block[2]};
  launch.shared_bytes = shared_bytes;
  launch.seed = seed;
  launch.poll_seconds = poll_seconds;
  launch.poll_deadline = std::chrono::steady_clock::now() + std::chrono::seconds(poll_seconds);
  const auto guarded = [&launch] {
    try {
      work(launch);
    } catch (const std::exception& error) {
      launch.fail(std::string("the emulated device lacks memory: ") + error.what());
    }
  };
  std::vector<std::thread> threads;
  try {
    launch.order.resize(static_cast<u64>(grid[0]) * grid[1] * grid[2]);
    std::iota(launch.order.begin(), launch.order.end(), u64{0});
    Random{seed}.shuffle(launch.order.data(), launch.order.size());
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
  if (!launch.failed) return 0;
  std::snprintf(message, message_bytes, "%s", launch.message.c_str());
  return 1;
}
