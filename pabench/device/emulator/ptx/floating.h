// SPDX-License-Identifier: Apache-2.0
// Floating numbers as PTX has them: one NaN, rounding by name, halves, and functions within the errors that PTX states.
#pragma once

namespace ptx {

// The bits of a number that was computed: CUDA's arithmetic makes one NaN, host processors others.
PTX_FN u32 bits(float x) { return std::bit_cast<u32>(pab::canonical(x)); }
PTX_FN u64 bits(double x) { return x == x ? std::bit_cast<u64>(x) : 0x7FF8000000000000ull; }

PTX_FN float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
PTX_FN double flush(double x) { return x; }
// .sat: into [0, 1], NaN to 0.
template <typename T>
PTX_FN T clamp(T x) { return x > 0 ? (x < 1 ? x : T{1}) : T{0}; }

// A NaN gives way to a number; -0 is below +0.
template <typename T>
PTX_FN T min(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <typename T>
PTX_FN T max(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
template <typename T>
PTX_FN T min_nan(T a, T b) { return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : min(a, b); }
template <typename T>
PTX_FN T max_nan(T a, T b) { return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : max(a, b); }

// --- rounding by name: `x + rest` is exact, `rest` small ------------------------------------------------------------
struct Sum {
  double x, rest;
};
PTX_FN Sum exact_sum(double a, double b) {  // Knuth's
  const double x = a + b, from_b = x - a, from_a = x - from_b;
  return {x, (a - from_a) + (b - from_b)};
}
// Which side of `nearest` the exact number lies on: below 0, above 0, or on it.
PTX_FN double side_of(float nearest, Sum exact) {
  const double apart = exact.x - static_cast<double>(nearest);
  return apart != 0 ? apart : exact.rest;
}
PTX_FN float next(float x, bool up) {
  if (x == 0) return std::bit_cast<float>(up ? 1u : 0x80000001u);
  return std::bit_cast<float>(std::bit_cast<u32>(x) + ((x > 0) == up ? 1u : ~0u));
}
PTX_FN float narrow_rm(double x, double rest) {
  const float nearest = static_cast<float>(x);
  if (!std::isfinite(x)) return nearest;
  return side_of(nearest, {x, rest}) < 0 ? next(nearest, false) : nearest;
}
PTX_FN float narrow_rp(double x, double rest) {
  const float nearest = static_cast<float>(x);
  if (!std::isfinite(x)) return nearest;
  return side_of(nearest, {x, rest}) > 0 ? next(nearest, true) : nearest;
}
PTX_FN float narrow_rz(double x, double rest) { return x > 0 ? narrow_rm(x, rest) : narrow_rp(x, rest); }
#define PTX_DIRECTED(mode)                                                                               \
  PTX_FN float add_##mode(float a, float b) {                                                            \
    const Sum sum = exact_sum(a, b);                                                                     \
    return narrow_##mode(sum.x, sum.rest);                                                               \
  }                                                                                                      \
  PTX_FN float sub_##mode(float a, float b) { return add_##mode(a, -b); }                                \
  PTX_FN float mul_##mode(float a, float b) { return narrow_##mode(static_cast<double>(a) * b, 0.0); }   \
  PTX_FN float fma_##mode(float a, float b, float c) {                                                   \
    const Sum sum = exact_sum(static_cast<double>(a) * b, c);                                            \
    return narrow_##mode(sum.x, sum.rest);                                                               \
  }                                                                                                      \
  template <typename T>                                                                                  \
  PTX_FN float whole_##mode(T x) {                                                                       \
    const double near = static_cast<double>(x);                                                          \
    return narrow_##mode(near, static_cast<double>(static_cast<__int128>(x) - static_cast<__int128>(near))); \
  }
PTX_DIRECTED(rz)
PTX_DIRECTED(rm)
PTX_DIRECTED(rp)
#undef PTX_DIRECTED

// Rounded to odd: rounding the result once more, to fewer bits, gives what rounding the exact number would.
PTX_FN float odd_float(Sum exact) {
  const float nearest = static_cast<float>(exact.x);
  const double side = side_of(nearest, exact);
  if (side == 0 || !std::isfinite(exact.x) || std::bit_cast<u32>(nearest) & 1) return nearest;
  return std::isinf(nearest) ? nearest : next(nearest, side > 0);
}
PTX_FN float odd_float(double x) { return odd_float(Sum{x, 0.0}); }
PTX_FN float odd_float(float x) { return x; }
template <typename T>
  requires std::is_integral_v<T>
