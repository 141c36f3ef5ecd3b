// SPDX-License-Identifier: Apache-2.0
// Addresses, loads and stores, atomic operations.
#pragma once

namespace ptx {

#ifdef PAB_EMU_CHECKED
PTX_FN unsigned char* shared_memory() { return pab_emu::shared_memory(); }
#else
PTX_FN unsigned char* shared_memory() { return pab_emu::current->block->shared; }
#endif
PTX_OWN u32 shared_bytes() { return pab_emu::current->block->shared_bytes; }

PTX_FN unsigned char* memory(u64 address) { return reinterpret_cast<unsigned char*>(address); }
PTX_FN u64 address_of(u64 offset, const unsigned char* shared) {
  return reinterpret_cast<u64>(shared) + static_cast<u32>(offset);
}
PTX_FN u64 offset_of(u64 address, const unsigned char* shared) { return address - reinterpret_cast<u64>(shared); }
PTX_FN bool in_shared(u64 address, const unsigned char* shared) {
  return address - reinterpret_cast<u64>(shared) < shared_bytes();
}
// A thread's own arrays lie on its stack, as this variable does.
PTX_FN bool in_stack(u64 address) {
  unsigned char here;
  const u64 apart = address - reinterpret_cast<u64>(&here) + 65536;
  return apart < 131072;
}

template <typename T>
struct Cell {
  typedef T type __attribute__((may_alias, aligned(sizeof(T))));
};
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};
template <typename T>
PTX_FN T load(const void* from) { return *static_cast<const typename Cell<T>::type*>(from); }
template <typename T>
PTX_FN void store(void* to, T value) {
#ifdef PAB_EMU_CHECKED
  pab_emu::store_bits(to, value, sizeof value);  // which tells the checkers what is written
#else
  *static_cast<typename Cell<T>::type*>(to) = value;
#endif
}
template <typename T, int N>
PTX_FN Vector<T, N> load_vector(const void* from) {
  static_assert(sizeof(T) * N <= 16, "a vector has at most 16 bytes");
  return pab::load_wide(static_cast<const Vector<T, N>*>(from));
}
template <typename T, int N>
PTX_FN void store_vector(void* to, const Vector<T, N>& value) { pab::store_wide(static_cast<Vector<T, N>*>(to), value); }

// An argument, which lies where the launcher has room and may be aligned to less than its parameter.
template <typename T>
PTX_OWN T argument(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
// Parts of parameters.
template <typename T>
PTX_FN T read(const void* from, int offset) {
  T value;
  std::memcpy(&value, static_cast<const unsigned char*>(from) + offset, sizeof value);
  return value;
}
template <typename T>
PTX_FN void write(void* to, int offset, T value) {
  std::memcpy(static_cast<unsigned char*>(to) + offset, &value, sizeof value);
}

// Ordered accesses: whoever looks again and again must let the others run.
template <typename T, int kOrder>
PTX_FN T load_ordered(const void* from) {
  const T value = __atomic_load_n(static_cast<const typename Cell<T>::type*>(from), kOrder);
  pab_emu::poll(value);
  return value;
}
template <typename T, int kOrder>
PTX_FN void store_ordered(void* to, T value) { __atomic_store_n(static_cast<typename Cell<T>::type*>(to), value, kOrder); }

// --- atomic operations ----------------------------------------------------------------------------------------------
template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 2, u16, std::conditional_t<sizeof(T) == 4, u32, u64>>;

// Exchanges what is there for what `change` makes of it and `value`; returns what was there.
template <typename T, int kOrder, typename Change>
PTX_FN T update(void* place, T value, Change change) {
  using Bits = BitsOf<T>;
  auto* cell = static_cast<typename Cell<Bits>::type*>(place);
  Bits old = __atomic_load_n(cell, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(cell, &old, std::bit_cast<Bits>(static_cast<T>(change(std::bit_cast<T>(old), value))),
                                      false, kOrder, __ATOMIC_RELAXED)) {
  }
  pab_emu::chance();
  return std::bit_cast<T>(old);
}
#define PTX_ATOMIC(name, builtin, unchanged)                                                          \
  template <typename T, int kOrder>                                                                   \
  PTX_FN T atomic_##name(void* place, T value) {                                                      \
    using Bits = BitsOf<T>;                                                                           \
    auto* cell = static_cast<typename Cell<Bits>::type*>(place);                                      \
    const T old = static_cast<T>(builtin(cell, static_cast<Bits>(value), kOrder));                    \
    return pab::looked<T>(old, unchanged);                                                            \
  }
PTX_ATOMIC(and, __atomic_fetch_and, (old & value) == old)
PTX_ATOMIC(or, __atomic_fetch_or, (old | value) == old)
PTX_ATOMIC(xor, __atomic_fetch_xor, value == 0)
PTX_ATOMIC(exch, __atomic_exchange_n, old == value)
PTX_ATOMIC(whole_add, __atomic_fetch_add, value == 0)
#undef PTX_ATOMIC
template <typename T, int kOrder>
PTX_FN T atomic_add(void* place, T value) {
  if constexpr (std::is_integral_v<T>) return atomic_whole_add<T, kOrder>(place, value);
  return update<T, kOrder>(place, value, [](T a, T b) { return a + b; });
}
template <typename T, int kOrder>
PTX_FN T atomic_min(void* place, T value) {
  if constexpr (std::is_unsigned_v<T>) return pab::atomic_min(static_cast<T*>(place), value);
  return update<T, kOrder>(place, value, [](T a, T b) { return b < a ? b : a; });
}
template <typename T, int kOrder>
PTX_FN T atomic_max(void* place, T value) {
  if constexpr (std::is_unsigned_v<T>) return pab::atomic_max(static_cast<T*>(place), value);
  return update<T, kOrder>(place, value, [](T a, T b) { return b > a ? b : a; });
}
template <typename T, int kOrder>
PTX_FN T atomic_inc(void* place, T most) {
  return update<T, kOrder>(place, most, [](T a, T b) { return a >= b ? T{0} : a + 1; });
}
template <typename T, int kOrder>
PTX_FN T atomic_dec(void* place, T most) {
  return update<T, kOrder>(place, most, [](T a, T b) { return a == 0 || a > b ? b : a - 1; });
}
template <typename T, int kOrder>
PTX_FN T compare_exchange(void* place, T expected, T value) {
  T old = expected;
  __atomic_compare_exchange_n(static_cast<typename Cell<T>::type*>(place), &old, value, false, kOrder, __ATOMIC_RELAXED);
  return pab::looked<T>(old, old != expected || old == value);
}

}  // namespace ptx
