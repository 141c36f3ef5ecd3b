// SPDX-License-Identifier: Apache-2.0
// mbarriers, and copies of many bytes or of a tile of a tensor that tell them of their arrival.
//
// An mbarrier is changed by atomic operations that acquire and release, so that checks see what it orders.  A copy is
// performed by a thread that waits for it: that thread has acquired from the issuing one, and releases to all waiting.
#pragma once

#include "emulator/mbarrier.h"

namespace ptx {

// --- mbarriers ------------------------------------------------------------------------------------------------------
PTX_OWN u32 shared_offset(const void* at) {
  return static_cast<u32>(static_cast<const unsigned char*>(at) - pab_emu::current->block->shared);
}
PTX_OWN u64 checked_barrier(u64 word, const void* at) {
  if (reinterpret_cast<u64>(at) % 8) pab_emu::fault("mbarrier: address not aligned to 8 bytes");
  if (!pab_emu::Mbarrier::is_one(word)) pab_emu::fault("no mbarrier at byte %u of shared memory: not initialised, or invalidated", shared_offset(at));
  return word;
}
PTX_OWN u64 fresh_barrier(u32 count) {
  if (count == 0 || count > pab_emu::Mbarrier::kMost) pab_emu::fault("mbarrier.init: count %u: must be from 1 to 1048575", count);
  return pab_emu::Mbarrier{count, count, 0, 0}.word();
}
// `bytes` more are expected (fewer where negative), then `arrivals` come, and that many fewer are to come from now on
// where they `drop` out.
PTX_OWN u64 changed_barrier(u64 word, const void* at, u32 arrivals, s64 bytes, bool drop) {
  pab_emu::Mbarrier barrier = pab_emu::Mbarrier::of(checked_barrier(word, at));
  barrier.bytes += bytes;
  if (barrier.bytes <= -pab_emu::Mbarrier::kNoBytes / 2 || barrier.bytes >= pab_emu::Mbarrier::kNoBytes / 2) {
    pab_emu::fault("mbarrier at byte %u of shared memory: %lld bytes outstanding: at most 1048575", shared_offset(at), barrier.bytes);
  }
  if (arrivals > barrier.pending) {
    pab_emu::fault("mbarrier at byte %u of shared memory: more arrivals in a phase than its count %llu", shared_offset(at),
                   static_cast<unsigned long long>(barrier.expected));
  }
  barrier.pending -= arrivals;
  if (drop) barrier.expected -= arrivals;
  barrier.settle();
  return barrier.word();
}
// Returns the word before, of which the phase is what a wait asks for.
PTX_FN u64 barrier_change(void* at, u32 arrivals, s64 bytes, bool drop = false) {
  auto* cell = static_cast<typename Cell<u64>::type*>(at);
  u64 old = __atomic_load_n(cell, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(cell, &old, changed_barrier(old, at, arrivals, bytes, drop), false, __ATOMIC_ACQ_REL,
                                      __ATOMIC_RELAXED)) {
  }
  pab_emu::chance();
  return old;
}
PTX_FN void barrier_init(void* at, u32 count) { store<u64>(at, fresh_barrier(count)); }
PTX_FN void barrier_inval(void* at) { store<u64>(at, checked_barrier(load<u64>(at), at) & ~pab_emu::Mbarrier::kMark); }
PTX_FN u64 barrier_look(const void* at) {
  return checked_barrier(__atomic_load_n(static_cast<const typename Cell<u64>::type*>(at), __ATOMIC_ACQUIRE), at);
}
// The thread's copies tell of their end: it is one arrival, which the count of the phase either has (`counted`) or is
// raised by.  They may end at any time, and do so here.
PTX_FN void barrier_of_copies(void* at, bool counted) {
  pab_emu::copy_land_all();
  barrier_change(at, counted ? 1 : 0, 0);
}
PTX_OWN void waits_at(const void* at) { pab_emu::current->at_barrier = at; }

// --- copies ---------------------------------------------------------------------------------------------------------
// What pabench/device/ptx/tensor_map.py writes.
struct TensorMap {
  u32 magic;
  u8 rank, bytes, swizzle, fill;
  u64 address, strides[4];
  u32 sizes[5];
  u16 box[5];
};
constexpr u32 kTensorMap = 0x50414D54;

// 16 bytes of a copy: in shared memory, in global memory, and which of them are there, a bit each.
struct Piece {
  unsigned char* shared;
  u64 global;
  u32 there;
};
PTX_OWN Piece piece(const pab_emu::BulkCopy& copy, u32 number) {
  if (!copy.tile) return {copy.shared + 16 * number, copy.global + 16 * number, 0xFFFFu};
  TensorMap map;
  std::memcpy(&map, copy.map, sizeof map);
  const u32 across = map.box[0] * map.bytes / 16;
  Piece found{copy.shared + 16 * number, 0, 0};
  s64 first = copy.at[0] + static_cast<s64>(number % across) * 16 / map.bytes;
  bool inside = true;
  s64 offset = first * map.bytes;
  u32 rest = number / across;
  for (u32 d = 1; d < map.rank; ++d) {
    const s64 here = copy.at[d] + static_cast<s64>(rest % map.box[d]);
    rest /= map.box[d];
    inside = inside && here >= 0 && here < static_cast<s64>(map.sizes[d]);
    offset += here * static_cast<s64>(map.strides[d - 1]);
  }
  found.global = map.address + static_cast<u64>(offset);
  for (u32 i = 0; i < 16 && inside; ++i) {
    const s64 x = first + i / map.bytes;
    if (x >= 0 && x < static_cast<s64>(map.sizes[0])) found.there |= 1u << i;
  }
  // 16-byte pieces of a row are exchanged by the number of the 128 bytes in which they lie
  const u32 at = shared_offset(found.shared), turned = at ^ (at >> 7 & ((1u << map.swizzle) - 1)) << 4;
  found.shared += static_cast<s64>(turned) - static_cast<s64>(at);
  return found;
}
PTX_OWN Vector<u64, 2> fetched(const Piece& from) {
  unsigned char data[16] = {};
  for (u32 i = 0; i < 16; ++i) {
    if (from.there >> i & 1) data[i] = *memory(from.global + i);
  }
  return std::bit_cast<Vector<u64, 2>>(data);
}
// What is read at the issue is read again when it lands; here the checks see the place of the copy.
PTX_FN void announce(const pab_emu::BulkCopy& copy) {
#ifdef PAB_EMU_CHECKED
  for (u32 n = 0; n < copy.bytes / 16; ++n) {
    const Piece from = piece(copy, n);
    for (u32 i = 0; i < 16; ++i) {
      if (from.there >> i & 1) static_cast<void>(*static_cast<const volatile u8*>(memory(from.global + i)));
    }
  }
#else
  static_cast<void>(copy);
#endif
}
PTX_FN void land(const pab_emu::BulkCopy& copy) {
  for (u32 n = 0; n < copy.bytes / 16; ++n) {
    const Piece to = piece(copy, n);
#ifdef PAB_EMU_CHECKED
    pab_emu::store_bulk(to.shared, std::bit_cast<pab_emu::Vec16>(fetched(to)));
#else
    store_vector<u64, 2>(to.shared, fetched(to));
#endif
  }
}
PTX_FN void leave(const pab_emu::BulkCopy& copy) {
  for (u32 n = 0; n < copy.bytes / 16; ++n) {
    const Piece to = piece(copy, n);
    const auto data = std::bit_cast<Vector<u8, 16>>(load_vector<u64, 2>(to.shared));
    for (u32 i = 0; i < 16; ++i) {
      if (to.there >> i & 1) store<u8>(memory(to.global + i), data.at[i]);
    }
  }
}

// Whether the phase of `parity` has ended; where it has not, one of the copies that it waits for lands.
PTX_FN bool barrier_wait(void* at, u32 parity) {
  u64 word = barrier_look(at);
  if (pab_emu::Mbarrier::parity_of(word) != (parity & 1u)) return true;
  pab_emu::BulkCopy copy;
  if (pab_emu::bulk_landing(reinterpret_cast<u64>(at), copy)) {
    land(copy);
    barrier_change(at, 0, -static_cast<s64>(copy.bytes));
    word = barrier_look(at);
    if (pab_emu::Mbarrier::parity_of(word) != (parity & 1u)) return true;
  }
  waits_at(at);
  pab_emu::poll(word);
  waits_at(nullptr);
  return false;
}

PTX_OWN void check_room(const pab_emu::BulkCopy& copy, u32 aligned) {
  const u32 at = shared_offset(copy.shared), all = shared_bytes();
  if (at % aligned) pab_emu::fault("bulk copy: byte %u of shared memory: must be aligned to %u", at, aligned);
  if (at > all || copy.bytes > all - at) pab_emu::fault("bulk copy: %u bytes at byte %u of shared memory: a block has %u", copy.bytes, at, all);
}
PTX_OWN pab_emu::BulkCopy plain_copy(void* shared, const void* global, u32 bytes, const void* barrier) {
  pab_emu::BulkCopy copy{};
  copy.shared = static_cast<unsigned char*>(shared);
  copy.global = reinterpret_cast<u64>(global);
  copy.bytes = bytes;
  copy.barrier = reinterpret_cast<u64>(barrier);
  if (bytes % 16 || copy.global % 16) pab_emu::fault("bulk copy: %u bytes at global address 0x%llx: both must be multiples of 16", bytes, copy.global);
  check_room(copy, 16);
  return copy;
}
template <int kRank>
PTX_OWN pab_emu::BulkCopy tile_copy(void* shared, const void* map_at, const s32 (&at)[kRank], const void* barrier) {
  TensorMap map;
  std::memcpy(&map, map_at, sizeof map);
  if (map.magic != kTensorMap) pab_emu::fault("bulk copy: no tensor map at 0x%llx", reinterpret_cast<u64>(map_at));
  if (map.rank != kRank) pab_emu::fault("bulk copy: %d coordinates for a tensor map of %u dimensions", kRank, map.rank);
  pab_emu::BulkCopy copy{};
  std::memcpy(copy.map, map_at, sizeof map);
  copy.tile = true;
  copy.shared = static_cast<unsigned char*>(shared);
  copy.global = map.address;
  copy.barrier = reinterpret_cast<u64>(barrier);
  copy.bytes = map.bytes;
  for (int d = 0; d < kRank; ++d) copy.bytes *= map.box[d], copy.at[d] = at[d];
  check_room(copy, 128);
  return copy;
}
PTX_FN void bulk_in(const pab_emu::BulkCopy& copy) {
  announce(copy);
#ifdef PAB_EMU_CHECKED
  for (u32 n = 0; n < copy.bytes / 16; ++n) pab_emu::note_bulk_target(piece(copy, n).shared);
#endif
  pab_emu::bulk_issue(copy);
  // who performs the copy has seen what the issuing thread had
  barrier_change(reinterpret_cast<void*>(copy.barrier), 0, 0);
}
PTX_FN void bulk_out(const pab_emu::BulkCopy& copy) {
#ifdef PAB_EMU_CHECKED
  for (u32 n = 0; n < copy.bytes / 16; ++n) pab_emu::note_bulk_read(piece(copy, n).shared);
#endif
  pab_emu::bulk_issue(copy);
}
PTX_FN void bulk_wait(u32 newest_groups_left) {
  pab_emu::BulkCopy copy;
  while (pab_emu::bulk_leaving(newest_groups_left, copy)) leave(copy);
}

// --- clusters of one block ------------------------------------------------------------------------------------------
template <typename T>
PTX_FN T of_block(T address, u32 rank) {
  if (rank) pab_emu::fault("mapa: block %u of a cluster of 1", rank);
  return address;
}

}  // namespace ptx
