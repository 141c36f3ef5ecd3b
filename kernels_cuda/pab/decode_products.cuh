// SPDX-License-Identifier: Apache-2.0
// The two products of paged_decode.cu: the query with a warp's keys, and the weights with its values.  Tile is its Tokens,
// which have scales in some instances alone.
//
// Part of that kernel, not of others: it uses the constants, the State and multiply_step that paged_decode.cu defines
// before it.
#pragma once

#include "pab/fragments_rows.cuh"

namespace pab {

// Byte offset of chunk `chunk` + `second` (0 or 1) of row `row`, `chunk` even; of an odd number of chunks the last one
// comes twice.
PAB_FN int pair_offset(int row, int chunk, int second) {
  if constexpr (kCacheChunks % 2 == 0) {
    return step_offset<kCacheChunks>(chunk_offset<kCacheChunks>(row, second), chunk / 2);
  } else {
    return chunk_offset<kCacheChunks>(row, chunk + 1 < kCacheChunks ? chunk + second : chunk);
  }
}

// The products of the query and a warp's keys of 8 bits, two steps at once, as float16 or in the storage type.
template <bool kHalves>
PAB_FN void multiply_keys_of_bytes(float (&score)[2][4], const State& state, const u16* query,
                                   const unsigned char* keys) {
  const int lane = static_cast<int>(lane_id()), row = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int step = 0; step < kSteps; step += 2) {
    u32 pairs[4], key[4];
    ldmatrix_x4(pairs, keys + pair_offset(row, step, lane / 8 % 2));
#pragma unroll
    for (int i = 0; i < 2 && step + i < kSteps; ++i) {
      if constexpr (kHalves) {
        halves_of_e4m3(key[0], key[1], pairs[i]);
        halves_of_e4m3(key[2], key[3], pairs[2 + i]);
        mma_16816_f16(score[0], state.query[step + i], key[0], key[1]);
        mma_16816_f16(score[1], state.query[step + i], key[2], key[3]);
      } else {
        keys_of_bytes(key[0], key[1], pairs[i]);
        keys_of_bytes(key[2], key[3], pairs[2 + i]);
        multiply_step(score, state, query, step + i, key);
      }
    }
  }
}

// A key's scales of block `block` (0 or 1) of two chunks, of whose blocks `word` has the bytes: of each a pair, twice the
// same.
PAB_FN void key_scales_of_chunks(u32 (&scales)[2], u32 word, int block) {
  const u32 both = pair_of_scales<kHalfKeys>(byte_permute(word, block ? 0x0031 : 0x0020));
  scales[0] = byte_permute(both, 0x1010);
  scales[1] = byte_permute(both, 0x3232);
}

// The same for two tokens' values, of which each has a word: of each chunk a pair, the scales of both tokens.
PAB_FN void value_scales_of_chunks(u32 (&scales)[2], u32 first, u32 second, int block) {
  scales[0] = pair_of_scales<kHalfValues>(byte_permute(first, second, block ? 0x0051 : 0x0040));
  scales[1] = pair_of_scales<kHalfValues>(byte_permute(first, second, block ? 0x0073 : 0x0062));
}

// The products of the query and a warp's keys of 4 bits, four steps at once.
template <typename Tile>
PAB_FN void multiply_keys_of_4_bits(float (&score)[2][4], const State& state, const u16* query, const Tile& tokens) {
  const int lane = static_cast<int>(lane_id()), row = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int chunk = 0; chunk < kCacheChunks; chunk += 2) {
    u32 words[4], scales[2][2] = {};
    ldmatrix_x4(words, tokens.keys + pair_offset(row, chunk, lane / 8 % 2));
    if constexpr (kBlockScales) {
#pragma unroll
      for (int eight = 0; eight < 2; ++eight) {
        const u32 word = scale_word(tokens.key_scales(), lane / 4 + 8 * eight, chunk / 2);
        key_scales_of_chunks(scales[eight], word, lane % 4 / 2);
      }
    }
#pragma unroll
    for (int i = 0; i < 2 && chunk + i < kCacheChunks; ++i) {
      u32 low[4], high[4];
      widen_4_bits<kHalfKeys>(low, words[i], scales[0][i]);
      widen_4_bits<kHalfKeys>(high, words[2 + i], scales[1][i]);
#pragma unroll
      for (int more = 0; more < 2; ++more) {
        const u32 key[4] = {low[2 * more], low[2 * more + 1], high[2 * more], high[2 * more + 1]};
        multiply_step(score, state, query, 2 * (chunk + i) + more, key);
      }
    }
  }
}

// The products of the query and a warp's keys; where each token has a scale, times that.
template <typename Tile>
PAB_FN void multiply_keys(float (&score)[2][4], const State& state, const u16* query, const Tile& tokens) {
  const int lane = static_cast<int>(lane_id()), row = lane / 16 * 8 + lane % 8;
  const auto* keys = reinterpret_cast<const unsigned char*>(tokens.keys);
  if constexpr (kNumberBits == 4) {
    multiply_keys_of_4_bits(score, state, query, tokens);
  } else if constexpr (kQueryAsHalves) {
    if (state.halves) multiply_keys_of_bytes<true>(score, state, query, keys);
    else multiply_keys_of_bytes<false>(score, state, query, keys);
  } else if constexpr (kNumberBits == 8) {
    multiply_keys_of_bytes<false>(score, state, query, keys);
  } else {
    const int first = chunk_offset<kCacheChunks>(row, lane / 8 % 2);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      u32 key[4];
      ldmatrix_x4(key, keys + step_offset<kCacheChunks>(first, step));
      multiply_step(score, state, query, step, key);
    }
  }
  if constexpr (kTokenScales) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Pack<u32, 2> scales = load_pack<2>(tokens.key_scales() + 8 * i + 2 * (lane % 4));
