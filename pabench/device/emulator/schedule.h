// SPDX-License-Identifier: Apache-2.0
// Who runs next: fibers of a block hand the processor to one another, and meet at collectives and barriers.
#pragma once

#include <bit>
#include <cstdint>
#include <thread>

#include "emulator/deadlock.h"
#include "emulator/matrix_compute.h"
#include "emulator/observe.h"
#include "emulator/worker.h"

namespace pab_emu {

namespace {

// Body of every fiber: the kernel, then the farewell.
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

void resume(Context* from, Lane* to) {
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

// Ends the launch unless all 32 lanes are there for the same instruction: a fragment is spread over all of them.
void check_matrix(const Warp& warp, u32 there) {
  if (there != ~0u) fault("matrix instruction: lanes 0x%08x have returned or do not exist", ~there);
  for (u32 i = 1; i < kWarpSize; ++i) {
    if (warp.lanes[i]->source != warp.lanes[0]->source) {
      fault("matrix instruction: lanes 0 and %u of the warp came to different ones", i);
    }
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
  if (op == Op::kMatrix) check_matrix(warp, mask);
  warp.arrived &= ~mask;
  warp.runnable |= mask;
  worker->idle_polls = 0;
  worker->got_on = true;
  observe::collective_complete(warp, mask, op);
  if (op == Op::kSync) return true;
  if (op == Op::kMatrix) {
    const auto kind = static_cast<MatrixKind>(warp.lanes[0]->source);
    if (kind == MatrixKind::kMultiplyF16) observe::count_mma(warp, "m16n8k16.f16");
    if (kind == MatrixKind::kMultiplyBf16) observe::count_mma(warp, "m16n8k16.bf16");
    run_matrix(warp.lanes, kind);
    return true;
  }
  for (u32 rest = mask; rest; rest &= rest - 1) {
    Lane& lane = *warp.lanes[__builtin_ctz(rest)];
    switch (op) {
      case Op::kShuffle:
        // reading a lane that takes no part is undefined on hardware: give what nobody can use
        lane.result = (mask >> lane.source) & 1u ? warp.lanes[lane.source]->value : kPoison;
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
      case Op::kSync:
      case Op::kMatrix: break;
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

// Notes that the block does more than to poll.
void got_on(Worker& w) {
  w.idle_polls = 0;
  w.got_on = true;
}

// Leaves the block for good; its fibers are never resumed.
[[noreturn]] void abandon_block() {
  worker->outcome = Outcome::kFallen;
  pab_emu_switch(&current->context, worker->scheduler);
  __builtin_unreachable();
}

u32 runnable_lanes(const Worker& w) {
  u32 count = 0;
  for (const Warp& warp : w.warps) count += static_cast<u32>(std::popcount(warp.runnable));
  return count;
}

// Gives the processor to another block; returns when this one is resumed.
void wait_block(Lane* me) {
  Worker& w = *worker;
  w.outcome = Outcome::kWaits;
#ifdef PAB_EMU_CHECKED
  if (!w.has_turn) w.outcome = Outcome::kGate;
#endif
  w.waiting = me;
  pab_emu_switch(&me->context, w.scheduler);
}

// Lets all that wait at barrier `id` go on.
void release_barrier(u32 id) {
  Worker& w = *worker;
  observe::barrier_release(w, id);
  w.barrier_arrived[id] = 0;
  w.barrier_noted[id] = w.barrier_notes[id];
  w.barrier_notes[id] = 0;
  got_on(w);
  for (Warp& warp : w.warps) {
    warp.runnable |= warp.waiting[id];
    warp.waiting[id] = 0;
  }
}

void lane_main() {
  Worker& w = *worker;
  w.launch->invoke(w.launch->args);
  Lane* me = current;
  observe::lane_exit(*me);
  const u32 bit = 1u << me->index;
  me->warp->runnable &= ~bit;
  me->warp->finished |= bit;
  --w.live;
  got_on(w);
  if (me->warp->arrived) release_collectives(*me->warp);
  for (const u32 id : {0u, kClusterBarrier}) {
    if (w.barrier_arrived[id] && w.barrier_expected[id] == 0 && w.barrier_arrived[id] == w.live) release_barrier(id);
  }
  suspend(me);
  __builtin_unreachable();
}

}  // namespace

}  // namespace pab_emu
