// SPDX-License-Identifier: Apache-2.0
// The end of a block of paged_prefill.cu and of paged_prefill_wgmma.cu: rows and their LSE from the states of its lanes.
//
// Part of these kernels, not of others: it uses the constants and the state that they define before it.
#pragma once

#include "pab/prefill_order.cuh"
#include "pab/query_tile.cuh"

namespace pab {

// Divides by the sum and writes 16 rows, first_row the first; `room` is their part of the shared memory.
PAB_FN void write_rows(const State& state, u16* room, const Call& call, const Work& work, i32 first_row) {
  const Features& features = work.sequence.features;
  const int lane = static_cast<int>(opaque(lane_id()));  // nothing of it is kept from before the tiles
  auto* bytes = reinterpret_cast<unsigned char*>(room);
  warp_sync(kFullMask);  // all lanes are done with the queries that the output replaces
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    const float sum = quad_sum(state.sum[half]);
    // no key: output 0, LSE -inf or that of the sink; a NaN among the logits, or nothing but -inf, comes out as NaN
    const float scale = value_scale(features, query_head(work, first_row + row));
    const float inverse = state.row[half].end > 0 ? scale / sum : 0.0f;
#pragma unroll
    for (int step = 0; step < kValueSteps; ++step) {
      const float(&low)[4] = state.out[2 * step], (&high)[4] = state.out[2 * step + 1];
      if constexpr (kE4m3) {
        const Pack<float, 4> four = row_of_e4m3(low, high, half);
        const u32 first = pack_pair(four.at[0] * inverse, four.at[1] * inverse);
        const u32 second = pack_pair(four.at[2] * inverse, four.at[3] * inverse);
        unsigned char* at = bytes + query_offset<kValueSteps>(row, 2 * step + lane % 4 / 2);
        store_pack(reinterpret_cast<u32*>(at) + 2 * (lane % 2), Pack<u32, 2>{{first, second}});
      } else {
        const u32 first = pack_pair(low[2 * half] * inverse, low[2 * half + 1] * inverse);
        const u32 second = pack_pair(high[2 * half] * inverse, high[2 * half + 1] * inverse);
        store_wide(reinterpret_cast<u32*>(bytes + query_offset<kValueSteps>(row, 2 * step)) + lane % 4, first);
        store_wide(reinterpret_cast<u32*>(bytes + query_offset<kValueSteps>(row, 2 * step + 1)) + lane % 4, second);
      }
    }
    if (lane % 4 == 0 && first_row + row <= work.last_row) {
      call.lse[query_row(call, work, first_row + row)] = (state.max[half] + lg2(sum)) * kLn2;
    }
  }
  warp_sync(kFullMask);
#pragma unroll
  for (int i = 0; i < 16 * kOutChunks / 32; ++i) {
    const int index = lane + 32 * i, row = index / kOutChunks, chunk = index % kOutChunks;
    if (first_row + row > work.last_row) break;
    const auto loaded = load_pack<4>(reinterpret_cast<const u32*>(bytes + query_offset<kValueSteps>(row, chunk)));
    const i64 target = query_row(call, work, first_row + row) * kValueDim + 8 * chunk;
    store_pack(reinterpret_cast<u32*>(call.out + target), loaded);
  }
}

}  // namespace pab
