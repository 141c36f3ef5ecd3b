// SPDX-License-Identifier: Apache-2.0
// The storage type of a kernel instance and vector access to it.
//
//   PAB_DTYPE   0 float32, 1 float16, 2 bfloat16 (the smaller types are carried as their bits)
//   PAB_E4M3    1 when the cache is stored as e4m3; else, or not defined, it is stored as the rest
//   PAB_TILE_ROWS   the cache holds rows of bytes, numbers and behind them their scales, of the format that this names in
//                   TileRows; 0 or not defined: it does not
#pragma once

#include "pab/intrinsics.cuh"

namespace pab {

#if PAB_DTYPE == 0
using Stored = float;
PAB_FN float to_float(Stored x) { return x; }
PAB_FN Stored from_float(float x) { return stored_float(x); }
#elif PAB_DTYPE == 1
using Stored = u16;
PAB_FN float to_float(Stored x) { return half_to_float(x); }
PAB_FN Stored from_float(float x) { return float_to_half(x); }
#elif PAB_DTYPE == 2
using Stored = u16;
PAB_FN float to_float(Stored x) { return bf16_to_float(x); }
PAB_FN Stored from_float(float x) { return float_to_bf16(x); }
#else
#error "PAB_DTYPE must be 0, 1 or 2"
#endif

#if defined(PAB_ROWS) && PAB_ROWS
using Cached = u8;  // bytes of rows, see pab/cache_rows.cuh
#undef PAB_E4M3
#define PAB_E4M3 0
#elif defined(PAB_TILE_ROWS) && PAB_TILE_ROWS
using Cached = u8;
#undef PAB_E4M3
#define PAB_E4M3 0
#elif defined(PAB_E4M3) && PAB_E4M3
using Cached = u8;
PAB_FN float to_float(Cached x) { return e4m3_to_float(x); }
#else
using Cached = Stored;
#undef PAB_E4M3
#define PAB_E4M3 0
#endif

#ifndef PAB_TILE_ROWS
#define PAB_TILE_ROWS 0
#endif

// Formats of rows that tensor-core kernels take; the host has the same list.
enum TileRows { kNoRows, kInt8Rows, kInt4Rows, kE4m3Rows, kNvfp4Rows };
constexpr TileRows kTileRows = static_cast<TileRows>(PAB_TILE_ROWS);
constexpr bool kTokenScales = kTileRows == kInt8Rows || kTileRows == kInt4Rows || kTileRows == kE4m3Rows;
constexpr bool kBlockScales = kTileRows == kNvfp4Rows;
constexpr int kNumberBits = kTileRows == kInt4Rows || kTileRows == kNvfp4Rows ? 4 : 8 * static_cast<int>(sizeof(Cached));

// N neighbouring elements, moved by one load or store; the address must be a multiple of their size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

template <int N, typename T>
PAB_FN Pack<T, N> load_pack(const T* address) {
  return load_wide(reinterpret_cast<const Pack<T, N>*>(address));
}
template <int N, typename T>
PAB_FN void store_pack(T* address, const Pack<T, N>& pack) {
  store_wide(reinterpret_cast<Pack<T, N>*>(address), pack);
}

}  // namespace pab
