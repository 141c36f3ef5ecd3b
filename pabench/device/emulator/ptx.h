// SPDX-License-Identifier: Apache-2.0
// What one PTX instruction does, as small inline functions over the runtime: what pabench/device/ptx translates to.
//
// Generic and global addresses are host addresses, shared ones offsets into the block's shared memory.  Registers are
// C++ variables: whole numbers without a sign for untyped ones, float, double, bool for predicates.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "emulator/intrinsics.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#define PTX_FN static inline __attribute__((always_inline))
// Not instrumented, so not inlined where a kernel is.
#define PTX_OWN static __attribute__((noinline, no_sanitize("thread")))
#define PTX_APART __attribute__((noinline))
#define PTX_EXPORT __attribute__((visibility("default"), no_sanitize("thread")))

namespace ptx {

namespace numbers {
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = unsigned long long;
using u128 = unsigned __int128;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = long long;
using f32 = float;
using f64 = double;
}  // namespace numbers
using namespace numbers;

template <int N, int A>
struct alignas(A) Bytes {
  unsigned char at[N];
};

}  // namespace ptx

#include "emulator/ptx/integer.h"
#include "emulator/ptx/floating.h"
#include "emulator/ptx/memory.h"
#include "emulator/ptx/warp.h"
#include "emulator/ptx/matrix.h"
#include "emulator/ptx/bulk.h"
#include "emulator/ptx/warpgroup.h"
