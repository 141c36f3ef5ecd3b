// SPDX-License-Identifier: Apache-2.0
// The queries of a warp's rows in shared memory: where their chunks lie, and how they become operand A.
//
// Over a cache of the instance's own type they are read with ldmatrix, like the keys; over numbers of 8 or 4 bits they are
// numbered as fragments_e4m3.cuh and fragments_rows.cuh say.  A row is 2 * kSteps chunks of 8 elements.
#pragma once

#include "pab/fragments_rows.cuh"

namespace pab {

// Byte offset of chunk `chunk` of row `row`.
template <int kSteps>
PAB_FN int query_offset(int row, int chunk) {
  if constexpr (kNumberBits == 4) return query_offset_for_4_bits<kSteps>(row, chunk);
  else if constexpr (kNumberBits == 8) return query_offset_for_e4m3<kSteps>(row, chunk);
  else return chunk_offset<2 * kSteps>(row, chunk);
}

// One k step of 16 rows as operand A.
template <int kSteps>
PAB_FN void load_query(u32 (&a)[4], const u16* queries, int step) {
  if constexpr (kNumberBits == 4) {
    load_query_for_4_bits<kSteps>(a, queries, step);
  } else if constexpr (kNumberBits == 8) {
    load_query_for_e4m3<kSteps>(a, queries, step);
  } else {
    const int lane = static_cast<int>(lane_id()), row = lane % 16, chunk = 2 * step + lane / 16;
    ldmatrix_x4(a, reinterpret_cast<const unsigned char*>(queries) + query_offset<kSteps>(row, chunk));
  }
}

}  // namespace pab
