// SPDX-License-Identifier: Apache-2.0
// The end of a unit: a row's result from its keys' maximum and sum, and the merge of pieces by the last one to arrive.
//
// Part of paged_decode.cu and paged_decode_latent.cu, not of others: it uses kValueDim and kThreads, which these define
// before it.
#pragma once

#include "pab/decode_tiles.cuh"
#include "pab/fragments_rows.cuh"

namespace pab {

constexpr float kLn2 = 0.693147180559945309f;
constexpr int kOutChunks = kValueDim / 8;  // of a row of the output

// Eight neighbouring elements of a row while states are merged.
struct Merged {
  float out[8];
  float max, sum;
};

// Adds a state whose output is scaled to its own maximum `max`, given the maximum of all.  That of the maximum has
// weight 1 exactly, since ex2 of 0 is: states without weight beside it change no bit.
PAB_FN void merge(Merged& merged, const float (&out)[8], float max, float sum) {
  // a state that saw nothing has maximum -inf and weight 0, whatever the others have
  const float weight = ex2(max - (merged.max == minus_infinity() ? 0.0f : merged.max));
  merged.sum = fmadd(sum, weight, merged.sum);
#pragma unroll
  for (int i = 0; i < 8; ++i) merged.out[i] = fmadd(out[i], weight, merged.out[i]);
}

// What a row's output is multiplied by, and its LSE, from the maximum and sum of all its keys.
struct RowEnd {
  float scale, lse;
};

PAB_FN RowEnd row_end(const Call& call, const Batch& batch, const Work& work, i32 row, float max, float sum) {
  float scale = 1.0f;
  if constexpr (kFeatures) {
    const int head = query_head(batch, work, row);
    const float sink = sink_log2(batch.features, head);
    scale = kValueFactor * value_scale(batch.features, head);
    if (sink > minus_infinity()) {  // one more key, without a value
      const float top = fmaxf(max, sink), keys = ex2(max - top);
      sum = fmadd(sum, keys, ex2(sink - top));
      max = top;
      scale *= keys;
    }
  } else {
    scale = value_scale(batch.features, query_head(batch, work, row));
  }
  // no key: output 0, LSE -inf or that of the sink; a NaN among the logits, or nothing but -inf, comes out as NaN
  return {sees_any(call, batch, work, row) ? scale / sum : 0.0f, (max + lg2(sum)) * kLn2};
}

// Writes eight elements of a packed row, and its LSE, from the state of all its keys.
PAB_FN void write_result(const Call& call, const Batch& batch, const Work& work, const Merged& merged, i32 row,
                         int chunk) {
  const RowEnd end = row_end(call, batch, work, row, merged.max, merged.sum);
  const i64 target = query_row(call, batch, work, row);
  Pack<u32, 4> packed;
#pragma unroll
  for (int i = 0; i < 4; ++i) packed.at[i] = pack_pair(merged.out[2 * i] * end.scale, merged.out[2 * i + 1] * end.scale);
  store_pack(reinterpret_cast<u32*>(call.out + target * kValueDim + 8 * chunk), packed);
  if (chunk == 0) call.lse[target] = end.lse;
}

// The unit's last piece to arrive merges all of them, in their order.
PAB_FN void merge_pieces(const Call& call, const Batch& batch, const Work& work, i32 rows) {
  for (int index = static_cast<int>(threadIdx.x); index < rows * kOutChunks; index += kThreads) {
    const int row = index / kOutChunks, chunk = index % kOutChunks;
    Merged merged = {{}, minus_infinity(), 0.0f};
    for (i32 piece = 0; piece < work.pieces; ++piece) {
      const i64 at = partial_slot(work, piece, batch.split_tiles) * kUnitRows + row;
      merged.max = fmaxf(merged.max, call.partial_max[at]);
    }
    for (i32 piece = 0; piece < work.pieces; ++piece) {
      const i64 at = partial_slot(work, piece, batch.split_tiles) * kUnitRows + row;
      const Pack<float, 4> low = load_pack<4>(call.partial_out + at * kValueDim + 8 * chunk);
      const Pack<float, 4> high = load_pack<4>(call.partial_out + at * kValueDim + 8 * chunk + 4);
      const float out[8] = {low.at[0],  low.at[1],  low.at[2],  low.at[3],
                            high.at[0], high.at[1], high.at[2], high.at[3]};
      merge(merged, out, call.partial_max[at], call.partial_sum[at]);
    }
    write_result(call, batch, work, merged, work.first_row + row, chunk);
  }
}

// Counts the block in among those that attend to the unit, whose partial results are written; the last one merges.
template <typename Memory>
PAB_FN void meet_pieces(Memory& memory, const Call& call, const Batch& batch, const Work& work, i32 rows) {
  fence_device();  // what this thread wrote, before the block's arrival
  block_sync();
  if (threadIdx.x == 0) {
    const u32 before = atomic_add(call.arrivals + work.home, 1u);
    memory.last = before + 1 == static_cast<u32>(work.pieces);
    if (memory.last) atomic_exch(call.arrivals + work.home, 0u);  // ready for the next launch
  }
  block_sync();
  if (!memory.last) return;
  fence_device();  // what the others wrote, after their arrival
  merge_pieces(call, batch, work, rows);
}

}  // namespace pab
