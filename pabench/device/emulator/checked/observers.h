// SPDX-License-Identifier: Apache-2.0
// The events of a checked launch, handed to each checker.
#pragma once

#include "emulator/checked/access.h"
#include "emulator/checked/landing.h"

namespace pab_emu::observe {

namespace {

// One atomic operation of the running thread, before it happens.
inline void atomic_access(u64 address, u32 bytes, bool reads, bool writes, const void* pc) {
  if (!current) return;
  current->pc = pc;
  Worker& w = *trace_of(*current).block->worker;
  // what other blocks may see happens in turns
  if (!w.has_turn && address - reinterpret_cast<u64>(w.shared.get()) > w.shared_capacity) take_turn();
  const Access kind = reads && writes ? Access::kAtomic : reads ? Access::kAtomicRead : Access::kAtomicWrite;
  access(address, bytes, kind, pc);
}
// Held while an atomic operation happens and is ordered, so that both have the same order among OS threads.
class AtomicTurn {
 public:
  explicit AtomicTurn(u64 address) : address_(address) {
    if (!current) return;
    BlockTrace& block = *trace_of(*current).block;
    if (!block.checked->wants(kCheckRace)) return;
    const bool shared = address - reinterpret_cast<u64>(block.worker->shared.get()) <= block.worker->shared_capacity;
    variables_ = shared ? &block.variables : &block.checked->variables;
    variables_->mutex.lock();
  }
  ~AtomicTurn() {
    if (variables_) variables_->mutex.unlock();
  }
  AtomicTurn(const AtomicTurn&) = delete;
  AtomicTurn& operator=(const AtomicTurn&) = delete;

  // What the operation did; `order` is the compiler's number of a memory order.
  void did(int order, bool reads, bool writes) {
    if (variables_) order_atomic(trace_of(*current), variables_->at[address_], order, reads, writes);
  }

