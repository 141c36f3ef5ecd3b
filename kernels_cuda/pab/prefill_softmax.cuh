// SPDX-License-Identifier: Apache-2.0
// What paged_prefill.cu does with a tile: logits, which of them rows see, their weights, and both products.
//
// Part of that kernel, not of others: it uses the constants, the State and the Stage that paged_prefill.cu and
// pab/prefill_memory.cuh define before it.
#pragma once

#include "pab/prefill_masks.cuh"
#include "pab/prefill_products.cuh"

namespace pab {

// Takes the ends of the lane's rows out of those of 16, where they are not kept in registers.
PAB_FN void fetch_ends(State& state, const u32* ends, int lane) {
  if constexpr (kRowTiles == 2) {
    state.row[0].end = ends[lane / 4];
    state.row[1].end = ends[lane / 4 + 8];
  }
}

// Turns the products of 16 rows and a tile of keys into weights: the state's maximum and sum go on to this tile's, and
// its output is scaled to that.  `first` and `masked` as of attend.
PAB_FN void weigh(u32 (&weights)[kPairs][4], State& state, float (&score)[2 * kPairs][4], const u32* ends,
                  const Features& features, const TileBits& bits, float scale_log2, u32 first, bool masked, int lane) {
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 token = first + 8 * i + 2 * (lane % 4) + j % 2;
      score[i][j] = seen_logit(features, state.row[j / 2], score[i][j], token, scale_log2);
    }
  }
  if (masked) {
    fetch_ends(state, ends, lane);
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const u32 token = first + 8 * i + 2 * (lane % 4) + j % 2;
        const bool seen = sees_key(bits, features, state.row[j / 2], j / 2, i, j % 2, token, lane);
        if (!seen) score[i][j] = minus_infinity();
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) note_seen(state.row[half], bits, half, masked);

  float top[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) top[j / 2] = fmaxf(top[j / 2], score[i][j]);
  }
  float base[2], rescale[2];
  bool moved = false;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    top[half] = fmaxf(state.max[half], quad_max(top[half]));
    const bool higher = top[half] != state.max[half];
    base[half] = top[half] == minus_infinity() ? 0.0f : top[half];  // -inf - -inf would be NaN
    // exactly 1, not an approximation of it, so that a row does not depend on the others of its warp
    rescale[half] = higher ? ex2(state.max[half] - base[half]) : 1.0f;
    state.max[half] = top[half];
    moved |= higher;
  }
  if (any(kFullMask, moved)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) state.sum[half] *= rescale[half];
#pragma unroll
    for (int i = 0; i < 2 * kValueSteps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) state.out[i][j] *= rescale[j / 2];
    }
  }
  float sum[2] = {0.0f, 0.0f};  // of this tile, so that chains of additions stay short
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      score[i][j] = ex2(score[i][j] - base[j / 2]);
      sum[j / 2] += score[i][j];
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) state.sum[half] += sum[half];

#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    // accumulators of the first product are, rounded, operand A of the second
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&pairs)[4] = score[2 * pair + i / 2];
      weights[pair][i] = pack_pair(pairs[2 * (i % 2)], pairs[2 * (i % 2) + 1]);
    }
  }
}

// Attends to a tile whose first key is `first`; `masked` when some row of the warp does not see all of it.
PAB_FN void attend(State (&states)[kRowTiles], const Stage& stage, const u16* queries, const u32* ends,
                   const Features& features, const MaskRows& mask, float scale_log2, u32 first, bool masked) {
  // else the places of all chunks would be kept from tile to tile, more than there are registers for
  const int lane = static_cast<int>(opaque(lane_id()));
  const TileBits bits = tile_bits(mask, first, masked);  // before the products, behind which they have arrived
  float score[kRowTiles][2 * kPairs][4] = {};
  multiply_keys(score, states, queries, stage.keys, lane);
  u32 weights[kRowTiles][kPairs][4];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    weigh(weights[tile], states[tile], score[tile], ends + 16 * tile, features, bits, scale_log2, first, masked, lane);
  }
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) multiply_values(states, weights, stage.values, pair, lane);
}

}  // namespace pab
