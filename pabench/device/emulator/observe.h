// SPDX-License-Identifier: Apache-2.0
// What the runtime tells whoever watches a launch: one function an event, empty in the fast build.
//
// The checked build (PAB_EMU_CHECKED) routes each event to the checkers and the counters of emulator/checked/.
#pragma once

#include "emulator/worker.h"

#ifdef PAB_EMU_CHECKED
#include "emulator/checked/observers.h"
#else

namespace pab_emu::observe {

inline void block_begin(Worker&) {}
inline void block_end(Worker&) {}
inline void lane_exit(Lane&) {}
inline void collective_arrive(Lane&) {}
inline void collective_complete(Warp&, u32, Op) {}
inline void barrier_arrive(Lane&, u32, u32, bool) {}
inline void barrier_release(Worker&, u32) {}
inline void fence(Lane&, bool) {}
inline bool copy_issue(Lane&, const PendingCopy&) { return true; }
inline void copy_land(Lane&, const PendingCopy&) {}
inline void matrix_row(const void*, const void*) {}
inline void poll(Lane&) {}
inline void count_collective(Lane&, Op) {}
inline void count_barrier(Lane&) {}
inline void count_commit(Lane&) {}
inline void count_mma(Warp&, const char*) {}
inline void product_begin(Lane&, u32, u32) {}
inline void product_read(Lane&, const void*, const void*, u32, u32) {}
inline void product_done(Lane&, u32, u32) {}
inline void fault(const Lane&, const char*) {}
inline void deadlock(Worker&, const std::string&) {}

}  // namespace pab_emu::observe

#endif