 private:
  u64 address_;
  SyncVariables* variables_ = nullptr;
};

// Instructions for the counters only; called before they take effect.
inline void count_instruction(Lane& me, Instruction what) {
  if (me.watch & kCount) note(me, what, 0, 1, me.pc);
}
inline void count_collective(Lane& me, Op op) {
  count_instruction(me, static_cast<Instruction>(static_cast<u32>(Instruction::warp_sync) + static_cast<u32>(op)));
}
inline void count_barrier(Lane& me) { count_instruction(me, Instruction::barrier); }
inline void count_commit(Lane& me) { count_instruction(me, Instruction::async_commit); }
inline void count_atomic(Instruction what, u64 address, u32 bytes, const void* pc) {
  if (current && current->watch & kCount) note(*current, what, address, bytes, pc);
}
// A matrix product of the warp; `shape` is a literal such as "m16n8k16.f16".
inline void count_mma(Warp& warp, const char* shape) {
  const Lane& lane = *warp.lanes[0];
  if (lane.watch & kCount) worker->counters->tally.add_products(shape, static_cast<u32>(lane.region >> kRegionAt));
}

inline void block_begin(Worker& w) {
  if (!w.trace) w.trace = std::make_shared<BlockTrace>();
  BlockTrace& block = *w.trace;
  Checked& checked = *w.launch->checked;
  const Dim3 at = w.block.index, grid = w.launch->grid;
  if (block.serial != checked.serial) {
    block.lanes = std::vector<Trace>(w.threads);
    block.warps = std::vector<WarpTrace>(w.warps.size());
    block.last_buffer = nullptr;
  }
  block.worker = &w;
  block.checked = &checked;
  block.serial = checked.serial;
  block.number = (static_cast<u64>(at.z) * grid.y + at.y) * grid.x + at.x;
  block.steps = checked.request.step_budget;
  block.barrier = ++block.tick;
  block.handed_on = 0;
  for (u32 i = 0; i < w.warps.size(); ++i) {
    WarpTrace& warp = block.warps[i];
    warp.number = i;
    block.synced[i] = warp.synced = 1;
    warp.events.resize(1);
    warp.late.clear();
    std::fill(warp.recent, warp.recent + 4, 0u);
    warp.knows = false;
  }
  for (u32 i = 0; i < w.threads; ++i) {
    Trace& t = block.lanes[i];
    t.block = &block;
    t.warp = &block.warps[i / kWarpSize];
    t.thread = i;
    t.lane = i % kWarpSize;
    t.stamp = block.barrier;
    t.dirty = false;
    t.known = nullptr;
    for (u32 s = 0; s < kScopes; ++s) t.fenced[s] = t.observed[s] = nullptr;
    t.proxied = nullptr;
    w.lanes[i].trace = &t;
  }
  block.knows = block.observes = false;
  for (u32 id = 0; id < kBarriers; ++id) {
    block.arrivals[id].clear();
    block.first_at[id] = nullptr;
  }
  const u32 bytes = w.block.shared_bytes;
  block.shared_written.resize(w.shared_capacity + 16);
  std::fill_n(block.shared_written.begin(), bytes, 0);
  block.shared_writes.resize(w.shared_capacity / 2 + 8);
  block.shared_reads.resize(w.shared_capacity / 4 + 4);
  std::fill_n(block.shared_writes.begin(), bytes / 2 + 2, 0u);
  std::fill_n(block.shared_reads.begin(), bytes / 4 + 1, 0u);
  block.sets.concurrent = false;
  block.sets.clear();
  block.variables.at.clear();
  block.product_waits.clear();
  counters::begin_block(w, checked.counters);
}
inline void block_end(Worker&) {}
inline void lane_exit(Lane& lane) {
  if (lane.watch & kCount) counters::lane_exit(lane);
}

inline void collective_arrive(Lane& lane) { count_step(lane, lane.pc); }
inline void collective_complete(Warp& warp, u32 mask, Op op) {
  const u32 watch = warp.lanes[__builtin_ctz(mask)]->watch;
  if (watch & kCount) counters::collective_complete(warp, mask);
  if (watch == kCount) return;
  const Checked& checked = *trace_of(*warp.lanes[__builtin_ctz(mask)]).block->checked;
  if (op == Op::kShuffle && checked.wants(kCheckSync)) check_sources(warp, mask);
  order_collective(warp, mask);
}

inline void barrier_arrive(Lane& lane, u32 id, u32 expected, bool wait) {
  count_step(lane, lane.pc);
  BlockTrace& block = *trace_of(lane).block;
  if (expected == kAllThreads) {
    if (block.checked->wants(kCheckSync)) check_same_barrier(block, lane, id);
    return;
  }
  // what an arriving thread does next is not ordered: its stretch ends here
  if (!wait) trace_of(lane).stamp = ++block.tick;
  block.arrivals[id].push_back({&trace_of(lane), trace_of(lane).stamp, wait});
}
inline void barrier_release(Worker& w, u32 id) {
  if (w.lanes[0].watch & kCount) counters::barrier_release(w, id);
  BlockTrace& block = *w.trace;
  std::vector<Arrival>& arrivals = block.arrivals[id];
  block.first_at[id] = nullptr;
  const bool all = w.barrier_expected[id] == kAllThreads ||
                   (arrivals.size() == w.threads &&
                    std::all_of(arrivals.begin(), arrivals.end(), [](const Arrival& one) { return one.wait; }));
  if (all) {
    order_block(block);
  } else {
    order_some(block, arrivals);
  }
  arrivals.clear();
}

inline void fence(Lane& lane, bool device) {
  if (!trace_of(lane).block->checked->wants(kCheckRace)) return;
  order_fence(trace_of(lane), device ? kDeviceScope : kBlockScope);
}

inline void proxy_fence(Lane& lane) {
  if (trace_of(lane).block->checked->wants(kCheckRace)) order_proxies(trace_of(lane));
}
// 16 bytes of shared memory that a bulk copy is to read or to write: what must have happened before its issue.
template <typename Check>
void bulk_issued(Lane& lane, const void* at, Access kind, const void* pc, Check check) {
  Trace& t = trace_of(lane);
  Checked& checked = *t.block->checked;
  Touch touch{&lane, reinterpret_cast<u64>(at), 16, kind, pc};
  if (checked.wants(kCheckRace) && locate(checked, *t.block, touch)) check(t, touch, cells_of(*t.block, touch));
}
inline void bulk_read(Lane& lane, const void* from, const void* pc) {
  bulk_issued(lane, from, Access::kAsyncRead, pc, check_proxies);
}
inline void bulk_target(Lane& lane, const void* to, const void* pc) {
  bulk_issued(lane, to, Access::kBulkWrite, pc, check_overwritten);
}

// Issue of an asynchronous copy: its accesses happen some time before its wait ends.
inline bool copy_issue(Lane& lane, const PendingCopy& copy) {
  if (copy.source) access(reinterpret_cast<u64>(copy.source), copy.given, Access::kAsyncRead, copy.pc);
  access(reinterpret_cast<u64>(copy.target), copy.bytes, Access::kAsyncWrite, copy.pc);
  static_cast<void>(lane);
  return true;
}
// Its wait: by now they have happened.
inline void copy_land(Lane& lane, const PendingCopy& copy) {
  if (lane.watch == kCount) return;
  Trace& t = trace_of(lane);
  Checked& checked = *t.block->checked;
  Touch from{&lane, reinterpret_cast<u64>(copy.source), copy.given, Access::kAsyncRead, copy.pc};
  Touch to{&lane, reinterpret_cast<u64>(copy.target), copy.bytes, Access::kAsyncWrite, copy.pc};
  if (copy.source && checked.wants(kCheckRace) && locate(checked, *t.block, from)) {
    const Cells cells = cells_of(*t.block, from);
    if (cells.reads) land_races(t, from, Access::kLandedRead, cells);
  }
  if (!locate(checked, *t.block, to)) return;
  if (to.written) std::memset(to.written, 1, to.bytes);
  if (checked.wants(kCheckRace)) land_races(t, to, Access::kLandedWrite, cells_of(*t.block, to));
}
// The 16 bytes that a lane names to ldmatrix.
inline void matrix_row(const void* row, const void* pc) {
  access(reinterpret_cast<u64>(row), 16, Access::kRead, pc);
}

// A product of wgmma by the warpgroup of warp `first`: 16 bytes that it reads, and its end for the warp of `lane`.
inline u32 product_in_block(u32 first, u32 number) { return number * (kWarpSize / 4) + first / 4; }
inline void product_begin(Lane& lane, u32 first, u32 number) {
  auto& waits = trace_of(lane).block->product_waits;
  if (waits.size() <= product_in_block(first, number)) waits.resize(product_in_block(first, number) + 1);
}
inline void product_read(Lane& lane, const void* at, const void* pc, u32 first, u32 number) {
  if (lane.watch == kCount) return;
  count_step(lane, pc);
  access_in_full(&lane, reinterpret_cast<u64>(at), 16, Access::kProductRead, pc, product_in_block(first, number));
}
inline void product_done(Lane& lane, u32 first, u32 number) {
  const Trace& t = trace_of(lane);
  t.block->product_waits[product_in_block(first, number)].push_back({t.warp->number, t.stamp});
}

inline void poll(Lane& lane) { count_step(lane, lane.pc); }

// A fault of the runtime's own; the block ends.
inline void fault(const Lane& lane, const char* text) { report_sync(lane, "meeting", text); }
// Nobody can run, or all poll in vain.
inline void deadlock(Worker& w, const std::string& text) { report_deadlock(w, text); }

}  // namespace

}  // namespace pab_emu::observe

namespace pab_emu {

namespace {

// The outcome of a launch: findings, and what was counted.
std::string report_json(const Checked& checked) {
  return "{\"findings\":" + checked.findings.json() +
         (checked.wants(kCount) ? ",\"counters\":" + checked.counters.json() : "") + "}";
}

}  // namespace

}  // namespace pab_emu
