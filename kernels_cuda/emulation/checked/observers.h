// The events of a checked launch, handed to each checker.
#pragma once

#include "emulation/checked/memory.h"
#include "emulation/worker.h"

namespace pab_emu::observe {

namespace {

// Hands an access to the counters.  Atomic operations go there by name: see count_atomic.
__attribute__((always_inline)) inline void count_access(Lane& me, u64 address, u32 bytes, Access kind, const void* pc) {
  if (kind == Access::kRead) note(me, Instruction::load, address, bytes, pc);
  if (kind == Access::kWrite || kind == Access::kAtomicWrite) note(me, Instruction::store, address, bytes, pc);
  if (kind == Access::kAtomicRead) note_poll(me, address, bytes, pc);
  if (kind == Access::kAsyncRead) note(me, Instruction::async_load, address, bytes, pc);
}

__attribute__((noinline)) void check_access(Lane* me, u64 address, u32 bytes, Access kind, const void* pc) {
  Checked& checked = *worker->launch->checked;
  Touch touch{me, address, bytes, kind, pc};
  if (!locate(checked, touch)) return;
  check_alignment(checked, touch);
  check_written(checked, touch);
}

// One access of the running thread; called before it happens.
__attribute__((always_inline)) inline void access(u64 address, u32 bytes, Access kind, const void* pc) {
  Lane* me = current;
  if (!me) return;  // the launcher's own work
  if (me->watch & kCount) {
    count_access(*me, address, bytes, kind, pc);
    if (me->watch == kCount) return;
  }
  check_access(me, address, bytes, kind, pc);
}

// One instruction of the running thread, for the counters only; before it takes effect.
inline void count_instruction(Lane& me, Instruction what, const void* pc) {
  if (me.watch & kCount) note(me, what, 0, 1, pc);
}
inline void count_collective(Lane& me, Op op, const void* pc) {
  count_instruction(me, static_cast<Instruction>(static_cast<u32>(Instruction::warp_sync) + static_cast<u32>(op)), pc);
}
inline void count_barrier(Lane& me, const void* pc) { count_instruction(me, Instruction::barrier, pc); }
inline void count_commit(Lane& me, const void* pc) { count_instruction(me, Instruction::async_commit, pc); }
inline void count_atomic(Instruction what, const volatile void* address, u32 bytes, const void* pc) {
  if (current && current->watch & kCount) note(*current, what, reinterpret_cast<u64>(address), bytes, pc);
}
// A matrix product of the warp; `shape` is a literal such as "m16n8k16.f16".
inline void count_mma(Warp& warp, const char* shape) {
  const Lane& lane = *warp.lanes[0];
  if (lane.watch & kCount) worker->counters->tally.add_products(shape, static_cast<u32>(lane.region >> kRegionAt));
}

// One atomic operation of the running thread; `order` is the compiler's number of a memory order.
inline void atomic(void* address, u32 bytes, int order, bool reads, bool writes, const void* pc) {
  static_cast<void>(order);
  const Access kind = reads && writes ? Access::kAtomic : reads ? Access::kAtomicRead : Access::kAtomicWrite;
  access(reinterpret_cast<u64>(address), bytes, kind, pc);
}

inline void block_begin(Worker& w) {
  w.shared_written.assign(w.shared_capacity + 1, 0);
  w.last_buffer = nullptr;
  counters::begin_block(w, w.launch->checked->counters);
}
inline void block_end(Worker&) {}
inline void lane_exit(Lane& me) {
  if (me.watch & kCount) counters::lane_exit(me);
}
inline void collective_arrive(Lane&) {}
inline void collective_complete(Warp& warp, u32 mask, Op) {
  if (current->watch & kCount) counters::collective_complete(warp, mask);
}
inline void barrier_arrive(Lane&, u32, u32, bool) {}
inline void barrier_release(Worker& w, u32 id) {
  if (current->watch & kCount) counters::barrier_release(w, id);
}
inline void fence(Lane&, bool) {}

// Issue of an asynchronous copy: the source is read, the target is unreadable until the copy lands.
inline bool copy_issue(Lane& lane, const PendingCopy& copy) {
  Checked& checked = *worker->launch->checked;
  if (copy.source) access(reinterpret_cast<u64>(copy.source), 16, Access::kAsyncRead, copy.pc);
  if (lane.watch & kCount) note(lane, Instruction::async_store, reinterpret_cast<u64>(copy.target), 16, copy.pc);
  if (lane.watch == kCount) return true;
  Touch touch{&lane, reinterpret_cast<u64>(copy.target), 16, Access::kAsyncWrite, copy.pc};
  if (!locate(checked, touch)) return false;
  check_alignment(checked, touch);
  if (touch.written) std::memset(touch.written, 0, 16);
  return true;
}
inline void copy_land(Lane& lane, const PendingCopy& copy) {
  if (lane.watch == kCount) return;
  Touch touch{&lane, reinterpret_cast<u64>(copy.target), 16, Access::kAsyncWrite, copy.pc};
  if (locate(*worker->launch->checked, touch) && touch.written) std::memset(touch.written, 1, 16);
}
inline void poll(Lane&) {}

}  // namespace

}  // namespace pab_emu::observe

namespace pab_emu {

namespace {

// The outcome of a launch: findings, and what was counted.
std::string report_json(const Checked& checked) {
  return "{\"findings\":" + checked.findings.json() + ",\"total\":" + std::to_string(checked.findings.total()) +
         (checked.wants(kCount) ? ",\"counters\":" + checked.counters.json() : "") + "}";
}

}  // namespace

}  // namespace pab_emu
