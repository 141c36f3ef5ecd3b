// SPDX-License-Identifier: Apache-2.0
// The thread among others: special registers, shuffles, votes, barriers, and what the device's library is asked for.
#pragma once

namespace ptx {

#ifdef PAB_EMU_CHECKED
PTX_FN pab_emu::Dim3 tid() { return pab_emu::thread_index(); }
PTX_FN pab_emu::Dim3 ctaid() { return pab_emu::block_index(); }
PTX_FN pab_emu::Dim3 ntid() { return pab_emu::block_dim(); }
PTX_FN pab_emu::Dim3 nctaid() { return pab_emu::grid_dim(); }
#else
PTX_FN const pab_emu::Dim3& tid() { return pab_emu::current->thread; }
PTX_FN const pab_emu::Dim3& ctaid() { return pab_emu::current->block->index; }
PTX_FN const pab_emu::Dim3& ntid() { return pab_emu::current->block->block; }
PTX_FN const pab_emu::Dim3& nctaid() { return pab_emu::current->block->grid; }
#endif
PTX_FN u32 lane() { return pab::lane_id(); }
PTX_FN u32 threads() { return ntid().x * ntid().y * ntid().z; }
PTX_FN u32 thread() { return tid().x + ntid().x * (tid().y + ntid().y * tid().z); }
PTX_FN u32 warp() { return thread() / 32; }
PTX_FN u32 warps() { return (threads() + 31) / 32; }

PTX_FN u64 meet(u32 mask, pab_emu::Op op, u64 value, u32 source = 0) {
  return pab_emu::collective(mask, op, value, source);
}
PTX_FN void warp_sync(u32 mask) { meet(mask, pab_emu::Op::kSync, 0); }

// The lanes that a shuffle may reach: those whose number agrees with this lane's in the bits of the segment mask.
struct Reach {
  u32 least, most;
};
PTX_FN Reach reach(u32 clamp) {
  const u32 segment = clamp >> 8 & 31u, within = clamp & 31u, own = lane();
  return {own & segment, (own & segment) | (within & ~segment)};
}
PTX_FN u32 shuffle(u32 value, u32 source, bool inside, u32 mask) {
  return static_cast<u32>(meet(mask, pab_emu::Op::kShuffle, value, inside ? source : lane()));
}
PTX_FN u32 shuffle_up(u32 value, u32 by, u32 clamp, u32 mask, bool& inside) {
  const s32 source = static_cast<s32>(lane()) - static_cast<s32>(by & 31u);
  inside = source >= static_cast<s32>(reach(clamp).most);
  return shuffle(value, static_cast<u32>(source), inside, mask);
}
PTX_FN u32 shuffle_down(u32 value, u32 by, u32 clamp, u32 mask, bool& inside) {
  const u32 source = lane() + (by & 31u);
  inside = source <= reach(clamp).most;
  return shuffle(value, source, inside, mask);
}
PTX_FN u32 shuffle_bfly(u32 value, u32 by, u32 clamp, u32 mask, bool& inside) {
  const u32 source = lane() ^ (by & 31u);
  inside = source <= reach(clamp).most;
  return shuffle(value, source, inside, mask);
}
PTX_FN u32 shuffle_idx(u32 value, u32 index, u32 clamp, u32 mask, bool& inside) {
  const u32 source = reach(clamp).least | (index & 31u & ~(clamp >> 8));
  inside = source <= reach(clamp).most;
  return shuffle(value, source, inside, mask);
}

PTX_FN u32 ballot(u32 mask, bool truth) { return static_cast<u32>(meet(mask, pab_emu::Op::kBallot, truth)); }
PTX_FN bool any(u32 mask, bool truth) { return meet(mask, pab_emu::Op::kAny, truth) != 0; }
PTX_FN bool all(u32 mask, bool truth) { return meet(mask, pab_emu::Op::kAll, truth) != 0; }
PTX_FN bool uni(u32 mask, bool truth) {
  const u32 yes = ballot(mask, truth), no = ballot(mask, !truth);
  return yes == 0 || no == 0;
}
PTX_FN u32 match_any(u32 mask, u64 value) { return static_cast<u32>(meet(mask, pab_emu::Op::kMatchAny, value)); }
PTX_FN u32 match_all(u32 mask, u64 value, bool& same) {
  const u32 lanes = ballot(mask, true);
  same = match_any(mask, value) == lanes;
  return same ? lanes : 0;
}
PTX_FN u32 elect(u32 mask) { return static_cast<u32>(std::countr_zero(ballot(mask, true))); }

// What all lanes of `mask` bring to a meeting, in order: between two meetings, so that none goes on before all have it.
struct Brought {
  u32 lanes;  // of the mask, without those that have returned
  u64 of[32];
};
PTX_OWN void look_around(Brought& brought, u32 mask) {
  const pab_emu::Warp& warp = *pab_emu::current->warp;
  brought.lanes = mask & ~warp.finished;
  for (u32 i = 0; i < 32; ++i) brought.of[i] = brought.lanes >> i & 1 ? warp.lanes[i]->value : 0;
}
PTX_FN Brought exchange(u32 mask, u64 value) {
  Brought brought;
  meet(mask, pab_emu::Op::kSync, value);
  look_around(brought, mask);
  meet(mask, pab_emu::Op::kSync, value);
  return brought;
}
template <typename T, typename Combine>
PTX_FN T reduce(u32 mask, T value, Combine combine) {
  const Brought brought = exchange(mask, static_cast<std::make_unsigned_t<T>>(value));
  T result = value;
  for (u32 rest = brought.lanes; rest; rest &= rest - 1) {
    result = combine(result, static_cast<T>(brought.of[std::countr_zero(rest)]));
  }
  return result;
}
template <typename T>
PTX_FN T reduce_add(u32 mask, T value) {
  return static_cast<T>(meet(mask, pab_emu::Op::kReduceAdd, static_cast<u32>(value)));
}
template <typename T>
PTX_FN T reduce_min(u32 mask, T value) { return reduce(mask, value, [](T a, T b) { return a < b ? a : b; }); }
template <typename T>
PTX_FN T reduce_max(u32 mask, T value) { return reduce(mask, value, [](T a, T b) { return a > b ? a : b; }); }
template <typename T>
PTX_FN T reduce_and(u32 mask, T value) { return reduce(mask, value, [](T a, T b) { return a & b; }); }
template <typename T>
PTX_FN T reduce_or(u32 mask, T value) { return reduce(mask, value, [](T a, T b) { return a | b; }); }
template <typename T>
PTX_FN T reduce_xor(u32 mask, T value) {
  const Brought brought = exchange(mask, static_cast<u32>(value));
  T result = 0;
  for (u32 rest = brought.lanes; rest; rest &= rest - 1) result ^= static_cast<T>(brought.of[std::countr_zero(rest)]);
  return result;
}

// bar.red: how many threads that came to the barrier hold `truth`.
PTX_FN u32 barrier_popc(u32 id, u32 expected, bool truth) {
  pab_emu::barrier_note(id, truth);
  pab_emu::barrier(id, expected, true);
  return pab_emu::barrier_noted(id);
}
PTX_FN bool barrier_or(u32 id, u32 expected, bool truth) { return barrier_popc(id, expected, truth) != 0; }
PTX_FN bool barrier_and(u32 id, u32 expected, bool truth) { return barrier_popc(id, expected, !truth) == 0; }

// --- the device's library -------------------------------------------------------------------------------------------
[[noreturn]] PTX_OWN void assert_failed(u64 what, u64 file, u32 line, u64 function, u64) {
  const auto text = [](u64 address) { return address ? reinterpret_cast<const char*>(address) : "?"; };
  pab_emu::fault("assertion `%s` failed: %s:%u, %s", text(what), text(file), line, text(function));
}
// What a kernel prints is not shown; it gets the count of a format without arguments.
PTX_FN s32 print(u64, u64) { return 0; }

}  // namespace ptx