#pragma unroll
      for (int j = 0; j < 4; ++j) score[i][j] *= float_of_bits(scales.at[j % 2]);
    }
  }
}

// Operand A of the second product; the rest is what rounding left of it, where it is the sum of two.
struct Weights {
  u32 at[4], rest[4];
};

// The weights of a warp's tokens from the accumulators of the first product, rounded; times the scales of the tokens'
// values where they have one.
template <typename Tile>
PAB_FN Weights weights_of(const float (&score)[2][4], [[maybe_unused]] const Tile& tokens) {
  Weights weights;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float low = score[i / 2][2 * (i % 2)], high = score[i / 2][2 * (i % 2) + 1];
    if constexpr (kTokenScales) {
      const int token = i / 2 * 8 + static_cast<int>(lane_id()) % 4 * 2;
      const Pack<u32, 2> scales = load_pack<2>(tokens.value_scales() + token);
      low *= float_of_bits(scales.at[0]);
      high *= float_of_bits(scales.at[1]);
      weights.at[i] = pack_bf16x2(low, high);
    } else {
      weights.at[i] = pack_pair(low, high);
    }
    if constexpr (kTwoWeights) {
      float near_low, near_high;
      unpack_bf16x2(weights.at[i], near_low, near_high);
      weights.rest[i] = pack_bf16x2(low - near_low, high - near_high);
    }
  }
  return weights;
}

// Adds the products of the weights and 16 x 8 values.
PAB_FN void multiply_weights(float (&out)[4], const Weights& weights, u32 b0, u32 b1) {
  if constexpr (kTokenScales) mma_16816_bf16(out, weights.at, b0, b1);
  else mma_16816(out, weights.at, b0, b1);
  if constexpr (kTwoWeights) mma_16816_bf16(out, weights.rest, b0, b1);
}

// Adds the products of the weights and a warp's values of 4 bits to the output.
template <typename Tile>
PAB_FN void multiply_values_of_4_bits(State& state, const Weights& weights, const Tile& tokens) {
  const int lane = static_cast<int>(lane_id());
#pragma unroll
  for (int chunk = 0; chunk < kCacheChunks; chunk += 2) {
    u32 words[4], scales[2][2] = {};
    ldmatrix_x4_trans(words, tokens.values + pair_offset(lane % 16, chunk, lane / 16));
    if constexpr (kBlockScales) {
#pragma unroll
      for (int eight = 0; eight < 2; ++eight) {
        const int token = 2 * (lane % 4) + 8 * eight;
        const u32 first = scale_word(tokens.value_scales(), token, chunk / 2);
        const u32 second = scale_word(tokens.value_scales(), token + 1, chunk / 2);
        value_scales_of_chunks(scales[eight], first, second, lane / 16);
      }
    }
#pragma unroll
    for (int i = 0; i < 2 && chunk + i < kCacheChunks; ++i) {
      u32 b0[4], b1[4];
      widen_4_bits<kHalfValues>(b0, words[2 * i], scales[0][i]);
      widen_4_bits<kHalfValues>(b1, words[2 * i + 1], scales[1][i]);
#pragma unroll
      for (int j = 0; j < 4; ++j) multiply_weights(state.out[4 * (chunk + i) + j], weights, b0[j], b1[j]);
    }
  }
}

// Adds the products of the weights and a warp's values to the output.
template <typename Tile>
PAB_FN void multiply_values(State& state, const Weights& weights, const Tile& tokens) {
  const int lane = static_cast<int>(lane_id()), row = lane % 16;
  const auto* values = reinterpret_cast<const unsigned char*>(tokens.values);
  if constexpr (kNumberBits == 4) {
    multiply_values_of_4_bits(state, weights, tokens);
  } else if constexpr (kNumberBits == 8) {
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      u32 value[4], even[2], odd[2];
      ldmatrix_x4_trans(value, values + pair_offset(row, step, lane / 16));
#pragma unroll
      for (int i = 0; i < 2 && step + i < kSteps; ++i) {
        values_of_bytes(even[0], odd[0], value[2 * i]);
        values_of_bytes(even[1], odd[1], value[2 * i + 1]);
        multiply_weights(state.out[2 * (step + i)], weights, even[0], even[1]);
        multiply_weights(state.out[2 * (step + i) + 1], weights, odd[0], odd[1]);
      }
    }
  } else {
    const int first = chunk_offset<kCacheChunks>(row, lane / 16);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      u32 value[4];
      ldmatrix_x4_trans(value, values + step_offset<kCacheChunks>(first, step));
      multiply_weights(state.out[2 * step], weights, value[0], value[1]);
      multiply_weights(state.out[2 * step + 1], weights, value[2], value[3]);
    }
  }
}

}  // namespace pab