PTX_FN float odd_float(T x) {
  const double near = static_cast<double>(x);
  return odd_float(Sum{near, static_cast<double>(static_cast<__int128>(x) - static_cast<__int128>(near))});
}

// A number that is whole already, or not finite: cut to what T holds; NaN to 0, of 64 bits to the sign bit.
template <typename T, typename F>
PTX_FN T to_whole(F x) {
  if (x != x) return sizeof(T) == 8 ? static_cast<T>(u64{1} << 63) : T{0};
  constexpr double kMost = static_cast<double>(std::numeric_limits<T>::max());
  constexpr double kLeast = static_cast<double>(std::numeric_limits<T>::min());
  if (static_cast<double>(x) >= kMost) return std::numeric_limits<T>::max();
  if (static_cast<double>(x) <= kLeast) return std::numeric_limits<T>::min();
  return static_cast<T>(x);
}
template <bool kEven>
PTX_FN u32 to_tf32(float x) {
  const u32 all = bits(x);
  if (!std::isfinite(x)) return all;
  return (all + (kEven ? 0xFFFu + (all >> 13 & 1u) : 0x1000u)) & 0xFFFFE000u;
}

// --- halves: computed in float, where sums, products and quotients of 11 bits round twice without harm ---------------
#define PTX_HALF(name, to_float, from_float, kSmallest)                                                    \
  namespace name {                                                                                         \
  PTX_FN float wide(u16 x) { return pab::to_float(x); }                                                    \
  PTX_FN u16 narrow(float x) { return pab::from_float(x); }                                                \
  PTX_FN u16 narrow_rz(float x) {                                                                          \
    const u16 near = narrow(x);                                                                            \
    const bool beyond = std::isfinite(x) && std::fabs(wide(near)) > std::fabs(x);                          \
    return static_cast<u16>(near - (beyond ? 1 : 0));                                                      \
  }                                                                                                        \
  PTX_FN u16 add(u16 a, u16 b) { return narrow(wide(a) + wide(b)); }                                       \
  PTX_FN u16 sub(u16 a, u16 b) { return narrow(wide(a) - wide(b)); }                                       \
  PTX_FN u16 mul(u16 a, u16 b) { return narrow(wide(a) * wide(b)); }                                       \
  PTX_FN u16 fma(u16 a, u16 b, u16 c) {                                                                    \
    return narrow(odd_float(exact_sum(static_cast<double>(wide(a)) * wide(b), wide(c))));                  \
  }                                                                                                        \
  PTX_FN u16 min(u16 a, u16 b) { return narrow(::ptx::min(wide(a), wide(b))); }                            \
  PTX_FN u16 max(u16 a, u16 b) { return narrow(::ptx::max(wide(a), wide(b))); }                            \
  PTX_FN u16 min_nan(u16 a, u16 b) { return narrow(::ptx::min_nan(wide(a), wide(b))); }                    \
  PTX_FN u16 max_nan(u16 a, u16 b) { return narrow(::ptx::max_nan(wide(a), wide(b))); }                    \
  PTX_FN u16 neg(u16 a) { return a ^ 0x8000; }                                                             \
  PTX_FN u16 abs(u16 a) { return a & 0x7FFF; }                                                             \
  PTX_FN u16 ex2(u16 a) {                                                                                  \
    const double exact = std::exp2(static_cast<double>(wide(a)));                                          \
    return narrow(pab_emu::approximate(exact, exact * kSmallest, wide(a)));                                \
  }                                                                                                        \
  PTX_FN u16 tanh(u16 a) {                                                                                 \
    const double exact = std::tanh(static_cast<double>(wide(a)));                                          \
    return narrow(pab_emu::approximate(exact, exact * kSmallest, wide(a)));                                \
  }                                                                                                        \
  PTX_FN u16 same(u16 a) { return a; }                                                                     \
  PTX_FN u16 relu(u16 a) { return max_nan(a, 0); }                                                         \
  PTX_FN u16 sat(u16 a) { return narrow(clamp(wide(a))); }                                                 \
  }
