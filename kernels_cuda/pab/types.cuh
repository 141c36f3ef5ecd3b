// SPDX-License-Identifier: Apache-2.0
// Short names of fixed-size types, alike for NVRTC (which has no <cstdint>) and the host compiler.
#pragma once

namespace pab {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

constexpr u32 kWarpSize = 32;
constexpr u32 kFullMask = 0xFFFFFFFFu;

}  // namespace pab
