// The events of a checked launch, handed to each checker.
#pragma once

#include "emulation/checked/memory.h"
#include "emulation/worker.h"

namespace pab_emu::observe {

namespace {

// One access of the running thread; called before it happens.
inline void access(u64 address, u32 bytes, Access kind, const void* pc) {
  Lane* me = current;
  if (!me) return;  // the launcher's own work
  Checked& checked = *worker->launch->checked;
  Touch touch{me, address, bytes, kind, pc};
  if (!locate(checked, touch)) return;
  check_alignment(checked, touch);
  check_written(checked, touch);
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
}
inline void block_end(Worker&) {}
inline void lane_exit(Lane&) {}
inline void collective_arrive(Lane&) {}
inline void collective_complete(Warp&, u32, Op) {}
inline void barrier_arrive(Lane&, u32, u32, bool) {}
inline void barrier_release(Worker&, u32) {}
inline void fence(Lane&, bool) {}

// Issue of an asynchronous copy: the source is read, the target is unreadable until the copy lands.
inline bool copy_issue(Lane& lane, const PendingCopy& copy) {
  Checked& checked = *worker->launch->checked;
  if (copy.source) access(reinterpret_cast<u64>(copy.source), 16, Access::kAsyncRead, copy.pc);
  Touch touch{&lane, reinterpret_cast<u64>(copy.target), 16, Access::kAsyncWrite, copy.pc};
  if (!locate(checked, touch)) return false;
  check_alignment(checked, touch);
  if (touch.written) std::memset(touch.written, 0, 16);
  return true;
}
inline void copy_land(Lane& lane, const PendingCopy& copy) {
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
  return "{\"findings\":" + checked.findings.json() + ",\"total\":" + std::to_string(checked.findings.total()) + "}";
}

}  // namespace

}  // namespace pab_emu
