// SPDX-License-Identifier: Apache-2.0
// The two products of paged_prefill.cu: a warp's queries with the keys of a tile, and its weights with the values.  Each
// operand that comes from shared memory is loaded once for all row tiles.
//
// Part of that kernel, not of others: it uses the constants and the State that paged_prefill.cu defines before it.
#pragma once

#include "pab/query_tile.cuh"

namespace pab {

// The products of a warp's queries and the keys of a tile.
PAB_FN void multiply_keys(float (&score)[kRowTiles][2 * kPairs][4], const State (&states)[kRowTiles],
                          const u16* queries, const Cached* tokens, int lane) {
  const auto* keys = reinterpret_cast<const unsigned char*>(tokens);
  // a chunk of e4m3 is a whole step, so that ldmatrix brings two; of an odd number the last one comes twice
  constexpr int kAtOnce = kE4m3 ? 2 : 1;
#pragma unroll kUnrolledSteps
  for (int step = 0; step < kSteps; step += kAtOnce) {
    u32 a[kRowTiles][kAtOnce][4];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int more = 0; more < kAtOnce; ++more) {
        if (step + more >= kSteps) break;
        if constexpr (kQueryInRegisters) {
#pragma unroll
          for (int i = 0; i < 4; ++i) a[tile][more][i] = states[tile].query[step + more][i];
        } else {
          load_query<kSteps>(a[tile][more], queries + 16 * kRowRoom * tile, step + more);
        }
      }
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      u32 key[4];
      const int row = 16 * pair + lane / 16 * 8 + lane % 8, second = lane / 8 % 2;
      if constexpr (kE4m3) {
        const int chunk = step + 1 < kSteps ? step + second : step;
        ldmatrix_x4(key, keys + chunk_offset<kCacheChunks>(row, chunk));
#pragma unroll
        for (int more = 0; more < 2; ++more) {
          if (step + more >= kSteps) break;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            u32 b0, b1;
            keys_of_e4m3(b0, b1, key[2 * i + more]);
#pragma unroll
            for (int tile = 0; tile < kRowTiles; ++tile) mma_16816(score[tile][2 * pair + i], a[tile][more], b0, b1);
          }
        }
      } else {
        const int place = chunk_offset<kCacheChunks>(lane / 16 * 8 + lane % 8, second);
        ldmatrix_x4(key, keys + 16 * pair * kCacheChunks * kChunkBytes + step_offset<kCacheChunks>(place, step));
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          mma_16816(score[tile][2 * pair], a[tile][0], key[0], key[1]);
          mma_16816(score[tile][2 * pair + 1], a[tile][0], key[2], key[3]);
        }
      }
    }
  }
}

// Adds the products of the weights of pair `pair` of 8 tokens and their values to the outputs.
PAB_FN void multiply_values(State (&states)[kRowTiles], const u32 (&weights)[kRowTiles][kPairs][4],
                            const Cached* tokens, int pair, int lane) {
  const int first = 16 * pair;  // of the tile's tokens
  const int row = first + lane % 16;
  const auto* values = reinterpret_cast<const unsigned char*>(tokens);
  u32 value[4];
  if constexpr (kE4m3) {
#pragma unroll
    for (int step = 0; step < kValueSteps; step += 2) {
      const int chunk = step + 1 < kValueSteps ? step + lane / 16 : step;
      ldmatrix_x4_trans(value, values + chunk_offset<kValueChunks>(row, chunk));
#pragma unroll
      for (int more = 0; more < 2; ++more) {
        if (step + more >= kValueSteps) break;
        u32 even[2], odd[2];
        values_of_e4m3(even[0], odd[0], value[2 * more]);
        values_of_e4m3(even[1], odd[1], value[2 * more + 1]);
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          State& state = states[tile];
          mma_16816(state.out[2 * (step + more)], weights[tile][pair], even[0], even[1]);
          mma_16816(state.out[2 * (step + more) + 1], weights[tile][pair], odd[0], odd[1]);
        }
      }
    }
  } else {
#pragma unroll
    for (int step = 0; step < kValueSteps; ++step) {
      const int place = chunk_offset<kValueChunks>(lane % 16, lane / 16);
      const auto* rows = values + first * kValueChunks * kChunkBytes;
      ldmatrix_x4_trans(value, rows + step_offset<kValueChunks>(place, step));
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        mma_16816(states[tile].out[2 * step], weights[tile][pair], value[0], value[1]);
        mma_16816(states[tile].out[2 * step + 1], weights[tile][pair], value[2], value[3]);
      }
    }
  }
}

}  // namespace pab
