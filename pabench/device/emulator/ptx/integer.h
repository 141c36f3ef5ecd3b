// SPDX-License-Identifier: Apache-2.0
// Whole numbers as PTX has them: shifts beyond the width, division by zero, fields.
#pragma once

namespace ptx {

template <typename T>
PTX_FN T left(T x, u32 by) { return by >= sizeof(T) * 8 ? T{0} : static_cast<T>(x << by); }
template <typename T>
PTX_FN T right(T x, u32 by) {
  constexpr u32 kBits = sizeof(T) * 8;
  if constexpr (std::is_signed_v<T>) return static_cast<T>(x >> (by < kBits ? by : kBits - 1));
  return by >= kBits ? T{0} : static_cast<T>(x >> by);
}
PTX_FN u32 funnel_left(u32 low, u32 high, u32 by) {
  const u64 both = u64{high} << 32 | low;
  return static_cast<u32>(both << by >> 32);
}
PTX_FN u32 funnel_right(u32 low, u32 high, u32 by) { return static_cast<u32>((u64{high} << 32 | low) >> by); }

// What hardware gives for a division by zero; PTX leaves it open.
template <typename T>
PTX_FN T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  }
  return static_cast<T>(a / b);
}
template <typename T>
PTX_FN T remainder(T a, T b) {
  if (b == 0) return a;
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return 0;
  }
  return static_cast<T>(a % b);
}
template <typename T>
PTX_FN T high(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, u128>;
  return static_cast<T>((static_cast<Wide>(a) * b) >> (8 * sizeof(T)));
}
template <typename To, typename From>
PTX_FN To saturate(From x) {
  using Wide = __int128;
  const Wide low = std::numeric_limits<To>::min(), most = std::numeric_limits<To>::max(), value = x;
  return static_cast<To>(value < low ? low : value > most ? most : value);
}

PTX_FN u32 permute(u32 low, u32 high, u32 selector) {
  const u64 all = u64{high} << 32 | low;
  u32 result = 0;
  for (u32 i = 0; i < 4; ++i) {
    const u32 choice = selector >> 4 * i;
    u32 byte = static_cast<u32>(all >> 8 * (choice & 7)) & 0xFFu;
    if (choice & 8) byte = byte & 0x80 ? 0xFFu : 0u;  // its sign, eight times
    result |= byte << 8 * i;
  }
  return result;
}
template <typename T>
PTX_FN T bfe(T x, u32 position, u32 length) {
  using U = std::make_unsigned_t<T>;
  constexpr u32 kBits = sizeof(T) * 8;
  position &= 0xFF;
  length &= 0xFF;
  if (length == 0) return 0;
  const u32 top = position + length - 1 < kBits - 1 ? position + length - 1 : kBits - 1;
  const bool sign = std::is_signed_v<T> && (static_cast<U>(x) >> top & 1) != 0;
  const u32 there = position < kBits ? top - position + 1 : 0;
  const U mask = there >= kBits ? ~U{0} : static_cast<U>((U{1} << there) - 1);
  const U field = position < kBits ? static_cast<U>(static_cast<U>(x) >> position & mask) : U{0};
  return static_cast<T>(sign ? static_cast<U>(field | static_cast<U>(~mask)) : field);
}
template <typename T>
PTX_FN T bfi(T field, T into, u32 position, u32 length) {
  constexpr u32 kBits = sizeof(T) * 8;
  position &= 0xFF;
  length &= 0xFF;
  if (length == 0 || position >= kBits) return into;
  const T mask = static_cast<T>((length >= kBits ? ~T{0} : (T{1} << length) - 1) << position);
  return static_cast<T>((into & ~mask) | (field << position & mask));
}
PTX_FN u32 lop3(u32 a, u32 b, u32 c, u32 table) {
  u32 result = 0;
  for (u32 i = 0; i < 8; ++i) {
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}
template <typename T>
PTX_FN T dp4a(u32 a, u32 b, T sum) {
  using Element = std::conditional_t<std::is_signed_v<T>, s8, u8>;
  for (u32 i = 0; i < 4; ++i) {
    const T x = static_cast<Element>(a >> 8 * i), y = static_cast<Element>(b >> 8 * i);
    sum = static_cast<T>(static_cast<u32>(sum) + static_cast<u32>(x * y));
  }
  return sum;
}
template <typename T>
PTX_FN T sad(T a, T b, T sum) {
  using U = std::make_unsigned_t<T>;
  const U apart = a > b ? static_cast<U>(static_cast<U>(a) - static_cast<U>(b)) : static_cast<U>(static_cast<U>(b) - static_cast<U>(a));
  return static_cast<T>(static_cast<U>(sum) + apart);
}

template <typename T>
PTX_FN u32 popc(T x) { return static_cast<u32>(std::popcount(x)); }
template <typename T>
PTX_FN u32 clz(T x) { return static_cast<u32>(std::countl_zero(x)); }
template <typename T>
PTX_FN T brev(T x) {
  T result = 0;
  for (u32 i = 0; i < sizeof(T) * 8; ++i) result = static_cast<T>(result << 1 | (x >> i & 1));
  return result;
}
template <typename T>
PTX_FN u32 bfind(T x, bool distance) {
  using U = std::make_unsigned_t<T>;
  const U bits = x < 0 ? static_cast<U>(~static_cast<U>(x)) : static_cast<U>(x);
  if (bits == 0) return ~0u;
  const u32 ahead = static_cast<u32>(std::countl_zero(bits));
  return distance ? ahead : static_cast<u32>(sizeof(T) * 8) - 1 - ahead;
}

}  // namespace ptx
