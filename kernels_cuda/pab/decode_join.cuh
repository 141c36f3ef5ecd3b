// SPDX-License-Identifier: Apache-2.0
// The end of a piece of paged_decode.cu, whose warps attended to other keys of the same rows: they join their states.
//
// Part of that kernel, not of others: it uses the constants and the memory that paged_decode.cu defines before it.
#pragma once

#include "pab/decode_merge.cuh"

namespace pab {

// Where pair `pair` of packs of four floats of row `row` lies, in floats.  At a time lanes write one pair of four rows, or
// two of two, without bank conflicts: of rows that begin in the same banks, every second one is moved by two pairs, and
// every second two of them by one.
template <int kPairs>
PAB_FN int pair_place(int row, int pair) {
  const int spread = (kPairs % 4 == 0 ? row % 2 * 2 : 0) + row / 2 % 2;
  return (row * kPairs + (pair ^ spread)) * 8;
}

// Joins the warps' states at the end of a piece and writes the result, or a partial one.  A pass is 16 * kPassSteps
// columns, which take the place of the tokens.
PAB_FN void end_piece(SharedMemory& memory, State& state, Slice* slices, const Call& call, const Batch& batch,
                      const Work& work) {
  constexpr int kPairs = 2 * kPassSteps;  // of packs of four floats, in a row
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(threadIdx.x) / 32;
  float* mine = slices[warp].out;
  warp_sync(kFullMask);  // all lanes are done with the tokens that the output replaces
  i32 rows = 0;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int first = pass * kPassSteps, steps = kSteps - first < kPassSteps ? kSteps - first : kPassSteps;
    if (pass > 0) block_sync();  // all threads are done with the pass before
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + 8 * half;
#pragma unroll
      for (int i = 0; i < 2 * steps; ++i) {
        if constexpr (kNumberBits == 4) {
          if (i % 4) continue;
          // every second row begins with the second pack of its pair, so that eight lanes write 128 bytes
          float* pair = mine + pair_place<kPairs>(row, i + lane % 4);
          const int second = row % 2;
          store_pack(pair + 4 * second, half_row_of_4_bits(state.out + 2 * first + i, half, second));
          store_pack(pair + 4 - 4 * second, half_row_of_4_bits(state.out + 2 * first + i, half, 1 - second));
        } else if constexpr (kNumberBits == 8) {
          if (i % 2) continue;
          const Pack<float, 4> four = row_of_e4m3(state.out[2 * first + i], state.out[2 * first + i + 1], half);
          store_pack(mine + pair_place<kPairs>(row, i + lane % 4 / 2) + 4 * (lane % 2), four);
        } else {
          store_pack(mine + pair_place<kPairs>(row, i) + 2 * (lane % 4), Pack<float, 2>{{state.out[i][2 * half], state.out[i][2 * half + 1]}});
        }
      }
      if (pass > 0) continue;
      const float sum = quad_sum(state.sum[half]);
      if (lane % 4 == 0) {
        memory.max[warp][row] = state.max[half];
        memory.sum[warp][row] = sum;
      }
    }
    block_sync();

    const i32 left = work.query_len * batch.group_size - work.first_row;
    rows = left < kUnitRows ? left : kUnitRows;
    for (int index = static_cast<int>(threadIdx.x); index < rows * 2 * steps; index += kThreads) {
      const int row = index / (2 * steps), place = index % (2 * steps), chunk = 2 * first + place;
      if (kTileDim != kHeadDim && chunk >= kOutChunks) continue;
      // four neighbouring lanes read the second packs of their pairs when the next four read the first ones
      const int place_of_pair = pair_place<kPairs>(row, place), swapped = lane / 4 % 2;
      Merged merged = {{}, minus_infinity(), 0.0f};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) merged.max = fmaxf(merged.max, memory.max[w][row]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float* pair = slices[w].out + place_of_pair;
        const Pack<float, 4> one = load_pack<4>(pair + 4 * swapped), other = load_pack<4>(pair + 4 - 4 * swapped);
        const float out[8] = {one.at[0],   one.at[1],   one.at[2],   one.at[3],
                              other.at[0], other.at[1], other.at[2], other.at[3]};
        merge(merged, out, memory.max[w][row], memory.sum[w][row]);
      }
#pragma unroll
      for (int i = 0; i < 4 && swapped; ++i) {
        const float first = merged.out[i];
        merged.out[i] = merged.out[i + 4];
        merged.out[i + 4] = first;
      }
      if (work.pieces == 1) {
        write_result(call, batch, work, merged, work.first_row + row, chunk);
        continue;
      }
      const i64 at = partial_slot(work, work.piece, batch.split_tiles) * kUnitRows + row;
      float* target = call.partial_out + at * kValueDim + 8 * chunk;
      store_pack(target, Pack<float, 4>{{merged.out[0], merged.out[1], merged.out[2], merged.out[3]}});
      store_pack(target + 4, Pack<float, 4>{{merged.out[4], merged.out[5], merged.out[6], merged.out[7]}});
      if (chunk == 0) {
        call.partial_max[at] = merged.max;
        call.partial_sum[at] = merged.sum;
      }
    }
  }
  if (work.pieces > 1) meet_pieces(memory, call, batch, work, rows);
}

}  // namespace pab