PTX_HALF(half, half_to_float, float_to_half, 0x1p-13)
PTX_HALF(bf16, bf16_to_float, float_to_bf16, 0x1p-10)
#undef PTX_HALF

template <auto kOperation, auto kAfter, typename... T>
PTX_FN u16 alone(T... values) { return kAfter(kOperation(static_cast<u16>(values)...)); }
template <auto kOperation, auto kAfter, typename... T>
PTX_FN u32 in_pairs(T... values) {
  const u32 high = kAfter(kOperation(static_cast<u16>(values >> 16)...));
  return high << 16 | kAfter(kOperation(static_cast<u16>(values)...));
}

// --- 8 bits --------------------------------------------------------------------------------------------------------
PTX_FN u8 to_e4m3(float x) { return pab::float_to_e4m3(x); }
PTX_FN u8 to_e5m2(float x) {  // a half cut to 8 bits, rounded once: to odd first
  if (x != x) return 0x7F;
  u32 magnitude = half::narrow_rz(std::fabs(x));
  if (half::wide(static_cast<u16>(magnitude)) != std::fabs(x)) magnitude |= 1;
  u32 code = (magnitude + 0x7Fu + (magnitude >> 8 & 1u)) >> 8;
  if (code > 0x7B) code = 0x7B;  // .satfinite
  return static_cast<u8>(code | (std::signbit(x) ? 0x80u : 0u));
}
PTX_FN u16 half_of_e4m3(u8 x) { return half::narrow(pab::e4m3_to_float(x)); }
PTX_FN u16 half_of_e5m2(u8 x) { return (x & 0x7F) > 0x7C ? u16{0x7FFF} : static_cast<u16>(x << 8); }
#define PTX_EIGHT(name)                                                                                     \
  template <bool kRelu>                                                                                     \
  PTX_FN u32 halves_of_##name(u16 both) {                                                                   \
    const u16 low = half_of_##name(static_cast<u8>(both)), high = half_of_##name(static_cast<u8>(both >> 8)); \
    return u32{kRelu ? half::relu(high) : high} << 16 | (kRelu ? half::relu(low) : low);                    \
  }                                                                                                         \
  template <bool kRelu>                                                                                     \
  PTX_FN u16 name##_of_halves(u32 both) {                                                                   \
    float low = half::wide(static_cast<u16>(both)), high = half::wide(static_cast<u16>(both >> 16));        \
    if (kRelu) low = max_nan(low, 0.0f), high = max_nan(high, 0.0f);                                        \
    return static_cast<u16>(to_##name(high) << 8 | to_##name(low));                                         \
  }
PTX_EIGHT(e4m3)
PTX_EIGHT(e5m2)
#undef PTX_EIGHT

// --- approximate functions: errors as the PTX ISA states them; rounding to float takes 2^-24 ------------------------
PTX_FN float about(double exact, double relative, float operand) {
  return pab_emu::approximate(exact, std::fabs(exact) * relative, operand);
}
PTX_FN float about_ex2(float x) { return about(std::exp2(static_cast<double>(x)), x == 0 ? 0.0 : 0.75 * 0x1p-22, x); }
PTX_FN float about_lg2(float x) {
  const double exact = std::log2(static_cast<double>(x)), size = x > 0.5f && x < 2.0f ? 1.0 : std::fabs(exact);
  return pab_emu::approximate(exact, size * 0.75 * 0x1p-22, x);
}
PTX_FN float about_rcp(float x) { return about(1.0 / static_cast<double>(x), 0.5 * 0x1p-23, x); }
PTX_FN float about_sqrt(float x) { return about(std::sqrt(static_cast<double>(x)), 0.5 * 0x1p-23, x); }
PTX_FN float about_rsqrt(float x) { return about(1.0 / std::sqrt(static_cast<double>(x)), 0.5 * 0x1p-22, x); }
PTX_FN float about_quotient(float a, float b) { return about(static_cast<double>(a) / b, 1.5 * 0x1p-23, a); }
// absolute error 2^-20.9 near 0, which grows with what is cut off for larger arguments
PTX_FN float about_sin(float x) { return pab_emu::approximate(std::sin(static_cast<double>(x)), x == 0 ? 0.0 : 0x1p-21, x); }
PTX_FN float about_cos(float x) { return pab_emu::approximate(std::cos(static_cast<double>(x)), 0x1p-21, x); }

}  // namespace ptx
