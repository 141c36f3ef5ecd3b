// SPDX-License-Identifier: Apache-2.0
// wgmma: products that the four warps of a warpgroup issue together and wait for later.
//
// A product happens at some time between its issue and the wait for its group: by chance at once, or when a warp waits.
// Until a warp has waited its accumulators hold marks, one a register, which moves may carry along; whoever computes
// with a mark ends the launch.  What a mark stands for is known once the wait is over.
//
// Where the elements lie is the PTX ISA's (sections on wgmma): warp w of the group has rows 16 w .. 16 w + 15 of A and
// D, lane = 4 * g + t:
//   A in registers    a[0] (g, piece 0), a[1] (g + 8, 0), a[2] (g, 1), a[3] (g + 8, 1): 4 bytes at byte 4 t of the
//                     16 of a piece; a row of A is two pieces whatever its type
//   D                 element c of columns 8 j + 2 t + c, row g + 8 half, is number 4 j + 2 half + c
#pragma once

#include <vector>

#include "emulator/lane.h"

namespace pab_emu {

enum class Number : u32 { f16, bf16, tf32, e4m3, e5m2, s8, u8, f32, s32 };

// One wgmma.mma_async, the same for all threads that come to it.
struct GroupProduct {
  Number left, right, result;
  u32 columns;
  bool from_registers, left_transposed, right_transposed, left_negative, right_negative, saturated;
  bool operator==(const GroupProduct&) const = default;
  u32 registers() const { return columns / (result == Number::f16 ? 4 : 2); }
};

// A product of one warp that was issued.
struct WarpProduct {
  GroupProduct what{};
  u64 left = 0, right = 0;  // descriptors
  bool adds = false;
  u32 number = 0, group = 0;
  u32 a[kWarpSize][4] = {};
  std::vector<u32> values;  // registers of its lanes: what is added to, then the results
};
constexpr u32 kProducts = 128;  // in flight

// The products of a warp, counted: those before `computed` have happened, those before `waited` are known to.
struct WarpProducts {
  u32 issued = 0, computed = 0, waited = 0, group = 0;
  std::vector<WarpProduct> ring;  // product i at i % kProducts
};

// Issues a product: `d` is what this thread adds to, and gets marks; `a` its part of A, where A is in registers.
void product_issue(const GroupProduct& what, u32* d, const u32* a, u64 left, u64 right, bool adds);
void product_commit();
// Waits for all but the newest groups of this warp.
void product_wait(u32 newest_groups_left);

// A mark is a NaN that no arithmetic makes, of each of two halves as well.  Its 14 free bits are the place of the
// product in the ring and the number of the register, 7 each.
constexpr u32 kMark = 0x7FA07E00u, kMarkBits = 0xFFE0FE00u;
inline bool is_mark(u32 bits) { return (bits & kMarkBits) == kMark; }
inline u32 mark_of(u32 product, u32 index) {
  const u32 code = product % kProducts << 7 | index;
  return kMark | (code >> 9) << 16 | (code & 0x1FFu);
}
inline u32 code_of(u32 mark) { return (mark >> 16 & 0x1Fu) << 9 | (mark & 0x1FFu); }
// What a mark stands for if this warp has waited for it, else the mark.
u32 product_result(u32 mark);
// The same for who computes with it: ends the launch if the warp has not waited.
u32 product_needed(u32 mark);

}  // namespace pab_emu
